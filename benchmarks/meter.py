"""What a piece of work costs, in tokens through the model and in seconds; and its progress while it says nothing.

Tokens are counted where they enter the model's embedding, as the main job's
meter does. Costs are kept in a file beside what they paid for, so that a result
that is found again still knows its price.
"""

import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from engine.base.events import Event, Step
from engine.base.files import read_json, write_json
from engine.base.ids import StageId
from engine.models.ffn import count_tokens

T = TypeVar("T")


class Halted(Exception):
    """The forward pass was asked to stop."""


@dataclass(frozen=True)
class Spent:
    """Tokens through the model, and seconds on this machine."""

    tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.tokens + other.tokens, self.seconds + other.seconds)

    @staticmethod
    def read(file: Path) -> "Spent":
        """What a file of `metered` says."""
        return Spent(**read_json(file))


class Counter:
    """Counts the tokens that enter a model, or a copy of it, from now on. While `halted`, the model refuses to run."""

    def __init__(self, model: Any) -> None:
        self.tokens, self.halted = 0, False

        def add(tokens: int) -> None:
            if self.halted:
                raise Halted
            self.tokens += tokens

        count_tokens(model, add)


def metered(work: Generator[Event, None, T], counter: Counter, file: Path, resumes: bool = False) -> Generator[Event, None, T]:
    """Run a stage to its end and keep its tokens and seconds in `file`.

    `resumes`: the stage goes on where a killed run stopped, so what that run spent is added; else it is forgotten.
    """
    before = Spent.read(file) if resumes and file.exists() else Spent()
    tokens, clock = counter.tokens, time.perf_counter()

    def book() -> None:
        spent = before + Spent(counter.tokens - tokens, time.perf_counter() - clock)
        write_json(file, {"tokens": spent.tokens, "seconds": round(spent.seconds, 3)})

    try:
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                book()
                return end.value
            if resumes:
                book()
            yield event
    finally:
        work.close()


def watched(stage: str, total: int, counter: Counter, call: Callable[[], T]) -> Generator[Event, None, T]:
    """The value of a call that says nothing while it runs: in a thread, with a step a second of `total` tokens.

    Closing the generator ends the call at its next forward pass.
    """
    before = counter.tokens
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(call)
        try:
            while not wait([work], timeout=1).done:
                yield Step(StageId.BENCHMARK, min(counter.tokens - before, total), total, subject=stage)
            return work.result()
        finally:
            counter.halted = True
            wait([work])
            counter.halted = False


def drain(stream: Iterator[Any]) -> Any:
    """Run a generator of events to its end; its value."""
    while True:
        try:
            next(stream)
        except StopIteration as end:
            return end.value
