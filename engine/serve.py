"""The chat worker: python -m engine serve. JSON lines in on standard input, JSON lines out on standard output.

Requests, each with an "id" that its answers repeat:

  {"do": "speak", "model", "card", "turns": [[role, text], ...], "player", "continue": false, "sampling": {...}}
      turns: the whole conversation, the greeting as the assistant's first turn where it was used; macros in them are
      filled in. "continue": the last turn, the assistant's, is continued. sampling: fields of SamplingParams
      (engine/base/sampling.py); seed (none: a random one). Answers: Said (a new piece of text) ..., Ended.
  {"do": "warm", "model", "card", "turns", "player"}   load the model and read the prompt's beginning; Warmed
  {"do": "prompt", "model", "card", "turns", "player"} the exact text and its tokens; Prompt
  {"do": "models"}                                     what can be loaded; Models
  {"do": "forget", "model"}                            drop a model from memory; Forgotten
  {"do": "stop"}                                       the speak or warm of this id ends after the current token

Where a model has to be loaded, Loading (with stage, done and total in MB while it is fetched) and Loaded come first. Failed (a
sentence) ends a request that cannot be answered; the worker goes on. The text of Ended is the answer: that of all Said
together, without half a sentence at the limit and without repetition; in a continued turn both hold only what is new. Its
reason is ended (by the character), limit (soon after a whole sentence), loop (the model repeats itself) or stopped.

All requests take turns, a token each, in one thread. Seconds count a request's own computing alone, so that two answers side
by side are timed as if each were alone. The same prompt, model, sampling and seed give the same text, whatever else is asked
and whatever was read before (on one machine, with one number of threads). At the end of standard input the worker ends.
"""

import argparse
import json
import logging
import os
import queue
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from engine.base.errors import UserError
from engine.base.process import is_out_of_memory
from engine.models.folders import list_models
from engine.serving.model_cache import ModelCache, Turn
from engine.serving.requests import Request, parse
from engine.serving.speaking import Task, show_prompt, speak, warm

Answer = dict[str, Any]
_GONE = b""  # what the reader puts last


class Worker:
    """Answers requests, a turn each; every answer goes to `say`."""

    def __init__(self, cache: ModelCache, say: Callable[[Answer], None]) -> None:
        self.cache, self.say = cache, say
        self.tasks: list[tuple[Request, Task]] = []

    def take(self, line: bytes) -> None:
        """Start the request of a line of JSON; a faulty one is answered with Failed."""
        try:
            request = parse(line)
            if request.do == "stop":
                for other, _ in self.tasks:
                    other.stopped = other.stopped or other.id == request.id
                return
            if any(request.id == other.id for other, _ in self.tasks):
                raise UserError("A request with this id is under way.")
            match request.do:
                case "speak":
                    task = speak(request, self.cache)
                case "warm":
                    task = warm(request, self.cache, lambda model: any(
                        other.do == "speak" and other.model == model for other, _ in self.tasks))
                case "prompt":
                    task = show_prompt(request, self.cache)
                case _:
                    task = self._at_once(request)
            self.tasks.append((request, task))
        except UserError as error:
            identity = None  # of a request that may be damaged
            with suppress(ValueError, RecursionError, AttributeError):
                identity = json.loads(line).get("id")
            self.say({"event": "Failed", "id": identity if isinstance(identity, str | int) else None, "sentence": str(error)})

    def _at_once(self, request: Request) -> Task:
        if request.do == "models":
            yield {"event": "Models", "models": [one for one in list_models() if not one["fault"]]}
        else:
            yield {"event": "Forgotten", "model": request.model, "bytes": self.cache.forget(request.model)}

    def turn(self) -> None:
        """One turn of every task."""
        for entry in list(self.tasks):
            request, task = entry
            try:
                answer: Turn = next(task)
            except StopIteration:
                self.tasks.remove(entry)
                continue
            except Exception as error:  # of one request; the others go on
                self.tasks.remove(entry)
                answer = {"event": "Failed", "sentence": _sentence(error, request)}
            if answer:
                self.say({"event": answer["event"], "id": request.id, **answer})


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
    if options.keep < 1:
        raise UserError(f"The number of models kept must be at least 1; {options.keep} is not.")
    cache = ModelCache(options.dtype, options.keep)
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not come between the answers

    def say(answer: Answer) -> None:
        output.write(json.dumps(answer, ensure_ascii=False) + "\n")
        output.flush()

    worker = Worker(cache, say)
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_lines, args=(0, lines), daemon=True).start()
    try:
        while _take_all(worker, lines):
            worker.turn()
    except BrokenPipeError:
        logging.info("nobody reads the answers any more")
    logging.shutdown()
    os._exit(0)  # taking torch down would take seconds on a busy machine


def _take_all(worker: Worker, lines: "queue.SimpleQueue[bytes]") -> bool:
    """Take the waiting requests, or wait for one where there is nothing to do; False at the end."""
    while not worker.tasks or not lines.empty():
        line = lines.get()
        if line == _GONE:
            return False
        if line.strip():
            worker.take(line)
    return True


def _read_lines(descriptor: int, lines: "queue.SimpleQueue[bytes]") -> None:
    """Put every line into the queue, then _GONE. Reads the descriptor itself: a buffered reader in a waiting thread would
    keep the process from ending."""
    rest = b""
    while data := os.read(descriptor, 1 << 16):
        *whole, rest = (rest + data).split(b"\n")
        for line in whole:
            lines.put(line or b" ")
    lines.put(_GONE)
