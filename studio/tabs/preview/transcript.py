"""Chats as files: SillyTavern's JSON lines, a header and then a message a line, with all its swipes. Pure."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.base.errors import UserError
from engine.base.questions import parse_records, plain, text_of
from studio.store.chats import Chat, Message

MOST_BYTES = 8_000_000
MOST_MESSAGES = 5_000
_NOT_A_CHAT = "This file is not a chat of SillyTavern."
_HINT = "Export one there as JSONL: a header, then a message a line."


@dataclass(frozen=True)
class Said:
    """A message of a file: user or assistant, its texts, and the number of the one that counts."""

    role: str
    swipes: list[str]
    chosen: int = 0


@dataclass(frozen=True)
class Transcript:
    """A chat of a file."""

    player: str
    said: list[Said] = field(default_factory=list)


def as_jsonl(chat: Chat, messages: Sequence[Message], char: str) -> str:
    """A chat as SillyTavern reads it."""
    stamp = lambda seconds: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    header = {"user_name": chat.player, "character_name": char, "create_date": stamp(chat.made), "chat_metadata": {}}
    lines: list[dict[str, Any]] = [header]
    for message in messages:
        is_user = message.role == "user"
        lines.append({"name": chat.player if is_user else char, "is_user": is_user, "is_system": False,
                      "send_date": stamp(chat.updated), "mes": message.text,
                      **({} if is_user else {"swipe_id": message.chosen, "swipes": [one.text for one in message.swipes]})})
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


def read_jsonl(data: bytes, name: str) -> Transcript:
    """The chat in a file called `name`; messages of the system and empty ones are left out. Raises UserError."""
    if len(data) > MOST_BYTES:
        raise UserError(f"{name} is larger than {MOST_BYTES // 10**6} MB.")
    try:
        lines = parse_records(data, name)
    except UserError as error:
        raise UserError(f"{name}: {_NOT_A_CHAT}", _HINT) from error
    if not lines:
        raise UserError(f"{name}: {_NOT_A_CHAT}", _HINT)
    header = lines[0] if "mes" not in lines[0] else {}
    said = [one for line in lines if "mes" in line and not line.get("is_system") and (one := _said(line))]
    if not said or len(said) > MOST_MESSAGES:
        raise UserError(f"{name} has {len(said):,} messages; 1 to {MOST_MESSAGES:,} are read.", _HINT)
    return Transcript(" ".join(text_of(header, "user_name").split())[:80], said)


def _said(line: dict[str, Any]) -> Said | None:
    text, given = text_of(line, "mes"), line.get("swipes")
    if not text:
        return None
    swipes = [plain(one) for one in given if isinstance(one, str) and one.strip()] if isinstance(given, list) else []
    if line.get("is_user") or text not in swipes:
        swipes = [text]
    return Said("user" if line.get("is_user") else "assistant", swipes, swipes.index(text))
