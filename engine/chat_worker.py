"""The chat worker: python -m engine chat-worker. JSON lines in on standard input, JSON lines out on standard output.

Requests, each with an "id" that its answers repeat:

  {"do": "speak", "model", "card", "turns": [[role, text], ...], "player", "continue": false, "sampling": {...}, "type": "",
   "memory": []}
      turns: the whole conversation, the greeting as the assistant's first turn where it was used; macros in them are
      filled in. "continue": the last turn, the assistant's, is continued. sampling: fields of SamplingParams
      (engine/base/sampling.py); seed (none: a random one). type: of the GGUF file that speaks ("Q8_0"; "": the best at hand).
      memory: sentences on the player from earlier conversations. Answers: Reading (done and total tokens of a long
      prompt) ..., Said (a new piece of text) ..., Ended (with the type and the engine that spoke).
  {"do": "write", "model", "messages": [{"role", "content"}, ...], "sampling": {...}, "server": [address, model]}
      a text, for no character: by the model, or by the server where one is given. Answers: Said ..., Ended.
  {"do": "warm", "model", "card", "turns", "player"}   load the model and read the prompt's beginning; Warmed
  {"do": "prompt", "model", "card", "turns", "player"} the exact text and its tokens; Prompt
  {"do": "models"}                                     what can be loaded; Models
  {"do": "forget", "model"}                            drop a model from memory; Forgotten
  {"do": "stop"}                                       the speak, write or warm of this id ends after the current token

Where a model has to be loaded, Loading (with stage, done and total in MB while it is fetched or its file is made) and Loaded
come first. Failed (a sentence) ends a request that cannot be answered; the worker goes on. The text of Ended is the answer:
that of all Said together, without half a sentence at the limit and without repetition; in a continued turn both hold only what
is new. Its reason is ended (by the character), limit (soon after a whole sentence), loop (the model repeats itself) or stopped.

Answers of one model are computed side by side, those of two models one after the other; seconds count from a request's turn
on. The same prompt, file, sampling and seed usually give the same text on one machine, not always: the last bits of a
number depend on how much of the prompt was in memory, and on what was computed beside it. At the end of standard input the
worker ends.
"""

import argparse
import asyncio
import functools
import json
import logging
import os
import sys
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any, NoReturn

from engine.base.errors import UserError
from engine.base.process import is_out_of_memory
from engine.models.folders import list_models
from engine.serving.requests import Request, parse
from engine.serving.speaking import Stopped, show_prompt, speak, voice_for, warm
from engine.serving.voices import Voices
from engine.serving.writing import write

Event = dict[str, Any]


class Worker:
    """Answers requests, each in a task of its own; every answer goes to `say`."""

    def __init__(self, voices: Voices, say: Callable[[Event], None]) -> None:
        self.voices, self.say = voices, say
        self.requests: dict[str | int, Request] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def take(self, line: bytes) -> None:
        """Start the request of a line of JSON; a faulty one is answered with Failed."""
        try:
            request = parse(line)
            if request.do == "stop":
                if request.id in self.requests:
                    self.requests[request.id].stop()
                return
            if request.id in self.requests:
                raise UserError("A request with this id is under way.")
        except UserError as error:
            identity = None  # of a request that may be damaged
            with suppress(ValueError, RecursionError, AttributeError):
                identity = json.loads(line).get("id")
            self.say({"event": "Failed", "id": identity if isinstance(identity, str | int) else None, "sentence": str(error)})
            return
        self.requests[request.id] = request
        task = asyncio.ensure_future(self._serve(request))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _serve(self, request: Request) -> None:
        try:
            async with aclosing(self._events(request)) as events:
                async for event in events:
                    self._tell(request, event)
        except Stopped:  # a warming, while the model was loaded
            self._tell(request, {"event": "Warmed", "model": request.model, "tokens": 0, "reused_tokens": 0, "seconds": 0.0})
        except Exception as error:  # of one request; the others go on
            self._tell(request, {"event": "Failed", "sentence": _sentence(error, request)})
        finally:
            del self.requests[request.id]

    def _tell(self, request: Request, event: Event) -> None:
        self.say({"event": event["event"], "id": request.id, **event})

    async def _events(self, request: Request) -> AsyncGenerator[Event, None]:
        tell = functools.partial(self._tell, request)
        match request.do:
            case "models":
                yield {"event": "Models", "models": [one for one in await asyncio.to_thread(list_models) if not one["fault"]]}
                return
            case "forget":
                yield {"event": "Forgotten", "model": request.model, "bytes": await self.voices.forget(request.model)}
                return
            case "speak" | "write":
                answer = speak if request.do == "speak" else write
                async with aclosing(answer(request, self.voices, tell)) as events:
                    async for event in events:
                        yield event
                return
        async with voice_for(request, self.voices, tell) as voice:
            if request.do == "warm":
                yield await warm(request, voice, lambda: self._is_wanted(request.model))
            else:
                yield await asyncio.to_thread(show_prompt, request, voice)

    def _is_wanted(self, model: str) -> bool:
        return any(other.do in ("speak", "write") and other.model == model for other in self.requests.values())


def _sentence(error: Exception, request: Request) -> str:
    """The sentence for the user; a defect goes to the log with its traceback."""
    if is_out_of_memory(error) or is_out_of_memory(error.__cause__):
        logging.warning("out of memory: %s", error)
        return (f"This machine ran out of memory for the model {request.model}. "
                "Close other programs, or choose a smaller model.")
    if isinstance(error, UserError):
        return str(error)
    logging.error("request %s", request.id, exc_info=error)
    return f"Something went wrong inside the chat worker ({type(error).__name__}). The details are in its log."


def serve(options: argparse.Namespace) -> NoReturn:
    """Work until standard input ends, then end the process, with exit code 0."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s", force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    if options.keep < 1:
        raise UserError(f"The number of models kept must be at least 1; {options.keep} is not.")
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not come between the answers

    def say(event: Event) -> None:
        output.write(json.dumps(event) + "\n")  # in ASCII: an id may hold half of a character, and gets its answer
        output.flush()

    try:
        asyncio.run(_work(Worker(Voices(options.keep), say)))
    except BrokenPipeError:
        logging.info("nobody reads the answers any more")
    logging.shutdown()
    os._exit(0)  # taking the models down would take seconds on a busy machine


async def _work(worker: Worker) -> None:
    """Take the lines of standard input until its end, or until nobody reads the answers."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    loop.set_exception_handler(lambda _, context: logging.error("in a task: %s", context))
    threading.Thread(target=_read_lines, args=(0, loop, worker.take, over.set), daemon=True).start()
    await over.wait()
    logging.shutdown()
    os._exit(0)  # taking the models down would take seconds on a busy machine


def _read_lines(descriptor: int, loop: asyncio.AbstractEventLoop, take: Callable[[bytes], None], end: Callable[[], None]) -> None:
    """Hand every line to the loop. Reads the descriptor itself: a buffered reader in a waiting thread would keep the process
    from ending. A thread works with every kind of input, on every system."""
    rest = b""
    while data := os.read(descriptor, 1 << 16):
        *whole, rest = (rest + data).split(b"\n")
        for line in filter(bytes.strip, whole):
            loop.call_soon_threadsafe(take, line)
    loop.call_soon_threadsafe(end)
