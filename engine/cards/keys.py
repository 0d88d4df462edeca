"""Finds the keys of a lorebook in texts: thousands of plain keys in one pass, regular expressions within a time limit.

Every piece of a text that begins and ends where a key may is looked up in the set of the plain keys of its length, so that the
work grows with the text and the number of lengths, not with the number of keys.
"""

import functools
import itertools
import time
import unicodedata
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import regex

PATTERN_SECONDS = 0.1  # longest search for one pattern
TOTAL_SECONDS = 0.5  # for all patterns of a book, in one prompt
PATTERN_LENGTH = 1_000  # characters of a pattern
FEW = 50  # keys of one length that are looked for one by one, which is faster than piece by piece
LONG = 64  # characters from which on keys are looked for one by one: few fit into a card, and each has a length of its own
MOST_FAULTS = 10  # sentences; what comes after them is counted
TRIES = 1_000  # places at which a long key is tried

_SLASHED = regex.compile(r"/((?:[^/\\]|\\.)+)/([gimsuy]*)", regex.DOTALL)
_FLAGS = {"i": regex.IGNORECASE, "m": regex.MULTILINE, "s": regex.DOTALL}
_BETWEEN = "\n\x01"  # separates texts that are searched together
# First words of the names of characters in scripts that put no spaces between words, or (Hangul) endings without one.
_FREE = {"CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "BOPOMOFO", "HANGUL", "HALFWIDTH", "THAI", "LAO",
         "KHMER", "MYANMAR", "TIBETAN"}

Kind = Literal["word", "part", "pattern"]


class Key(NamedTuple):
    """What is looked for: a whole word, any part of a text, or a pattern. `exact`: upper and lower case differ."""

    text: str
    kind: Kind
    exact: bool


def read_key(text: str, whole_words: bool, case_sensitive: bool) -> Key:
    """A key as SillyTavern reads it: a regular expression between slashes, else plain; one of several words is any part."""
    if is_pattern(text):
        return Key(text, "pattern", True)
    return Key(text if case_sensitive else text.casefold(), "word" if whole_words and len(text.split()) == 1 else "part",
               case_sensitive)


def is_pattern(text: str) -> bool:
    """Whether a key is a regular expression: it is written between slashes, and every other slash in it is escaped."""
    return text.startswith("/") and _SLASHED.fullmatch(text) is not None


class KeySearch:
    """Looks for keys in texts that come one group after another. Texts are numbered from 0 in the order they come."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.texts: list[str] = []
        self._faults: dict[str, str] = {}  # patterns that are ignored, each with its sentence
        self._groups: dict[tuple[bool, Kind, int], set[str]] = defaultdict(set)  # by case, kind and length; 0: long keys
        for key in keys:
            if key.kind != "pattern":
                self._groups[key.exact, key.kind, len(key.text) if len(key.text) <= LONG else 0].add(key.text)
        self._found: dict[Key, list[int]] = {}
        self._searched: dict[tuple[str, int], bool] = {}
        self._spent = 0.0

    def add(self, texts: Sequence[str]) -> None:
        """Search more texts for all plain keys."""
        first = len(self.texts)
        self.texts += texts
        for exact in (False, True):
            groups = [(kind, length, keys) for (case, kind, length), keys in self._groups.items() if case is exact]
            if not groups or not texts:
                continue
            shown = [text if exact else text.casefold() for text in texts]
            joined = _BETWEEN.join(shown)
            offsets = list(itertools.accumulate((len(text) + len(_BETWEEN) for text in shown), initial=0))
            edges = _edges(joined) if any(kind == "word" for kind, _, _ in groups) else ([], set[int]())
            for kind, length, keys in groups:
                for text, at in _places(joined, kind, length, keys, edges, offsets):
                    places = self._found.setdefault(Key(text, kind, exact), [])
                    place = first + bisect_right(offsets, at) - 1
                    if not places or places[-1] != place:
                        places.append(place)

    def first(self, key: Key, among: Sequence[range], owner: str) -> int | None:
        """The number of the first text in these ranges (ascending) that holds a key. `owner`: the entry's name, for faults."""
        if key.kind == "pattern":
            return next((place for part in among for place in part if self._has_pattern(key.text, place, owner)), None)
        found = self._found.get(key, [])
        for part in among:
            at = bisect_left(found, part.start)
            if at < len(found) and found[at] < part.stop:
                return found[at]
        return None

    @property
    def faults(self) -> list[str]:
        """Sentences on what could not be searched for."""
        more = len(self._faults) - MOST_FAULTS
        return [*list(self._faults.values())[:MOST_FAULTS], *(
            [f"{more:,} more patterns of the lorebook were ignored."] if more > 0 else [])]

    def _has_pattern(self, key: str, place: int, owner: str) -> bool:
        if key in self._faults:
            return False
        if (key, place) not in self._searched:
            self._searched[key, place] = self._search(key, self.texts[place], owner)
        return self._searched[key, place]

    def _search(self, key: str, text: str, owner: str) -> bool:
        fault = f"The pattern {quoted(key)} of the lorebook's entry {quoted(owner)} "
        slashed = _SLASHED.fullmatch(key)
        assert slashed
        pattern, flags = slashed[1].replace("\\/", "/"), 0
        for letter in slashed[2]:
            flags |= _FLAGS.get(letter, 0)
        left = min(PATTERN_SECONDS, TOTAL_SECONDS - self._spent)
        if len(pattern) > PATTERN_LENGTH:
            return self._note(key, f"{fault}is longer than {PATTERN_LENGTH:,} characters and was ignored.")
        if left <= 0:
            return self._note(key, f"{fault}was ignored, since other patterns took too long.")
        began = time.perf_counter()
        try:
            return regex.search(pattern, text, flags=flags, timeout=left) is not None
        except TimeoutError:
            return self._note(key, f"{fault}takes too long to search for and was ignored.")
        except (regex.error, RecursionError, OverflowError, MemoryError, ValueError):
            return self._note(key, f"{fault}cannot be read and was ignored.")
        finally:
            self._spent += time.perf_counter() - began

    def _note(self, key: str, sentence: str) -> bool:
        self._faults[key] = sentence
        return False


def _places(text: str, kind: Kind, length: int, keys: set[str], edges: tuple[list[int], set[int]],
            offsets: list[int]) -> Iterator[tuple[str, int]]:
    """Each key of a group with where it begins in the text, at least once for each of the joined texts that holds it."""
    starts, ends = edges
    if not length or (kind == "part" and len(keys) < FEW):
        for key in keys:
            at, tries = text.find(key), 0
            while at >= 0 and tries < TRIES:
                is_start = at == 0 or not _joins(_script(text[at - 1]), _script(text[at]))
                fits = kind == "part" or (at + len(key) in ends and is_start)
                if fits:
                    yield key, at
                tries += not fits
                at = text.find(key, offsets[bisect_right(offsets, at)] if fits else at + 1)
        return
    if len(keys) < FEW:
        keys = {key for key in keys if key in text}
    if keys:
        begins: Iterable[int] = range(len(text) - length + 1) if kind == "part" else (at for at in starts if at + length in ends)
        yield from ((piece, at) for at in begins if (piece := text[at:at + length]) in keys)


def _edges(text: str) -> tuple[list[int], set[int]]:
    """Where a whole word may begin, ascending, and where one may end."""
    known = {sign: _script(sign) for sign in set(text)}
    pairs = list(itertools.pairwise([known[sign] for sign in text]))
    starts = [0, *(at for at, (one, two) in enumerate(pairs, 1) if not _joins(one, two))]
    ends = {len(text), *(at for at, (one, two) in enumerate(pairs, 1) if not _joins(two, one))}
    return starts, ends


@functools.cache
def _joins(beside: str, own: str) -> bool:
    """Whether a character of the script `beside`, next to a key's first or last one, makes it part of a longer word."""
    if not beside or "free" in (beside, own):
        return False
    return not own or beside == own or "any" in (beside, own)


@functools.lru_cache(maxsize=65_536)
def _script(sign: str) -> str:
    """The script of a letter; "any" for what goes with every script (digits, accents), "free" for scripts without spaces
    between words, "" for what is in no word."""
    category = unicodedata.category(sign)
    if sign == "_" or category[0] == "N":
        return "any"
    if category[0] != "L" and category not in ("Mn", "Mc"):
        return ""
    script = unicodedata.name(sign, "").partition(" ")[0]
    if script in _FREE:
        return "free"
    if script == "VARIATION":  # selectors follow pictographs
        return ""
    return "any" if category == "Lm" or script in ("COMBINING", "") else script


def quoted(text: str) -> str:
    """A text of a card in a sentence: one line, at most 40 characters, in quotation marks."""
    line = " ".join(text.split())
    return f"“{line[:40]}…”" if len(line) > 40 else f"“{line}”"
