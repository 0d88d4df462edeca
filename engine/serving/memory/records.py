"""What the memory of players holds, as plain records, and the limits that keep it small."""

import re
import unicodedata
from dataclasses import dataclass

from engine.base.errors import UserError

LONGEST_FACT = 200  # characters
LONGEST_SUMMARY = 400
LONGEST_TURN = 8_000  # of a turn that is kept until its conversation ends; longer ones are cut
LONGEST_NAME = 80
MOST_FACTS = 200  # known at a time, of a player by a character; the oldest go first, those that a person corrected last
MOST_FORMER = 100  # facts that newer ones replaced
MOST_TURNS = 400  # kept of a conversation
MOST_SESSIONS = 10  # whose turns are kept, of a player with a character

PERSON, RULES, MODEL = "person", "rules", "model"  # who wrote a fact

_BAD_ID = re.compile(r"[\x00-\x1f\x7f-\x9f/\\\ud800-\udfff]|^\.{1,2}\Z")  # in an address, ".." is the folder above


class Missing(UserError):
    """What was named is not in the memory."""


class Unavailable(UserError):
    """The file cannot be read or written now: it is busy, damaged, foreign or newer, or the disk is full."""


@dataclass(frozen=True)
class Player:
    """A player. `facts`: how many are known, over all characters; `last_seen`: UTC, as 2026-11-29T12:00:00Z."""

    id: str
    name: str
    first_seen: str
    last_seen: str
    facts: int = 0


@dataclass(frozen=True)
class Found:
    """A fact as it was found in a conversation: in the third person, with the number of the player's turn that says it."""

    text: str
    turn: int
    said: str = ""  # the player's own words
    by: str = RULES


@dataclass(frozen=True)
class Fact:
    """A fact about a player that a character knows. `said`: the words it comes from, in turn `turn` of `session`.

    `time`: when it was last said, or edited; `edited_by`: RULES, MODEL or PERSON; `active`: no newer fact replaced it.
    """

    id: int
    player: str
    character: str
    text: str
    slot: str
    session: str
    turn: int
    said: str
    time: str
    edited_by: str
    active: bool


@dataclass(frozen=True)
class Summary:
    """What a character remembers of its conversations with a player, up to and including `session`."""

    player: str
    character: str
    text: str
    session: str
    time: str


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation; `role`: user or assistant."""

    n: int
    role: str
    text: str
    time: str = ""


@dataclass(frozen=True)
class Session:
    """A conversation of a player with a character; `read`: how many of its turns are in the memory already."""

    player: str
    character: str
    id: str
    started: str
    ended: str | None
    read: int
    turns: int


def check_id(id: str, what: str) -> str:
    """An id of a player, a character or a session as it is. Raises UserError unless it is 1 to 200 plain characters that an
    address can name."""
    if not isinstance(id, str) or not id.strip() or len(id) > 200 or _BAD_ID.search(id):
        raise UserError(f"The id of a {what} must be 1 to 200 characters, without slashes and control characters, and not "
                        "dots alone.")
    return id


def one_line(text: str, longest: int) -> str:
    """A text as one line without control characters and halves of characters, cut at a word where it is too long."""
    plain = " ".join("".join(one if unicodedata.category(one) not in ("Cc", "Cs") else " " for one in text[:4 * longest]).split())
    return plain if len(plain) <= longest else plain[:longest - 1].rsplit(" ", 1)[0].rstrip() + "…"


def whole_text(text: str, longest: int) -> str:
    """A text that any program can keep: no NUL characters and no halves of characters, and not too long."""
    return text[:longest].encode("utf-8", "replace").decode().replace("\0", "\ufffd")
