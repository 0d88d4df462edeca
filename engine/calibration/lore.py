"""Player lines that touch a character's lorebook, so that what is pruned still uses what fires.

For every entry that a line can fire: questions of ours around its keys. Each is tried out: it is taken only where the
entry really fires, as it would in a chat. Entries that always fire stand in every prompt and need no lines. Knows no model.
"""

from collections.abc import Iterator

from engine.calibration.lines import Query, split_of
from engine.cards.book import Entry
from engine.cards.card import Card, read_book
from engine.cards.keys import is_pattern
from engine.cards.macros import expand_macros
from engine.cards.prompt import PLAYER, fired_in

PER_ENTRY = 4  # lines that teach, for each entry
MOST = 60  # of all entries together: a large book must not drown the character
LOOKS = 1_000_000  # at single entries, while questions are tried out: a huge book in which few entries fire would take hours
SOURCE = "lore"

_ABOUT = ("What do you know about {}?", "Tell me about {}.", "Have you heard of {}?", "Why should I care about {}?",
          "What happened with {}?", "Is it true what they say about {}?", "I came to ask you about {}.",
          "What would you tell a friend about {}?", "Someone mentioned {} on the way here.", "What do you think of {}?")


def lore_queries(card: Card) -> list[Query]:
    """Up to PER_ENTRY questions for each entry, the entries in turn, MOST in all; the category names the entry.

    Only questions that fall on the side that teaches; what is held out stays what any player asks.
    """
    book = read_book(card)
    trial = _Trial(card, LOOKS // max(1, len(book.entries)))
    streams = [_questions(card, entry, trial) for entry in book.entries if entry.enabled and not entry.steady]
    found: dict[str, Query] = {}
    for _ in range(PER_ENTRY):
        for stream in streams:
            if len(found) == MOST:
                return list(found.values())
            if query := next(stream, None):
                found.setdefault(query.question, query)
    return list(found.values())


class _Trial:
    """Finds out which entries a question fires, as in a chat; each question once, and only so many."""

    def __init__(self, card: Card, most: int) -> None:
        self.card, self.left = card, most
        self._known: dict[str, set[int]] = {}

    def fires(self, entry: Entry, question: str) -> bool:
        if question not in self._known:
            if not self.left:
                return False
            self.left -= 1
            opening = [("assistant", self.card.greeting)] if self.card.greeting.strip() else []
            self._known[question] = {one.entry.number for one in fired_in(self.card, [*opening, ("user", question)]).kept}
        return entry.number in self._known[question]


def _questions(card: Card, entry: Entry, trial: _Trial) -> Iterator[Query]:
    spelled = (expand_macros(key, card, PLAYER).strip() for key in entry.keys if not is_pattern(key))
    keys = [key for key in spelled if key and key != PLAYER]  # the player's own name stands before every message
    second = expand_macros(entry.secondary[0], card, PLAYER) if entry.secondary else ""
    also = f" and {second}" if second and entry.selective and entry.logic in ("any", "all") else ""
    for number in range(len(_ABOUT) * min(len(keys), 4)):
        about = _ABOUT[(number + entry.number) % len(_ABOUT)]
        key = keys[number % len(keys)]
        article = "the " if key[0].islower() and not key.startswith(("the ", "a ", "an ")) else ""
        question = about.format(article + key + also)
        question = question[0].upper() + question[1:]
        if split_of(question) == "train" and trial.fires(entry, question):
            yield Query(question, "", f"lore: {entry.name}", SOURCE)
