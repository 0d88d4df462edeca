"""Speed and memory of every file in llama.cpp: each in a fresh process, all files in turn, round by round; medians."""

import dataclasses
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.base.events import Stage, Step, Stream
from engine.base.files import require_space, slug
from engine.base.frontier import DENSE_MATRIX
from engine.base.ids import StageId
from engine.base.pruning_events import Placed
from engine.base.sizes import FILE_TYPES, expected_bytes
from engine.base.weights import known_shapes
from engine.cards.prompt import messages
from engine.export.gguf_proof import QUESTIONS, ask
from engine.export.gguf_writer import write_gguf
from engine.frontier.book import Book
from engine.frontier.subjects import Field, Subject
from engine.models.chat_format import encode_chat
from engine.models.loading import load_tokenizer
from engine.serving.files import gguf_file

_FILES = "files"  # in the work folder, until the speeds are known
_BESIDES = 20_000_000  # bytes of a file that are no weights


def time_all(field: Field, points: list[Placed], folder: Path, rounds: int, book: Book) -> Stream[list[Placed]]:
    """The points with speeds: every file is written, then all are timed in turn, round by round."""
    subjects = {one.id: one for one in (field.dense, *field.runs)}
    total = len(points) * rounds
    key = {point.key: f"{subjects[point.model].identity}:{point.type}" for point in points}
    yield Stage(StageId.SHIP_SPEED, total)
    if any(len(book.times(key[point.key])) < rounds for point in points):
        files = yield from _write_files(field, points, folder, subjects)
        done = 0
        for round in range(1, rounds + 1):
            for point in points:
                if len(book.times(key[point.key])) < round:
                    prompt = _prompt(subjects[point.model])
                    request = {"do": "speed", "file": str(files[point.key]), "prompts": [prompt]}
                    found: dict[str, Any] = {}
                    for event in _asked(request, found):
                        yield dataclasses.replace(event, done=done, total=total)
                    book.add_time(key[point.key], {**found, "prompt_tokens": len(prompt)})
                done += 1
                yield Step(StageId.SHIP_SPEED, done, total)
    timed = [_timed(point, book.times(key[point.key])) for point in points]
    for file in (folder / _FILES).glob("*.gguf"):
        file.unlink()
    return timed


def _asked(request: dict[str, Any], found: dict[str, Any]) -> Iterator[Step]:
    """Let a fresh process of llama.cpp measure; its steps."""
    asking = ask("llama_cpp", request, StageId.SHIP_SPEED)
    while True:
        try:
            event = next(asking)
        except StopIteration as end:
            found |= end.value
            return
        if isinstance(event, Step):
            yield event


def _timed(point: Placed, rounds: list[dict[str, float]]) -> Placed:
    median = lambda name: statistics.median(one[name] for one in rounds)
    first = statistics.median(one["prompt_tokens"] / one["prompt_tokens_per_second"] for one in rounds)
    return dataclasses.replace(point, tokens_per_second=median("tokens_per_second"), first_token_seconds=first,
                               prompt_tokens=int(rounds[0]["prompt_tokens"]), memory=int(median("memory_bytes")),
                               rounds=len(rounds), threads=int(rounds[0]["threads"]))


def _prompt(subject: Subject) -> list[int]:
    """What the model reads before its first word: its prompt and a question."""
    tokenizer = load_tokenizer(subject.source)
    return encode_chat(tokenizer, messages(subject.card, [("user", QUESTIONS[0])]))


def _write_files(field: Field, points: list[Placed], folder: Path, subjects: dict[str, Subject]) -> Stream[dict[str, Path]]:
    """The file of every point: one that is there already, or a new one in the work folder."""
    files: dict[str, Path] = {}
    missing = []
    for point in points:
        subject = subjects[point.model]
        there = subject.original(point.type) or (
            None if FILE_TYPES[point.type].takes_matrix else gguf_file(str(subject.source.folder), point.type))
        files[point.key] = there or folder / _FILES / f"{slug(subject.source.folder.name)}-{slug(point.name)}-{point.type}.gguf"
        if not there and not files[point.key].is_file():
            missing.append(point)
    require_space(folder, sum(expected_bytes(known_shapes(subjects[point.model].source.folder), point.type) + _BESIDES
                              for point in missing))
    for point in missing:
        subject = subjects[point.model]
        matrix = folder / DENSE_MATRIX if subject is field.dense and point.matrix else None
        for event in write_gguf(subject.source.folder, files[point.key], point.type, matrix=matrix):
            if isinstance(event, Step):
                yield Step(StageId.SHIP_SPEED, 0, len(points), {"MB": float(event.done)})
    return files
