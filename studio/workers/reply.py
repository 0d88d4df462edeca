"""One request to the chat worker, and what has come of it so far.

Filled by the thread that reads the worker, read by any other. Knows no process.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

log = logging.getLogger(__name__)
FINAL = {"speak": ("Ended",), "warm": ("Warmed",), "prompt": ("Prompt",), "models": ("Models",),
         "forget": ("Forgotten",)}


class Reply:
    """What the worker has said to one request. `text` grows while it speaks.

    `done`: nothing will follow. `reason`: ended, limit, stopped or failed. `measures`: what the last event said besides
    the text (tokens, seconds, first_token, tokens_per_second, seed, ...). `sentence`: why it failed, for the user.
    `events`: every event but the pieces of text. `result`: the last event whole. `revision` grows with every event.
    """

    def __init__(self, request: dict[str, Any], key: str = "", on_end: Callable[["Reply"], None] | None = None) -> None:
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
        self.revision = 0
        self.heard = time.monotonic()
        self._on_end = on_end
        self._news = threading.Condition()
        self._closed = False  # the last event has come
        self._done = False  # ... and on_end has run

    @property
    def done(self) -> bool:
        """Whether nothing will follow."""
        return self._done

    @property
    def silent_seconds(self) -> float:
        """Seconds since the worker last said something to this request; 0 once it is done."""
        return 0.0 if self._done else time.monotonic() - self.heard

    def wait(self, seconds: float) -> bool:
        """Wait until it is done, at most so many seconds; whether it is."""
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
            self.revision += 1
        if last:
            self._end()

    def fail(self, sentence: str) -> None:
        """End it with a sentence for the user; what was said so far stays in `text`."""
        self.take({"event": "Failed", "sentence": sentence})

    def _close(self, event: dict[str, Any]) -> None:
        self._closed = True
        self.result = event
        self.sentence = event.get("sentence", "")
        self.reason = "failed" if event["event"] == "Failed" else event.get("reason", "ended")
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
                  sampling: dict[str, Any], player: str, continued: bool, about: str = "", seed: int = 0) -> dict[str, Any]:
    """The worker's request for one answer. `about` the player; `seed` of the chat, not of the sampling."""
    return {"do": "speak", "id": reply_id, "model": model, "card": card, "turns": [list(turn) for turn in turns],
            "player": player, "about_player": about, "chat_seed": seed, "continue": continued, "sampling": sampling}
