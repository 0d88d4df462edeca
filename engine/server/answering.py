"""A chat completion: from a checked request to the character's reply, streamed or whole.

The status of an answer is known before its first byte: a streamed one, too, begins when the character says its first word. From
then on, what goes wrong is a last event with an error. A client that breaks off gives its place back at once: the reply is a
task of its own, which ends when the client is gone or the server closes.
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from engine.base.errors import UserError
from engine.cards.prompt import PLAYER, Setting
from engine.server.cast import Character
from engine.server.conversation import StopTexts, last_turns, read_messages, with_greeting
from engine.server.errors import ApiError, bad_request, refused
from engine.server.schema import ChatRequest
from engine.server.service import Conversation, Service
from engine.server.speakers import Speaker
from engine.serving.memory import Recalled
from engine.serving.replies import most_tokens, said_in
from engine.serving.requests import Request
from engine.serving.schemas import check_schema

log = logging.getLogger(__name__)
_FINISH = {"limit": "length"}  # by the engine's reason; all others are "stop"
_FACTS = ("seed", "type", "engine", "reason", "lore", "lore_faults", "dropped_turns", "dropped_examples", "seconds", "first_token",
          "tokens_per_second")
_TAKING = 30.0  # seconds within which a client must take what it is sent: one that stops reading would keep its place for ever
_VALUE = {"$ref": "#/$defs/value"}
_ANY_OBJECT: dict[str, Any] = {
    "type": "object", "additionalProperties": _VALUE,
    "$defs": {"value": {"anyOf": [*({"type": kind} for kind in ("string", "number", "boolean", "null")),
                                  {"type": "array", "items": _VALUE}, {"type": "object", "additionalProperties": _VALUE}]}}}
Event = dict[str, Any]


@dataclass
class Asked:
    """A request that was understood: whom it is for, and what the engine is asked."""

    chat: ChatRequest
    character: Character
    request: Request
    conversation: Conversation
    said: str  # the player's words, as the conversation keeps them
    recalled: Recalled = field(default_factory=Recalled)
    left_out: int = 0  # turns, before the engine saw them

    def facts(self, ended: Event) -> dict[str, Any]:
        """What a reply says of itself beside OpenAI's fields."""
        found = {name: ended[name] for name in _FACTS if name in ended}
        found["dropped_turns"] = found.get("dropped_turns", 0) + self.left_out
        memory = {**self.recalled.as_dict(), **({"fault": self.conversation.fault} if self.conversation.fault else {})}
        return {**found, **({"memory": memory} if self.conversation.remembering else {}),
                **({"session": self.chat.persona.session} if self.chat.persona.session else {}),
                **({"ignored": ignored} if (ignored := self.chat.ignored) else {})}


def wants_actions(chat: ChatRequest) -> bool:
    """Whether the reply is asked for in the form of the character's own game actions."""
    return chat.persona.actions or (chat.response_format is not None and chat.response_format.type == "actions")


def schema_of(chat: ChatRequest, character: Character) -> dict[str, Any] | None:
    """The JSON schema that the reply must satisfy; None for plain text. Raises ApiError for one that cannot be held."""
    form = chat.response_format
    if wants_actions(chat):
        if (schema := character.actions_schema()) is None:
            raise bad_request(f"{character.id} has no game actions.", "persona.actions", "no_actions")
        return schema
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return _ANY_OBJECT
    if form.json_schema is None:
        raise bad_request("The field response_format.json_schema is missing.", "response_format.json_schema", "missing")
    try:
        check_schema(form.json_schema.schema_)
    except UserError as error:
        raise refused(error, "response_format.json_schema", "invalid_schema") from error
    return form.json_schema.schema_


def understand(chat: ChatRequest, character: Character, conversation: Conversation) -> Asked:
    """The engine's request. Raises ApiError for what cannot be answered."""
    persona, card = chat.persona, character.card
    scene, given = read_messages(chat.messages)
    if persona.session and len(given) > 1:
        raise bad_request("With a session, send only what the player says now: the server keeps the rest.", "messages")
    turns, left_out = last_turns((*conversation.turns(), *given))
    if persona.greeting and not left_out:
        turns = with_greeting(turns, character.greeting)
    name = " ".join(persona.player.split()) or PLAYER
    setting = Setting(name, persona.about_player, persona.chat_seed, actions=wants_actions(chat), scene=scene)
    schema, sampling = schema_of(chat, character), chat.sampling
    if schema is not None and not chat.has_limit:  # half an object would be of no use
        sampling = replace(sampling, max_tokens=max(sampling.max_tokens, most_tokens(schema)))
    request = Request("speak", uuid.uuid4().hex, character.model, card, turns, setting, False, sampling, schema=schema,
                      type=character.type)
    return Asked(chat, character, request, conversation, given[-1][1], left_out=left_out)


class Reply(Response):
    """The response of the route: answers while it is sent."""

    def __init__(self, service: Service, asked: Asked, who: str, record: dict[str, Any]) -> None:
        super().__init__()
        self.service, self.asked, self.who, self.record = service, asked, who, record
        self.started = False
        self.start = time.monotonic()
        self.same = {"id": f"chatcmpl-{asked.request.id}", "created": int(time.time()), "model": asked.character.id}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, until done, the client is gone, or the server closes."""
        work = asyncio.ensure_future(self._work(_taken(send)))
        gone = asyncio.ensure_future(_client_gone(receive))
        closed = asyncio.ensure_future(self.service.closed.wait())
        try:
            await asyncio.wait({work, gone, closed}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                self.asked.request.stop()
                work.cancel()
            error = (await asyncio.gather(work, return_exceptions=True))[0]
        finally:
            for task in (work, gone, closed):
                task.cancel()
            self.asked.conversation.release()
        if not isinstance(error, BaseException):
            return
        if isinstance(error, _NotTaken) or (gone.done() and not gone.cancelled() and isinstance(error, asyncio.CancelledError)):
            self.service.metrics.broken_off.add()
            self.record["status"] = 499
            return
        await self._send_error(self._explained(error), scope, receive, send)

    def _explained(self, error: BaseException) -> ApiError:
        if isinstance(error, ApiError):
            return error
        if isinstance(error, asyncio.CancelledError):
            return ApiError(503, "The server is closing.", "closing")
        if isinstance(error, UserError):
            return refused(error, "messages", "cannot_answer")
        log.error("request %s", self.asked.request.id, exc_info=error)
        return ApiError(500, f"Something went wrong inside the server ({type(error).__name__}). The details are in its log.",
                        "internal_error")

    async def _send_error(self, error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
        if self.started:
            self.record["status"] = error.status
            await send(_body(_event(error.body()), more=False))
        else:
            await JSONResponse(error.body(), error.status, error.headers)(scope, receive, send)

    async def _work(self, send: Send) -> None:
        async with AsyncExitStack() as held:
            waited = await held.enter_async_context(self.service.line.place(self.who))
            self.service.metrics.waited.add(waited)
            speaker = await held.enter_async_context(self.service.speakers.use(self.asked.character))
            await self._remember(speaker)
            events = await held.enter_async_context(aclosing(
                speaker.speak(self.asked.request, self.asked.chat.stops, lambda: not self.started)))
            await (self._stream if self.asked.chat.stream else self._whole)(self._until_stop(events), send)

    async def _remember(self, speaker: Speaker) -> None:
        """Put what the character knows of the player into the prompt."""
        self.asked.recalled = await self.asked.conversation.recall(self.asked.said, speaker)
        self.asked.request.setting = replace(self.asked.request.setting, memory=self.asked.recalled.sentences)

    async def _until_stop(self, events: AsyncIterator[Event]) -> AsyncIterator[Event]:
        """Said and Ended, up to a text that ends the reply."""
        stops, said = StopTexts(self.asked.chat.stops), ""
        async for event in events:
            if event["event"] == "Said":
                if not said:
                    self.service.metrics.first.add(time.monotonic() - self.start)
                piece = stops.take(event["text"])
                said += piece
                if stops.found:
                    self.asked.request.stop()  # the engine ends the reply, and reports its figures
                if piece:
                    yield {"event": "Said", "text": piece}
            elif event["event"] == "Ended":
                if stops.found:
                    event = {**event, "reason": "stop_text", "text": said}
                elif rest := stops.rest():
                    yield {"event": "Said", "text": rest}
                self._count(event)
                reply = said_in(event["text"]) if wants_actions(self.asked.chat) else event["text"]
                await self.asked.conversation.keep(self.asked.said, reply.strip(), self.asked.request)
                self.asked.conversation.release()  # a client may say the next thing as soon as it sees the end
                yield event
            elif event["event"] == "Again":
                stops, said = StopTexts(self.asked.chat.stops), ""

    def _count(self, ended: Event) -> None:
        metrics = self.service.metrics
        for kind, name in (("prompt", "prompt_tokens"), ("cached", "reused_tokens"), ("said", "tokens")):
            metrics.tokens.add(kind, by=ended.get(name, 0))
        metrics.seconds.add(time.monotonic() - self.start)
        self.record.update(tokens=f"{ended.get('prompt_tokens', 0)}+{ended.get('tokens', 0)}", reason=ended["reason"])
        if self.service.settings.log_texts:
            log.info("%s %r -> %r", self.asked.character.id, self.asked.said, ended["text"])

    async def _whole(self, events: AsyncIterator[Event], send: Send) -> None:
        ended: Event = {}
        async for event in events:
            if event["event"] == "Ended":
                ended = event
        choice = {"index": 0, "message": {"role": "assistant", "content": ended["text"].strip(), "refusal": None}, "logprobs": None,
                  "finish_reason": _FINISH.get(ended["reason"], "stop")}
        value = {**self.same, "object": "chat.completion", "choices": [choice], "usage": _usage(ended),
                 "persona": self.asked.facts(ended)}
        body = json.dumps(value, ensure_ascii=False).encode()
        self.started = True
        await send(_start("application/json", [(b"content-length", str(len(body)).encode())]))
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _stream(self, events: AsyncIterator[Event], send: Send) -> None:
        said = ""
        async for event in events:
            if not self.started:
                self.started = True
                await send(_start("text/event-stream; charset=utf-8", [(b"cache-control", b"no-store"),
                                                                         (b"x-accel-buffering", b"no")]))
                await send(_body(self._chunk({"role": "assistant", "content": ""})))
            if event["event"] == "Said":
                said += event["text"]
                await send(_body(self._chunk({"content": event["text"]})))
                continue
            facts, kept = self.asked.facts(event), event["text"].strip()
            if kept != said.strip():  # without repetition, or half a sentence at the limit
                facts["text"] = kept
            await send(_body(self._chunk({}, _FINISH.get(event["reason"], "stop"), persona=facts)))
            if self.asked.chat.stream_options and self.asked.chat.stream_options.include_usage:
                await send(_body(self._chunk(None, usage=_usage(event))))
        await send(_body(b"data: [DONE]\n\n", more=False))

    def _chunk(self, delta: dict[str, Any] | None, finish: str | None = None, **more: Any) -> bytes:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        return _event({**self.same, "object": "chat.completion.chunk", "choices": choices, **more})


class _NotTaken(Exception):
    """The client does not read what it is sent."""


def _taken(send: Send) -> Send:
    """`send`, which raises _NotTaken where the client does not make room in time."""

    async def sent(message: Message) -> None:
        try:
            async with asyncio.timeout(_TAKING):
                await send(message)
        except TimeoutError:
            raise _NotTaken from None

    return sent


async def _client_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def _body(data: bytes, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}


def _start(kind: str, headers: list[tuple[bytes, bytes]]) -> Message:
    return {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind.encode()), *headers]}


def _usage(ended: Event) -> dict[str, Any]:
    prompt, said = ended.get("prompt_tokens", 0), ended.get("tokens", 0)
    return {"prompt_tokens": prompt, "completion_tokens": said, "total_tokens": prompt + said,
            "prompt_tokens_details": {"cached_tokens": ended.get("reused_tokens", 0)}}
