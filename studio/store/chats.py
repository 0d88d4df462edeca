"""Chats with a model: messages in order, each with its swipes (answers to choose from).

Nothing that was said is ever lost: cut messages keep their place under a token. Knows no model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from sqlite_utils import Database

from engine.base import shapes
from engine.base.errors import UserError
from studio.store.database import Store
from studio.store.records import Json, many, need, new_id, now, one, row_of, scalar

DAMAGED = "[This message is damaged in the library and cannot be read.]"
_SWIPE = shapes.fields(text=shapes.of(str), seed=shapes.of(int | None), measures=shapes.fields(), reason=shapes.of(str))
ROLES = ("user", "assistant")
_TITLE = 60  # characters of the first question


@dataclass(frozen=True)
class Chat:
    """A chat with one version of a character. `run`: the pruned model's, or None: the dense model. Times are Unix seconds.

    `about`: what the character knows of the player; `seed`: decides what the card leaves to chance.
    """

    id: str
    character: str
    version: int
    run: str | None
    model: str
    title: str
    player: str
    sampling: Annotated[dict[str, Any], Json(fits=shapes.of(dict[str, float | None]))]
    made: float
    updated: float
    deleted: float | None
    about: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Swipe:
    """One text of a message. `measures`: what was measured while it was made; `reason`: why it ended, or "edited"."""

    text: str
    seed: int
    measures: dict[str, Any]
    reason: str


@dataclass(frozen=True)
class Message:
    """A message: `swipes` are its texts, `chosen` the number of the one that counts, from 0."""

    id: str
    chat: str
    position: int
    role: str
    swipes: list[Swipe]
    chosen: int

    @property
    def text(self) -> str:
        """The text that counts."""
        return self.swipes[self.chosen].text


@dataclass(frozen=True)
class _Row:
    id: str
    chat: str
    position: int
    role: str
    swipes: Annotated[list[dict[str, Any]], Json(fits=shapes.items(_SWIPE))]
    chosen: int

    def message(self) -> Message:
        """A damaged one says so: there is nothing else to show, and the others of its chat are to be read."""
        swipes = [Swipe(*(swipe[name] for name in ("text", "seed", "measures", "reason"))) for swipe in self.swipes]
        swipes = swipes or [Swipe(DAMAGED, 0, {}, "damaged")]
        return Message(self.id, self.chat, self.position, self.role, swipes, min(max(self.chosen, 0), len(swipes) - 1))


def start(store: Store, character: str, version: int, model: str, run: str | None = None, player: str = "Player",
          sampling: dict[str, Any] | None = None, greeting: str = "", about: str = "") -> Chat:
    """A new chat; the greeting, if there is one, is its first message. Raises UserError for an unknown version or run."""
    with store.write() as db:
        need(scalar(db, "SELECT 1 FROM versions WHERE character = ? AND number = ?", [character, version]), "version")
        if run is not None:
            need(scalar(db, "SELECT 1 FROM runs WHERE id = ?", [run]), "run")
        id, time, seed = new_id(), now(), _chats_of(db, character)
        db.table("chats").insert(row_of(id=id, character=character, version=version, run=run, model=model, title="", player=player,
                                        sampling=sampling or {}, made=time, updated=time, deleted=None,
                                        about=about, seed=seed))
        if greeting:
            _say(db, id, "assistant", Swipe(greeting, 0, {}, "greeting"))
        return _chat(db, id)


def chats(store: Store, character: str, deleted: bool = False) -> list[Chat]:
    """The chats of a character, last used first; `deleted`: the deleted ones instead."""
    with store.read() as db:
        return many(db, Chat, "SELECT * FROM chats WHERE character = ? AND (deleted IS NOT NULL) = ? "
                    "ORDER BY updated DESC, rowid DESC", [character, int(deleted)])


def chat(store: Store, id: str) -> Chat | None:
    """The chat, deleted or not."""
    with store.read() as db:
        return one(db, Chat, "SELECT * FROM chats WHERE id = ?", [id])


def rename(store: Store, id: str, title: str) -> Chat:
    """Give a chat a title."""
    return _update(store, id, title=" ".join(title.split()))


def set_sampling(store: Store, id: str, sampling: dict[str, Any]) -> Chat:
    """Change how the next answers are sampled."""
    return _update(store, id, sampling=sampling)


def set_player(store: Store, id: str, player: str, about: str = "") -> Chat:
    """Change what {{user}} stands for in this chat, and what the character knows of the player."""
    return _update(store, id, player=" ".join(player.split()) or "Player", about=about.strip())


def next_seed(store: Store, character: str) -> int:
    """The seed that the character's next chat will have: each has another, so that each draws its own chances."""
    with store.read() as db:
        return _chats_of(db, character)


def set_version(store: Store, id: str, version: int) -> Chat:
    """Go on with another version of the card. Raises UserError when there is none of this number."""
    with store.write() as db:
        found = _chat(db, id)
        need(scalar(db, "SELECT 1 FROM versions WHERE character = ? AND number = ?", [found.character, version]), "version")
        db.table("chats").update(id, {"version": version})
        return _chat(db, id)


def delete(store: Store, id: str) -> Chat:
    """Take a chat off the list; all of it is kept."""
    return _update(store, id, deleted=now())


def undelete(store: Store, id: str) -> Chat:
    """Put a deleted chat back on the list."""
    return _update(store, id, deleted=None)


def messages(store: Store, chat_id: str) -> list[Message]:
    """The messages in order, cut ones left out."""
    with store.read() as db:
        rows = many(db, _Row, "SELECT * FROM messages WHERE chat = ? AND cut IS NULL ORDER BY position", [chat_id])
    return [row.message() for row in rows]


def turns(store: Store, chat_id: str) -> list[tuple[str, str]]:
    """Role and text of each message in order, as the chat worker takes them."""
    return [(message.role, message.text) for message in messages(store, chat_id)]


def say(store: Store, chat_id: str, role: str, text: str, seed: int = 0, measures: dict[str, Any] | None = None,
        reason: str = "") -> Message:
    """Add a message at the end; the first question gives an untitled chat its title. `role`: user or assistant."""
    if role not in ROLES:
        raise ValueError(f"unknown role: {role}")
    with store.write() as db:
        found = _chat(db, chat_id)
        if role == "user" and not found.title:
            db.table("chats").update(chat_id, {"title": " ".join(text.split())[:_TITLE]})
        return _say(db, chat_id, role, Swipe(text, seed, measures or {}, reason))


def add_swipe(store: Store, message_id: str, text: str, seed: int = 0, measures: dict[str, Any] | None = None,
              reason: str = "") -> Message:
    """Add another answer to a message of the assistant, and choose it."""
    with store.write() as db:
        message = _message(db, message_id)
        if message.role != "assistant":
            raise ValueError("only the assistant's messages have swipes")
        return _keep(db, message, [*message.swipes, Swipe(text, seed, measures or {}, reason)], len(message.swipes))


def choose(store: Store, message_id: str, index: int) -> Message:
    """Choose a swipe, counted from 0."""
    with store.write() as db:
        message = _message(db, message_id)
        if not 0 <= index < len(message.swipes):
            raise ValueError(f"message has {len(message.swipes)} swipes, not number {index}")
        return _keep(db, message, message.swipes, index)


def edit(store: Store, message_id: str, text: str) -> Message:
    """Change the chosen text; what was measured of the old one is dropped."""
    with store.write() as db:
        message = _message(db, message_id)
        old = message.swipes[message.chosen]
        if text == old.text:
            return message
        swipes = list(message.swipes)
        swipes[message.chosen] = Swipe(text, old.seed, {}, "edited")
        return _keep(db, message, swipes, message.chosen)


def extend(store: Store, message_id: str, index: int, text: str, measures: dict[str, Any], reason: str) -> Message:
    """Put `text` behind a swipe of the message (counted from 0); the measures are those of what was added."""
    with store.write() as db:
        message = _message(db, message_id)
        swipes = list(message.swipes)
        old = swipes[index]
        swipes[index] = Swipe(old.text.rstrip() + text, measures.get("seed", old.seed), measures, reason)
        return _keep(db, message, swipes, message.chosen)


def cut_from(store: Store, chat_id: str, position: int) -> str:
    """Take away the messages from `position` on. Returns the token that undo takes; "" when there was none."""
    with store.write() as db:
        _chat(db, chat_id)
        return _cut(db, chat_id, position)


def undo(store: Store, token: str) -> str:
    """Put cut messages back. What was said in their place meanwhile is cut: its token is returned, "" when nothing was.

    Raises UserError for a token that was used already.
    """
    with store.write() as db:
        row = db.execute("SELECT chat, min(position) FROM messages WHERE cut = ? GROUP BY chat", [token]).fetchone()
        if row is None:
            raise UserError("There is nothing left to undo here.")
        displaced = _cut(db, *row)
        db.execute("UPDATE messages SET cut = NULL WHERE cut = ?", [token])
        db.table("chats").update(row[0], {"updated": now()})
        return displaced


def _chats_of(db: Database, character: str) -> int:
    """How many chats a character ever had, deleted ones counted."""
    return int(scalar(db, "SELECT count(*) FROM chats WHERE character = ?", [character]))


def _cut(db: Database, chat_id: str, position: int) -> str:
    token = new_id()
    changed = db.execute("UPDATE messages SET cut = ? WHERE chat = ? AND position >= ? AND cut IS NULL", [token, chat_id, position])
    db.table("chats").update(chat_id, {"updated": now()})
    return token if changed.rowcount else ""


def _say(db: Database, chat_id: str, role: str, swipe: Swipe) -> Message:
    id = new_id()
    position = scalar(db, "SELECT ifnull(max(position) + 1, 0) FROM messages WHERE chat = ? AND cut IS NULL", [chat_id])
    db.table("messages").insert(row_of(id=id, chat=chat_id, position=position, role=role, swipes=[vars(swipe)], chosen=0, cut=None))
    db.table("chats").update(chat_id, {"updated": now()})
    return _message(db, id)


def _keep(db: Database, message: Message, swipes: Sequence[Swipe], chosen: int) -> Message:
    db.table("messages").update(message.id, row_of(swipes=[vars(swipe) for swipe in swipes], chosen=chosen))
    db.table("chats").update(message.chat, {"updated": now()})
    return _message(db, message.id)


def _message(db: Database, id: str) -> Message:
    return need(one(db, _Row, "SELECT * FROM messages WHERE id = ?", [id]), "message").message()


def _chat(db: Database, id: str) -> Chat:
    return need(one(db, Chat, "SELECT * FROM chats WHERE id = ?", [id]), "chat")


def _update(store: Store, id: str, **fields: Any) -> Chat:
    with store.write() as db:
        _chat(db, id)
        db.table("chats").update(id, row_of(**fields))
        return _chat(db, id)
