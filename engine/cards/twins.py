"""Near-twins: whether a drafted character is too like another one, by what the two cards say of who they are.

Likeness is the cosine of static vectors (engine/base/embedding.py), or of the words themselves where these are not installed. What
a whole cast shares (the place, the values of the plan, the names) is left out. The bar is not tuned: two characters may be as alike
as the closest two of the bundled ones, which were written to differ.
"""

import functools
import math
import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from engine.base.embedding import embedder
from engine.cards.card import Card, bundled_cards
from engine.cards.script import telling_words

_MOST_SHARED = 6  # words that are named as shared


@dataclass(frozen=True)
class Twin:
    """The one who is too alike: its name, how alike (0 to 1) where `bar` is allowed, and the telling words that both have."""

    name: str
    likeness: float
    bar: float
    shared: tuple[str, ...]


def find_twin(card: Card, others: Sequence[Card], leave_out: str = "") -> Twin | None:
    """The most alike of `others` where it is above the bar; None where all differ. `leave_out`: a text whose words do not count."""
    if not others:
        return None
    ignored = set(telling_words(" ".join((leave_out, *(name for one in (card, *others) for name in one.names)))))
    texts = [_text(one, ignored) for one in (card, *others)]
    alike = _likenesses(texts)
    place = max(range(len(others)), key=alike.__getitem__)
    if alike[place] <= (bar := highest()):
        return None
    shared = Counter(telling_words(texts[0])) & Counter(telling_words(texts[place + 1]))
    return Twin(others[place].name, alike[place], bar, tuple(word for word, _ in shared.most_common(_MOST_SHARED)))


@functools.cache
def highest() -> float:
    """The bar: how alike the two most alike of the bundled characters are."""
    cards = bundled_cards()
    texts = [_text(card, set(telling_words(" ".join(card.names)))) for card in cards]
    return max(value for place in range(len(texts) - 1) for value in _likenesses(texts[place:]))


def _text(card: Card, ignored: Collection[str]) -> str:
    """Who a character is by its card, without the words that do not count."""
    text = re.sub(r"\{\{\w+\}\}", "", f"{card.description}\n{card.personality}")
    return " ".join(word for word in text.split() if not set(telling_words(word)) & set(ignored))


def _likenesses(texts: Sequence[str]) -> list[float]:
    """How alike the first text is to each of the others."""
    if vectors := embedder():
        found = vectors(texts)  # (n, 256)
        return [float(value) for value in found[1:] @ found[0]]
    first, *others = (Counter(telling_words(text)) for text in texts)
    return [_cosine(first, other) for other in others]


def _cosine(one: Counter[str], other: Counter[str]) -> float:
    lengths = [math.sqrt(sum(count * count for count in words.values())) for words in (one, other)]
    return sum(count * other[word] for word, count in one.items()) / (lengths[0] * lengths[1]) if all(lengths) else 0.0
