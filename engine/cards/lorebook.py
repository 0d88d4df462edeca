"""Which entries of a lorebook fire in a conversation, and why: pure, but for the clock that ends an endless pattern.

Activation as hosts do it (the V2 and V3 specifications, and SillyTavern where they are silent): keys in the last
messages, secondary keys, constant entries, recursion through fired texts, a token budget from which the lowest priority
goes first. Chance comes from a seed. Does not know where in the prompt the texts go.
"""

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import regex

from engine.cards.book import Book, Entry
from engine.cards.macros import chance

PATTERN_SECONDS = 0.1  # longest search of one pattern
TOTAL_SECONDS = 0.5  # of all patterns of a book, for one prompt
PATTERN_LENGTH = 1_000  # characters of a pattern
LEVELS = 8  # of recursion

_SPACELESS = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]")
_SLASHED = regex.compile(r"/(.+)/([a-z]*)", regex.DOTALL)
_FLAGS = {"i": regex.IGNORECASE, "m": regex.MULTILINE, "s": regex.DOTALL}

Outcome = Literal["fired", "over budget"]


@dataclass(frozen=True)
class Fired:
    """An entry that fired. `reason`: a sentence for a reader; `level`: 0 in the conversation, else the step of recursion.

    `outcome`: "over budget" where it fired and had to be left out. `text`: as it goes into the prompt; `tokens`: its size.
    """

    entry: Entry
    reason: str
    level: int
    text: str
    tokens: int
    outcome: Outcome = "fired"


@dataclass
class Firing:
    """What fired, in the order of the prompt (lower insertion order first), and sentences on what went wrong."""

    fired: list[Fired] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def kept(self) -> list[Fired]:
        """Those that are in the prompt."""
        return [one for one in self.fired if one.outcome == "fired"]


def fire(book: Book, said: Sequence[str], answers: int, seed: int, render: Callable[[str], str],
         count: Callable[[str], int]) -> Firing:
    """The entries that fire. `said`: the messages so far, the oldest first, as they are searched; `answers`: how many the
    character has given; `render(content)`: an entry's text for the prompt; `count(text)`: tokens of a text.
    """
    if not book.entries:
        return Firing()
    search = _Search(book, list(said))
    found: dict[int, Fired] = {}
    waiting = [entry for entry in book.entries if _may_fire(entry, answers, seed, len(said))]
    texts: list[tuple[str, str]] = []  # (name of the entry, text) that fired in the level before
    for level in range(LEVELS if book.recursive else 1):
        fresh: list[tuple[str, str]] = []
        for entry in waiting:
            if entry.number in found or not (reason := search.reason(entry, level, texts)):
                continue
            if text := render(entry.content):
                found[entry.number] = Fired(entry, reason, level, text, count(text))
                fresh += [(entry.name, text)] if entry.into_recursion else []
        texts = fresh
        if not fresh:
            break
    return Firing(_within_budget(list(found.values()), book.token_budget), search.faults)


def _may_fire(entry: Entry, answers: int, seed: int, place: int) -> bool:
    if not entry.enabled or entry.always is False or not entry.content.strip():
        return False
    if answers < entry.after or answers % entry.every:
        return False
    return entry.probability >= 100 or chance(seed, "lore", str(entry.number), str(place)).uniform(0, 100) < entry.probability


def steady(book: Book, render: Callable[[str], str], count: Callable[[str], int]) -> list[Fired]:
    """The entries that stand at the beginning of every prompt, whatever is said; `fire` finds and keeps the same ones."""
    always = tuple(entry for entry in book.entries if entry.steady)
    return fire(replace(book, entries=always, recursive=False), [], 0, 0, render, count).kept if always else []


def _within_budget(fired: list[Fired], budget: int) -> list[Fired]:
    """The fired entries in the prompt's order; steady ones and high priorities are kept first."""
    def rank(one: Fired) -> tuple[bool, bool, int, int]:
        entry = one.entry
        importance = entry.priority if entry.priority is not None else entry.order
        return (not entry.steady, entry.expendable, -importance, entry.number)

    spent, kept = 0, set[int]()
    for one in sorted(fired, key=rank):
        if spent + one.tokens <= budget:
            spent += one.tokens
            kept.add(one.entry.number)
    ordered = sorted(fired, key=lambda one: (one.entry.order, one.entry.number))
    return [one if one.entry.number in kept else replace(one, outcome="over budget") for one in ordered]


class _Search:
    """Looks for keys in what was said, within its time."""

    def __init__(self, book: Book, said: list[str]) -> None:
        self.book, self.said = book, said
        self.faults: list[str] = []
        self._spent = 0.0

    def reason(self, entry: Entry, level: int, texts: list[tuple[str, str]]) -> str:
        """Why an entry fires at this level; "" where it does not."""
        if level and (not entry.from_recursion or entry.constant):
            return ""
        if not level and entry.only_recursion:
            return ""
        places = [(f"the text of “{name}”", text) for name, text in texts] if level else self._window(entry)
        if any(self._first(entry, entry.excluded, places)):
            return ""
        if entry.always:
            return "It always fires (@@activate)."
        if entry.constant:
            return "It always fires (constant)."
        key, where = self._first(entry, entry.keys, places)
        if not key:
            return ""
        if entry.once and not level and self._first(entry, entry.keys, [("", text) for text in self.said[:-1]])[0]:
            return ""
        if not entry.selective or not entry.secondary:
            return f"“{key}” stands in {where}."
        if (second := self._second(entry, places)) is None:
            return ""
        return f"“{key}” stands in {where}{second}."

    def _window(self, entry: Entry) -> list[tuple[str, str]]:
        """The messages that are searched, the last one first, each with how a sentence calls it."""
        depth = len(self.said) if entry.stays else entry.scan_depth if entry.scan_depth is not None else self.book.scan_depth
        recent = self.said[::-1][:max(0, depth)]
        names = ["the last message", "the message before the last"]
        return [(names[back] if back < 2 else f"the message {back} before the last", text) for back, text in enumerate(recent)]

    def _first(self, entry: Entry, keys: Iterable[str], places: list[tuple[str, str]]) -> tuple[str, str]:
        for key in keys:
            for where, text in places:
                if self._has(entry, key, text):
                    return key, where
        return "", ""

    def _second(self, entry: Entry, places: list[tuple[str, str]]) -> str | None:
        """The end of the sentence where the secondary keys allow it, else None."""
        found = [key for key in entry.secondary if self._first(entry, [key], places)[0]]
        whole = len(found) == len(entry.secondary)
        match entry.logic:
            case "any":
                return f", and so does “{found[0]}”" if found else None
            case "all":
                return ", and so do all its secondary keys" if whole else None
            case "none":
                return ", and none of its secondary keys does" if not found else None
            case _:
                return ", and not all of its secondary keys do" if not whole else None

    def _has(self, entry: Entry, key: str, text: str) -> bool:
        slashed = _SLASHED.fullmatch(key)
        if entry.use_regex or slashed:
            return self._pattern(entry, key, text)
        if not entry.case_sensitive:
            key, text = _folded(key), _folded(text)
        if not entry.whole_words or " " in key or _SPACELESS.search(key):
            return key in text
        start = text.find(key)
        while start >= 0:
            before, after = text[start - 1:start], text[start + len(key):start + len(key) + 1]
            if not (_is_word(before) or _is_word(after)):
                return True
            start = text.find(key, start + 1)
        return False

    def _pattern(self, entry: Entry, key: str, text: str) -> bool:
        fault = f"The pattern {_quoted(key)} of the lorebook's entry “{entry.name}” "
        slashed = _SLASHED.fullmatch(key)
        pattern, letters = (slashed[1], slashed[2]) if slashed else (key, "" if entry.case_sensitive else "i")
        flags = 0
        for letter in letters:
            flags |= _FLAGS.get(letter, 0)
        left = min(PATTERN_SECONDS, TOTAL_SECONDS - self._spent)
        if len(pattern) > PATTERN_LENGTH:
            self._note(f"{fault}is longer than {PATTERN_LENGTH:,} characters and was passed over.")
            return False
        if left <= 0:
            self._note(f"{fault}was passed over, since other patterns took too long.")
            return False
        began = time.perf_counter()
        try:
            return regex.search(pattern, text, flags=flags, timeout=left) is not None
        except TimeoutError:
            self._note(f"{fault}takes too long to search for and was passed over.")
        except (regex.error, RecursionError, OverflowError, MemoryError, ValueError):
            self._note(f"{fault}cannot be read and was passed over.")
        finally:
            self._spent += time.perf_counter() - began
        return False

    def _note(self, sentence: str) -> None:
        if sentence not in self.faults:
            self.faults.append(sentence)


@functools.lru_cache(maxsize=256)
def _folded(text: str) -> str:
    """The text without case: looked for a thousand times in a large book."""
    return text.casefold()


def _is_word(sign: str) -> bool:
    return sign.isalnum() or sign == "_"


def _quoted(text: str) -> str:
    line = " ".join(text.split())
    return f"“{line[:40]}…”" if len(line) > 40 else f"“{line}”"
