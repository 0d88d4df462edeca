"""Requests to the chat worker: a line of JSON in, a checked request out. engine/chat_worker.py documents their fields."""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from engine.base.errors import UserError
from engine.base.sampling import DEFAULTS, SamplingParams, read_params
from engine.cards.baked import as_model_has_it
from engine.cards.card import Card, parse_card
from engine.cards.prompt import PLAYER, USUAL, Fitted, Message, Setting, fit
from engine.models.chat_format import token_counter

ROLES = ("user", "assistant")


@dataclass
class Request:
    """One request. `schema`: a JSON schema that the answer must satisfy. `type`: of the GGUF file that is to speak ("": the best
    at hand). `messages`: in the place of a card and turns; `server`: the address and model that are to write instead."""

    do: str
    id: str | int
    model: str = ""
    card: Card | None = None
    turns: tuple[tuple[str, str], ...] = ()
    setting: Setting = USUAL
    goes_on: bool = False  # the last turn is the assistant's, and is continued
    sampling: SamplingParams = DEFAULTS
    schema: dict[str, Any] | None = None
    type: str = ""
    messages: tuple[Message, ...] = ()
    server: tuple[str, str] | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def stopped(self) -> bool:
        """Whether its owner wants no more of it."""
        return self.stopping.is_set()

    def stop(self) -> None:
        """Its owner wants no more of it."""
        self.stopping.set()

    def fitted(self, fits: Callable[[list[Message]], bool] = lambda _: True, tokenizer: Any = None) -> Fitted:
        """The chat messages, without the example dialogues and oldest turns for which `fits(messages)` leaves no room.

        `tokenizer` counts the tokens of lore; without one, they are estimated.
        """
        if self.messages:
            return Fitted(list(self.messages))
        assert self.card
        setting = replace(self.setting, count=token_counter(tokenizer)) if tokenizer else self.setting
        return fit(as_model_has_it(self.card, self.model), self.turns, setting, fits)


def parse(line: str | bytes) -> Request:
    """The request of one line of JSON. Raises UserError when it is none."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError("The request is not JSON.") from error
    if not isinstance(fields, dict):
        raise UserError("The request is not a JSON object.")
    do, identity = fields.get("do"), fields.get("id")
    if not isinstance(identity, str | int) or isinstance(identity, bool):
        raise UserError("The request has no id.")
    if do in ("stop", "models"):
        return Request(str(do), identity)
    if do == "forget":
        return Request("forget", identity, _text(fields, "model"))
    if do in ("speak", "warm", "prompt"):
        return _conversation(str(do), identity, fields)
    if do == "write":
        return _writing(identity, fields)
    raise UserError(f"There is no request {str(do)[:40]!r}.")


def _conversation(do: str, identity: str | int, fields: dict[str, Any]) -> Request:
    card = parse_card(json.dumps(fields.get("card")).encode(), "The card")
    said = fields.get("turns") or []
    if not isinstance(said, list) or not all(
            isinstance(turn, list) and len(turn) == 2 and turn[0] in ROLES and isinstance(turn[1], str) for turn in said):
        raise UserError('The turns must be pairs of a role ("user" or "assistant") and a text.')
    turns = tuple((role, _clean(text)) for role, text in said)
    goes_on = fields.get("continue") is True
    name, about, seed = fields.get("player"), fields.get("about_player"), fields.get("chat_seed")
    setting = Setting(" ".join(_clean(name).split()) or PLAYER if isinstance(name, str) else PLAYER,
                      _clean(about) if isinstance(about, str) else "",
                      seed if isinstance(seed, int) and not isinstance(seed, bool) else 0,
                      memory=_memory(fields.get("memory")))
    request = Request(do, identity, _text(fields, "model"), card, turns, setting, goes_on,
                      read_params(fields.get("sampling") or {}).with_seed(), type=_type(fields.get("type")))
    if do == "speak" and not turns:
        raise UserError("There is nothing to answer yet.", "Write a message first.")
    if do != "warm" and turns and goes_on != (turns[-1][0] == "assistant"):
        raise UserError("The last turn of the conversation must be the character's to be continued, else the player's.")
    return request


def _writing(identity: str | int, fields: dict[str, Any]) -> Request:
    asked = fields.get("messages")
    if not isinstance(asked, list) or not asked or not all(
            isinstance(one, dict) and one.get("role") in ("system", *ROLES) and isinstance(one.get("content"), str)
            for one in asked):
        raise UserError("The messages must be objects with a role and a content.")
    if asked[-1]["role"] != "user":
        raise UserError("The last message must be the user's.")
    server = fields.get("server")
    if server is not None and not (isinstance(server, list) and len(server) == 2 and all(isinstance(one, str) for one in server)):
        raise UserError("The server must be an address and the name of a model.")
    return Request("write", identity, _text(fields, "model"), sampling=read_params(fields.get("sampling") or {}).with_seed(),
                   messages=tuple({"role": one["role"], "content": _clean(one["content"])} for one in asked),
                   server=(server[0], server[1]) if server else None)


def _type(given: Any) -> str:
    if given is not None and not (isinstance(given, str) and re.fullmatch(r"\w{0,20}", given)):
        raise UserError("The type must be that of a GGUF file, like Q8_0.")
    return given or ""


def _memory(said: Any) -> tuple[str, ...]:
    if said is not None and not (isinstance(said, list) and all(isinstance(one, str) for one in said)):
        raise UserError("The memory must be a list of sentences.")
    return tuple(_clean(one) for one in said or ())


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"The request has no {name}.")
    return value


def _clean(text: str) -> str:
    """Lone surrogates would break the tokenizer."""
    return text.encode("utf-8", "replace").decode()
