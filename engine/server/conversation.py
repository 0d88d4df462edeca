"""A client's messages as the turns of a character, and texts that end a reply.

A client's system messages never replace the card. Before the first turn they are the scene, which the prompt has after all that
the card says; later ones are notes, in brackets before what the player says next.
"""

from collections.abc import Sequence

from engine.cards.prompt import bracketed
from engine.server.errors import bad_request
from engine.server.schema import ChatMessage

Turns = tuple[tuple[str, str], ...]  # (role, text), role "user" or "assistant"
MOST_TURNS = 512  # more than the models here read
_BLOCK = 64  # turns left out together, so that the beginning of a long conversation stays the same for a while


def read_messages(messages: Sequence[ChatMessage]) -> tuple[str, Turns]:
    """The scene, and the turns. Raises ApiError unless the player speaks last."""
    scene: list[str] = []
    notes: list[str] = []
    turns: list[tuple[str, str]] = []
    for message in messages:
        if message.role in ("system", "developer"):
            (notes if turns else scene).append(message.text.strip())
        elif message.role == "user":
            turns.append(("user", "\n\n".join([*(bracketed(note) for note in notes if note), message.text])))
            notes = []
        else:
            turns.append(("assistant", message.text))
    if not turns or turns[-1][0] != "user":
        raise bad_request("The last message must be what the player said (role user).", "messages")
    if not messages[-1].text.strip() and messages[-1].role == "user":
        raise bad_request("The player said nothing: the last message is empty.", "messages")
    if notes:  # after the player's words: the character reads them, too
        turns[-1] = ("user", "\n\n".join([turns[-1][1], *(bracketed(note) for note in notes if note)]))
    return "\n\n".join(filter(None, scene)), tuple(turns)


def with_greeting(turns: Turns, greeting: str) -> Turns:
    """The turns, with the greeting before them where the player speaks first."""
    return turns if not greeting or (turns and turns[0][0] == "assistant") else (("assistant", greeting), *turns)


def last_turns(turns: Turns) -> tuple[Turns, int]:
    """The last turns of a conversation that is longer than any model reads, and how many were left out."""
    over = max(0, len(turns) - MOST_TURNS)
    left_out = -(-over // _BLOCK) * _BLOCK
    return turns[left_out:], left_out


class StopTexts:
    """Looks for texts that end a reply; holds back what may be the beginning of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops, self.held, self.found = tuple(stops), "", False

    def take(self, piece: str) -> str:
        """What of the text so far can be said. After a stop text was `found`, nothing more."""
        if self.found:
            return ""
        text = self.held + piece
        place = min((at for stop in self.stops if (at := text.find(stop)) >= 0), default=-1)
        if place >= 0:
            self.found, self.held = True, ""
            return text[:place]
        keep = max((size for stop in self.stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0)
        self.held = text[len(text) - keep:]
        return text[:len(text) - keep]

    def rest(self) -> str:
        """What was held back, at the end."""
        held, self.held = self.held, ""
        return held
