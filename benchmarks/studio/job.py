"""Replaces `python -m engine` in measurements: a job of fixed work on all cores that says as much as a real one.

Environment: BENCH_PRODUCTS, the matrix products a step. It steps on until it is killed. As the chat worker it answers at
once and computes nothing.
"""

import json
import os
import sys
import time
from pathlib import Path

LAYERS, BINS, EVERY = 30, 64, 4  # a snapshot as of the starter, each so many steps
STEPS = 10_000
PRODUCT = 384  # rows and columns of the matrices


def work(products: int) -> None:
    """The same amount of arithmetic each time."""
    import numpy

    matrix = numpy.full((PRODUCT, PRODUCT), 1 / PRODUCT, numpy.float32)
    for _ in range(products):
        matrix = matrix @ matrix


def products_of(seconds: float) -> int:
    """How many products take about so long on this machine as it is now."""
    work(5)
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < 0.5:
        work(20)
        done += 20
    return max(round(done * seconds / (time.perf_counter() - begin)), 1)


def _job(folder: Path, products: int) -> None:
    from engine.base.event_file import append
    from engine.base.events import Stage, Started, Step
    from engine.base.ids import ReadingId, StageId
    from engine.base.pruning_events import MaskSnapshot, Measured

    path = folder / "events.jsonl"
    append(path, Started("Edith", "bench", 0.25, [(StageId.LEARN_MASK, "")]))
    append(path, Stage(StageId.LEARN_MASK, STEPS))
    for step in range(1, STEPS + 1):
        work(products)
        append(path, Step(StageId.LEARN_MASK, step, STEPS, {"loss": 1 / step}))
        if step % EVERY == EVERY - 1:
            append(path, Measured(ReadingId.MASK_STEP, "validation", 1 / step, 0.5, 2.0, 16, 400, step))
            kept = [[1 - (row + bin + step) % 40 / 160 for bin in range(BINS)] for row in range(LAYERS)]
            append(path, MaskSnapshot(step, 0.25, kept, [step] * LAYERS, [step] * LAYERS))


def _chat() -> None:
    answers = {"warm": "Warmed", "models": "Models", "prompt": "Prompt"}
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["do"] in answers:
            print(json.dumps({"event": answers[asked["do"]], "id": asked["id"], "models": [], "text": "", "tokens": 0}), flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    if sys.argv[1] == "chat-worker":
        _chat()
    else:
        _job(Path(sys.argv[sys.argv.index("--job") + 1]).parent / "work", int(os.environ["BENCH_PRODUCTS"]))
