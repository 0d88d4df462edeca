"""Which entries of a lorebook fire in a conversation, and why.

After the V2 and V3 specifications, and SillyTavern where they do not say: keys in the last messages, secondary keys, constant
entries, recursion through fired texts, a token budget from which the lowest priority goes first. Chance comes from a seed.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from engine.cards.book import Book, Entry
from engine.cards.keys import Key, KeySearch, quoted, read_key
from engine.cards.macros import chance

LEVELS = 8  # of recursion
MOST_TOKENS = 32_768  # of lore in one prompt, also for a book with a larger budget
MOST_SEARCHED = 100_000  # characters of a conversation that are searched for keys, from its end on: more than a model reads
MISFITS = 50  # entries without room that are measured and listed; what comes after them is only counted
LONGEST_TOKEN = 16  # characters; a text that is longer than these times the budget is not counted exactly

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
        return [one for one in self.fired if one.outcome == "fired"]


def budget_of(book: Book) -> int:
    """Tokens that the book's entries may take together in a prompt."""
    return min(book.token_budget, MOST_TOKENS)


def fire(book: Book, said: Sequence[str], answers: int, seed: int, render: Callable[[str], str],
         count: Callable[[str], int], spell: Callable[[str], str] = str) -> Firing:
    """The entries that fire. `said`: the messages so far, the oldest first, as they are searched; `answers`: how many the
    character has given; `render(content)`: an entry's text for the prompt; `count(text)`: tokens of a text; `spell(key)`: a
    key with its macros carried out.
    """
    if not book.entries:
        return Firing()
    measure = _Measure(budget_of(book), render, count)
    waiting = [entry for entry in book.entries if _may_fire(entry, answers, seed, len(said))]
    search = _Search(book, waiting, said, spell)
    found: dict[int, tuple[Entry, str, int]] = {}
    for level in range(LEVELS if book.recursive else 1):
        fresh = {entry.number: (entry, reason, level) for entry in waiting
                 if entry.number not in found and (reason := search.reason(entry, level))}
        found |= fresh
        if not book.recursive or measure.is_full(entry for entry, _, _ in fresh.values()):
            break
        texts = [(entry.name, text) for entry, _, _ in fresh.values() if entry.into_recursion and (text := measure.text(entry))]
        if not texts:
            break
        search.add(texts)
    kept, faults = measure.within_budget(found.values())
    return Firing(kept, [*search.faults, *faults])


def _may_fire(entry: Entry, answers: int, seed: int, place: int) -> bool:
    if not entry.enabled or entry.always is False or not entry.content.strip():
        return False
    if answers < entry.after or answers % entry.every:
        return False
    return entry.probability >= 100 or chance(seed, "lore", str(entry.number), str(place)).uniform(0, 100) < entry.probability


def steady(book: Book, render: Callable[[str], str], count: Callable[[str], int]) -> list[Fired]:
    """The entries at the beginning of every prompt, whatever is said; `fire` finds and keeps the same ones."""
    always = tuple(entry for entry in book.entries if entry.steady)
    return fire(replace(book, entries=always, recursive=False), [], 0, 0, render, count).kept if always else []


class _Measure:
    """Entries' texts and their sizes, each made once and only where it is needed."""

    def __init__(self, budget: int, render: Callable[[str], str], count: Callable[[str], int]) -> None:
        self.budget, self._spent = budget, 0
        self._render, self._count = functools.cache(render), functools.cache(count)

    def text(self, entry: Entry) -> str:
        return self._render(entry.content)

    def tokens(self, entry: Entry) -> int:
        """Tokens of an entry's text; about how many, where they are far beyond the budget."""
        text = self.text(entry)
        return -(-len(text) // 4) if len(text) > self.budget * LONGEST_TOKEN else self._count(text)

    def is_full(self, entries: Iterable[Entry]) -> bool:
        """Whether these entries and all before them take more than the budget, which ends the recursion as in SillyTavern."""
        for entry in entries:
            if self._spent > self.budget:
                break
            self._spent += self.tokens(entry)
        return self._spent > self.budget

    def within_budget(self, found: Iterable[tuple[Entry, str, int]]) -> tuple[list[Fired], list[str]]:
        """The fired entries in the prompt's order; steady ones and high priorities are kept first. The second: faults."""
        def rank(one: tuple[Entry, str, int]) -> tuple[bool, bool, int, int]:
            entry = one[0]
            importance = entry.priority if entry.priority is not None else entry.order
            return (not entry.steady, entry.expendable, -importance, entry.number)

        spent, misfits, fired = 0, 0, []
        ranked = iter(sorted(found, key=rank))
        for entry, reason, level in ranked:
            if not self.text(entry):
                continue
            one = Fired(entry, reason, level, self.text(entry), self.tokens(entry))
            if spent + one.tokens > self.budget:
                one, misfits = replace(one, outcome="over budget"), misfits + 1
            else:
                spent += one.tokens
            fired.append(one)
            if misfits == MISFITS:
                break
        more = sum(1 for _ in ranked)
        faults = [f"{more:,} more {'entry' if more == 1 else 'entries'} of the lorebook fired and had no room in its budget of "
                  f"{self.budget:,} tokens."] if more else []
        return sorted(fired, key=lambda one: (one.entry.order, one.entry.number)), faults


class _Search:
    def __init__(self, book: Book, entries: Sequence[Entry], said: Sequence[str], spell: Callable[[str], str]) -> None:
        self.book, self.messages = book, len(said)
        self._keys = {entry.number: [_read(entry, some, spell) for some in (  # first, secondary, excluded ones
            entry.keys, entry.secondary if entry.selective else (), entry.excluded)] for entry in entries}
        self._search = KeySearch(key for groups in self._keys.values() for keys in groups for _, key in keys)
        self._names: list[str] = []  # of the entries whose texts were added
        self._cut = False
        deepest = max((self._depth(entry) for entry in entries), default=0)
        deepest = self.messages if any(entry.once for entry in entries) else min(deepest, self.messages)
        self._search.add(self._recent(said[::-1][:deepest]))
        self.messages = len(self._search.texts)

    @property
    def faults(self) -> list[str]:
        cut = [f"Only the last {MOST_SEARCHED:,} characters of the conversation were searched for the lorebook's keys."]
        return [*self._search.faults, *(cut if self._cut else [])]

    def add(self, texts: Sequence[tuple[str, str]]) -> None:
        """Search the texts (name of the entry, text) of entries that fired."""
        self._names += [name for name, _ in texts]
        self._search.add([text for _, text in texts])

    def reason(self, entry: Entry, level: int) -> str:
        """Why an entry fires at this level; "" where it does not."""
        if (level and not entry.from_recursion) or (not level and entry.only_recursion):
            return ""
        first, second, excluded = self._keys[entry.number]
        places = [range(min(self._depth(entry), self.messages))]  # the last message first, then the texts of fired entries
        if level:
            places.append(range(self.messages, len(self._search.texts)))
        if any(self._first(entry, excluded, places)):
            return ""
        if entry.always:
            return "It always fires (@@activate)."
        if entry.constant:
            return "It always fires (constant)."
        key, where = self._first(entry, first, places)
        if not key or (entry.once and self._first(entry, first, [range(1, self.messages)])[0]):
            return ""
        also = self._second(entry, second, places) if second else ""
        return "" if also is None else f"{quoted(key)} is in {where}{also}."

    def _recent(self, messages: Sequence[str]) -> list[str]:
        """The messages, the last one first, as far as they are searched."""
        left, recent = MOST_SEARCHED, []
        for text in messages:
            if len(text) > left:
                self._cut = True
                text = text[len(text) - left:]
            left -= len(text)
            recent.append(text)
        return recent

    def _depth(self, entry: Entry) -> int:
        if entry.stays:
            return self.messages
        return max(0, entry.scan_depth if entry.scan_depth is not None else self.book.scan_depth)

    def _first(self, entry: Entry, keys: Iterable[tuple[str, Key]], places: Sequence[range]) -> tuple[str, str]:
        for shown, key in keys:
            place = self._search.first(key, places, entry.name)
            if place is None:
                continue
            if place >= self.messages:
                return shown, f"the text of {quoted(self._names[place - self.messages])}"
            return shown, ("the last message", "the message before the last", f"the message {place} before the last")[min(place, 2)]
        return "", ""

    def _second(self, entry: Entry, keys: Sequence[tuple[str, Key]], places: Sequence[range]) -> str | None:
        """The end of the sentence where the secondary keys allow it, else None."""
        found = [shown for shown, key in keys if self._first(entry, [(shown, key)], places)[0]]
        whole = len(found) == len(keys)
        match entry.logic:
            case "any":
                return f", and so is {quoted(found[0])}" if found else None
            case "all":
                return ", and so are all its secondary keys" if whole else None
            case "none":
                return ", and none of its secondary keys is" if not found else None
            case _:
                return ", and not all of its secondary keys are" if not whole else None


def _read(entry: Entry, keys: tuple[str, ...], spell: Callable[[str], str]) -> Sequence[tuple[str, Key]]:
    """Keys as they are shown and as they are looked for, their macros carried out."""
    if any("{{" in key or "<" in key for key in keys):
        keys = tuple(spelled for key in keys if (spelled := spell(key).strip()))
    return _read_keys(keys, entry.whole_words, entry.case_sensitive)


@functools.lru_cache(maxsize=16_384)
def _read_keys(keys: tuple[str, ...], whole_words: bool, case_sensitive: bool) -> Sequence[tuple[str, Key]]:
    return tuple((key, read_key(key, whole_words, case_sensitive)) for key in keys)
