"""How a character answers: the samplers by llama.cpp's names, with their defaults, limits and words, in one place.

The studio's controls, the command line, the chat worker and the exports all read SamplingParams.
"""

import argparse
import math
import random
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from engine.base.errors import UserError

TOP_K = 64  # the likeliest tokens, of which one is drawn: sorting a whole vocabulary costs more than it changes
MAX_SEED = 2**32 - 1


@dataclass(frozen=True)
class Knob:
    """A sampler's label and help, the values that are allowed, and where its slider begins, ends and how it steps."""

    name: str
    label: str
    help: str
    least: float
    most: float
    slider: tuple[float, float, float]
    common: bool  # shown at once, not under "More"


def _knob(default: Any, label: str, least: float, most: float, slider: tuple[float, float, float], help: str,
          common: bool = False) -> Any:
    return field(default=default, metadata={"label": label, "help": help, "least": least, "most": most, "slider": slider,
                                            "common": common})


@dataclass(frozen=True)
class SamplingParams:
    """How an answer is drawn. `seed` None: a new one each time.

    The samplers against repetition read the last tokens of the conversation, the answer included: the penalty
    `repeat_last_n`, so few that a character's own words in the prompt stay likely, DRY `dry_penalty_last_n`, so many that
    an answer does not repeat the one before.
    """

    temperature: float = _knob(0.7, "Temperature", 0, 5, (0, 1.5, 0.05),
                               "Higher is bolder, lower is safer. At 0 the likeliest word always wins.", common=True)
    max_tokens: int = _knob(160, "Longest answer", 1, 1_000_000, (16, 512, 8),
                            "In tokens: words or parts of words. Near it, the answer stops after a whole sentence.", common=True)
    top_p: float = _knob(0.95, "Top p", 0.01, 1, (0.05, 1, 0.05),
                         "Lower leaves the unlikeliest words out. At 1 it is off.")
    min_p: float = _knob(0.05, "Min p", 0, 1, (0, 0.5, 0.01),
                         "Leaves out words far less likely than the likeliest one. Higher is stricter; at 0 it is off.")
    repeat_penalty: float = _knob(1.1, "Repetition penalty", 1, 2, (1, 1.5, 0.01),
                                  "Makes words that were just used less likely. At 1 it is off; above 1.2 grammar suffers.")
    repeat_last_n: int = _knob(64, "Repetition range", 0, 1_000_000, (0, 512, 16),
                               "How many of the last tokens the repetition penalty looks back on.")
    dry_multiplier: float = _knob(0.8, "DRY strength", 0, 10, (0, 2, 0.05),
                                  "Keeps whole phrases from being said again, and leaves single words alone. At 0 it is off.")
    dry_base: float = _knob(1.75, "DRY growth", 1, 10, (1, 4, 0.05),
                            "How much stronger DRY gets with each further word of a repeated phrase.")
    dry_allowed_length: int = _knob(2, "DRY phrase length", 1, 1_000, (1, 20, 1),
                                    "The longest phrase, in tokens, that may be repeated freely.")
    dry_penalty_last_n: int = _knob(256, "DRY range", 0, 1_000_000, (0, 1024, 16),
                                    "How many of the last tokens DRY looks back on.")
    seed: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields, as a chat or a request keeps them."""
        return asdict(self)

    def with_seed(self) -> "SamplingParams":
        """The same with a seed: its own, or a random one."""
        return self if self.seed is not None else SamplingParams(**{**asdict(self), "seed": random.getrandbits(32)})


KNOBS = tuple(Knob(one.name, **one.metadata) for one in fields(SamplingParams) if one.metadata)
DEFAULTS = SamplingParams()


def llama_samplers(params: SamplingParams) -> dict[str, float]:
    """The samplers by llama.cpp's names, without length and seed."""
    return {"top_k": TOP_K, **{name: value for name, value in params.as_dict().items() if name not in ("max_tokens", "seed")}}


def read_params(given: Any) -> SamplingParams:
    """Settings from a request, a command or the library. What is left out, or None, gets its default.

    `limit` is the name that `max_tokens` had in older chats. Raises UserError that names what cannot be.
    """
    if not isinstance(given, Mapping):
        raise UserError("The sampling must be an object.")
    known = {"max_tokens": given.get("limit"), **{name: value for name, value in given.items() if value is not None}}
    found = {knob.name: _checked(known[knob.name], knob) for knob in KNOBS if known.get(knob.name) is not None}
    return SamplingParams(**found, seed=None if known.get("seed") is None else check_seed(known["seed"]))


def check_seed(value: Any) -> int:
    """A seed as a whole number. Raises UserError for what is none."""
    if not _is_number(value) or value != int(value) or not 0 <= value <= MAX_SEED:
        raise UserError(f"The seed must be a whole number from 0 to {MAX_SEED}.")
    return int(value)


def _checked(value: Any, knob: Knob) -> Any:
    whole = isinstance(getattr(DEFAULTS, knob.name), int)
    if not _is_number(value) or not knob.least <= value <= knob.most or (whole and value != int(value)):
        raise UserError(f"{knob.label} ({knob.name}) must be a {'whole ' if whole else ''}number from {knob.least:g} to "
                        f"{knob.most:,.10g}; {str(value)[:40]} is not.")
    return int(value) if whole else float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """The samplers as options of a command (`--limit` is the former name of `--max-tokens`)."""
    group = parser.add_argument_group("how it answers")
    for knob in KNOBS:
        names = [f"--{knob.name.replace('_', '-')}", *(["--limit"] if knob.name == "max_tokens" else [])]
        default = getattr(DEFAULTS, knob.name)
        group.add_argument(*names, type=type(default), dest=knob.name, metavar="N", help=f"{knob.help} (default {default:g})")
    group.add_argument("--seed", type=int, help="The same seed usually gives the same answer. (default 0)")


def given_params(options: argparse.Namespace) -> dict[str, Any]:
    """The samplers that were given of those of `add_sampling_options`, unchecked."""
    return {one.name: value for one in fields(SamplingParams) if (value := getattr(options, one.name)) is not None}


def params_of(options: argparse.Namespace) -> SamplingParams:
    """What `add_sampling_options` read. Raises UserError."""
    return read_params({"seed": 0, **given_params(options)})
