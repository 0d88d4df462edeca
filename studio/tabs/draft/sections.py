"""The sections of the draft room that a script draws in the browser: NPC fields, test script, lorebook.

What each script is given, and what it asks while one types: what a field writes into the prompt, what entries would fire.
"""

import json
import logging
from typing import Any

from engine.base.errors import UserError
from engine.cards.book import MOST_ENTRIES, shown_entry, with_book
from engine.cards.card import MAX_NAME, parse_card, read_lorebook, unfinished
from engine.cards.fields import blank_card
from engine.cards.macros import expand_macros
from engine.cards.npc import ENDS, SCALES, npc_values, read_npc, scale_words, with_npc, written
from engine.cards.prompt import PLAYER, fired_in, rough_tokens
from engine.cards.script import KINDS, derive_questions, fields_of_question, read_script
from studio.tabs.answers import lore_html

NOTHING = '<p class="quiet">Nothing would fire.</p>'


def _column(key: str, words: str, example: str = "", many: bool = False, wide: bool = False) -> dict[str, Any]:
    """An input of an entry. `many`: texts with commas between them."""
    return {"key": key, "words": words, "example": example, "many": many, "wide": wide}


# What the section shows, in its order.
LIST_FORMS: list[dict[str, Any]] = [
    {"field": "goals", "title": "Goals", "word": "goal", "hint": "What the character wants, now and in the end.",
     "columns": [_column("text", "Goal", "To be paid before the tide turns", wide=True)]},
    {"field": "secrets", "title": "Secrets", "word": "secret",
     "hint": "Kept whatever is asked. The telling words never reach the model: the test script looks for them in the answers.",
     "columns": [_column("text", "Secret", "She set the fire herself", wide=True),
                 _column("words", "Telling words", "i set the fire, arson*", many=True),
                 _column("may_learn", "Who may learn it", "nobody")]},
    {"field": "knowledge_limits", "title": "Does not know", "word": "limit",
     "hint": "Where the character's knowledge ends: it says so instead of making things up.",
     "columns": [_column("text", "What", "anything beyond the bridge", wide=True)]},
    {"field": "relationships", "title": "Relationships", "word": "relationship", "hint": "Who matters, and how.",
     "columns": [_column("who", "Who", "Dot"), _column("text", "What they are to the character", "his big sister, gone north",
                                                       wide=True)]},
    {"field": "forbidden_topics", "title": "Does not talk about", "word": "topic",
     "hint": "Subjects that the character turns away from. The test script looks for the words in the answers.",
     "columns": [_column("text", "Subject", "the fire in the archive", wide=True),
                 _column("words", "Words never said then", "burned, ashes", many=True)]},
    {"field": "speech_habits", "title": "Speech habits", "word": "habit",
     "hint": "How the character talks. Words in every answer, and in none, are tested. “a | b” is either, “a*” any ending.",
     "columns": [_column("text", "Habit", "Begins with “Hush.”", wide=True),
                 _column("always", "In every answer", "hush", many=True),
                 _column("never", "In no answer", "haha, okay", many=True)]},
]
_SCALE_TITLES = {"mood": ("Mood", "How the character feels as the story begins."),
                 "big_five": ("Temper", "The five traits of research (Big Five). In the middle a slider writes nothing.")}
_SCALE_NAMES = {"valence": "Feeling", "arousal": "Energy", "openness": "Openness", "conscientiousness": "Conscientiousness",
                "extraversion": "Extraversion", "agreeableness": "Agreeableness", "neuroticism": "Neuroticism"}
SCALE_FORMS: list[dict[str, Any]] = [
    {"field": field, "title": _SCALE_TITLES[field][0], "hint": _SCALE_TITLES[field][1],
     "scales": [{"scale": scale, "name": _SCALE_NAMES[scale], "low": ENDS[scale][0], "high": ENDS[scale][1]} for scale in scales]}
    for field, scales in SCALES.items()]
KIND_WORDS = {"voice": "Voice", "identity": "Is it an AI?", "instructions": "Ignore your instructions", "secret": "Secret",
              "knowledge": "Knowledge", "goal": "Goal", "relationship": "Relationship", "topic": "Forbidden topic",
              "habit": "Speech habit", "own": "Your own"}
assert set(KIND_WORDS) == set(KINDS)


def npc_value(raw: dict[str, Any]) -> dict[str, Any]:
    """What the section shows of a card."""
    values = npc_values(raw)
    return {"fields": values, "faults": list(read_npc(raw).faults),
            **preview(values, unfinished(raw).char)}


def has_fields(raw: dict[str, Any]) -> bool:
    """Whether a card has any NPC field."""
    return any(npc_values(raw).values())


def preview(fields: dict[str, Any], char: str) -> dict[str, Any]:
    """What fields write into the prompt: `written` by field, `words` by scale; {} for what no section of ours sends."""
    try:
        raw = with_npc({"name": char, "description": "x"}, fields)
    except (UserError, ValueError):
        return {}
    npc, card = read_npc(raw), unfinished(raw)
    return {"written": {name: expand_macros(text, card, PLAYER) for name, text in written(npc).items()},
            "words": {scale: scale_words(scale, level) for levels in (npc.mood, npc.big_five) for scale, level in levels.items()}}


def preview_typed(typed: dict[str, Any]) -> dict[str, Any]:
    """`preview` of what a page's script sends: {fields, char}."""
    return preview(typed["fields"], str(typed["char"])[:MAX_NAME])


def script_value(raw: dict[str, Any]) -> dict[str, Any]:
    """What the editor of the test script shows of a card: questions with their origin, those removed, and the originals."""
    card = unfinished(raw)
    script = read_script(card)
    originals = {one.id: fields_of_question(one) for one in derive_questions(card, read_npc(raw))}
    return {"questions": [{**fields_of_question(one), "origin": script.origins[one.id]} for one in script.questions],
            "removed": [fields_of_question(one) for one in script.removed], "originals": originals, "faults": list(script.faults),
            "kinds": KIND_WORDS}


def look_at_book(asked: dict[str, Any]) -> dict[str, Any]:
    """Of {"book", "message"}: the size of each entry in words, and what would fire for a message of the player."""
    try:
        edited, message = asked["book"], str(asked["message"])
        raw = blank_card("Name")
        raw["data"]["description"] = "x"
        card = parse_card(json.dumps(with_book(raw, edited)).encode("utf-8", "replace"), "This book")
    except (UserError, ValueError, KeyError, TypeError):
        logging.getLogger(__name__).exception("a book that a page sent")
        return {}
    tokens = [f"about {rough_tokens(one['content']):,} tokens" for one in edited["entries"]]
    if not message.strip():
        return {"tokens": tokens, "html": ""}
    firing = fired_in(card, [("user", message)])
    fired = [{"name": one.entry.name, "reason": one.reason, "level": one.level, "tokens": one.tokens, "outcome": one.outcome}
            for one in firing.fired]
    return {"tokens": tokens, "html": lore_html({"lore": fired, "lore_faults": firing.faults}, opened=True) or NOTHING}


def read_world(file: dict[str, Any]) -> dict[str, Any]:
    """Of {"text", "name"}: the entries of a lorebook as a page edits them and what to tell of it, or the problem as a sentence."""
    try:
        book, mended = read_lorebook(str(file["text"]).encode("utf-8", "replace"), str(file["name"]))
        if len(book["entries"]) > MOST_ENTRIES:
            raise UserError(f"{file['name']} has {len(book['entries']):,} entries, and a lorebook has at most "
                            f"{MOST_ENTRIES:,} here.")
    except UserError as error:
        return {"problem": str(error)}
    count = len(book["entries"])
    brought = f"{count} {'entry' if count == 1 else 'entries'} came from {file['name']}."
    return {"entries": [shown_entry(value) for value in book["entries"]], "told": " ".join([brought, *mended])}

