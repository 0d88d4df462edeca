"""A card as a prompt: pure text to text, the same input always gives the same prompt.

Knows the layout and the two name macros. Does not know books, V3's other
macros, a model's chat template or how many tokens fit: the caller drops what
does not fit.
"""

import re
from collections.abc import Mapping, Sequence

from engine.cards.card import Card, with_name_macros

CLOSING = "Stay in character as {{char}}. Answer in one to three short sentences, in {{char}}'s own voice."

_START = re.compile("<start>", re.IGNORECASE | re.ASCII)
_ORIGINAL = re.compile(r"\{\{original\}\}", re.IGNORECASE | re.ASCII)


def render_system_prompt(card: Card, user: str = "Player") -> str:
    """The system prompt of a card; `user` is the player's name. Sections are parted by one blank line.

    The card's own system_prompt replaces CLOSING, and {{original}} in it puts CLOSING back in;
    post_history_instructions come last. An empty field leaves nothing behind.
    """
    full_name = f" Your full name is {card.name}." if card.name != card.char else ""
    dialogues = filter(None, map(_tidy, _START.split(card.example_dialogue)))
    sections = [
        ("", card.description),
        ("Personality: ", card.personality),
        ("Scenario: ", card.scenario),
        ("Example dialogue:\n", "\n\n".join(dialogues)),
        ("", _ORIGINAL.sub(lambda _: CLOSING, card.system_prompt) if card.system_prompt.strip() else CLOSING),
        ("", _ORIGINAL.sub("", card.post_history_instructions)),  # we have no such instructions of our own
    ]
    filled = [heading + with_name_macros(tidy, card, user) for heading, text in sections if (tidy := _tidy(text))]
    return "\n\n".join([f"You are {card.char}.{full_name}", *filled])


def messages(card: Card, history: Sequence[tuple[str, str] | Mapping[str, str]], user: str = "Player",
             with_greeting: bool = True) -> list[dict[str, str]]:
    """The chat messages of a conversation: system prompt, greeting as the first assistant turn, then `history`.

    `history`: turns as (role, content) or {"role", "content"}, role "user" or "assistant"; macros in them stay
    as they are. Raises ValueError for another role. An empty greeting is left out.
    """
    turns = [{"role": "system", "content": render_system_prompt(card, user)}]
    if with_greeting and (greeting := _tidy(card.greeting)):
        turns.append({"role": "assistant", "content": with_name_macros(greeting, card, user)})
    for turn in history:
        role, content = (turn["role"], turn["content"]) if isinstance(turn, Mapping) else turn
        if role not in ("user", "assistant"):
            raise ValueError(f"a turn of a conversation cannot have the role {role!r}")
        turns.append({"role": role, "content": content})
    return turns


def _tidy(text: str) -> str:
    """Unix line ends, no white space at line ends or around the text, at most one blank line in a row."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(map(str.rstrip, lines))).strip()
