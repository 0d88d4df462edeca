"""Texts that a model writes for a card: asked for, followed while they grow, and shown as a difference. Nothing is changed here:
the page puts in what the writer accepts (assets/draft_write.js)."""

import html
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.ids import FinishReason
from engine.base.known_models import KNOWN, SMALL, STARTER
from engine.cards.card import Card, unfinished
from engine.cards.difference import text_pieces
from engine.cards.writing import Wish, chat, finished, sampling
from studio.figures import words
from studio.page import for_script
from studio.services import Services
from studio.store import characters, values
from studio.tabs.draft.versions import piece_html
from studio.tabs.teacher import checked_server
from studio.workers.speech import Reply

SERVER = "writer-server"  # the setting: [address, model], or [] for the model of the page
_KEPT = 40  # texts that pages may still ask for
_SMALL = 400_000_000  # parameters, below which a model is called very small


@dataclass(frozen=True)
class _Asked:
    card: Card
    wish: Wish
    reply: Reply
    who: str


class Writer:
    """The texts under way. Thread-safe."""

    def __init__(self, services: Services) -> None:
        self.services, self.store = services, services.store
        self._lock = threading.Lock()
        self._asked: OrderedDict[str, _Asked] = OrderedDict()

    def functions(self) -> list[Callable[..., dict[str, Any]]]:
        """What a script of the page may call: write, look, stop, who; each takes one value."""
        return [for_script(one) for one in (self.write, self.look, self.stop, self.who)]

    def who(self, _: Any = None) -> dict[str, Any]:
        """Who writes: its name, and what a writer should expect of it."""
        if server := self.server():
            return {"who": server[1], "note": f"{server[1]} on your server writes."}
        model = self.model()
        known, name = KNOWN.get(model), _name(model)
        listed = next((one for one in self.services.speech.models(wait=False) if one["name"] == model), {})
        small = 0 < (known.parameters if known else int(listed.get("parameters") or 0)) < _SMALL
        return {"who": name, "note": f"{name} writes. It is very small, so expect a rough start: a larger model writes better."
                if small else f"{name} writes. A larger model writes better."}

    def write(self, asked: dict[str, Any]) -> dict[str, Any]:
        """Begin a text: {"id"}. `asked`: character, and the fields of Wish. Raises UserError."""
        card = unfinished(characters.head(self.store, str(asked["character"])).card)
        wish = Wish(asked["task"], *(str(asked.get(part, "")) for part in ("key", "text", "label", "wish")))
        messages, server, model = chat(card, wish), self.server(), self.model()
        reply = self.services.speech.write(model, messages, sampling(wish).as_dict(), server)
        with self._lock:
            self._asked[reply.id] = _Asked(card, wish, reply, server[1] if server else _name(model))
            while len(self._asked) > _KEPT:
                self._asked.popitem(last=False)
        return {"id": reply.id}

    def look(self, id: str) -> dict[str, Any]:
        """How far a text is: {"done", "text", "words"}; at the end also "proposal" and "html", or "problem". Raises UserError."""
        one = self._found(id)
        reply = one.reply
        if not reply.done:
            loading = [event for event in reply.events if event.get("event") == "Loading"]
            return {"done": False, "text": reply.text, "words": "Writing…" if reply.text or not loading else "Loading the model…"}
        if reply.reason == FinishReason.FAILED:
            raise UserError(reply.sentence)
        shown: dict[str, Any] = {"done": True, "text": reply.text, "words": self._facts(one)}
        try:
            proposal = finished(one.card, one.wish, reply.text)
        except UserError as error:
            return {**shown, "problem": "You stopped it before there was a text." if not reply.text else str(error)}
        pieces = "".join(map(piece_html, text_pieces(one.wish.text, proposal)))
        return {**shown, "proposal": proposal, "html": pieces}

    def stop(self, id: str) -> dict[str, Any]:
        """End a text where it is; what is written so far is proposed."""
        self.services.speech.stop(self._found(id).reply)
        return {}

    def server(self) -> tuple[str, str] | None:
        """The server that writes, where one is set."""
        kept = values.get_value(self.store, SERVER, [], list[str])
        return (kept[0], kept[1]) if len(kept) == 2 else None

    def use(self, who: str, url: str, model: str) -> None:
        """Let the page's model (`who` is "self") or a server write from now on. Raises UserError."""
        values.set_value(self.store, SERVER, list(checked_server(url, model)) if who == "server" else [])

    def model(self) -> str:
        """The model of the page; for the starter, `small` where it is on disk, since it writes better."""
        model = self.services.base_model()
        return SMALL.name if model == STARTER.name and SMALL.is_in(self.services.settings.home) else model

    def _found(self, id: str) -> _Asked:
        with self._lock:
            found = self._asked.get(str(id))
        if found is None:
            raise UserError("This text is not there any more.", "Ask for it again.")
        return found

    def _facts(self, one: _Asked) -> str:
        measures = one.reply.measures
        tokens = f"{one.reply.tokens:,} tokens" if one.reply.tokens else ""
        seconds = words.duration(float(measures["seconds"])) if measures.get("seconds") else ""
        stopped = "stopped by you" if one.reply.reason == FinishReason.STOPPED else ""
        return html.escape(" · ".join(filter(None, (one.who, tokens, seconds, stopped))))


def _name(model: str) -> str:
    return KNOWN[model].label if model in KNOWN else Path(model).name
