"""The lorebook in the draft room: what a page's script asks of it. Knows no control."""

import json
import logging
from typing import Any

from engine.base.errors import UserError
from engine.cards.book import MOST_ENTRIES, shown_entry, with_book
from engine.cards.card import Card, parse_card, read_lorebook
from engine.cards.fields import blank_card
from engine.cards.prompt import fired_in, rough_tokens
from studio.tabs.answers import lore_html

NOTHING = '<p class="quiet">Nothing would fire.</p>'


def look_at_book(asked: dict[str, Any]) -> dict[str, Any]:
    """Of {"book", "message"}: the size of each entry in words, and what would fire for a message of the player."""
    try:
        edited, message = asked["book"], str(asked["message"])
        card = _card(edited)
    except (UserError, ValueError, KeyError, TypeError):
        logging.getLogger(__name__).exception("a book that a page sent")
        return {}
    tokens = [f"about {rough_tokens(one['content']):,} tokens" for one in edited["entries"]]
    if not message.strip():
        return {"tokens": tokens, "html": ""}
    firing = fired_in(card, [("user", message)])
    told = [{"name": one.entry.name, "reason": one.reason, "level": one.level, "tokens": one.tokens, "outcome": one.outcome}
            for one in firing.fired]
    return {"tokens": tokens, "html": lore_html({"lore": told, "lore_faults": firing.faults}, opened=True) or NOTHING}


def read_world(file: dict[str, Any]) -> dict[str, Any]:
    """Of {"text", "name"}: the entries of a lorebook as a page edits them and what to tell of it, or the problem as a sentence."""
    try:
        book, told = read_lorebook(str(file["text"]).encode("utf-8", "replace"), str(file["name"]))
        if len(book["entries"]) > MOST_ENTRIES:
            raise UserError(f"{file['name']} has {len(book['entries']):,} entries, and a lorebook has at most "
                            f"{MOST_ENTRIES:,} here.")
    except UserError as error:
        return {"problem": str(error)}
    count = len(book["entries"])
    brought = f"{count} {'entry' if count == 1 else 'entries'} came from {file['name']}."
    return {"entries": [shown_entry(value) for value in book["entries"]], "told": " ".join([brought, *told])}


def _card(edited: dict[str, Any]) -> Card:
    raw = blank_card("Name")
    raw["data"]["description"] = "x"
    return parse_card(json.dumps(with_book(raw, edited)).encode("utf-8", "replace"), "This book")
