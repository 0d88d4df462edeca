"""The sections of the draft room that scripts draw in the browser: NPC fields, test script, dossier, lorebook; what they ask."""

import dataclasses
import json
import logging
from typing import Any

from engine.base.errors import UserError
from engine.cards.actions import read_actions, reply_instructions
from engine.cards.book import MOST_ENTRIES, shown_entry, with_book
from engine.cards.card import MAX_NAME, parse_card, read_lorebook, unfinished
from engine.cards.dossier import KINDS as PRESSURES
from engine.cards.dossier import TASKS, Dossier, derive_dossier, dossier_fields, read_dossier
from engine.cards.fields import blank_card
from engine.cards.macros import expand_macros
from engine.cards.npc import LIST_FIELDS, SCALE_FIELDS, npc_values, read_npc, scale_words, with_npc, written
from engine.cards.prompt import PLAYER, fired_in, rough_tokens
from engine.cards.script import KINDS, derive_questions, fields_of_question, read_script
from studio.tabs.answers import lore_html

LIST_FORMS = [dataclasses.asdict(one) for one in LIST_FIELDS]
SCALE_FORMS = [dataclasses.asdict(one) for one in SCALE_FIELDS]
NOTHING = '<p class="quiet">Nothing would fire.</p>'

KIND_WORDS = {"voice": "Voice", "identity": "Is it an AI?", "instructions": "Ignore your instructions", "secret": "Secret",
              "knowledge": "Knowledge", "goal": "Goal", "relationship": "Relationship", "topic": "Forbidden topic",
              "habit": "Speech habit", "own": "Your own"}
assert set(KIND_WORDS) == set(KINDS)
TASK_WORDS = {"expected_action": "What it would do", "action_justification": "Why it did something",
              "linguistic_habits": "How it speaks", "persona_consistency": "Does it stay the same?",
              "toxicity_control": "Can it be led to hateful talk?", "identity": "Who it is", "knowledge": "What it knows",
              "limits": "What it cannot know"}
assert set(TASK_WORDS) == set(TASKS)
PRESSURE_WORDS = {"villain": "Does a villain stay one?", "flattery": "Flattery", "pressure": "Insistence"}
assert set(PRESSURE_WORDS) == set(PRESSURES)


def npc_value(raw: dict[str, Any]) -> dict[str, Any]:
    """What the section shows of a card."""
    values = npc_values(raw)
    return {"fields": values, "faults": list(read_npc(raw).faults), **preview(values, unfinished(raw).char)}


def has_fields(raw: dict[str, Any]) -> bool:
    return any(npc_values(raw).values())


def preview(fields: dict[str, Any], char: str) -> dict[str, Any]:
    """What fields write into the prompt: `written` by field, `words` by scale; `problems` by field: sentences on what is not used.

    {} for what no section of ours sends.
    """
    try:
        raw = with_npc({"name": char, "description": "x"}, fields)
    except (UserError, ValueError):
        return {}
    npc, card = read_npc(raw), unfinished(raw)
    found = read_actions(npc)
    texts = {**written(npc), "actions": reply_instructions(npc) if found.actions else ""}
    return {"written": {name: expand_macros(text, card, PLAYER) for name, text in texts.items()},
            "problems": {"actions": list(found.faults)},
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


def dossier_value(raw: dict[str, Any]) -> dict[str, Any]:
    """What the editor of the dossier shows of a card: its lists, those that would be derived, and which are the card's own."""
    card = unfinished(raw)
    found = read_dossier(card)
    return {"lists": _entries(found), "derived": _entries(derive_dossier(card)), "written": sorted(found.written),
            "faults": list(found.faults), "choices": {"task": TASK_WORDS, "kind": PRESSURE_WORDS}}


def _entries(dossier: Dossier) -> dict[str, Any]:
    """The lists of a dossier, all entries as objects."""
    lists = dossier_fields(dossier)
    return {**lists, "statements": [{"text": one} for one in lists["statements"]]}


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
    """Of {"text", "name"}: the entries of a lorebook as a page edits them and notes about it, or the problem as a sentence."""
    try:
        book, repaired = read_lorebook(str(file["text"]).encode("utf-8", "replace"), str(file["name"]))
        if len(book["entries"]) > MOST_ENTRIES:
            raise UserError(f"{file['name']} has {len(book['entries']):,} entries, and a lorebook has at most "
                            f"{MOST_ENTRIES:,} here.")
    except UserError as error:
        return {"problem": str(error)}
    count = len(book["entries"])
    brought = f"{count} {'entry' if count == 1 else 'entries'} came from {file['name']}."
    return {"entries": [shown_entry(value) for value in book["entries"]], "notes": " ".join([brought, *repaired])}
