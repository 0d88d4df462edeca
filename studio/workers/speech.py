"""The chat worker, shared by all pages: asks it, follows every answer to its end, and starts it again when it died.

Speaks the worker's protocol (JSON lines). What is to be kept of an answer is done by the `on_end` that comes with the
question; it runs here, whether or not a page still looks.
"""

import json
import logging
import queue
import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from engine.base.errors import UserError
from engine.base.ids import FinishReason, StageId
from studio.settings import Settings
from studio.workers import process
from studio.workers.process import Worker

log = logging.getLogger(__name__)
LARGEST_LOG = 1_000_000  # bytes of the worker's log, before a new one starts
PATIENCE = 600.0  # seconds for an answer that a caller waits for; a model may have to be fetched first
DIED = "The chat engine stopped unexpectedly. Send the message again; the engine starts again by itself."
KILLED = ("Something outside the studio ended the chat engine. Often that is the system, when memory runs out. "
          "Send the message again, or choose a smaller model.")
CLOSED = "The studio was closed before the answer was complete."
PACE = 0.2  # seconds between two tellings of a growing answer: what open pages can follow
FINAL = {"speak": ("Ended",), "write": ("Ended",), "warm": ("Warmed",), "prompt": ("Prompt",), "models": ("Models",)}


class Reply:
    """What the worker has said to one request. `text` grows while it speaks.

    `done`: nothing will follow. `reason`: a FinishReason. `measures`: what the last event said besides the text (tokens,
    seconds, first_token, tokens_per_second, seed, ...). `sentence`: why it failed, for the user. `events`: every event but
    the pieces of text. `result`: the last event whole. `on_news` runs at the first words, then no more often than each
    PACE, and at the end; `on_end` once, before `done` is true.
    """

    def __init__(self, request: dict[str, Any], key: str = "", on_end: Callable[["Reply"], None] | None = None,
                 on_news: Callable[[], None] = lambda: None) -> None:
        self.request = request
        self.id = str(request["id"])
        self.key = key
        self.text = ""
        self.tokens = 0
        self.reason = ""
        self.sentence = ""
        self.measures: dict[str, Any] = {}
        self.events: list[dict[str, Any]] = []
        self.result: dict[str, Any] = {}
        self.heard = time.monotonic()
        self.engine_is_up = False  # the worker had said something when this was asked
        self._on_end, self._on_news = on_end, on_news
        self._told = -PACE
        self._news = threading.Condition()
        self._closed = False  # the last event has come
        self._done = False  # ... and on_end has run

    @property
    def done(self) -> bool:
        """Whether nothing will follow."""
        return self._done

    @property
    def fetched(self) -> tuple[int, int] | None:
        """While its model is being fetched: MB done, and in all."""
        last: dict[str, Any] = next((event for event in reversed(self.events) if event.get("event") == "Loading"), {})
        fetches = not self._done and last.get("stage") == StageId.FETCH and last.get("total")
        return (int(last["done"]), int(last["total"])) if fetches else None

    @property
    def silent_seconds(self) -> float:
        """Seconds since the worker last said something to this request; 0 once it is done."""
        return 0.0 if self._done else time.monotonic() - self.heard

    def wait(self, seconds: float) -> bool:
        """Wait until it is done, up to this many seconds; whether it is."""
        with self._news:
            return self._news.wait_for(lambda: self._done, seconds)

    def take(self, event: dict[str, Any]) -> None:
        """Take in one event of the worker. At the last one, call on_end in this thread, before `done` is seen."""
        kind = event.get("event")
        with self._news:
            if self._closed:
                return
            self.heard = time.monotonic()
            if kind == "Said":
                self.text += event.get("text", "")
                self.tokens = event.get("tokens", self.tokens)
            else:
                self.events.append(event)
            last = kind == "Failed" or kind in FINAL[self.request["do"]]
            if last:
                self._close(event)
        if last:
            self._end()
        is_due = self.heard - self._told >= PACE
        if kind == "Said" and is_due:
            self._told = self.heard
        if kind != "Said" or is_due:
            self._on_news()

    def fail(self, sentence: str) -> None:
        """End it with a sentence for the user; what was said so far stays in `text`."""
        self.take({"event": "Failed", "sentence": sentence})

    def _close(self, event: dict[str, Any]) -> None:
        self._closed = True
        self.result = event
        self.sentence = event.get("sentence", "")
        self.reason = FinishReason.FAILED if event["event"] == "Failed" else event.get("reason", FinishReason.ENDED)
        self.text = event["text"] if event["event"] == "Ended" and "text" in event else self.text
        self.tokens = event.get("tokens", self.tokens)
        self.measures = {name: value for name, value in event.items()
                         if name not in ("event", "id", "text", "reason", "sentence")}

    def _end(self) -> None:
        try:
            if self._on_end:
                self._on_end(self)
        except Exception:
            log.exception("what was to be done at a reply's end failed")
        with self._news:
            self._done = True
            self._news.notify_all()


def speak_request(reply_id: str, model: str, card: dict[str, Any], turns: Sequence[tuple[str, str]],
                  sampling: dict[str, Any], player: str, continued: bool, about: str = "", seed: int = 0,
                  type: str = "", memory: Sequence[str] = ()) -> dict[str, Any]:
    """The worker's request for one answer. `about` the player; `seed` of the chat, not of the sampling; `type` of the weights;
    `memory`: what the character remembers of the player."""
    return {"do": "speak", "id": reply_id, "model": model, "card": card, "turns": [list(turn) for turn in turns],
            "player": player, "about_player": about, "chat_seed": seed, "continue": continued, "sampling": sampling, "type": type,
            "memory": list(memory)}


class Speech:
    """One chat worker and the replies that it owes. Thread-safe. `touch(room)` is called when an answer of a room has news."""

    def __init__(self, settings: Settings, touch: Callable[[str], None] = lambda room: None) -> None:
        self.settings = settings
        self._touch = touch
        self._lock = threading.Lock()
        self._line: _Line | None = None
        self._asked = 0  # requests so far
        self._models: list[dict[str, Any]] | None = None
        self._asked_models: Reply | None = None
        self._closed = False

    def ask(self, model: str, card: dict[str, Any], turns: Sequence[tuple[str, str]], sampling: dict[str, Any],
            player: str, on_end: Callable[[Reply], None] | None = None, continue_: bool = False, key: str = "",
            about: str = "", seed: int = 0, type: str = "", memory: Sequence[str] = ()) -> Reply:
        """Ask for one answer; returns at once. `key`, "ROOM:...", lets a reloaded page find the reply (see `pending`).

        `type`: of the GGUF file that is to speak, "Q8_0" for instance; "": the best one at hand.
        The reply always ends: with the answer, or with a sentence. `on_end(reply)` runs once, in the reading thread,
        before `reply.done` is true; it must be quick.
        """
        return self._send(speak_request(_new_id(), model, card, turns, sampling, player, continue_, about, seed, type, memory),
                          key, on_end)

    def write(self, model: str, messages: Sequence[dict[str, str]], sampling: dict[str, Any], server: tuple[str, str] | None = None,
              on_end: Callable[[Reply], None] | None = None) -> Reply:
        """Ask for a text by chat messages, of the model or of the server (address, model); returns at once. See `ask`."""
        return self._send({"do": "write", "id": _new_id(), "model": model, "messages": list(messages), "sampling": sampling,
                           "server": list(server) if server else None}, on_end=on_end)

    def warm(self, model: str, card: dict[str, Any], player: str, turns: Sequence[tuple[str, str]] = (),
             about: str = "", seed: int = 0, type: str = "") -> Reply:
        """Load the model and read the persona and the turns so far in advance; returns at once."""
        return self._send({"do": "warm", "id": _new_id(), "model": model, "card": card, "player": player,
                           "about_player": about, "chat_seed": seed, "turns": [list(turn) for turn in turns], "type": type})

    def stop(self, reply: Reply) -> None:
        """Ask the worker to end this answer where it is; what was said is kept."""
        with self._lock:
            line = self._line
        if line and not reply.done:
            line.send({"do": "stop", "id": reply.id})

    def prompt(self, model: str, card: dict[str, Any], turns: Sequence[tuple[str, str]], player: str) -> tuple[str, int]:
        """The exact text that the model would read, and its length in tokens. Waits; raises UserError."""
        reply = self._send({"do": "prompt", "id": _new_id(), "model": model, "card": card,
                            "turns": [list(turn) for turn in turns], "player": player})
        result = _result_of(reply)
        return str(result["text"]), int(result["tokens"])

    def models(self, wait: bool = True, refresh: bool = False) -> list[dict[str, Any]]:
        """The models on this machine with their sizes, looked up once (again with `refresh`).

        Without `wait`: what is known by now, [] at first; the looking up goes on meanwhile. Raises UserError.
        """
        with self._lock:
            known, asked = self._models, self._asked_models
        if known is not None and not refresh:
            return known
        if asked is None or asked.done:
            asked = self._send({"do": "models", "id": _new_id()}, on_end=self._keep_models)
            with self._lock:
                self._asked_models = asked
        if not wait:
            return known or []
        return list(_result_of(asked)["models"])

    def pending(self, key: str) -> Reply | None:
        """The newest reply under way that was asked for under this key."""
        with self._lock:
            line = self._line
        return line.newest(key) if line and key else None

    def under_way(self) -> list[Reply]:
        """All replies that are under way."""
        with self._lock:
            line = self._line
        return line.owed() if line else []

    def stamp(self) -> float:
        """Changes all the time while an answer is under way, else with each that was asked for."""
        with self._lock:
            line = self._line
        return time.monotonic() if line and line.owed() else self._asked

    def close(self) -> None:
        """End the worker; replies under way end with a sentence. Nothing can be asked afterwards."""
        with self._lock:
            line, self._line, self._closed = self._line, None, True
        if line:
            line.close()

    def _send(self, request: dict[str, Any], key: str = "", on_end: Callable[[Reply], None] | None = None) -> Reply:
        self._asked += 1
        room = key.partition(":")[0]
        reply = Reply(request, key, on_end, (lambda: self._touch(room)) if room else lambda: None)
        try:
            if not any(self._present_line().take_on(reply) for _ in range(3)):  # one may die at this very moment
                reply.fail(DIED)
        except UserError as error:
            reply.fail(str(error))
        except OSError as error:
            log.exception("the chat worker cannot be started")
            reply.fail(f"The chat engine cannot be started ({error.strerror}).")
        return reply

    def _present_line(self) -> "_Line":
        with self._lock:
            if self._closed:
                raise UserError("The studio is being closed.")
            if self._line is None or not self._line.alive:
                self._line = _Line(self.settings)
            return self._line

    def _keep_models(self, reply: Reply) -> None:
        if reply.reason != FinishReason.FAILED:
            with self._lock:
                self._models = list(reply.result["models"])


class _Line:
    """One worker process with a thread that writes to it and a thread that reads it."""

    def __init__(self, settings: Settings) -> None:
        if settings.chat_log.exists() and settings.chat_log.stat().st_size > LARGEST_LOG:
            settings.chat_log.unlink()
        self._log, self._log_offset = settings.chat_log, settings.chat_log.stat().st_size if settings.chat_log.exists() else 0
        self.worker: Worker = process.spawn(settings, ("chat-worker",), settings.chat_log, subprocess.PIPE, background=False)
        self._lock = threading.Lock()
        self._replies: dict[str, Reply] | None = {}  # None once the worker has ended
        self._heard = False  # whether it has said anything
        self._farewell = ""  # for replies under way, when it is us who end the worker
        # A worker that is busy reads late, and a page must not wait for it: requests queue here.
        self._outgoing: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._write, name="speech-write", daemon=True).start()
        threading.Thread(target=self._read, name="speech-read", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether it can take requests on."""
        return self._replies is not None and self.worker.exit_code is None

    def owed(self) -> list[Reply]:
        """The replies that are under way, oldest first."""
        with self._lock:
            return [reply for reply in (self._replies or {}).values() if not reply.done]

    def take_on(self, reply: Reply) -> bool:
        """Send the request and owe its reply. False when the worker has ended."""
        with self._lock:
            if self._replies is None:
                return False
            self._replies[reply.id] = reply
            reply.engine_is_up = self._heard
        self.send(reply.request)
        return True

    def send(self, request: dict[str, Any]) -> None:
        """Put a request on its way."""
        self._outgoing.put(request)

    def newest(self, key: str) -> Reply | None:
        """The newest reply of this key that is not done."""
        return next((reply for reply in reversed(self.owed()) if reply.key == key), None)

    def close(self, seconds: float = 3.0) -> None:
        """End of input for the worker; by force when it does not end in time."""
        self._farewell = CLOSED
        self._outgoing.put(None)
        try:
            self.worker.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end(CLOSED)

    def end(self, sentence: str) -> None:
        """By force, now."""
        self._farewell = sentence
        process.kill(self.worker.identity)

    def _write(self) -> None:
        pipe = self.worker.process.stdin
        assert pipe
        try:
            while (request := self._outgoing.get()) is not None:
                pipe.write((json.dumps(request) + "\n").encode())
                pipe.flush()
        except (OSError, ValueError):  # the reading thread sees the end as well, and answers for it
            log.info("the chat worker took no more requests")
        self.worker.let_go()

    def _read(self) -> None:
        pipe = self.worker.process.stdout
        assert pipe
        for line in pipe:
            try:
                event = json.loads(line)
                reply_id = str(event["id"])
            except (ValueError, KeyError, TypeError):
                log.warning("the chat worker wrote a line that is not an event: %r", line[:200])
                continue
            self._heard = True
            self._hand_on(reply_id, event)
        self._fail_the_rest(self.worker.process.wait())

    def _hand_on(self, reply_id: str, event: dict[str, Any]) -> None:
        with self._lock:
            reply = (self._replies or {}).get(reply_id)
        if reply is None:
            return
        try:
            reply.take(event)
        except Exception:
            log.exception("an event of the chat worker could not be taken in: %r", str(event)[:200])
            reply.fail(DIED)
        if reply.done:
            with self._lock:
                (self._replies or {}).pop(reply_id, None)

    def _fail_the_rest(self, code: int) -> None:
        with self._lock:
            left, self._replies = list((self._replies or {}).values()), None
        self._outgoing.put(None)  # ends the writing thread
        log.info("the chat worker ended with %d, owing %d replies", code, len(left))
        sentence = KILLED if code == -9 or process.ran_out_of_memory(self._log, self._log_offset) else DIED
        for reply in left:
            reply.fail(self._farewell or sentence)


def _new_id() -> str:
    return secrets.token_hex(6)


def _result_of(reply: Reply) -> dict[str, Any]:
    if not reply.wait(PATIENCE):
        raise UserError("The chat engine did not answer in time.", "Try again, or restart the studio.")
    if reply.reason == FinishReason.FAILED:
        raise UserError(reply.sentence)
    return reply.result
