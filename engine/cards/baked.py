"""Baked cards: what a card says has gone into the weights of a model (context distillation), so that its prompt is short.

A folder whose weights are baked marks the card in it, in its extensions, and the one prompt builder (prompt.py)
leaves out what the weights hold. The mark belongs to the folder and not to the character: a card that is read from a file of its
own has none (files.py), and a card that somebody brings to a folder gets the folder's (`as_model_has_it`).
"""

import functools
from dataclasses import replace
from pathlib import Path

from engine.base.errors import UserError
from engine.base.files import named_path
from engine.cards.card import Card, parse_card
from engine.cards.fields import as_v3, extensions_of

KEY = "persona_studio/baked"
SHORT_TOKENS = 32  # of the short system prompt, at most


def is_baked(card: Card) -> bool:
    """Whether the card is that of a baked model."""
    return extensions_of(card.raw).get(KEY) is True


def bake(card: Card) -> Card:
    """The card as the folder of a baked model has it."""
    raw = as_v3(card.raw)
    old = raw["data"]["extensions"]
    raw["data"]["extensions"] = {**(old if isinstance(old, dict) else {"unreadable": old}), KEY: True}
    return replace(card, raw=raw)


def unbake(card: Card) -> Card:
    """The card without the mark."""
    if not is_baked(card):
        return card
    raw = as_v3(card.raw)
    del raw["data"]["extensions"][KEY]
    return replace(card, raw=raw)


def as_model_has_it(card: Card, model: str) -> Card:
    """A card as a model reads it: baked where the model's folder is. A folder without a card leaves it as it is."""
    file = named_path(model) / "character.json"
    try:
        status = file.stat()
    except (OSError, ValueError):
        return card
    baked = _has_mark(file, status.st_mtime_ns, status.st_size)
    return card if baked is None or baked == is_baked(card) else bake(card) if baked else unbake(card)


@functools.lru_cache(maxsize=64)
def _has_mark(file: Path, _time: int, _size: int) -> bool | None:
    """Whether the card in a file is baked; None where it cannot be read."""
    try:
        return is_baked(parse_card(file.read_bytes(), str(file)))
    except (OSError, UserError):
        return None
