"""A character as data, for a program that writes every prompt of a conversation by itself, as engine/cards/prompt.py does.

The page for browsers is one: assets/web/prompt.js and lore.js are its half of the rules.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from engine.cards.baked import is_baked
from engine.cards.book import Book, Entry
from engine.cards.card import Card, read_book
from engine.cards.keys import is_pattern, read_key
from engine.cards.lorebook import LONGEST_TOKEN, budget_of
from engine.cards.macros import expand_macros, hidden_keys
from engine.cards.prompt import (
    NEW_CHAT,
    PLAYER,
    USUAL,
    as_said,
    messages,
    note_of,
    render_dialogues,
    render_greeting,
    render_instructions,
    render_system_prompt,
    render_text,
)
from engine.export.engines.go_template import ChatPieces


def describe(card: Card, count: Callable[[str], int]) -> dict[str, Any]:
    """What the prompts of a card are made of. `count`: tokens of a text."""
    setting = replace(USUAL, count=count)
    greeting, note = render_greeting(card), note_of(card)
    text = "\n".join(one["content"] for one in messages(card, [], setting))
    said = f"{card.char}: {expand_macros(card.greeting, card, PLAYER)} {hidden_keys(card.greeting)}"
    shown = as_said(noted, note.role, card) if note and (noted := render_text(note.text, card)) else ""
    return {
        "char": card.char, "player": PLAYER, "newChat": NEW_CHAT, "system": render_system_prompt(card, setting),
        "greeting": [{"role": "assistant", "content": greeting}] if greeting else [], "greetingSearched": said,
        "baked": is_baked(card),
        "examples": render_dialogues(card, USUAL), "instructions": render_instructions(card),
        "note": {"text": shown, "depth": note.depth} if note and shown else None,
        "tokensPerCharacter": count(text) / max(1, len(text)), "lore": _lore(read_book(card), card, count)}


def format_of(pieces: ChatPieces, controls: list[str], alternates: bool, begins: str) -> dict[str, Any]:
    """A chat format. `controls`: texts that no message may hold; `alternates`: whether the turns must, and then `begins`, unless
    it is empty, is what a player says before a character who speaks first."""
    return {"place": pieces.place, "begin": pieces.begin, "systemHead": pieces.system_head, "systemTail": pieces.system_tail,
            "userHead": pieces.user_head, "userTail": pieces.user_tail, "answerHead": pieces.answer_head,
            "answerTail": pieces.answer_tail, "prompt": pieces.prompt, "controls": controls, "alternates": alternates,
            "begins": begins}


def has_patterns(entry: Entry) -> bool:
    """Whether an entry has regular expressions among its keys: these are left out."""
    return entry.enabled and any(map(is_pattern, (*entry.keys, *entry.secondary, *entry.excluded)))


def _lore(book: Book, card: Card, count: Callable[[str], int]) -> dict[str, Any]:
    kept = [entry for entry in book.entries if entry.enabled and entry.always is not False and entry.content.strip()
            and not any(map(is_pattern, (*(entry.secondary if entry.selective else ()), *entry.excluded)))]
    return {"scanDepth": book.scan_depth, "budget": budget_of(book), "recursive": book.recursive,
            "entries": [_entry(entry, budget_of(book), card, count) for entry in kept]}


def _entry(entry: Entry, budget: int, card: Card, count: Callable[[str], int]) -> dict[str, Any]:
    def keys(found: tuple[str, ...]) -> list[dict[str, Any]]:
        spelled = (expand_macros(key, card, PLAYER).strip() for key in found if not is_pattern(key))
        read = (read_key(key, entry.whole_words, entry.case_sensitive) for key in spelled if key)
        return [{"text": key.text, "word": key.kind == "word", "exact": key.exact} for key in read]

    text = render_text(entry.content, card)
    return {
        "number": entry.number, "keys": keys(entry.keys), "secondary": keys(entry.secondary if entry.selective else ()),
        "excluded": keys(entry.excluded), "logic": entry.logic, "always": entry.constant or entry.always is True,
        "steady": entry.steady, "afterChar": entry.place == "after_char", "depth": entry.depth, "scanDepth": entry.scan_depth,
        "order": entry.order, "importance": entry.order if entry.priority is None else entry.priority,
        "expendable": entry.expendable, "probability": entry.probability, "after": entry.after, "every": entry.every,
        "stays": entry.stays, "once": entry.once, "fromRecursion": entry.from_recursion, "intoRecursion": entry.into_recursion,
        "onlyRecursion": entry.only_recursion, "text": text, "said": as_said(text, entry.role, card),
        "tokens": -(-len(text) // 4) if len(text) > budget * LONGEST_TOKEN else count(text)}
