"""What the Preview room does: plain functions over the library and the answers, each reading the truth first.

Knows no component. `chat` is "" for a chat that is not begun yet: it is kept once something is said in it.
"""

from dataclasses import dataclass, replace
from typing import Any

from engine.base.errors import UserError
from engine.base.sampling import check_seed, read_params
from studio.services import Services
from studio.store import characters, chats, values
from studio.store.chats import Chat, Message
from studio.tabs.answers import about_of, card_of, chosen, keep_about, sampling_of
from studio.tabs.preview.answers import Answers
from studio.tabs.preview.scene import (
    PLAYER,
    Scene,
    dense_chats,
    keep_version,
    last_cut,
    opening_messages,
    read_scene,
    remember_cut,
)
from studio.tabs.preview.view import SHOWN


@dataclass(frozen=True)
class Draft:
    """What the controls say, for a chat that is not begun yet."""

    player: str = PLAYER
    about: str = ""
    sampling: dict[str, Any] | None = None
    opening: int = 0


@dataclass(frozen=True)
class Look:
    """What one page looks at: the chat ("": not begun), the message being edited, how many are shown, the greeting's number."""

    chat: str = ""
    editing: str = ""
    shown: int = SHOWN
    opening: int = 0


def chosen_sampling(fresh: bool, seed: float | None, *sliders: float) -> dict[str, Any]:
    """The controls as a chat keeps them. Raises UserError for a seed that is none."""
    return read_params({**chosen(sliders), "seed": None if fresh else check_seed(seed)}).as_dict()


class Room:
    """The room's doings."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.store = services.store
        self.answers = Answers(services)

    def latest(self, character: str, present: str = "") -> str:
        """The chat to show when a character is opened: the present one if it is this character's, else the last used."""
        found = [chat.id for chat in dense_chats(self.answers, character)] if character else []
        return present if present in found else next(iter(found), "")

    def scene(self, character: str, look: Look, model: str, player: str = "") -> Scene:
        """The chat as it is now."""
        return read_scene(self.answers, character, look.chat, model, look.opening, player)

    def warm(self, character: str, chat_id: str, model: str) -> None:
        """Let the worker read in advance what the next answer begins with."""
        chat = self._chat(chat_id) if chat_id else None
        version = characters.version(self.store, character, chat.version) if chat else characters.head(self.store, character)
        try:
            card = card_of(version)
        except UserError:
            return  # the room says so
        said = chats.messages(self.store, chat_id) if chat else opening_messages(card, 0)
        turns = [(message.role, message.text) for message in said]
        player, about, seed = ((chat.player, chat.about, chat.seed) if chat else
                               (self.player(), about_of(self.store, character), chats.next_seed(self.store, character)))
        self.answers.warm(version, turns, player, model, about, seed)

    def player(self) -> str:
        """The player's name that was used last."""
        return str(values.get_value(self.store, "player", PLAYER))

    def send(self, character: str, chat_id: str, model: str, text: str, draft: Draft) -> str:
        """Say something; the chat's id. Raises UserError for nothing, and while the character speaks."""
        if not text.strip():
            raise UserError("There is nothing to send yet.", "Write a message first.")
        chat = self._chat(chat_id) if chat_id else self.begin(character, model, draft)
        self.answers.send(chat, text.strip(), model)
        return chat.id

    def begin(self, character: str, model: str, draft: Draft) -> Chat:
        """A chat with the newest card and the chosen greeting; the others are its swipes."""
        if not character:
            raise UserError("No character is chosen.", "Pick one in the list.")
        head = characters.head(self.store, character)
        player = " ".join(draft.player.split()) or PLAYER
        opening = opening_messages(card_of(head), draft.opening)
        texts = [swipe.text for swipe in opening[0].swipes] if opening else []
        chat = chats.start(self.store, character, head.number, model, player=player, sampling=sampling_of(draft.sampling),
                           greeting=texts[0] if texts else "", about=draft.about.strip())
        if len(texts) > 1:
            first = chats.messages(self.store, chat.id)[0]
            for text in texts[1:]:
                chats.add_swipe(self.store, first.id, text, reason="greeting")
            chats.choose(self.store, first.id, opening[0].chosen)
        values.set_value(self.store, "player", player)
        keep_about(self.store, character, draft.about.strip())
        return chat

    def act(self, character: str, look: Look, model: str, draft: Draft, what: str, message: str, text: str) -> Look:
        """What a button in the chat does; what the page looks at afterwards. Raises UserError."""
        if what == "earlier":
            return replace(look, shown=look.shown + SHOWN)
        if what == "cancel":
            return replace(look, editing="")
        if what == "swipe" and not look.chat:
            return replace(look, opening=int(text))
        if what == "edit" and not look.chat:
            chat = self.begin(character, model, replace(draft, opening=look.opening))
            return replace(look, chat=chat.id, editing=chats.messages(self.store, chat.id)[0].id)
        chat = self._chat(look.chat)
        self.answers.check_idle(chat.id)
        if what == "edit":
            return replace(look, editing=self._message(chat, message).id)
        self._change(chat, model, what, message, text)
        if what not in ("regenerate", "continue"):
            self.warm(character, chat.id, model)
        return replace(look, editing="")

    def _change(self, chat: Chat, model: str, what: str, message: str, text: str) -> None:
        match what:
            case "save":
                if not text.strip():
                    raise UserError("A message cannot be empty.", "Delete it instead.")
                chats.edit(self.store, self._message(chat, message).id, text.strip())
            case "swipe":
                found = self._message(chat, message)
                chats.choose(self.store, found.id, min(max(int(text), 0), len(found.swipes) - 1))
            case "cut":
                self._cut(chat, self._message(chat, message).position)
            case "undo":
                chats.undo(self.store, last_cut(self.answers, chat.id).get("token", ""))
                remember_cut(self.answers, chat.id, "", 0, 0)
            case "regenerate":
                self.answers.regenerate(chat, model)
            case "continue":
                self.answers.go_on(chat, model)
            case "newest":
                chats.set_version(self.store, chat.id, characters.head(self.store, chat.character).number)
            case "keep":
                keep_version(self.answers, chat.id, characters.head(self.store, chat.character).number)

    def _cut(self, chat: Chat, position: int) -> None:
        count = len(chats.messages(self.store, chat.id)) - position
        token = chats.cut_from(self.store, chat.id, position)
        remember_cut(self.answers, chat.id, token, position, count)
        self.answers.failures.pop(chat.id, None)

    def change_settings(self, character: str, chat_id: str, player: str, about: str, sampling: dict[str, Any]) -> None:
        """Keep the controls with the chat; one of the character that is not begun yet gets them when it is."""
        name, about = " ".join(player.split()) or PLAYER, about.strip()
        if chat_id:
            chat = self._chat(chat_id)
            if (name, about) != (chat.player, chat.about):
                chats.set_player(self.store, chat.id, name, about)
            if sampling != sampling_of(chat.sampling):
                chats.set_sampling(self.store, chat.id, sampling)
        if name != self.player():
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
        self.answers.stop(chat.id)
        chats.delete(self.store, chat.id)
        return chat.title or "Untitled chat"

    def undelete(self, chat_id: str) -> str:
        """Put a deleted chat back; its id."""
        return chats.undelete(self.store, chat_id).id

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
