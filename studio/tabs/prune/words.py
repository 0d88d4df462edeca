"""What the Prune room says in plain words: choices, stages, reasons, times. Pure."""

import time

from engine.base.job import PRESET_LABELS, knobs, make_recipe
from studio import labels
from studio.figures import words as figure_words

WHO = [("The model itself", "self"), ("A server", "server")]
PRESETS = [(label, name) for name, label in PRESET_LABELS.items()]
_STEPS = ", ".join(str(make_recipe(name).steps) for _, name in PRESETS)
STEPS_NOTE = (f"Steps of mask learning: {_STEPS}. All but the last learn a mask only where "
              f"{100 * make_recipe().mask_from:.0f} % or more is removed; below that they read more text.")
MULTIPLES = [(f"{number} channels", number) for number in (32, 64, 128, 256)]
BITS = [(f"{name.removesuffix('bit')} bit", name) for name in knobs()["load_in"].choices]


def reasons(rejected: dict[str, int]) -> str:
    """Counts by reason, most frequent first; "" for none. Escaped."""
    found = sorted(rejected.items(), key=lambda item: -item[1])
    return ", ".join(f"{count:,} {labels.rejection(reason)}" for reason, count in found if count)


def category(name: str) -> str:
    """A category as the table shows it."""
    return name.replace("_", " ")


def duration(seconds: float) -> str:
    """Seconds as "45 s", "3 min 20 s", "1 h 5 min"."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole}\u00a0s"
    if whole < 3600:
        return f"{whole // 60}\u00a0min" + (f" {whole % 60}\u00a0s" if whole % 60 and whole < 600 else "")
    return f"{whole // 3600}\u00a0h" + (f" {whole % 3600 // 60}\u00a0min" if whole % 3600 >= 60 else "")


def remaining(seconds: float) -> str:
    """Seconds to go, rounded, for they are a guess."""
    if seconds < 10:
        return "a few seconds left"
    step = 5 if seconds < 60 else 30 if seconds < 600 else 60
    return f"about {duration(round(seconds / step) * step)} left"


def moment(seconds: float) -> str:
    """A time of Unix seconds as a date, in this machine's zone."""
    return time.strftime("%d %b, %H:%M", time.localtime(seconds))


def removed(share: float) -> str:
    """A share as "25 %", with a digit where it is no whole number."""
    return figure_words.percent(share, 0 if abs(100 * share - round(100 * share)) < 0.05 else 1)
