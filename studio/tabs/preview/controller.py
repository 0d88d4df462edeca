"""What the Play room does with chats of the library; their answers are speaking.py's.

A chat that has not begun has the id "" and is kept once something is said in it.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.files import slug
from engine.base.known_models import SMALL, STARTER
from engine.base.questions import plain
from engine.cards.fields import fields_of, with_fields
from studio.services import Services
from studio.store import characters, chats, values
from studio.store.chats import Chat, Message
from studio.store.records import whole
from studio.tabs.answers import (
    PLAYER,
    about_of,
    card_of,
    fingerprint,
    keep_about,
    looked_at,
    message_of,
    player_of,
    sampling_of,
    spoken_card,
)
from studio.tabs.models import WHOLE, Voice, choose_voice, finished, unfetched, voice_choices, voice_of
from studio.tabs.preview.looks import (
    Draft,
    ViewState,
    label_of,
    open_chat,
    opening_choices,
    opening_messages,
    speakers_among,
)
from studio.tabs.preview.memory import Memories
from studio.tabs.preview.speaking import Speaking
from studio.tabs.preview.transcript import MOST_BYTES, as_jsonl, read_jsonl
from studio.tabs.preview.view import SHOWN, Scene, UnderWay, chat_contents, nobody_contents

_STAY = "stay-with-starter"  # whether a larger model is not to be proposed any more
_CUT = whole(token=str, position=int, count=int)


class Controller:
    """What a page can do. Every method reads the library first; those that change something raise UserError. Thread-safe."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.store = services.store
        self.memories = Memories(services)
        self.speaking = Speaking(services, self.memories)

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

    def choose_voice(self, state: ViewState, id: str) -> None:
        """Let another model speak from the next answer on; the conversation stays. Raises UserError for one that is gone."""
        if id != WHOLE and id not in [run.id for run in finished(self.services, state.character)]:
            raise UserError("This pruned model is no longer there.", "Choose another one.")
        choose_voice(self.services, state.character, id)
        self.speaking.warm(state.character, state.chat, state.model)

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
        under = self.speaking.under_way(state.chat)  # before the messages: an answer that ends now is in one of the two
        said = chats.messages(self.store, state.chat) if chat else opening_messages(card, state.opening)
        who = characters.get(self.store, character)
        found = finished(self.services, character)
        voice = voice_of(self.services, character, state.model, found)
        return Scene(character, chat, card.char if card else who.char if who else "", card, fault,
                     chat.player if chat else player_of(self.store), said, under, self._newer_version(chat, head.number),
                     self.speaking.notes(under, voice.lost), self.speaking.failures.get(state.chat, ""),
                     self._undoable(chat, len(said)),
                     self.chats_of(character), chat.seed if chat else chats.next_seed(self.store, character),
                     voice, voice_choices(found, state.model), speakers_among(self.store, said, under),
                     None if under else self.speaking.preparing(),
                     None if under else unfetched(self.services, voice.contender.model), self._larger(voice))

    def _larger(self, voice: Voice) -> int | None:
        """What `small` takes to fetch, where the starter speaks."""
        if voice.contender.model != STARTER.name or values.get_value(self.store, _STAY, False):
            return None
        return 0 if SMALL.is_in(self.services.settings.home) else SMALL.download_bytes

    def send(self, state: ViewState, text: str, draft: Draft) -> ViewState:
        """Say something, which may begin the chat. Raises UserError for nothing, and while the character speaks."""
        said = message_of(text)
        chat = open_chat(self.store, state.chat) if state.chat else self.begin(state, draft)
        with self.speaking.lock:
            self.speaking.check_idle(chat.id)
            card_of(characters.version(self.store, chat.character, chat.version))  # before anything is written
            chats.say(self.store, chat.id, "user", said)
            self.speaking.ask(chat, state.model, chats.turns(self.store, chat.id), "new")
        return replace(state, chat=chat.id)

    def regenerate(self, chat: Chat, model: str) -> UnderWay:
        """Another answer beside the last one, or the one that is missing. With a fixed seed, each counts up from it."""
        with self.speaking.lock:
            self.speaking.check_idle(chat.id)
            said = chats.messages(self.store, chat.id)
            turns = [(message.role, message.text) for message in said]
            if said and said[-1].role == "user":
                return self.speaking.ask(chat, model, turns, "new")
            if len(said) < 2:
                raise UserError("There is nothing to answer yet.", "Write a message first.")
            return self.speaking.ask(chat, model, turns[:-1], "swipe", said[-1])

    def go_on(self, chat: Chat, model: str) -> UnderWay:
        """Let the character go on with its last answer."""
        with self.speaking.lock:
            self.speaking.check_idle(chat.id)
            said = chats.messages(self.store, chat.id)
            if not said or said[-1].role != "assistant":
                raise UserError("There is no answer to go on with.", "Write a message first.")
            return self.speaking.ask(chat, model, chats.turns(self.store, chat.id), "more", said[-1])

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
            if warming := self.speaking.warming():
                self.services.speech.stop(warming)
            return state
        if action == "fetch":
            self.speaking.warm(state.character, state.chat, state.model, fetch=True)
            return state
        if action == "larger":  # the page then chooses it as its model
            self.speaking.warm(state.character, state.chat, SMALL.name, fetch=True)
            return state
        if action == "stay":
            values.set_value(self.store, _STAY, True)
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
        chat = open_chat(self.store, state.chat)
        self.speaking.check_idle(chat.id)
        if action == "edit":
            return replace(state, editing=self._message(chat, message).id)
        self._change(chat, state.model, action, message, text)
        if action not in ("regenerate", "continue"):
            self.speaking.warm(state.character, chat.id, state.model)
        return replace(state, editing="")

    def change_settings(self, character: str, chat_id: str, player: str, about: str, sampling: dict[str, Any]) -> None:
        """Keep the controls with the chat; one of the character that has not begun gets them when it does."""
        name, about = " ".join(player.split()) or PLAYER, about.strip()
        if chat_id:
            chat = open_chat(self.store, chat_id)
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
        return open_chat(self.store, chat_id).title

    def rename(self, chat_id: str, title: str) -> None:
        """Give the chat another title. Raises UserError for an empty one."""
        if not title.strip():
            raise UserError("A chat needs a title.")
        chats.rename(self.store, open_chat(self.store, chat_id).id, title)

    def delete(self, chat_id: str) -> str:
        """Take the chat off the list, and end its answer; its title."""
        chat = open_chat(self.store, chat_id)
        self.speaking.stop(chat.id)
        chats.delete(self.store, chat.id)
        return chat.title or "Untitled chat"

    def undelete(self, chat_id: str) -> str:
        """Put a deleted chat back; its id."""
        return chats.undelete(self.store, chat_id).id

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
                self.speaking.failures.pop(chat.id, None)
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
        chat = open_chat(self.store, chat_id)
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
                           sampling=sampling_of(None), about=about_of(self.store, character), title=plain(file.stem)[:120],
                           said=[(one.role, one.swipes, one.chosen) for one in found.said])
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

    def _message(self, chat: Chat, id: str) -> Message:
        for message in chats.messages(self.store, chat.id):
            if message.id == id:
                return message
        raise UserError("This message is no longer in the chat.", "It may have been deleted in another window.")
