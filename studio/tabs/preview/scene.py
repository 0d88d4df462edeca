"""What a page shows of a chat, read from the library as it is now; and a stamp that changes when that does.

Knows no HTML and no page. A chat that is not begun yet has the id "": its greeting comes from the newest card.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from engine.base import shapes
from engine.base.errors import UserError
from engine.cards.card import Card
from studio.store import characters, chats, values
from studio.store.chats import Chat, Message, Swipe
from studio.tabs.answers import card_of, greetings, slower_words, warming_words
from studio.tabs.preview.answers import Answers, UnderWay

PLAYER = "Player"
NO_GREETING = -1
CUT = shapes.fields(token=shapes.of(str), position=shapes.of(int), count=shapes.of(int))


@dataclass(frozen=True)
class Scene:
    """One chat as it stands. `fault`: why the card cannot speak; `undo`: how many messages can be put back."""

    chat: Chat | None
    char: str
    card: Card | None
    fault: str
    player: str
    messages: list[Message]
    under: UnderWay | None
    newest: int
    notes: list[str]
    failure: str = ""
    undo: int = 0
    model: str = ""
    chats: list[Chat] = field(default_factory=list)
    seed: int = 0
    character: str = ""

    @property
    def outdated(self) -> bool:
        """Whether the card has been changed since, and the reader has not said to keep the older one."""
        return bool(self.chat) and self.newest > 0

    @property
    def id(self) -> str:
        """The chat's id; "" before it is begun."""
        return self.chat.id if self.chat else ""


def read_scene(answers: Answers, character: str, chat_id: str, model: str, opening: int = 0, player: str = "") -> Scene:
    """The chat as it is now. `opening`, `player`: of a chat that is not begun yet. Raises UserError for an unknown one."""
    store = answers.services.store
    chat = chats.chat(store, chat_id) if chat_id else None
    head = characters.head(store, character)
    card, fault = None, ""
    try:
        card = card_of(characters.version(store, character, chat.version) if chat else head)
    except UserError as error:
        fault = str(error)
    under = answers.under_way(chat_id)  # before the messages: an answer that ends now is in one of the two
    said = chats.messages(store, chat_id) if chat else opening_messages(card, opening)
    who = characters.get(store, character)
    return Scene(chat, card.char if card else (who.char if who else ""), card, fault, chat.player if chat else player or PLAYER,
                 said, under, _newer(answers, chat, head.number), _notes(answers, under), answers.failures.get(chat_id, ""),
                 _undoable(answers, chat, len(said)), model, dense_chats(answers, character),
                 chat.seed if chat else chats.next_seed(store, character), character)


def dense_chats(answers: Answers, character: str) -> list[Chat]:
    """The character's chats with dense models, the last used first."""
    return [chat for chat in chats.chats(answers.services.store, character) if chat.run is None]


def opening_messages(card: Card | None, opening: int) -> list[Message]:
    """The greetings as the message that a new chat would begin with; none where the player is to speak first."""
    found = greetings(card) if card else []
    if not found or opening == NO_GREETING:
        return []
    return [Message("", "", 0, "assistant", [Swipe(text, 0, {}, "greeting") for text in found], min(opening, len(found) - 1))]


def stamp(scene: Scene) -> str:
    """Changes whenever something else is to be shown."""
    under = scene.under.reply.id if scene.under else ""
    shown = [repr(scene.chat), scene.char, scene.fault, scene.newest, scene.notes, scene.failure, scene.undo, under, scene.model,
             scene.player, [(chat.id, chat.title) for chat in scene.chats], [repr(message) for message in scene.messages]]
    return hashlib.sha256(json.dumps(shown).encode("utf-8", "replace")).hexdigest()


def keep_version(answers: Answers, chat_id: str, newest: int) -> None:
    """The reader stays with the older card; the next newer one is mentioned again."""
    values.set_value(answers.services.store, f"chat-version:{chat_id}", newest)


def remember_cut(answers: Answers, chat_id: str, token: str, position: int, count: int) -> None:
    """What was cut last can be put back from any page, until something is said in its place."""
    values.set_value(answers.services.store, f"chat-cut:{chat_id}", {"token": token, "position": position, "count": count})


def last_cut(answers: Answers, chat_id: str) -> dict[str, Any]:
    """What remember_cut kept; {} when nothing is left to put back."""
    return dict(values.get_value(answers.services.store, f"chat-cut:{chat_id}", {}, CUT))


def _newer(answers: Answers, chat: Chat | None, newest: int) -> int:
    """The newest version's number when the chat has an older one that the reader did not choose to keep, else 0."""
    if not chat or newest <= chat.version:
        return 0
    kept = int(values.get_value(answers.services.store, f"chat-version:{chat.id}", 0))
    return newest if newest > kept else 0


def _undoable(answers: Answers, chat: Chat | None, count: int) -> int:
    cut = last_cut(answers, chat.id) if chat else {}
    return int(cut["count"]) if cut.get("token") and cut["position"] == count else 0


def _notes(answers: Answers, under: UnderWay | None) -> list[str]:
    found = [slower_words(answers.services.store)]
    if (warming := answers.warming()) and not under:
        found.append(warming.sentence or warming_words(warming))
    return [note for note in found if note]
