"""How fast a model folder speaks on this machine, and in how much memory: a fresh process loads it and decodes.

The same program measures the dense model and the pruned one, one after the other, so that both met the same machine. This
file doubles as that program.
"""

import json
import statistics
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

from engine.base.events import Event, Stage, Step, Timed
from engine.export.fresh_process import run

STAGE = "measure the speed"
ROUNDS = 3
TOKENS = 48  # a round


def measure_speed(dense: Path, pruned: Path, dtype: str) -> Generator[Event, None, list[Timed]]:
    """Decode with the dense model and then with the pruned one, in the format `dtype` ("float32", "bfloat16").

    Closed, it ends the process under way. Raises UserError when a folder does not load.
    """
    yield Stage(STAGE, 2)
    timed = []
    for number, (what, folder) in enumerate((("dense", dense), ("pruned", pruned))):
        request = {"folder": str(folder.resolve()), "dtype": dtype, "rounds": ROUNDS, "tokens": TOKENS}
        found = yield from run("speed", request, Step(STAGE, number, 2), f"The speed of the {what} model could not be measured")
        timed.append(Timed(what, dtype, found["tokens_per_second"], ROUNDS, TOKENS, found["memory"]))
        yield timed[-1]
        yield Step(STAGE, number + 1, 2)
    return timed


def _measure(request: dict[str, Any]) -> dict[str, Any]:
    """Tokens a second, median of the rounds, and the most memory that this process took, in bytes."""
    import psutil
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(request["folder"], dtype=getattr(torch, request["dtype"]),
                                                 device_map="auto" if torch.cuda.is_available() else None).eval()
    prompt = torch.arange(10, 42, device=model.device)[None] % model.config.vocab_size
    speeds = []
    with torch.inference_mode():
        for length in [4, *[request["tokens"]] * request["rounds"]]:  # a short one first, to warm up
            step = model(input_ids=prompt, use_cache=True)
            begun = time.perf_counter()
            for _ in range(length):
                token = step.logits[:, -1:].argmax(-1)
                step = model(input_ids=token, past_key_values=step.past_key_values, use_cache=True)
            speeds.append(length / (time.perf_counter() - begun))
    memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _most_memory(psutil.Process().memory_info())
    return {"tokens_per_second": statistics.median(speeds[1:]), "memory": memory}


def _most_memory(now: Any) -> int:
    """The most bytes that this process ever had resident; `now`: psutil's figures, which have it on Windows."""
    if hasattr(now, "peak_wset"):
        return int(now.peak_wset)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    print(json.dumps(_measure(json.load(sys.stdin))))
