"""Texts that a writer asked for: by a model of this machine as any answer, or by a server, which sends them whole."""

import asyncio
import queue
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from engine.base.errors import UserError
from engine.calibration.server_teacher import ServerTeacher, TeacherClient
from engine.serving.requests import Request
from engine.serving.speaking import speak
from engine.serving.voices import Tell, Voices

PATIENCE = 30.0  # seconds without an answer, while the server is busy
_LOOK = 0.2  # seconds between two looks whether the request was stopped


async def write(request: Request, voices: Voices, tell: Tell) -> AsyncGenerator[dict[str, Any], None]:
    """Said piece by piece, then Ended, as for an answer. Raises UserError."""
    if request.server is None:
        async with aclosing(speak(request, voices, tell)) as events:
            async for event in events:
                yield event
        return
    url, model = request.server
    teacher = ServerTeacher(url, model, concurrency=1, patience=PATIENCE, answer_tokens=request.sampling.max_tokens)
    client, start = TeacherClient(teacher, [("text", [dict(message) for message in request.messages])]), time.perf_counter()
    try:
        reply: Any = None
        while reply is None and not request.stopped:
            with suppress(queue.Empty):
                reply = await asyncio.to_thread(client.replies.get, True, _LOOK)
    finally:
        client.close()
    if isinstance(reply, UserError):
        raise reply
    text = reply[1] if reply else ""
    if text:
        yield {"event": "Said", "text": text, "tokens": 0}
    yield {"event": "Ended", "reason": "ended" if reply else "stopped", "text": text, "seconds": time.perf_counter() - start,
           "engine": "server"}
