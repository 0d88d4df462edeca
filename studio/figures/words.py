"""Words and numbers as figures and rooms show them to people who write characters."""

import html
import time
from collections.abc import Sequence
from typing import Any

DISTANCE = ("Distance to the dense model says how far the pruned model's choice of each next word piece is from that of the "
            "dense model, the one that nothing was removed from. 0 is no difference; lower is closer. "
            "(It is the KL divergence, in nats a token.)")


def dedupe_labels(choices: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """The choices (label, value) of a list, newest first, with labels that differ: of equal ones all but the oldest are numbered.

    A dropdown knows its choices by their labels: of two equal ones it hands on the value of either.
    """
    taken: set[str] = set()
    found = []
    for label, value in reversed(choices):
        number, free = 1, label
        while free in taken:
            number += 1
            free = f"{label} ({number})"
        taken.add(free)
        found.append((free, value))
    return found[::-1]


def percent(share: float, digits: int = 0) -> str:
    """A share (0 to 1) as "25 %", with a space that does not break."""
    return f"{100 * share:.{digits}f}\u00a0%"


def removed(share: float) -> str:
    """A share as "25 %", with a digit where it is no whole number."""
    return percent(share, 0 if abs(100 * share - round(100 * share)) < 0.05 else 1)


def duration(seconds: float) -> str:
    """Seconds as "45 s", "3 min 20 s", "1 h 5 min"."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole}\u00a0s"
    if whole < 3600:
        return f"{whole // 60}\u00a0min" + (f" {whole % 60}\u00a0s" if whole % 60 and whole < 600 else "")
    return f"{whole // 3600}\u00a0h" + (f" {whole % 3600 // 60}\u00a0min" if whole % 3600 >= 60 else "")


def remaining(seconds: float) -> str:
    """Seconds to go, rounded, for they are an estimate."""
    if seconds < 10:
        return "a few seconds left"
    return f"{about(seconds)} left"


def about(seconds: float) -> str:
    """Seconds that are an estimate, rounded: "about 45 s", "about 12 min", "about 2 h"."""
    step = 5 if seconds < 60 else 30 if seconds < 600 else 60 if seconds < 3600 else 600 if seconds < 36_000 else 3600
    return f"about {duration(round(seconds / step) * step)}"


def moment(seconds: float) -> str:
    """A time of Unix seconds as a date, in this machine's zone."""
    return time.strftime("%d %b, %H:%M", time.localtime(seconds))


def count(number: int, one: str) -> str:
    """A number with its noun: "1 line", "1,024 lines"."""
    return f"{number:,}\u00a0{one if number == 1 else one + 's'}"


def figure(value: float) -> str:
    """A distance with as many digits as are worth reading: 0.031, 0.36, 2.0, 10.5."""
    digits = 3 if value < 0.1 else 2 if value < 1 else 1
    return f"{value:.{digits}f}"


def millions(number: int) -> str:
    """A count of weights: "950", "61 k", "134 M", "7.2 B"."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= 0.9995 * size:
            return f"{number / size:.{1 if number < 10 * size else 0}f}\u00a0{unit}"
    return str(number)


def size(bytes_: float) -> str:
    """Bytes as MB or GB of a thousand: "269 MB", "1.4 GB"."""
    return f"{bytes_ / 1e9:.1f}\u00a0GB" if bytes_ >= 1e9 else f"{bytes_ / 1e6:.0f}\u00a0MB"


def shortened(text: str, length: int = 26) -> str:
    """A name of someone's choice, cut to a length and escaped."""
    return html.escape(text if len(text) <= length else text[:length - 1].rstrip() + "…")
