"""What a page of the Play room looks at, and what it says of chats: titles, greetings, and which models have spoken."""

from dataclasses import dataclass
from typing import Any

from engine.base.errors import UserError
from engine.base.sampling import check_seed, read_params
from engine.cards.card import Card
from studio.figures.words import dedupe_labels, moment
from studio.store import chats, runs
from studio.store.chats import Chat, Message, Swipe
from studio.store.database import Store
from studio.tabs.answers import NOBODY, PLAYER, chosen, greetings
from studio.tabs.models import dense_name, pruned_name
from studio.tabs.preview.view import NO_GREETING, SHOWN, Scene, UnderWay, speakers_of

LOOKS = ("of", "model", "chat", "editing", "shown", "opening")
_LONGEST = 40  # characters of a greeting in the list


@dataclass(frozen=True)
class Draft:
    """What the controls say, for a chat that has not begun yet."""

    player: str = PLAYER
    about: str = ""
    sampling: dict[str, Any] | None = None


@dataclass(frozen=True)
class ViewState:
    """What one page looks at: the chat ("": not begun), the message being edited, how many are shown, the greeting's number.

    `visited`: whether this page has opened the room at all; before that, no model is loaded for it.
    """

    character: str = ""
    model: str = ""
    chat: str = ""
    editing: str = ""
    shown: int = SHOWN
    opening: int = 0
    visited: bool = False

    def look(self) -> dict[str, str]:
        """As the live channel knows it, by the names in LOOKS."""
        return {"of": self.character or NOBODY, "model": self.model, "chat": self.chat, "editing": self.editing,
                "shown": str(self.shown), "opening": str(self.opening)}


def chosen_sampling(fresh: bool, seed: float | None, *sliders: float) -> dict[str, Any]:
    """The controls as a chat keeps them. Raises UserError for an invalid seed."""
    return read_params({**chosen(sliders), "seed": None if fresh else check_seed(seed)}).as_dict()


def open_chat(store: Store, id: str) -> Chat:
    """The chat `id`. Raises UserError where there is none, or it was deleted."""
    found = chats.chat(store, id) if id else None
    if found is None:
        raise UserError("No chat is open.", "Write a message to begin one.")
    if found.deleted:
        raise UserError("This chat was deleted.", "Undo that, or choose another.")
    return found


def label_of(chat: Chat) -> str:
    """A chat in the list."""
    return chat.title.replace("*", "") or f"Untitled, {moment(chat.made)}"


def opening_choices(scene: Scene) -> list[tuple[str, int]]:
    """(beginning of the text, number) of the greetings, and none at all."""
    found = greetings(scene.card) if scene.card else []
    texts = [" ".join(text.replace("{{char}}", scene.char).replace("{{user}}", scene.player).split()) for text in found]
    short = [(text if len(text) <= _LONGEST else text[:_LONGEST].rstrip() + "…", number) for number, text in enumerate(texts)]
    return [*dedupe_labels(short[::-1])[::-1], ("None: the player speaks first", NO_GREETING)]


def opening_messages(card: Card | None, opening: int) -> list[Message]:
    """The greetings as the message that a chat begins with; [] where the player speaks first."""
    found = greetings(card) if card and opening != NO_GREETING else []
    swipes = [Swipe(text, 0, {}, "greeting") for text in found]
    return [Message("", "", 0, "assistant", swipes, min(opening, len(found) - 1))] if found else []


def speakers_among(store: Store, said: list[Message], under: UnderWay | None) -> dict[str, str]:
    """The names of the models that speak in a chat, by what `speakers_of` says; {} where one alone does."""
    measured = [swipe.measures for message in said for swipe in message.swipes] + ([under.speaker] if under else [])
    found = dict.fromkeys(one for measures in measured for one in speakers_of(measures))
    return {one: pruned_name(run) if (run := runs.get(store, one)) else dense_name(one)
            for one in found} if len(found) > 1 else {}
