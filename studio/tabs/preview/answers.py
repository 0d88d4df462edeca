"""Answers of a chat: asked for here, written into the library at their end, found again by any page.

Knows the chat worker and the library, no page. A chat has one answer under way at a time, whatever page asked for it.
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from engine.base.errors import UserError
from engine.base.sampling import MAX_SEED
from studio.services import Services
from studio.store import characters, chats
from studio.store.characters import Version
from studio.store.chats import Chat, Message
from studio.tabs.answers import card_of, measures_of, sampling_of
from studio.workers.speech import Reply

BUSY = "The character is still speaking."
SILENT = "The model said nothing this time. Press Regenerate to ask again."
_TRIES = 3  # of writing an answer down, each as patient as the library is

Kind = Literal["new", "swipe", "more"]


@dataclass(frozen=True)
class UnderWay:
    """An answer that is being made: a new message, another swipe of `message`, or more of its swipe `index`."""

    reply: Reply
    kind: Kind
    message: str = ""
    index: int = 0


class Answers:
    """The answers under way and why the last one of a chat failed. Thread-safe."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.failures: dict[str, str] = {}  # chat -> sentence, until it is asked again
        self._kinds: dict[str, UnderWay] = {}  # by reply
        self._warm: tuple[tuple[Any, ...], Reply] | None = None
        self._lock = threading.RLock()

    def under_way(self, chat_id: str) -> UnderWay | None:
        """The answer that this chat waits for, whoever asked."""
        with self._lock:
            reply = self.services.speech.pending(_key(chat_id)) if chat_id else None
            return self._kinds.get(reply.id) if reply else None

    def send(self, chat: Chat, text: str, model: str) -> UnderWay:
        """Keep the player's message and ask for the answer. Raises UserError while one is under way."""
        with self._lock:
            self.check_idle(chat.id)
            card_of(characters.version(self.services.store, chat.character, chat.version))  # before anything is written
            chats.say(self.services.store, chat.id, "user", text)
            return self._ask(chat, model, chats.turns(self.services.store, chat.id), "new")

    def regenerate(self, chat: Chat, model: str) -> UnderWay:
        """Another answer beside the last one, or the one that is missing. With a fixed seed, each counts up from it."""
        with self._lock:
            self.check_idle(chat.id)
            said = chats.messages(self.services.store, chat.id)
            turns = [(message.role, message.text) for message in said]
            if said and said[-1].role == "user":
                return self._ask(chat, model, turns, "new")
            if len(said) < 2:
                raise UserError("There is nothing to answer yet.", "Write a message first.")
            return self._ask(chat, model, turns[:-1], "swipe", said[-1])

    def go_on(self, chat: Chat, model: str) -> UnderWay:
        """Let the character go on with its last answer."""
        with self._lock:
            self.check_idle(chat.id)
            said = chats.messages(self.services.store, chat.id)
            if not said or said[-1].role != "assistant":
                raise UserError("There is no answer to go on with.", "Write a message first.")
            return self._ask(chat, model, chats.turns(self.services.store, chat.id), "more", said[-1])

    def stop(self, chat_id: str) -> None:
        """End the answer under way, if there is one; what was said is kept."""
        if under := self.under_way(chat_id):
            self.services.speech.stop(under.reply)

    def check_idle(self, chat_id: str) -> None:
        """Raises UserError while an answer is under way."""
        if self.under_way(chat_id):
            raise UserError(BUSY, "Press Stop first, or wait for the end.")

    def warm(self, version: Version, turns: list[tuple[str, str]], player: str, model: str, about: str, seed: int) -> None:
        """Let the worker load the model and read the persona and the turns in advance; asked anew only when they changed."""
        wanted = (version.character, version.number, hash(str(version.card)), hash(tuple(turns)), player, model, about, seed)
        with self._lock:
            if self._warm and self._warm[0] == wanted and self._warm[1].reason != "failed":
                return
            if self._warm:
                self.services.speech.stop(self._warm[1])
            self._warm = wanted, self.services.speech.warm(model, version.card, player, turns, about, seed)

    def warming(self) -> Reply | None:
        """The last reading in advance."""
        return self._warm[1] if self._warm else None

    def _ask(self, chat: Chat, model: str, turns: list[tuple[str, str]], kind: Kind, message: Message | None = None) -> UnderWay:
        self.failures.pop(chat.id, None)
        version = characters.version(self.services.store, chat.character, chat.version)
        sampling = sampling_of(chat.sampling)
        if kind == "swipe" and message and sampling["seed"] is not None:
            sampling["seed"] = (int(sampling["seed"]) + len(message.swipes)) % (MAX_SEED + 1)
        known, index = (message.id, message.chosen) if message else ("", 0)
        reply = self.services.speech.ask(model, version.card, turns, sampling, chat.player, key=_key(chat.id),
                                         on_end=lambda ended: self._keep(chat.id, ended, kind, known, index),
                                         continue_=kind == "more", about=chat.about, seed=chat.seed)
        under = UnderWay(reply, kind, known, index)
        self._kinds = {id: other for id, other in self._kinds.items() if not other.reply.done} | {reply.id: under}
        return under

    def _keep(self, chat_id: str, reply: Reply, kind: Kind, message: str, index: int) -> None:
        """In the thread that reads the worker: the answer goes into the library before anybody sees it as done."""
        store, measures = self.services.store, measures_of(reply)
        seed = int(measures.get("seed") or 0)
        if reply.reason == "failed":
            self.failures[chat_id] = reply.sentence
        elif not reply.text.strip() and reply.reason != "stopped":
            self.failures[chat_id] = "There was nothing to add." if kind == "more" else SILENT
        if not reply.text.strip():
            return
        if kind == "more":
            self._write(chat_id, lambda: chats.extend(store, message, index, reply.text, measures, reply.reason))
        elif kind == "swipe":
            self._write(chat_id, lambda: chats.add_swipe(store, message, reply.text.strip(), seed, measures, reply.reason))
        else:
            self._write(chat_id, lambda: chats.say(store, chat_id, "assistant", reply.text.strip(), seed, measures, reply.reason))

    def _write(self, chat_id: str, write: Callable[[], Any]) -> None:
        for left in reversed(range(_TRIES)):
            try:
                write()
                return
            except UserError as error:
                logging.getLogger(__name__).warning("an answer could not be written down: %s", error)
                if not left:
                    self.failures[chat_id] = f"The answer could not be kept. {error}"


def _key(chat_id: str) -> str:
    return f"chat:{chat_id}"
