"""A sibling of a question that a character failed: another one of the same kind, to learn from instead of the question itself.

Siblings come from written lines (assets/sibling_lines.json) and from the pool of player lines. Only such are taken as teach (the
train side of the split), and none that the card's test script or dossier asks: what is measured is never learned from.
"""

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache

from engine.base.files import resource
from engine.base.questions import answer_of, normalise, question_of, read_records, split_of, text_of
from engine.cards.card import Card
from engine.cards.dossier import asked_lines
from engine.cards.macros import expand_macros
from engine.cards.prompt import PLAYER

_LINES, _POOL = resource("assets/sibling_lines.json"), resource("assets/player_lines.jsonl")
_LARGEST = 64_000_000  # bytes
_LIKE = {"voice": "greeting", "instructions": "pressure", "secret": "pressure", "goal": "persona_consistency",
         "relationship": "feeling", "topic": "story", "habit": "linguistic_habits"}  # kinds of the test script


@dataclass(frozen=True)
class Sibling:
    """A question to learn from. `neutral`: an answer without any character, "" where there is none."""

    question: str
    category: str
    neutral: str = ""


def find_sibling(card: Card, item: str, question: str, taken: Collection[str] = ()) -> Sibling | None:
    """The nearest question of the same kind that is neither asked by an evaluation nor among `taken`; of any kind where there is
    no such; None where none is left at all.

    `item`: the id of what was failed, whose beginning says the kind ("linguistic_habits-1f2e", "talk-77ab"). Nearest: the cosine
    of the words, rare ones counting more.
    """
    banned = asked_lines(card, PLAYER) | {normalise(one) for one in (question, *taken)}
    left = [one for one in _all() if normalise(expand_macros(one.question, card, PLAYER)) not in banned]
    kind = _kind_of(item, question)
    same = [one for one in left if one.category == kind]
    return max(same or left, key=lambda one: _cosine(_words(question), _words(one.question)), default=None)


def _kind_of(item: str, question: str) -> str:
    name = item.rpartition("-")[0]
    return _categories().get(normalise(question), "") if name in ("talk", "") else _LIKE.get(name, name)


@cache
def _all() -> tuple[Sibling, ...]:
    written = json.loads(_LINES.read_text(encoding="utf-8"))
    found = [Sibling(line, kind) for kind, lines in written.items() for line in lines]
    found += [Sibling(question_of(one), text_of(one, "category"), answer_of(one)) for one in read_records(_POOL, _LARGEST)]
    return tuple({normalise(one.question): one for one in found if split_of(one.question) == "train"}.values())


@cache
def _categories() -> Mapping[str, str]:
    """The categories of the pool's questions, those of all sides."""
    return {normalise(question_of(one)): text_of(one, "category") for one in read_records(_POOL, _LARGEST)}


@cache
def _rarity() -> Mapping[str, float]:
    """How much a word counts: the logarithm of the share of questions that have it, turned round."""
    texts = [set(text.split()) for text in _categories()]
    counts = Counter(word for words in texts for word in words)
    return {word: math.log(len(texts) / count) for word, count in counts.items()}


def _words(question: str) -> dict[str, float]:
    rarest = max(_rarity().values())
    return {word: _rarity().get(word, rarest) for word in normalise(question).split()}


def _cosine(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    product = sum(weight * other[word] for word, weight in one.items() if word in other)
    lengths = [math.sqrt(sum(weight * weight for weight in words.values())) for words in (one, other)]
    return product / (lengths[0] * lengths[1]) if all(lengths) else 0.0
