"""The web application: OpenAI's chat completions, with the characters of a cast as its models.

`create_app` starts nothing: whatever runs it (uvicorn, Ray Serve, a test) starts and ends it by ASGI's lifespan.
"""

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from engine.cards.prompt import PLAYER
from engine.server.answering import Reply, understand
from engine.server.border import Border, address
from engine.server.cast import Cast, Character
from engine.server.errors import ApiError, bad_request
from engine.server.limits import read_body
from engine.server.memory_api import memory_routes
from engine.server.schema import ChatRequest, read_chat
from engine.server.service import Service
from engine.server.settings import Settings
from engine.server.speakers import Speakers

log = logging.getLogger(__name__)
_SCHEMA = ChatRequest.model_json_schema(ref_template="#/components/schemas/{model}")
_PARTS = _SCHEMA.pop("$defs")
_BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}}


def create_app(cast: Cast, settings: Settings, speakers: Speakers | None = None) -> FastAPI:
    """The application; its `state.service` holds what requests share. Without `speakers` its own process speaks."""
    service = Service(cast, settings, speakers)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(title="Persona Studio", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    app.add_middleware(Border, service=service)
    if settings.origins:
        app.add_middleware(CORSMiddleware, allow_origins=list(settings.origins),
                           allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"], allow_headers=["authorization", "content-type"])
    app.add_exception_handler(ApiError, _explain)
    app.add_exception_handler(HTTPException, _explain)
    app.add_exception_handler(RequestValidationError, _explain)
    app.add_exception_handler(Exception, _explain)
    _add_chat(app, service)
    _add_models(app, service)
    _add_state(app, service)
    app.include_router(memory_routes(service))
    _describe_body(app)
    return app


def _describe_body(app: FastAPI) -> None:
    """Put what the body of a chat is made of into /openapi.json: FastAPI does not know it, since the body is read with limits."""
    described = app.openapi

    def openapi() -> dict[str, Any]:
        found = described()
        found.setdefault("components", {}).setdefault("schemas", {}).update(_PARTS)
        return found

    app.openapi = openapi  # type: ignore[method-assign]


def _add_chat(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", openapi_extra=_BODY, summary="Say something to a character")
    async def complete(request: Request) -> Response:
        chat = read_chat(await read_body(request, service.settings.body_bytes))
        character = service.cast.find(chat.model)
        record = request.scope["persona"]
        record["model"] = character.id
        character.check()
        conversation = service.conversation(chat, character)
        try:
            asked = understand(chat, character, conversation)
        except BaseException:
            conversation.release()
            raise
        return Reply(service, asked, f"{address(request.scope)} {conversation.player}", record)


def _add_models(app: FastAPI, service: Service) -> None:
    started = int(time.time())

    def entry(one: Character, player: str) -> dict[str, Any]:
        return {"id": one.id, "object": "model", "created": started, "owned_by": "persona-studio", "persona": one.described(player)}

    @app.get("/v1/models", summary="The characters")
    async def models(player: str = PLAYER) -> dict[str, Any]:
        return {"object": "list", "data": [entry(one, player) for one in service.cast]}

    @app.get("/v1/models/{id}", summary="A character")
    async def model(id: str, player: str = PLAYER) -> dict[str, Any]:
        return entry(service.cast.find(id), player)


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="Whether the server answers")
    async def health() -> Response:
        ready = not service.closed.is_set()
        more = {} if service.settings.key else {
            "characters": len(service.cast), **service.speakers.state(), "answering": service.line.taken,
            "waiting": service.line.waiting}
        return JSONResponse({"status": "ok" if ready else "closing", **more}, 200 if ready else 503)

    @app.get("/metrics", summary="What was counted, for Prometheus")
    async def metrics() -> Response:
        return PlainTextResponse(service.metrics.text(), media_type="text/plain; version=0.0.4")


async def _explain(request: Request, error: Exception) -> Response:
    """Every error in OpenAI's form."""
    if isinstance(error, HTTPException):
        code = {404: "unknown_route", 405: "method_not_allowed"}.get(error.status_code, "http_error")
        what = f"{request.method} {request.scope['path'][:200]}"
        message = f"There is no route {what}. /openapi.json lists all." if error.status_code == 404 else f"{what}: {error.detail}."
        error = ApiError(error.status_code, message, code, headers=error.headers)
    if isinstance(error, RequestValidationError):  # of the address
        first = error.errors()[0]
        error = bad_request(f"{first['loc'][-1]}: {first['msg'][:1].lower()}{first['msg'][1:]}.", str(first["loc"][-1]))
    if not isinstance(error, ApiError):
        log.error("request %s", request.scope["path"], exc_info=error)
        error = ApiError(500, f"Something went wrong inside the server ({type(error).__name__}). The details are in its log.",
                         "internal_error")
    return JSONResponse(error.body(), error.status, error.headers)
