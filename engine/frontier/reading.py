"""Measuring how close every model at every type is to the dense model under the whole prompt.

Not by llama.cpp: a file's weights are put back into the torch model, which reads the run's test lines in fp32, as for every other
reading. A run's files have the importance matrix of its folder (older ones have none), the dense model's one from the same
character's train lines: it is squeezed as well as can be, too.
"""

import copy
import dataclasses
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.base.events import Stage, Step, Stream, Warned
from engine.base.files import is_file
from engine.base.frontier import DENSE_MATRIX
from engine.base.ids import StageId
from engine.base.pruning_events import Placed
from engine.base.sizes import FILE_TYPES, expected_bytes
from engine.base.weights import known_shapes
from engine.calibration.rewriting import Voice, encode_line
from engine.evaluation.fidelity import Reading, compare_lines, dense_states
from engine.export.gguf_tensors import plan_weights
from engine.export.importance_matrix import MATRIX, Columns, ColumnSums, read_matrix, some_of
from engine.export.quantized_model import as_in_file, as_quantized
from engine.frontier.book import Book
from engine.frontier.subjects import Field, Subject
from engine.models.loading import load_config, load_model, load_tokenizer
from engine.models.packing import Example, Row, answer_states, pack, shared_prefix


class Head(nn.Module):
    """What turns a model's states into logits, as it is now."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.lm_head, self.config = copy.deepcopy(model.lm_head), model.config


@dataclasses.dataclass
class _Reference:
    """The dense model on the test lines: rows, final states (N, d) of each, its head."""

    rows: list[Row]
    states: list[Tensor]
    head: Head


def read_all(field: Field, ladders: dict[str, list[str]], folder: Path, book: Book) -> Stream[list[Placed]]:
    """Every subject at its types, in order; Placed as they are read. `ladders`: the types, by the subject's name."""
    points: list[Placed] = []
    reference: _Reference | None = None
    for subject in (field.dense, *field.runs):
        types = ladders[subject.name]
        keys = {type: f"{subject.identity}:{len(field.test)}:{type}" for type in types}
        known = {type: point for type in types if (point := book.read(keys[type]))}
        dense_matrix = subject is field.dense and not is_file(folder / DENSE_MATRIX)
        if len(known) == len(types) and not dense_matrix:
            yield Stage(StageId.SHIP_READ, reused=True, subject=subject.name)
            points += [dataclasses.replace(known[type], model=subject.id, name=subject.name) for type in types]
            continue
        yield Stage(StageId.SHIP_READ, len(types), subject=subject.name)
        if reference is None and subject is not field.dense:
            reference = yield from _reference_of(field, None)
        model = load_model(subject.source, torch.float32)
        if subject is field.dense:
            reference = yield from _reference_of(field, model)
        assert reference
        columns = yield from _columns_of(subject, field, model, folder)
        rows = _rows(subject, field.test, field.recipe)
        for done, type in enumerate(types, 1):
            if type not in known:
                reading = _read(model, rows, subject, type, columns, reference)
                known[type] = _placed(subject, type, columns, reading, len(field.test))
                book.put(keys[type], known[type])
            yield Step(StageId.SHIP_READ, done, len(types), {"kl": known[type].kl}, subject=subject.name)
        points += [dataclasses.replace(known[type], model=subject.id, name=subject.name) for type in types]
        yield from points[-len(types):]
        del model
    return points


def _reference_of(field: Field, model: Any) -> Stream[_Reference]:
    """The dense model on the test lines; `model`: where it is loaded already."""
    yield Step(StageId.SHIP_READ, 0, 1, subject=field.dense.name)
    model = model if model is not None else load_model(field.dense.source, torch.float32)
    rows = _rows(field.dense, field.test, field.recipe)
    return _Reference(rows, dense_states(model, rows), Head(model))


def _rows(subject: Subject, lines: list[Any], recipe: dict[str, Any]) -> list[Row]:
    """Lines as a model reads them: under its own prompt, which is short where it is baked."""
    tokenizer = load_tokenizer(subject.source)
    voice = Voice.of(subject.card, tokenizer)
    examples: list[Example] = [encode_line(tokenizer, voice, one.question, one.answer, one.complete) for one in lines]
    return pack(examples, int(recipe["row_tokens"]), shared_prefix(examples))


def _columns_of(subject: Subject, field: Field, model: Any, folder: Path) -> Stream[Columns]:
    """The importance of columns that the model's files are made with; nothing for a run of an earlier version."""
    file = subject.source.folder / MATRIX
    if subject is field.dense:
        file = folder / DENSE_MATRIX
        if not is_file(file):
            rows = some_of(_rows(subject, field.train, field.recipe))
            sums = ColumnSums(model.config)
            for number in sums.read(model, rows):
                yield Step(StageId.SHIP_READ, 0, len(rows), {"rows read": float(number)}, subject=subject.name)
            partial = file.with_name(f".{file.name}.partial")
            sums.write(partial, f"lines of {subject.card.name}")
            partial.replace(file)
    if not is_file(file):
        yield Warned(f"{subject.name}: its folder is of an earlier version and has no importance matrix, so its small files are "
                     "made without one.")
        return {}
    return read_matrix(file, plan_weights(subject.source.folder, load_config(subject.source), "F16"))


def _read(model: Any, rows: list[Row], subject: Subject, type: str, columns: Columns, reference: _Reference) -> Reading:
    """The reading of a model at a type, against the dense model."""
    original = subject.original(type)
    changed: AbstractContextManager[None] = as_in_file(model, original) if original else as_quantized(model, type, columns)
    with changed, torch.inference_mode():
        states = torch.cat(list(answer_states(model, rows)))
        parts = states.split([len(one) for one in reference.states])  # a short prompt makes other rows of the same answers
        return compare_lines(model, reference.rows, parts, reference.states, reference.head).reading()


def _placed(subject: Subject, type: str, columns: Columns, reading: Reading, lines: int) -> Placed:
    original = subject.original(type)
    size = original.stat().st_size if original else expected_bytes(known_shapes(subject.source.folder), type)
    return Placed(subject.id, subject.name, subject.sparsity, subject.baked, type, size, reading.kl, reading.top1,
                  lines, reading.tokens, exact=original is not None,
                  matrix=bool(columns) and original is None and FILE_TYPES[type].takes_matrix)
