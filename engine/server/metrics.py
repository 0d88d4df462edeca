"""What the server counts, as Prometheus reads it (text format 0.0.4)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Counter:
    """A number that grows, by labels."""

    kind = "counter"

    def __init__(self, name: str, help: str, *labels: str) -> None:
        self.name, self.help, self.labels = name, help, labels
        self.values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def add(self, *labels: str, by: float = 1) -> None:
        """Count."""
        self.values[labels] = self.values.get(labels, 0.0) + by

    def lines(self) -> list[str]:
        """The samples."""
        return [_sample(self.name, dict(zip(self.labels, labels, strict=True)), value)
                for labels, value in sorted(self.values.items())]


class Gauge:
    """A number that is looked up when it is asked for."""

    kind = "gauge"

    def __init__(self, name: str, help: str, value: Callable[[], float]) -> None:
        self.name, self.help, self.value = name, help, value

    def lines(self) -> list[str]:
        """The sample."""
        return [_sample(self.name, {}, self.value())]


class Histogram:
    """Seconds, in buckets."""

    kind = "histogram"

    def __init__(self, name: str, help: str, bounds: Sequence[float] = _SECONDS) -> None:
        self.name, self.help, self.bounds = name, help, bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[next((place for place, bound in enumerate(self.bounds) if seconds <= bound), len(self.bounds))] += 1
        self.sum += seconds

    def lines(self) -> list[str]:
        """The samples."""
        result, so_far = [], 0
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            so_far += count
            result.append(_sample(f"{self.name}_bucket", {"le": bound}, so_far))
        return [*result, _sample(f"{self.name}_sum", {}, self.sum), _sample(f"{self.name}_count", {}, so_far)]


class Metrics:
    """All that is counted."""

    def __init__(self) -> None:
        self.requests = Counter("persona_requests_total", "Requests by route and status.", "route", "status")
        self.tokens = Counter("persona_tokens_total", "Tokens: of prompts, of these those not read again, and said.", "kind")
        self.seconds = Histogram("persona_reply_seconds", "From a request to the end of its reply.")
        self.first = Histogram("persona_first_token_seconds", "From a request to its first token.")
        self.waited = Histogram("persona_waiting_seconds", "In the line before a model.")
        self.broken_off = Counter("persona_broken_off_total", "Replies that their client did not wait for.")
        self._parts: list[Any] = [self.requests, self.tokens, self.seconds, self.first, self.waited, self.broken_off]

    def gauge(self, name: str, help: str, value: Callable[[], float]) -> None:
        """Add a number that is looked up."""
        self._parts.append(Gauge(name, help, value))

    def text(self) -> str:
        """All of it."""
        return "\n".join(line for part in self._parts for line in (
            f"# HELP {part.name} {part.help}", f"# TYPE {part.name} {part.kind}", *part.lines())) + "\n"


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    written = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
    return f"{name}{f'{{{written}}}' if written else ''} {value:.10g}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
