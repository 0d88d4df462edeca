"""Player lines that touch a character's lorebook, so that what is pruned still uses what fires.

For every entry that a line can fire: questions of ours around its keys. Each is tried out: it is taken only where the
entry really fires, as it would in a chat. Entries that always fire stand in every prompt and need no lines. Knows no model.
"""

from collections.abc import Iterator

from engine.calibration.lines import Query, split_of
from engine.cards.book import Entry, read_book
from engine.cards.card import Card
from engine.cards.prompt import fired_in

PER_ENTRY = 4  # lines that teach, for each entry
MOST = 60  # of all entries together: a large book must not drown the character
SOURCE = "lore"

_ABOUT = ("What do you know about {}?", "Tell me about {}.", "Have you heard of {}?", "Why should I care about {}?",
          "What happened with {}?", "Is it true what they say about {}?", "I came to ask you about {}.",
          "What would you tell a friend about {}?", "Someone mentioned {} on the way here.", "What do you think of {}?")


def lore_queries(card: Card) -> list[Query]:
    """Up to PER_ENTRY questions for each entry, the entries in turn, MOST in all; the category names the entry.

    Only questions that fall on the side that teaches; what is held out stays what any player asks.
    """
    streams = [_questions(card, entry) for entry in read_book(card).entries if entry.enabled and not entry.steady]
    found: list[Query] = []
    for _ in range(PER_ENTRY):
        found += [query for stream in streams if (query := next(stream, None))]
    return list({query.question: query for query in found}.values())[:MOST]


def _questions(card: Card, entry: Entry) -> Iterator[Query]:
    keys = [key for key in entry.keys if not entry.use_regex and not key.startswith("/")]
    also = f" and {entry.secondary[0]}" if entry.selective and entry.secondary and entry.logic in ("any", "all") else ""
    for number in range(len(_ABOUT) * min(len(keys), 4)):
        about = _ABOUT[(number + entry.number) % len(_ABOUT)]
        key = keys[number % len(keys)]
        article = "the " if key[0].islower() and not key.startswith(("the ", "a ", "an ")) else ""
        question = about.format(article + key + also)
        question = question[0].upper() + question[1:]
        if split_of(question) == "train" and _fires(card, entry, question):
            yield Query(question, "", f"lore: {entry.name}", SOURCE)


def _fires(card: Card, entry: Entry, question: str) -> bool:
    opening = [("assistant", card.greeting)] if card.greeting.strip() else []
    return any(one.entry == entry for one in fired_in(card, [*opening, ("user", question)]).kept)
