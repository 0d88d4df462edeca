"""The routes for sessions and for what characters remember of players: to see, correct, delete, and forget it.

A player is the id that a client sends in the field `user`. Anyone who has the server's key can read and change what is
remembered of every player: games call these routes from their own server, not from a player's machine.
"""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from engine.base.errors import UserError
from engine.server.errors import ApiError, bad_request, refused, unavailable
from engine.server.limits import read_body
from engine.server.service import Service
from engine.serving.memory.records import LONGEST_FACT, Fact, Missing, Unavailable
from engine.serving.remembering import Remembering

T = TypeVar("T")
_NO_MEMORY = "This server remembers no players: it was started without --memory."


class Correction(BaseModel):
    """The body that corrects a fact or a summary."""

    model_config = ConfigDict(strict=True, extra="forbid")

    text: Annotated[str, Field(max_length=4 * LONGEST_FACT)]


def memory_routes(service: Service) -> APIRouter:
    """The routes, for the application."""
    router = APIRouter()
    _add_sessions(router, service)
    _add_players(router, service)
    _add_facts(router, service)
    return router


def _add_sessions(router: APIRouter, service: Service) -> None:
    @router.delete("/v1/sessions/{session}", summary="Forget a conversation, but not what it brought")
    async def forget(session: str, model: str, user: str = "") -> dict[str, Any]:
        key = (user.strip(), service.cast.find(model).id, session)
        service.busy.claim(key)  # a reply under way would bring it back
        try:
            there = service.sessions.forget(key)
            if service.remembering and key[0]:
                there = await _done(service.remembering.memory.forget_session, *key) or there
        finally:
            service.busy.release(key)
        return {"id": session, "object": "session", "deleted": there}

    @router.post("/v1/sessions/{session}/end", summary="End a conversation: what the player said becomes memory")
    async def end(session: str, model: str, user: str) -> dict[str, Any]:
        remembering, player, character = _of(service), user.strip(), service.cast.find(model).id
        service.busy.claim((player, character, session))
        try:
            facts = await remembering.end(player, character, session)
        except UserError as error:
            raise explained(error) from error
        finally:
            service.busy.release((player, character, session))
        service.sessions.forget((player, character, session))
        return {"id": session, "object": "session", "ended": True, "facts": [shown(fact) for fact in facts]}


def _add_players(router: APIRouter, service: Service) -> None:
    @router.get("/v1/players", summary="The players who are remembered")
    async def players(model: str = "") -> dict[str, Any]:
        found = await _done(_of(service).memory.players, _id(service, model))
        return {"object": "list", "data": [{"object": "player", **asdict(one)} for one in found]}

    @router.get("/v1/players/{player}/memory", summary="What is remembered of a player")
    async def memory(player: str, model: str = "", former: bool = False) -> dict[str, Any]:
        store, character = _of(service).memory, _id(service, model)
        facts = await _done(store.facts, player, character, former)
        summaries = await _done(store.summaries, player, character)
        return {"object": "memory", "player": player, "facts": [shown(fact) for fact in facts],
                "summaries": [{"model": one.character, "text": one.text, "session": one.session, "time": one.time}
                              for one in summaries]}

    @router.delete("/v1/players/{player}/memory", summary="Forget a player: with one character (model), or with all")
    async def forget(player: str, model: str = "") -> dict[str, Any]:
        store, character = _of(service).memory, model  # one that is no longer served can be forgotten, too
        service.forget(player, character)
        count = await _done(store.forget, player, character)
        return {"object": "memory", "player": player, "model": model or None, "deleted": True, "facts": count}


def _add_facts(router: APIRouter, service: Service) -> None:
    @router.patch("/v1/players/{player}/memory/{fact}", summary="Correct a fact")
    async def correct(player: str, fact: int, request: Request) -> dict[str, Any]:
        text = await _text(request)
        return shown(await _done(_of(service).memory.edit, player, fact, text))

    @router.delete("/v1/players/{player}/memory/{fact}", summary="Delete a fact")
    async def delete(player: str, fact: int) -> dict[str, Any]:
        await _done(_of(service).memory.delete, player, fact)
        return {"id": fact, "object": "fact", "deleted": True}

    @router.put("/v1/players/{player}/summary", summary="Correct a summary; an empty text deletes it")
    async def summarise(player: str, model: str, request: Request) -> dict[str, Any]:
        store, character, text = _of(service).memory, service.cast.find(model).id, await _text(request)
        await _done(store.set_summary, player, character, text)
        return {"object": "summary", "player": player, "model": character, "text": text}


def shown(fact: Fact) -> dict[str, Any]:
    """A fact as clients get it."""
    return {"id": fact.id, "object": "fact", "model": fact.character, "text": fact.text, "said": fact.said, "session": fact.session,
            "turn": fact.turn, "time": fact.time, "edited_by": fact.edited_by, "active": fact.active}


def explained(error: UserError) -> ApiError:
    """An error of the memory with its status."""
    if isinstance(error, Missing):
        return ApiError(404, str(error), "not_found")
    return unavailable(error, "memory_unavailable") if isinstance(error, Unavailable) else refused(error)


def _of(service: Service) -> Remembering:
    if service.remembering is None:
        raise bad_request(_NO_MEMORY, code="no_memory")
    return service.remembering


def _id(service: Service, model: str) -> str:
    return service.cast.find(model).id if model else ""


async def _done(work: Callable[..., T], *arguments: Any) -> T:
    """What the store does, in a thread. Raises ApiError."""
    try:
        return await asyncio.to_thread(work, *arguments)
    except UserError as error:
        raise explained(error) from error


async def _text(request: Request) -> str:
    try:
        return Correction.model_validate_json(await read_body(request, 10_000)).text
    except ValidationError as error:
        raise bad_request(f"The body must be an object with a text of at most {4 * LONGEST_FACT} characters.", "text") from error
