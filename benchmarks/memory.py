"""Peak memory of mask learning, measured in a process that does nothing else: python -m benchmarks.memory MODEL."""

import contextlib
import json
import re
import resource
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.meter import drain
from engine.calibration.lines import read_queries
from engine.calibration.rewriting import Voice, encode_line
from engine.cards.card import find_bundled
from engine.evaluation.fidelity import dense_states
from engine.models.loading import load_model, load_tokenizer, locate, parse_dtype
from engine.models.memory_saving import narrowed, recomputed
from engine.models.packing import Example, pack
from engine.pruning import masks
from engine.pruning.importance import magnitude_scores

LINES = 8  # a step of the quick preset


def learning_examples(tokenizer: Any) -> list[Example]:
    """LINES examples after one persona's prompt: questions of the pool with their neutral answers."""
    voice = Voice(find_bundled("pim-tuckett"))
    queries = read_queries()[: LINES * 50: 50]
    answers = [" ".join(f"{query.neutral} {query.neutral}".split()[:30]) for query in queries]  # as long as a sampled one
    return [encode_line(tokenizer, voice, query.question, answer, True) for query, answer in zip(queries, answers, strict=True)]


def peak_resident() -> int:
    """Peak resident bytes of this process, since the last `forget_peak` where the system has that (Linux)."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s+(\d+)", status.read_text())[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Begin a new peak (Linux: proc(5), clear_refs)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def main(model_name: str) -> dict[str, float]:
    """Peak resident bytes (on CUDA: peak allocated bytes) of reading the dense model and two learning steps, KL loss,
    with layers computed again in the backward pass: the least that learning gets by with.

    The peak of loading is reported beside it: it holds pages of the mapped file, which the system takes back when it needs them.
    """
    source = drain(locate(model_name))
    dtype = parse_dtype("auto")
    model, tokenizer = load_model(source, dtype), load_tokenizer(source)
    loading = peak_resident()
    forget_peak()
    rows = pack(learning_examples(tokenizer), 1536)
    with torch.inference_mode():
        targets = [masks.dense_target(model, hidden, 64) for hidden in dense_states(model, rows)]
    scores = magnitude_scores(model)
    state = masks.Learning(scores)
    with narrowed(model, torch.bfloat16), recomputed(model):  # as where memory is short
        for _ in range(2):
            masks.learn_step(model, state, rows, targets, scores.shape[1] * 3 // 4, 0.02, False)
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_resident()
    half = 2 * sum(parameter.numel() for parameter in model.parameters())
    return {"peak_memory_bytes": peak, "model_16bit_bytes": half, "peak_memory_ratio": (peak - 500e6) / half,
            "peak_memory_loading_bytes": loading, "peak_memory_tokens": sum(row.size for row in rows)}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
