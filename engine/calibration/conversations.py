"""Conversations of two turns, for baking, and a student's own answers, for learning on-policy.

A conversation goes on from a line with the question of another: what is said second depends on what was said first, and no more
has to be written than one answer. Both sides of the split are kept apart: a conversation's questions are on the same one.
"""

import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from engine.base.events import Stream
from engine.base.files import write_atomic
from engine.base.job import Recipe
from engine.base.questions import Split, read_records, split_of
from engine.calibration.filtering import tidy
from engine.calibration.lines import MAX_BYTES, Journal, Line
from engine.calibration.rewriting import Voice, batches, sample_answers
from engine.cards.prompt import messages
from engine.models.chat_format import encode_answer, encode_chat
from engine.models.packing import Example

SEEDS = 900  # of the dense model's answers here; the student's own have the next


@dataclass(frozen=True)
class Talk:
    """What was said, the player first and last, and the character's answer; `complete`: the model ended it."""

    said: tuple[str, ...]
    answer: str
    complete: bool = True

    @classmethod
    def of(cls, line: Line) -> "Talk":
        """A line as a conversation of one turn."""
        return cls((line.question,), line.answer, line.complete)

    @property
    def split(self) -> Split:
        return split_of(self.said[-1])


def encode_prompt(tokenizer: Any, voice: Voice, said: Sequence[str]) -> tuple[int, ...]:
    """Token ids of the prompt of a conversation (the player first and last) under a voice's card."""
    turns = [(("user", "assistant")[number % 2], text) for number, text in enumerate(said)]
    return tuple(encode_chat(tokenizer, messages(voice.card, turns, voice.setting)))


def encode_talk(tokenizer: Any, voice: Voice, talk: Talk) -> Example:
    """Token ids of a conversation under a voice's card."""
    return Example(encode_prompt(tokenizer, voice, talk.said), tuple(encode_answer(tokenizer, talk.answer, talk.complete)))


def follow_ups(lines: Sequence[Line], seed: int) -> list[tuple[str, ...]]:
    """For each line what was said in it, and another line's question after that; none where there is one line alone."""
    order = list(range(len(lines)))
    random.Random(seed).shuffle(order)
    following = {one: other for one, other in zip(order, [*order[1:], *order[:1]], strict=True) if one != other}
    return [(line.question, line.answer, lines[following[number]].question)
            for number, line in enumerate(lines) if number in following]


def answer_talks(model: nn.Module, tokenizer: Any, voice: Voice, asked: Sequence[tuple[str, ...]], recipe: Recipe, journal: Journal,
                 step: Callable[[int], Any]) -> Stream[list[Talk]]:
    """The dense model's answers to conversations, without those that the filter rejects. `step(done)`: the event after a batch."""
    talks: list[Talk] = []
    finished, number, done = batches(journal, "answers"), 0, 0
    while done < len(asked):
        answers = finished.get(number, [])
        part = asked[done: done + (len(answers) or recipe.batch_lines)]  # batches may have become smaller since
        if not answers:
            prompts = [encode_prompt(tokenizer, voice, said) for said in part]
            sampled = sample_answers(model, tokenizer, prompts, recipe, SEEDS, number)
            answers = [list(tidy(tokenizer.decode(one.tokens, skip_special_tokens=True), voice.names, one.complete))
                       for one in sampled]
            journal.add({"batch": number, "answers": answers})
        talks += [Talk(said, answer, complete) for said, (answer, complete) in zip(part, answers, strict=True)
                  if not voice.fault(answer, complete)]
        done, number = done + len(part), number + 1
        yield step(done)
    return talks


def own_answers(student: Callable[[], nn.Module], tokenizer: Any, prompts: Sequence[tuple[int, ...]], recipe: Recipe,
                journal: Journal, step: Callable[[int], Any]) -> Stream[list[tuple[int, ...]]]:
    """What a student answers to each prompt, as token ids (with the ending where it ended); () where it says nothing.

    `student()`: makes the model, where something is left to be said.
    """
    said: list[tuple[int, ...]] = []
    finished, number, model = batches(journal, "tokens"), 0, None
    ending = encode_answer(tokenizer, "", True)[-1]
    while len(said) < len(prompts):
        found = finished.get(number, [])
        part = prompts[len(said): len(said) + (len(found) or recipe.batch_lines)]
        if not found:
            model = student() if model is None else model
            sampled = sample_answers(model, tokenizer, part, recipe, SEEDS + 1, number)
            found = [[*one.tokens, ending] if one.complete and one.tokens else one.tokens for one in sampled]
            journal.add({"batch": number, "tokens": found})
        said += map(tuple, found)
        number += 1
        yield step(len(said))
    return said


def read_talks(path: Path) -> list[Talk]:
    """What write_talks wrote."""
    return [Talk(tuple(one["said"]), one["answer"], one["complete"]) for one in read_records(path, MAX_BYTES)]


def write_talks(path: Path, talks: Iterable[Talk]) -> None:
    """Write conversations as JSON Lines, one readable object each."""
    write_atomic(path, "".join(json.dumps({**asdict(talk), "split": talk.split}, ensure_ascii=False) + "\n" for talk in talks))
