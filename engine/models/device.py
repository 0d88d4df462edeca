"""What this machine computes with: the device and the number format. torch is imported on use."""

from __future__ import annotations

import functools
import logging
import time
from typing import TYPE_CHECKING

from engine.base.errors import UserError

if TYPE_CHECKING:
    import torch

_FASTER = 1.2  # bf16 is taken on a CPU when it is at least this many times as fast as fp32


def best_device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    import torch

    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def choose_dtype(device: torch.device | None = None, own: str | None = None) -> torch.dtype:
    """The number format of the weights on `device` (default: the best one); `own` is the source's, where it is known.

    On CUDA float16 where the weights came so (bf16 would cut three bits off), else bf16; on a CPU bf16 where a short
    probe, made once a process, finds it clearly faster than fp32.
    """
    import torch

    if (device or best_device()).type == "cuda":
        return torch.float16 if own == "float16" else torch.bfloat16
    return torch.bfloat16 if _probe_speedup() >= _FASTER else torch.float32


@functools.cache
def _probe_speedup() -> float:
    """How many times as fast as fp32 this CPU multiplies (128, 1024) by (1024, 4096) in bf16; under half a second."""
    import torch

    best = {}
    for dtype in (torch.float32, torch.bfloat16):
        rows, weights = torch.ones(128, 1024, dtype=dtype), torch.ones(4096, 1024, dtype=dtype)
        times: list[float] = []
        limit = time.perf_counter() + 0.12
        while len(times) < 2 or (len(times) < 8 and time.perf_counter() < limit):
            start = time.perf_counter()
            torch.nn.functional.linear(rows, weights)
            times.append(time.perf_counter() - start)
            if times[0] > 0.12:  # so slow that there is no need to measure again
                break
        best[dtype] = min(times)
    return best[torch.float32] / best[torch.bfloat16]


def parse_dtype(name: str, device: torch.device | None = None, own: str | None = None) -> torch.dtype:
    """The dtype of fp32, bf16 or fp16 (also float32, bfloat16, float16), or of "auto": see choose_dtype."""
    import torch

    if name == "auto":
        return choose_dtype(device, own)
    known = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    known |= {str(dtype).removeprefix("torch."): dtype for dtype in known.values()}
    if name not in known:
        raise UserError(f"There is no number format {name[:40]!r}.", "Choose one of: auto, fp32, bf16, fp16.")
    return known[name]


def quieten_bitsandbytes() -> None:
    """Let it say errors only: it warns at every single product, and of a kernel that it would fetch from a hub."""
    for name in ("autograd._functions", "backends.cpu.ops"):
        logging.getLogger(f"bitsandbytes.{name}").setLevel(logging.ERROR)
