"""Chats with a model: messages in order, each with its swipes (answers to choose from); cut ones are kept under a token."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

from pydantic import Json
from sqlite_utils import Database

from engine.base.errors import UserError
from studio.store.database import Store
from studio.store.records import Number, Table, new_id, now, scalar, stored

DAMAGED = "[This message is damaged in the library and cannot be read.]"
_TITLE = 60  # characters of the first question


@dataclass(frozen=True)
class Chat:
    """A chat with one version of a character. `run`: the pruned model's, or None: the dense model. Times are Unix seconds.

    `about`: what the character knows of the player; `seed`: for what the card leaves to chance.
    """

    id: str
    character: str
    version: int
    run: str | None
    model: str
    title: str
    player: str
    sampling: Annotated[dict[str, Any], stored(dict[str, Number | None])]
    made: float
    updated: float
    deleted: float | None
    about: str = ""
    seed: int = 0


@dataclass(frozen=True)
class Swipe:
    """One text of a message. `measures`: what was measured while it was made; `reason`: why it ended, or "edited"."""

    text: str
    seed: int | None
    measures: dict[str, Any]
    reason: str


@dataclass(frozen=True)
class Message:
    """A message: `swipes` are its texts, `chosen` the number of the one that counts, from 0."""

    id: str
    chat: str
    position: int
    role: str
    swipes: Json[list[Swipe]]
    chosen: int

    @property
    def text(self) -> str:
        return self.swipes[self.chosen].text


_CHATS = Table("chats", Chat, "chat")
_MESSAGES = Table("messages", Message, "message")
chat, delete, undelete = _CHATS.get, _CHATS.delete, _CHATS.undelete


def start(store: Store, character: str, version: int, model: str, run: str | None = None, player: str = "Player",
          sampling: dict[str, Any] | None = None, greeting: str = "", about: str = "", title: str = "",
          said: Sequence[tuple[str, Sequence[str], int]] = ()) -> Chat:
    """A new chat; the greeting, if there is one, is its first message. `said`: what follows, a role, the texts and the number of
    the one that counts; all of it is kept, or nothing. Raises UserError for an unknown version or run.
    """
    with store.write() as db:
        time, seed = now(), db.table("chats").count_where("character = ?", [character])
        made = _CHATS.insert(db, character=character, version=version, run=run, model=model, title=title, player=player,
                             about=about, sampling=sampling or {}, made=time, updated=time, seed=seed)
        if greeting:
            _say(db, made.id, "assistant", Swipe(greeting, 0, {}, "greeting"))
        for role, texts, chosen in said:
            _say(db, made.id, role, *(Swipe(text, 0, {}, "") for text in texts), chosen=chosen)
        return _CHATS.need(db, made.id)


def chats(store: Store, character: str) -> list[Chat]:
    """The chats of a character, last used first."""
    with store.read() as db:
        return _CHATS.all(db, "character = ? AND deleted IS NULL", [character], "updated DESC, rowid DESC")


def rename(store: Store, id: str, title: str) -> Chat:
    """Give a chat another title. Raises UserError for an unknown one."""
    return _CHATS.change(store, id, title=" ".join(title.split()))


def set_sampling(store: Store, id: str, sampling: dict[str, Any]) -> Chat:
    """How the answers of a chat are sampled from now on: the fields of SamplingParams. Raises UserError for an unknown one."""
    return _CHATS.change(store, id, sampling=sampling)


def set_player(store: Store, id: str, player: str, about: str = "") -> Chat:
    """Change what {{user}} means in this chat, and what the character knows of the player."""
    return _CHATS.change(store, id, player=" ".join(player.split()) or "Player", about=about.strip())


def next_seed(store: Store, character: str) -> int:
    """The seed of the character's next chat (each has another): how many it ever had, deleted ones counted."""
    with store.read() as db:
        return db.table("chats").count_where("character = ?", [character])


def set_version(store: Store, id: str, version: int) -> Chat:
    """Go on with another version of the card. Raises UserError when there is none of this number."""
    return _CHATS.change(store, id, version=version)


def messages(store: Store, chat_id: str) -> list[Message]:
    """The messages in order, cut ones left out."""
    with store.read() as db:
        return [_whole(message) for message in _MESSAGES.all(db, "chat = ? AND cut IS NULL", [chat_id], "position")]


def turns(store: Store, chat_id: str) -> list[tuple[str, str]]:
    """Role and text of each message in order, as the chat worker takes them."""
    return [(message.role, message.text) for message in messages(store, chat_id)]


def say(store: Store, chat_id: str, role: str, text: str, seed: int = 0, measures: dict[str, Any] | None = None,
        reason: str = "") -> Message:
    """Add a message at the end; the first question gives an untitled chat its title. `role`: user or assistant."""
    with store.write() as db:
        if not _CHATS.need(db, chat_id).title and role == "user":
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
    """Make another of a message's texts the one that counts. Raises ValueError for a number that it does not have."""
    with store.write() as db:
        message = _message(db, message_id)
        if not 0 <= index < len(message.swipes):
            raise ValueError(f"message has {len(message.swipes)} swipes, not number {index}")
        return _keep(db, message, message.swipes, index)


def edit(store: Store, message_id: str, text: str) -> Message:
    """Change the chosen text; what was measured of the old one is dropped."""
    with store.write() as db:
        message = _message(db, message_id)
        if text == message.text:
            return message
        return _replace(db, message, message.chosen, Swipe(text, message.swipes[message.chosen].seed, {}, "edited"))


def extend(store: Store, message_id: str, index: int, text: str, measures: dict[str, Any], reason: str) -> Message:
    """Append `text` to a swipe of the message (counted from 0); the measures are those of what was added."""
    with store.write() as db:
        message = _message(db, message_id)
        old = message.swipes[index]
        return _replace(db, message, index, Swipe(old.text.rstrip() + text, measures.get("seed", old.seed), measures, reason))


def cut_from(store: Store, chat_id: str, position: int) -> str:
    """Take away the messages from `position` on. Returns the token that undo takes; "" when there was none."""
    with store.write() as db:
        _CHATS.need(db, chat_id)
        return _cut(db, chat_id, position)


def undo(store: Store, token: str) -> str:
    """Put cut messages back, and cut what was said in their place: its token is returned. Raises UserError for a used token."""
    with store.write() as db:
        row = db.execute("SELECT chat, min(position) FROM messages WHERE cut = ? GROUP BY chat", [token]).fetchone()
        if row is None:
            raise UserError("There is nothing left to undo here.")
        displaced = _cut(db, *row)
        db.execute("UPDATE messages SET cut = NULL WHERE cut = ?", [token])
        db.table("chats").update(row[0], {"updated": now()})
        return displaced


def _cut(db: Database, chat_id: str, position: int) -> str:
    token = new_id()
    changed = db.execute("UPDATE messages SET cut = ? WHERE chat = ? AND position >= ? AND cut IS NULL", [token, chat_id, position])
    db.table("chats").update(chat_id, {"updated": now()})
    return token if changed.rowcount else ""


def _say(db: Database, chat_id: str, role: str, *swipes: Swipe, chosen: int = 0) -> Message:
    position = scalar(db, "SELECT ifnull(max(position) + 1, 0) FROM messages WHERE chat = ? AND cut IS NULL", [chat_id])
    db.table("chats").update(chat_id, {"updated": now()})
    return _MESSAGES.insert(db, chat=chat_id, position=position, role=role,
                            swipes=[vars(swipe) for swipe in swipes], chosen=chosen)


def _keep(db: Database, message: Message, swipes: Sequence[Swipe], chosen: int) -> Message:
    db.table("chats").update(message.chat, {"updated": now()})
    return _MESSAGES.update(db, message.id, swipes=[vars(swipe) for swipe in swipes], chosen=chosen)


def _replace(db: Database, message: Message, index: int, swipe: Swipe) -> Message:
    return _keep(db, message, [*message.swipes[:index], swipe, *message.swipes[index + 1:]], message.chosen)


def _message(db: Database, id: str) -> Message:
    return _whole(_MESSAGES.need(db, id))


def _whole(message: Message) -> Message:
    """The message; a damaged one says so: the others of its chat can still be read."""
    swipes = message.swipes or [Swipe(DAMAGED, 0, {}, "damaged")]
    return replace(message, swipes=swipes, chosen=min(max(message.chosen, 0), len(swipes) - 1))
