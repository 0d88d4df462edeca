"""What the Play room does: chats in the library, and the answers that the chat worker makes for them.

A chat that has not begun has the id "" and is kept once something is said in it. A chat has one answer under way at a
time, whichever page asked for it; the answer is written into the library at its end, whether or not a page still looks.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.files import slug
from engine.base.ids import FinishReason
from engine.base.sampling import MAX_SEED
from engine.cards.fields import fields_of, with_fields
from studio.services import Services
from studio.store import characters, chats, values
from studio.store.chats import Chat, Message
from studio.store.records import whole
from studio.tabs.answers import (
    BUSY,
    PLAYER,
    Wait,
    about_of,
    card_of,
    fingerprint,
    keep_about,
    looked_at,
    measures_of,
    message_of,
    player_of,
    sampling_of,
    slower_words,
    spoken_card,
    wait_of,
    warming_words,
    write_down,
)
from studio.tabs.models import (
    WHOLE,
    Voice,
    choose_voice,
    finished,
    unfetched,
    voice_choices,
    voice_of,
)
from studio.tabs.preview.looks import (
    Draft,
    ViewState,
    label_of,
    opening_choices,
    opening_messages,
    speakers_among,
)
from studio.tabs.preview.memory import Memories
from studio.tabs.preview.transcript import MOST_BYTES, as_jsonl, read_jsonl
from studio.tabs.preview.view import (
    SHOWN,
    Kind,
    Scene,
    UnderWay,
    chat_contents,
    nobody_contents,
    speakers_of,
)
from studio.workers.speech import Reply

SILENT = "The model said nothing this time. Press Regenerate to ask again."
_CUT = whole(token=str, position=int, count=int)


class Controller:
    """What a page can do. Every method reads the library first; those that change something raise UserError. Thread-safe."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.store = services.store
        self.memories = Memories(services)
        self.failures: dict[str, str] = {}  # chat -> why its last answer failed, until it is asked again
        self._kinds: dict[str, UnderWay] = {}  # by reply
        self._warm: tuple[tuple[Any, ...], Reply] | None = None
        self._lock = threading.RLock()

    def contents(self, look: Mapping[str, str]) -> dict[str, Any]:
        """The live contents for a page that looks at `look`; none before its first look is known."""
        character = looked_at(self.store, look)
        if not character:
            return {} if character is None else nobody_contents()
        state = ViewState(character, look["model"], look["chat"], look["editing"], int(look["shown"]), int(look["opening"]))
        scene = self.scene(state)
        return {**chat_contents(scene, state.editing, state.shown),
                "preview-controls": fingerprint(self.settings(scene, state.opening))}

    def settings(self, scene: Scene, opening: int) -> dict[str, Any]:
        """What the lists and fields beside the chat are to show. `opening`: the chosen greeting's number."""
        chat = scene.chat
        return {"character": scene.character, "chat": scene.id, "player": scene.player, "opening": opening,
                "about": chat.about if chat else about_of(self.store, scene.character),
                "sampling": sampling_of(chat.sampling if chat else None),
                "chats": [(label_of(one), one.id) for one in scene.chats], "openings": [] if chat else opening_choices(scene),
                "voices": scene.voices, "voice": scene.voice.id if scene.voice else WHOLE}

    def chats_of(self, character: str) -> list[Chat]:
        """The character's chats, the last used first."""
        return [chat for chat in chats.chats(self.store, character) if chat.run is None]

    def voice(self, character: str, model: str) -> Voice:
        """Which model speaks next as the character; `model` is the dense one."""
        return voice_of(self.services, character, model, finished(self.services, character))

    def choose_voice(self, state: ViewState, id: str) -> None:
        """Let another model speak from the next answer on; the conversation stays. Raises UserError for one that is gone."""
        if id != WHOLE and id not in [run.id for run in finished(self.services, state.character)]:
            raise UserError("This pruned model is no longer there.", "Choose another one.")
        choose_voice(self.services, state.character, id)
        self.warm(state.character, state.chat, state.model)

    def latest(self, character: str, present: str = "") -> str:
        """The chat to show when a character is opened: the present one if it is this character's, else the last used."""
        found = [chat.id for chat in self.chats_of(character)] if character else []
        return present if present in found else next(iter(found), "")

    def scene(self, state: ViewState) -> Scene:
        """The chat as it is now. Raises UserError for an unknown one."""
        character = state.character
        chat = chats.chat(self.store, state.chat) if state.chat else None
        head = characters.head(self.store, character)
        card, fault = spoken_card(characters.version(self.store, character, chat.version) if chat else head)
        under = self.under_way(state.chat)  # before the messages: an answer that ends now is in one of the two
        said = chats.messages(self.store, state.chat) if chat else opening_messages(card, state.opening)
        who = characters.get(self.store, character)
        found = finished(self.services, character)
        voice = voice_of(self.services, character, state.model, found)
        return Scene(character, chat, card.char if card else who.char if who else "", card, fault,
                     chat.player if chat else player_of(self.store), said, under, self._newer_version(chat, head.number),
                     self._notes(under, voice.lost), self.failures.get(state.chat, ""), self._undoable(chat, len(said)),
                     self.chats_of(character), chat.seed if chat else chats.next_seed(self.store, character),
                     voice, voice_choices(found, state.model), speakers_among(self.store, said, under),
                     None if under else self._preparing(),
                     None if under else unfetched(self.services, voice.contender.model))

    def warm(self, character: str, chat_id: str, model: str, fetch: bool = False) -> None:
        """Let the worker load the model that speaks next and read in advance what its answer begins with, once for the same.

        `model`: the dense one. A known model that is not on this machine yet is fetched only where `fetch` says so.
        """
        chat = self._chat(chat_id) if chat_id else None
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
        with self._lock:
            if self._warm and self._warm[0] == wanted and self._warm[1].reason != FinishReason.FAILED:
                return
            if self._warm:
                self.services.speech.stop(self._warm[1])
            self._warm = wanted, self.services.speech.warm(model, version.card, player, turns, about, seed)

    def send(self, state: ViewState, text: str, draft: Draft) -> ViewState:
        """Say something, which may begin the chat. Raises UserError for nothing, and while the character speaks."""
        said = message_of(text)
        chat = self._chat(state.chat) if state.chat else self.begin(state, draft)
        with self._lock:
            self.check_idle(chat.id)
            card_of(characters.version(self.store, chat.character, chat.version))  # before anything is written
            chats.say(self.store, chat.id, "user", said)
            self._ask(chat, state.model, chats.turns(self.store, chat.id), "new")
        return replace(state, chat=chat.id)

    def under_way(self, chat_id: str) -> UnderWay | None:
        """The answer that this chat waits for, whichever page asked."""
        with self._lock:
            reply = self.services.speech.pending(_key(chat_id)) if chat_id else None
            return self._kinds.get(reply.id) if reply else None

    def regenerate(self, chat: Chat, model: str) -> UnderWay:
        """Another answer beside the last one, or the one that is missing. With a fixed seed, each counts up from it."""
        with self._lock:
            self.check_idle(chat.id)
            said = chats.messages(self.store, chat.id)
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
            said = chats.messages(self.store, chat.id)
            if not said or said[-1].role != "assistant":
                raise UserError("There is no answer to go on with.", "Write a message first.")
            return self._ask(chat, model, chats.turns(self.store, chat.id), "more", said[-1])

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

    def begin(self, state: ViewState, draft: Draft) -> Chat:
        """A chat with the newest card and the chosen greeting; the others are its swipes."""
        character = state.character
        if not character:
            raise UserError("No character is chosen.", "Pick one in the list.")
        head = characters.head(self.store, character)
        player = " ".join(draft.player.split()) or PLAYER
        opening = opening_messages(card_of(head), state.opening)
        texts = [swipe.text for swipe in opening[0].swipes] if opening else []
        chat = chats.start(self.store, character, head.number, state.model, player=player, sampling=sampling_of(draft.sampling),
                           greeting=texts[0] if texts else "", about=draft.about.strip())
        if len(texts) > 1:
            first = chats.messages(self.store, chat.id)[0]
            for text in texts[1:]:
                chats.add_swipe(self.store, first.id, text, reason="greeting")
            chats.choose(self.store, first.id, opening[0].chosen)
        values.set_value(self.store, "player", player)
        keep_about(self.store, character, draft.about.strip())
        return chat

    def act(self, state: ViewState, draft: Draft, action: str, message: str, text: str) -> ViewState:
        """Do what a button in the chat says; what the page looks at afterwards. Raises UserError."""
        if action == "unprepare":
            if warming := self.warming():
                self.services.speech.stop(warming)
            return state
        if action == "fetch":
            self.warm(state.character, state.chat, state.model, fetch=True)
            return state
        if action == "earlier":
            return replace(state, shown=state.shown + SHOWN)
        if action == "cancel":
            return replace(state, editing="")
        if action == "swipe" and not state.chat:
            return replace(state, opening=int(text))
        if action == "edit" and not state.chat:
            chat = self.begin(state, draft)
            return replace(state, chat=chat.id, editing=chats.messages(self.store, chat.id)[0].id)
        chat = self._chat(state.chat)
        self.check_idle(chat.id)
        if action == "edit":
            return replace(state, editing=self._message(chat, message).id)
        self._change(chat, state.model, action, message, text)
        if action not in ("regenerate", "continue"):
            self.warm(state.character, chat.id, state.model)
        return replace(state, editing="")

    def change_settings(self, character: str, chat_id: str, player: str, about: str, sampling: dict[str, Any]) -> None:
        """Keep the controls with the chat; one of the character that has not begun gets them when it does."""
        name, about = " ".join(player.split()) or PLAYER, about.strip()
        if chat_id:
            chat = self._chat(chat_id)
            if (name, about) != (chat.player, chat.about):
                chats.set_player(self.store, chat.id, name, about)
            if sampling != sampling_of(chat.sampling):
                chats.set_sampling(self.store, chat.id, sampling)
        if name != player_of(self.store):
            values.set_value(self.store, "player", name)
        if character:
            keep_about(self.store, character, about)

    def title(self, chat_id: str) -> str:
        """The chat's title."""
        return self._chat(chat_id).title

    def rename(self, chat_id: str, title: str) -> None:
        """Give the chat another title. Raises UserError for an empty one."""
        if not title.strip():
            raise UserError("A chat needs a title.")
        chats.rename(self.store, self._chat(chat_id).id, title)

    def delete(self, chat_id: str) -> str:
        """Take the chat off the list, and end its answer; its title."""
        chat = self._chat(chat_id)
        self.stop(chat.id)
        chats.delete(self.store, chat.id)
        return chat.title or "Untitled chat"

    def undelete(self, chat_id: str) -> str:
        """Put a deleted chat back; its id."""
        return chats.undelete(self.store, chat_id).id

    def _ask(self, chat: Chat, model: str, turns: list[tuple[str, str]], kind: Kind, message: Message | None = None) -> UnderWay:
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

    def _change(self, chat: Chat, model: str, action: str, message: str, text: str) -> None:
        match action:
            case "save":
                if not text.strip():
                    raise UserError("A message cannot be empty.", "Delete it instead.")
                chats.edit(self.store, self._message(chat, message).id, text.strip())
            case "swipe":
                found = self._message(chat, message)
                chats.choose(self.store, found.id, min(max(int(text), 0), len(found.swipes) - 1))
            case "example":
                self._make_example(chat, message)
            case "cut":
                position = self._message(chat, message).position
                count = len(chats.messages(self.store, chat.id)) - position
                self._remember_cut(chat, chats.cut_from(self.store, chat.id, position), position, count)
                self.failures.pop(chat.id, None)
            case "undo":
                chats.undo(self.store, self._last_cut(chat).get("token", ""))
                self._remember_cut(chat, "", 0, 0)
            case "regenerate":
                self.regenerate(chat, model)
            case "continue":
                self.go_on(chat, model)
            case "newest":
                chats.set_version(self.store, chat.id, characters.head(self.store, chat.character).number)
            case "keep":  # the older card; the next newer one is mentioned again
                values.set_value(self.store, f"chat-version:{chat.id}", characters.head(self.store, chat.character).number)

    def _make_example(self, chat: Chat, message: str) -> None:
        """Add a reply, with what was said before it, to the example dialogue of the character's newest card."""
        said = chats.messages(self.store, chat.id)
        reply = self._message(chat, message)
        asked = next((one for one in reversed(said) if one.position < reply.position and one.role == "user"), None)
        if asked is None or reply.role != "assistant":
            raise UserError("Only a reply to something that was said can be an example.")
        card = characters.head(self.store, chat.character).card
        known = str(fields_of(card)["mes_example"]).rstrip()
        example = f"<START>\n{{{{user}}}}: {asked.text.strip()}\n{{{{char}}}}: {reply.text.strip()}"
        if example in known:
            raise UserError("The card has this example already.")
        characters.save(self.store, chat.character, with_fields(card, mes_example="\n".join(filter(None, (known, example)))),
                        note="A reply was added to the example dialogue", autosave=False)

    def save_chat(self, chat_id: str) -> tuple[str, str]:
        """(file name, text) of the chat, as SillyTavern reads it."""
        chat = self._chat(chat_id)
        who = characters.get(self.store, chat.character)
        char = who.char if who else "Character"
        return f"{slug(char)}-{chat.id[:6]}.jsonl", as_jsonl(chat, chats.messages(self.store, chat.id), char)

    def load_chat(self, character: str, model: str, file: Path) -> str:
        """A new chat from a file of SillyTavern; its id. Raises UserError."""
        if not character:
            raise UserError("No character is chosen.", "Pick one in the list.")
        found = read_jsonl(file.read_bytes()[:MOST_BYTES + 1], file.name)
        head = characters.head(self.store, character)
        chat = chats.start(self.store, character, head.number, model, player=found.player or player_of(self.store),
                           sampling=sampling_of(None), about=about_of(self.store, character))
        for one in found.said:
            kept = chats.say(self.store, chat.id, one.role, one.swipes[0])
            for text in one.swipes[1:]:
                chats.add_swipe(self.store, kept.id, text)
            if one.chosen:
                chats.choose(self.store, kept.id, one.chosen)
        chats.rename(self.store, chat.id, file.stem[:120])
        return chat.id

    def _remember_cut(self, chat: Chat, token: str, position: int, count: int) -> None:
        """What was cut last can be put back from any page, until something is said in its place."""
        values.set_value(self.store, f"chat-cut:{chat.id}", {"token": token, "position": position, "count": count})

    def _last_cut(self, chat: Chat) -> dict[str, Any]:
        return dict(values.get_value(self.store, f"chat-cut:{chat.id}", {}, _CUT))

    def _undoable(self, chat: Chat | None, count: int) -> int:
        cut = self._last_cut(chat) if chat else {}
        return int(cut["count"]) if cut.get("token") and cut["position"] == count else 0

    def _newer_version(self, chat: Chat | None, newest: int) -> int:
        """The newest version's number when the chat has an older one that the reader did not choose to keep, else 0."""
        if not chat or newest <= chat.version:
            return 0
        return newest if newest > int(values.get_value(self.store, f"chat-version:{chat.id}", 0)) else 0

    def _notes(self, under: UnderWay | None, lost: str) -> list[str]:
        found = [lost, slower_words(self.store)]
        if (warming := self.warming()) and not under:
            found.append(warming.sentence or warming_words(warming))
        return [note for note in found if note]

    def _preparing(self) -> Reply | None:
        """Reading in advance, while it fetches a model or makes its file: that takes long and can be stopped."""
        warming = self.warming()
        return warming if warming and wait_of(warming) in (Wait.FETCH, Wait.CONVERT) else None

    def _chat(self, id: str) -> Chat:
        found = chats.chat(self.store, id) if id else None
        if found is None:
            raise UserError("No chat is open.", "Write a message to begin one.")
        if found.deleted:
            raise UserError("This chat was deleted.", "Undo that, or choose another.")
        return found

    def _message(self, chat: Chat, id: str) -> Message:
        for message in chats.messages(self.store, chat.id):
            if message.id == id:
                return message
        raise UserError("This message is no longer in the chat.", "It may have been deleted in another window.")


def _key(chat_id: str) -> str:
    return f"preview:{chat_id}"
