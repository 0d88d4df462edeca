"""The answers of chats: asked for from the chat worker, prepared in advance, followed, and written into the library.

A chat has one answer under way at a time, whichever page asked for it; the answer is written into the library at its end,
whether or not a page still looks.
"""

import threading
from collections.abc import Callable
from typing import Any

from engine.base.errors import UserError
from engine.base.ids import FinishReason
from engine.base.sampling import MAX_SEED
from studio.services import Services
from studio.store import characters, chats
from studio.store.chats import Chat, Message
from studio.tabs.answers import (
    BUSY,
    Wait,
    about_of,
    measures_of,
    player_of,
    sampling_of,
    slower_words,
    spoken_card,
    wait_of,
    warming_words,
    write_down,
)
from studio.tabs.models import WHOLE, Voice, choose_voice, finished, unfetched, voice_of
from studio.tabs.preview.looks import open_chat, opening_messages
from studio.tabs.preview.memory import Memories
from studio.tabs.preview.view import Kind, UnderWay, speakers_of
from studio.workers.speech import Reply

SILENT = "The model said nothing this time. Press Regenerate to ask again."


class Speaking:
    """Thread-safe. `failures`: by chat, why its last answer failed, until it is asked again."""

    def __init__(self, services: Services, memories: Memories) -> None:
        self.services = services
        self.store = services.store
        self.memories = memories
        self.failures: dict[str, str] = {}
        self.lock = threading.RLock()  # held from the check that a chat is idle until its answer is asked for
        self._kinds: dict[str, UnderWay] = {}  # by reply
        self._warm: tuple[tuple[Any, ...], Reply] | None = None

    def voice(self, character: str, model: str) -> Voice:
        """Which model speaks next as the character; `model` is the dense one."""
        return voice_of(self.services, character, model, finished(self.services, character))

    def warm(self, character: str, chat_id: str, model: str, fetch: bool = False) -> None:
        """Let the worker load the model that speaks next and read in advance what its answer begins with, once for the same.

        `model`: the dense one. A known model that is not on this machine yet is fetched only where `fetch` says so.
        """
        chat = open_chat(self.store, chat_id) if chat_id else None
        version = characters.version(self.store, character, chat.version) if chat else characters.head(self.store, character)
        card, fault = spoken_card(version)
        if fault:
            return  # the page shows it
        said = chats.messages(self.store, chat_id) if chat else opening_messages(card, 0)
        turns = [(message.role, message.text) for message in said]
        player, about, seed = ((chat.player, chat.about, chat.seed) if chat else
                               (player_of(self.store), about_of(self.store, character), chats.next_seed(self.store, character)))
        model = self.voice(character, model).contender.model
        if unfetched(self.services, model) and not fetch:
            return  # the page asks
        wanted = (character, version.number, hash(str(version.card)), hash(tuple(turns)), player, model, about, seed)
        with self.lock:
            if self._warm and self._warm[0] == wanted and self._warm[1].reason != FinishReason.FAILED:
                return
            if self._warm:
                self.services.speech.stop(self._warm[1])
            self._warm = wanted, self.services.speech.warm(model, version.card, player, turns, about, seed)

    def under_way(self, chat_id: str) -> UnderWay | None:
        """The answer that this chat waits for, whichever page asked."""
        with self.lock:
            reply = self.services.speech.pending(_key(chat_id)) if chat_id else None
            return self._kinds.get(reply.id) if reply else None

    def stop(self, chat_id: str) -> None:
        """End the answer under way, if there is one; what was said is kept."""
        if under := self.under_way(chat_id):
            self.services.speech.stop(under.reply)

    def check_idle(self, chat_id: str) -> None:
        """Raises UserError while an answer is under way."""
        if self.under_way(chat_id):
            raise UserError("The character is still speaking.", BUSY)

    def warming(self) -> Reply | None:
        """The last reading in advance."""
        return self._warm[1] if self._warm else None

    def preparing(self) -> Reply | None:
        """Reading in advance, while it fetches a model or makes its file: that takes long and can be stopped."""
        warming = self.warming()
        if warming is None or warming.done:
            return None
        comes = unfetched(self.services, str(warming.request["model"]))
        return warming if comes or wait_of(warming) in (Wait.FETCH, Wait.CONVERT) else None

    def notes(self, under: UnderWay | None, lost: str) -> list[str]:
        """What the page says below the chat. `lost`: of Voice."""
        found = [lost, slower_words(self.store)]
        if (warming := self.warming()) and not under:
            found.append(warming.sentence or warming_words(warming))
        return [note for note in found if note]

    def ask(self, chat: Chat, model: str, turns: list[tuple[str, str]], kind: Kind, message: Message | None = None) -> UnderWay:
        """Ask for an answer to `turns`. `message`: the one that gets another swipe, or whose chosen swipe goes on."""
        self.failures.pop(chat.id, None)
        version = characters.version(self.store, chat.character, chat.version)
        sampling = sampling_of(chat.sampling)
        if kind == "swipe" and message and sampling["seed"] is not None:
            sampling["seed"] = (int(sampling["seed"]) + len(message.swipes)) % (MAX_SEED + 1)
        known, index = (message.id, message.chosen) if message else ("", 0)
        voice = self.voice(chat.character, model)
        if voice.lost:
            choose_voice(self.services, chat.character, WHOLE)
        speaker: dict[str, Any] = {"model": voice.contender.model, "run": voice.contender.run}
        memory = self.memories.recall(chat.character, chat.player, chat.id, turns)
        if memory:
            speaker["memory"] = list(memory)
        if kind == "more" and message:  # what another model began
            speaker["begun_by"] = [one for one in speakers_of(message.swipes[index].measures) if one not in speakers_of(speaker)]
        reply = self.services.speech.ask(voice.contender.model, version.card, turns, sampling, chat.player, key=_key(chat.id),
                                         on_end=lambda ended: self._keep(chat.id, ended, kind, known, index, model, speaker),
                                         continue_=kind == "more", about=chat.about, seed=chat.seed, memory=memory)
        under = UnderWay(reply, kind, known, index, speaker)
        self._kinds = {id: other for id, other in self._kinds.items() if not other.reply.done} | {reply.id: under}
        return under

    def _keep(self, chat_id: str, reply: Reply, kind: Kind, message: str, index: int, model: str,
              speaker: dict[str, Any]) -> None:
        """In the thread that reads the worker: the answer goes into the library before any page sees it as done.

        `model`: the dense one; `speaker`: what the measures keep of the model that spoke.
        """
        store, measures, text = self.store, {**measures_of(reply), **speaker}, reply.text.strip()
        seed = int(measures.get("seed") or 0)
        if reply.reason == FinishReason.FAILED:
            self.failures[chat_id] = reply.sentence
        elif not text and reply.reason != FinishReason.STOPPED:
            self.failures[chat_id] = "There was nothing to add." if kind == "more" else SILENT
        if not text:
            return
        write: dict[Kind, Callable[[], Any]] = {
            "new": lambda: chats.say(store, chat_id, "assistant", text, seed, measures, reply.reason),
            "swipe": lambda: chats.add_swipe(store, message, text, seed, measures, reply.reason),
            "more": lambda: chats.extend(store, message, index, reply.text, measures, reply.reason)}
        if fault := write_down(write[kind]):
            self.failures[chat_id] = f"The answer could not be kept. {fault}"
        elif chat_id not in self.failures and (chat := chats.chat(store, chat_id)) and not chat.deleted:
            if kind == "new":
                self._remember(chat)
            self.warm(chat.character, chat.id, model)  # while the player types the next message

    def _remember(self, chat: Chat) -> None:
        try:
            self.memories.keep(chat.character, chat.player, chat.id, chats.turns(self.store, chat.id))
        except UserError as error:
            self.failures[chat.id] = f"What was said could not be remembered. {error}"


def _key(chat_id: str) -> str:
    return f"preview:{chat_id}"
