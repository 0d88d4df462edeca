"""Verification of an exported folder in a fresh process: it loads in plain transformers, and computes what it should.

The programs are plain_transformers.py and, for GGUF files, llama_cpp.py. They import nothing of this project, and their
memory is their own.
"""

import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch
from safetensors.torch import save_file

from engine import labels
from engine.base.errors import UserError
from engine.base.events import Event, Stage, Step
from engine.base.ids import StageId
from engine.base.pruning_events import Timed

ROOT = Path(__file__).resolve().parents[2]
POSITIONS = 48  # token positions whose logits are compared
# Mean KL, nats a token, between the two readings. In half precision the cut model's shorter sums round differently in every
# layer (single logits were seen 1.0 apart in bfloat16, at a mean KL of .0015); one layer whose channels are out of step
# reads .16 or more. A single wrong channel is seen in fp32 only.
TOLERANCE = {"float32": 1e-6, "float16": 5e-3, "bfloat16": 0.02}
_NOT_LOADED = "The exported folder failed its proof of loading, so it was not kept"
SPEED_ROUNDS, SPEED_TOKENS = 3, 48  # tokens a round


def write_reference(model: Any, row: Any, path: Path) -> None:
    """Write the logits (T, vocabulary) of the first example of a packed row, under whatever hooks are active."""
    end = int(row.last[0]) + 1
    tokens = row.tokens[:, :end].to(next(model.parameters()).device)
    with torch.inference_mode():
        logits = model(input_ids=tokens, use_cache=False, logits_to_keep=POSITIONS).logits[0].float().cpu()
    save_file({"tokens": tokens.cpu(), "logits": logits.contiguous()}, path)


def prove(folder: Path, reference: Path, dtype: torch.dtype) -> dict[str, Any]:
    """Compare a folder with its reference. Raises UserError when it does not load or does not agree."""
    name = str(dtype).removeprefix("torch.")
    found = _answer({"do": "compare", "folder": str(folder.resolve()), "reference": str(reference.resolve()), "dtype": name,
                     "tolerance": TOLERANCE[name], "positions": POSITIONS})
    if not found["agrees"]:
        raise UserError(f"{_NOT_LOADED} (KL {found['kl']:.3g}, largest difference {found['largest_difference']:.3g}).",
                        "Please report this with the job's events.jsonl.")
    return found


def greet(folder: Path, prompt: str) -> dict[str, Any]:
    """Let the folder answer a prompt (text, as the chat template gives it): text, tokens and seconds of the answer.

    Raises UserError when the folder does not load or the answer is empty.
    """
    found = _answer({"do": "greet", "folder": str(folder.resolve()), "prompt": prompt})
    if not found["tokens"]:
        raise UserError(f"{_NOT_LOADED} (the answer was empty).", "Prune the character again.")
    return found


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """The findings of plain_transformers.py on a request, in one go."""
    steps = run("plain_transformers", request, Step(StageId.PROVE, 0, 1), _NOT_LOADED)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return dict(end.value)


def measure_speed(dense: Path, pruned: Path, dtype: str) -> Generator[Event, None, list[Timed]]:
    """Decode with the dense model and then with the pruned one, in the format `dtype` ("float32", "bfloat16").

    Closed, it ends the process under way. Raises UserError when a folder does not load.
    """
    yield Stage(StageId.SPEED, 2)
    timed = []
    for number, (what, folder) in enumerate((("dense", dense), ("pruned", pruned))):
        request = {"do": "time", "folder": str(folder.resolve()), "dtype": dtype, "rounds": SPEED_ROUNDS, "tokens": SPEED_TOKENS}
        found = yield from run("plain_transformers", request, Step(StageId.SPEED, number, 2),
                               f"The speed of the {what} model could not be measured")
        timed.append(Timed(what, dtype, found["tokens_per_second"], SPEED_ROUNDS, SPEED_TOKENS, found["memory"]))
        yield timed[-1]
        yield Step(StageId.SPEED, number + 1, 2)
    return timed


def run(program: str, request: dict[str, Any], reached: Step, failure: str) -> Generator[Event, None, dict[str, Any]]:
    """Run engine.export.`program` on a request; its steps as events, its findings as the value.

    `reached`: the stage, and how far it has come. When closed, it ends the process. Raises UserError with the end of the
    process's errors when it fails; `failure` begins the sentence.
    """
    with tempfile.TemporaryFile() as errors, subprocess.Popen(
            [sys.executable, "-m", f"engine.export.{program}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            text=True, encoding="utf-8", cwd=ROOT, start_new_session=True) as process:
        assert process.stdin and process.stdout
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.close()
            found: dict[str, Any] = {"done": reached.done, "total": reached.total}
            for line in _lines(process.stdout):
                found = json.loads(line) if line.startswith("{") else found  # libraries may print as well
                if "done" in found:
                    yield Step(reached.stage, found["done"], found["total"], subject=reached.subject)
            process.wait()
        finally:
            process.kill()
        if process.returncode or "done" in found:
            errors.seek(0)
            detail = " ".join(errors.read().decode(errors="replace").split())[-300:] or f"exit code {process.returncode}"
            raise UserError(f"{failure} ({labels.stage(reached.stage, reached.subject)}: {detail}).", "Nothing was kept.")
    return found


def _lines(stream: IO[str]) -> Iterator[str]:
    """The lines of a stream until its end, and "" after every second without one, so that a job can stop."""
    lines: queue.Queue[str | None] = queue.Queue()

    def forward() -> None:
        for line in stream:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=forward, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=1)
        except queue.Empty:
            line = ""
        if line is None:
            return
        yield line
