"""What a work folder holds from earlier processes: written so that damage shows, and looked through before it is used.

A job that goes on relies on every file of its work folder. Tensors carry the sha256 of their content in the file's header;
JSON must have the shape that its stage wrote. What is damaged is set aside, together with whatever depends on it,
so that its stage makes it once more: with the same bits, because a stage depends on nothing but its seed and what came before.
"""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from itertools import count
from pathlib import Path
from typing import Annotated, Any, NotRequired

import torch
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, with_config
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from typing_extensions import TypedDict

from engine.base.errors import UserError
from engine.base.events import Warned
from engine.base.files import explain_write_errors, read_json, sha256, write_atomic, write_json
from engine.base.ids import ErrorCode
from engine.base.process import is_out_of_memory
from engine.base.questions import read_records
from engine.calibration.lines import MAX_BYTES

Size = Annotated[int, Field(gt=0, lt=2**31)]
SEAL = "sha256"  # the name of the digest in the header of a file of tensors
REFERENCE = "reference.safetensors"  # written and read by one process
ANSWERS = re.compile(r"(further-\d+|talks)\.jsonl")
LAYER = re.compile(r"((?:re)?tuned)-\d+\.safetensors")
# What depends on a file: it was made from what the file held, or its stage takes it for a sign that all is there.
VOID = {"learning.json": ("learning.safetensors", "mask.safetensors"),
        "less_at_once.json": ("dense.safetensors", "resampled.safetensors"),  # their rows have its sizes
        "start.safetensors": ("start.json",),
        "columns.safetensors": ("columns.json", "mask.safetensors"),  # the mask may have given way to the start's already
        "columns.json": ("mask.safetensors",)}
# (what must be there, as it was written first; what tells that it was)
BOTH = (("start.safetensors", "start.json"), ("columns.safetensors", "columns.json"), ("learning.json", "learning.safetensors"),
        ("learning.json", "mask.safetensors"), ("rejected.json", "lines.jsonl"))


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write safetensors atomically, with the digest of their content in the header."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(tensors, metadata={SEAL: _digest(tensors.items())}))


@dataclass(frozen=True)
class TensorFile:
    """A file of tensors as the checkpoint of a run (engine/pruning/adapter.py)."""

    path: Path

    def load(self) -> dict[str, Tensor]:
        """What it holds; {} where it is not there."""
        return load_file(self.path) if self.path.exists() else {}

    def store(self, tensors: dict[str, Tensor]) -> None:
        """Write it, whole or not at all."""
        save_tensors(self.path, tensors)


def _digest(tensors: Any) -> str:
    """The sha256 of named tensors: names, dtypes, shapes and bytes, in the order of the names."""
    whole = hashlib.sha256()
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return whole.hexdigest()


def is_sealed(path: Path, required: bool = True) -> bool:
    """Whether the tensors of a file are those that were written; without a digest: whether none is `required`.

    Raises SafetensorError and OSError for a file that holds no tensors.
    """
    with safe_open(path, framework="pt") as file:
        digest = (file.metadata() or {}).get(SEAL)
        names = sorted(file.keys())
        if digest is None:
            return not required
        return _digest((name, file.get_tensor(name)) for name in names) == digest


def set_damaged_aside(folder: Path) -> Iterator[Warned]:
    """Rename every damaged result in the work folder of a job, so that its stage makes it again; a warning for each.

    A result that is gone is damaged, too, where others tell that it was there.

    Raises UserError for damaged lines: a person may have edited them.
    """
    record = read_json(folder / "job.json")
    damaged = {file for file in folder.iterdir() if _is_damaged(file, record)} | {folder / name for name in _lost(folder)}
    for file in sorted(damaged):
        if file.name == "lines.jsonl":
            raise UserError(f"{file} is damaged.", "Repair it, or delete it to have the lines written again; then run the same "
                            "command with --resume.", ErrorCode.LINES_DAMAGED)
        with explain_write_errors(folder):
            layer = LAYER.fullmatch(file.name)
            for one in (file, *(folder / name for name in ((f"{layer[1]}.json",) if layer else VOID.get(file.name, ())))):
                if os.path.lexists(one):  # it may have gone with another
                    one.rename(_name_aside(one))
            if file.name == "rejected.json":  # a count for readers; the lines it counted are not to be written again for it
                write_json(file, {})
        yield Warned(f"{file} was damaged or missing, and is made again; a damaged file is kept under a name ending in .aside.")


def _name_aside(file: Path) -> Path:
    """A free name beside a file: its own with .aside, .2.aside and so on added."""
    names = (file.with_name(f"{file.name}{'' if number == 1 else f'.{number}'}.aside") for number in count(1))
    return next(name for name in names if not os.path.lexists(name))


def _is_damaged(file: Path, record: dict[str, Any]) -> bool:
    """Whether a file is not what its stage wrote. `record`: what job.json holds."""
    if file.suffix not in (".safetensors", ".json", ".jsonl") or file.name in ("job.json", "events.jsonl"):
        return False
    try:
        if not file.is_file():
            return True
        with file.open("rb"):
            pass
        if file.suffix == ".safetensors":
            return file.name != REFERENCE and not is_sealed(file, required=bool(record.get("sealed")))
        if file.suffix == ".json":
            _adapter(file.name).validate_json(file.read_bytes(), strict=True)
        if file.name == "lines.jsonl":  # a person may edit it, see hold_answers
            return not read_records(file, MAX_BYTES)
        if ANSWERS.fullmatch(file.name):
            digest = (record.get("answers") or {}).get(file.name)
            return not read_records(file, MAX_BYTES) if digest is None else sha256(file) != digest
    except (OSError, SafetensorError, UserError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        return True
    return False  # journals drop their damaged records when they are opened


def _lost(folder: Path) -> Iterator[str]:
    """The names of results that were written and are gone."""
    yield from (name for name, sign in BOTH if (folder / sign).exists() and not os.path.lexists(folder / name))
    mask = folder / "mask.safetensors"
    if not mask.is_file():
        return
    with suppress(OSError, SafetensorError), safe_open(mask, framework="pt") as found:
        layers = found.get_slice("mask").get_shape()[0]
        names = [f"{name}-{number:04d}.safetensors" for name in ("tuned", "retuned") for number in range(layers)
                 if (folder / f"{name}.json").exists()]
        yield from (name for name in names if not os.path.lexists(folder / name))


def hold_answers(folder: Path) -> None:
    """Remember which lines and answers the job goes on with. Raises UserError when it has learned from other lines.

    A person may edit lines.jsonl until the dense model has read it; what is made later belongs to these lines.
    """
    record = read_json(folder / "job.json")
    held, known = {}, record.get("answers") or {}
    for file in sorted(folder.glob("*.jsonl")):
        if file.name == "lines.jsonl" or ANSWERS.fullmatch(file.name):
            held[file.name] = sha256(file)
    if held == known:
        return
    begun = (folder / "dense.safetensors").exists()
    changed = [name for name, digest in known.items() if held.get(name) != digest]
    if begun and changed:
        raise UserError(f"{folder / changed[0]} was changed after the job had learned from it.",
                        "Restore the original file, or start over with --lines and another --workdir.",
                        ErrorCode.LINES_CHANGED)
    write_json(folder / "job.json", {**record, "answers": held})


@with_config(ConfigDict(extra="forbid"))
class _Reading(TypedDict):  # the fields of evaluation.fidelity.Reading
    kl: float
    top1: float
    nll: float
    lines: int
    tokens: int


@with_config(ConfigDict(extra="forbid"))
class _Sizes(TypedDict):
    batch_lines: Size
    row_tokens: Size


class _Spent(TypedDict):
    seconds: float
    tokens: int


class _Choice(TypedDict):
    kl: float
    used: bool


class _Scores(TypedDict):
    scores: list[float]
    questions: list[str]


class _Point(TypedDict):
    step: int
    loss: NotRequired[float]
    validation_kl: NotRequired[float]


def _curve(points: list[_Point]) -> list[_Point]:
    """The curve of learning has every step once, in order, and at least one validation reading."""
    steps = [point["step"] for point in points if "loss" in point]
    if steps != list(range(1, len(steps) + 1)) or not any("validation_kl" in point for point in points):
        raise ValueError("steps are missing")
    return points


def _pairs(value: _Scores) -> _Scores:
    if len(value["scores"]) != len(value["questions"]):
        raise ValueError("a question has no score")
    return value


_SHAPES: dict[str, Any] = {
    "learning.json": Annotated[list[_Point], AfterValidator(_curve)], "less_at_once.json": _Sizes,
    "sensitivity.json": Annotated[_Scores, AfterValidator(_pairs)], "rejected.json": dict[str, int],
    "meter.json": dict[str, _Spent], "readings.json": dict[str, _Reading],
    **dict.fromkeys(("start.json", "columns.json", "tuned.json", "retuned.json"), _Choice)}


@cache
def _adapter(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(_SHAPES.get(name, Any))
