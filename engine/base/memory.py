"""How much memory a cast of characters takes, by arithmetic alone; tests hold it against measured memory.

Two ways to have N characters ready to speak:

  standalone     N pruned models, each whole
  gather         one dense model, a bank, and the FFNs of the characters spoken last (engine/cast/dense.py)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from engine.base.sizes import ModelShape

BANK_BYTES = 1_000_000  # of a character in the bank's file, at most
WAYS = ("standalone", "gather")


@dataclass(frozen=True)
class Decoder:
    """A decoder's figures: its shape, and what its keys and values are as wide as."""

    shape: ModelShape
    key_value_heads: int
    head_size: int
    vocabulary: int

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token, all layers, in the weights' width."""
        return 2 * self.shape.layers * self.key_value_heads * self.head_size * self.shape.bytes_per_weight


def decoder_of(config: Mapping[str, Any], parameters: int, bytes_per_weight: int = 2) -> Decoder:
    """The figures of a model from its parsed config.json and its count of parameters. Raises KeyError where it lacks one."""
    heads = int(config["num_attention_heads"])
    shape = ModelShape(int(config["num_hidden_layers"]), int(config["hidden_size"]), int(config["intermediate_size"]),
                       parameters, bytes_per_weight)
    return Decoder(shape, int(config.get("num_key_value_heads") or heads),
                   int(config.get("head_dim") or shape.hidden_size // heads), int(config["vocab_size"]))


def bank_entry_bytes(shape: ModelShape, kept: int, rank: int) -> int:
    """Bytes of one character's tensors in a bank file: a bit a channel, and in 8 bit a scale a kept channel and two factors."""
    scales = shape.layers * (kept + 4)
    factors = shape.layers * rank * (kept + shape.hidden_size + 4)
    return shape.layers * -(-shape.intermediate_size // 8) + scales + factors


def largest_rank(shape: ModelShape, kept: int, other_bytes: int = 0) -> int:
    """The largest rank of a correction with which a character stays within BANK_BYTES; 0: none fits.

    `other_bytes`: what else the character has in the file (card, prompt, report).
    """
    rank = 0
    while bank_entry_bytes(shape, kept, rank + 1) + other_bytes <= BANK_BYTES and rank < shape.hidden_size:
        rank += 1
    return rank


@dataclass(frozen=True)
class Cast:
    """What is to be ready: so many characters, each cut to `kept` channels a layer, for so many players at once.

    context: tokens of the longest conversation, prompt and answers; prefix: tokens of a persona's prompt, kept read for
    every character (0: none is kept); held: characters that gather keeps (as many as there are, at most); rank: of the
    bank's corrections.
    """

    characters: int
    players: int
    context: int
    kept: int
    rank: int = 0
    prefix: int = 0
    held: int = 4

    def __post_init__(self) -> None:
        if min(self.characters, self.players, self.context, self.kept, self.held) < 1 or min(self.rank, self.prefix) < 0:
            raise ValueError("a cast's sizes must be at least 1")


@dataclass(frozen=True)
class Needed:
    """Bytes that a way takes: weights (of models), characters (of the bank), key_values, and what a step works with."""

    way: str
    weights: int
    characters: int
    key_values: int
    working: int

    @property
    def bytes(self) -> int:
        """All together."""
        return self.weights + self.characters + self.key_values + self.working


def plan(decoder: Decoder, cast: Cast) -> list[Needed]:
    """What each of WAYS takes, in their order."""
    return [memory_of(way, decoder, cast) for way in WAYS]


def memory_of(way: str, decoder: Decoder, cast: Cast) -> Needed:
    """What one way takes. Raises ValueError for an unknown one."""
    shape = decoder.shape
    key_values = decoder.token_bytes * (cast.players * cast.context + cast.characters * cast.prefix)
    if way == "standalone":
        cut = shape.bytes - shape.ffn_parameters * shape.bytes_per_weight + _ffn_bytes(shape, cast.kept)
        return Needed(way, cast.characters * cut, 0, key_values, _step_bytes(decoder, cast.kept))
    if way == "gather":
        held = min(cast.held, cast.characters)
        return Needed(way, shape.bytes + held * _ffn_bytes(shape, cast.kept),
                      cast.characters * bank_entry_bytes(shape, cast.kept, cast.rank), key_values,
                      _step_bytes(decoder, cast.kept))
    raise ValueError(f"no way {way!r}")


def _ffn_bytes(shape: ModelShape, channels: int) -> int:
    """Bytes of all FFNs with so many channels."""
    return 3 * shape.layers * shape.hidden_size * channels * shape.bytes_per_weight


def _step_bytes(decoder: Decoder, channels: int) -> int:
    """What one token's step holds at its widest: logits in fp32, or gate, up and product of one layer."""
    return max(4 * decoder.vocabulary, 3 * decoder.shape.bytes_per_weight * channels)


def most(way: str, decoder: Decoder, cast: Cast, memory: int, what: str) -> int:
    """The most "characters" or "players" that a card of `memory` bytes holds, all else as in `cast`; 0 where not even one fits."""
    def fits(count: int) -> bool:
        values = {**vars(cast), what: count}
        return memory_of(way, decoder, Cast(**values)).bytes <= memory

    if what not in ("characters", "players"):
        raise ValueError(f"no count of {what!r}")
    below, above = 0, 1
    while fits(above):
        below, above = above, 2 * above
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if fits(middle) else (below, middle)
    return below
