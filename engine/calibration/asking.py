"""Asking a server that speaks OpenAI's chat completions many things at once: threads, retries, and when to give up.

This module does not know what the chats are about, nor what becomes of the
answers. The API key comes from the environment and is never written, logged or
shown; our retries are the only ones (the client's own are off). openai is
imported on use, as in models/server.py.
"""

import queue
import random
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from engine.base.errors import UserError
from engine.models.server import CONNECT_SECONDS, api_key, base_url, check_address, open_client

KEY_VARIABLES = ("PERSONA_STUDIO_TEACHER_KEY", "OPENAI_API_KEY")  # the first that is set counts
Chat = list[dict[str, str]]
_TEMPERATURE = 0.8
_FIRST_PAUSE, _LONGEST_PAUSE = 0.3, 20.0  # seconds between two tries, doubling, unless the server asks for more
_PASSING = (408, 409, 425, 429)  # statuses below 500 that are worth another try
_STRIKES = 3  # senseless or rejecting replies in a row before the job stops
_KEPT = "What was answered is kept; run the same command with --resume to go on."
_THOUGHTS = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)|\A(?:(?!<think).)*?</think(?:ing)?>", re.DOTALL)


@dataclass(frozen=True)
class Teacher:
    """A server and how to treat it. Raises UserError for an address that cannot be one."""

    url: str  # http or https, with or without the closing /v1
    model: str  # the model's name on that server
    concurrency: int = 4  # requests under way at once
    timeout: float = 120  # seconds until a request counts as lost
    patience: float = 120  # seconds without a single answer, while the server is busy or failing, until the job stops
    answer_tokens: int = 160  # longest answer, in tokens

    def __post_init__(self) -> None:
        check_address(self.url, "teacher", KEY_VARIABLES[0])
        if not self.model.strip():
            raise UserError("The teacher's model has no name.", "Name one that the server offers.")
        if self.concurrency < 1 or self.timeout <= 0 or self.patience < 0 or self.answer_tokens < 1:
            raise UserError("The teacher's concurrency, timeout and answer length must be positive.")

    @property
    def base_url(self) -> str:
        """The address with exactly one closing /v1."""
        return base_url(self.url)


class Desk:
    """The threads that ask, and what they share.

    `news` brings, in the order of arrival: (key, answer), None for a failed try that will be repeated, or the
    UserError that ended it all. An answer is "" where the server sent none or rejected that one chat. Thinking
    (<think>...</think>) is removed. `retries` counts failed tries.
    """

    def __init__(self, teacher: Teacher, chats: Sequence[tuple[str, Chat]]) -> None:
        self.news: queue.SimpleQueue[tuple[str, str] | UserError | None] = queue.SimpleQueue()
        self.retries = 0
        self._teacher = teacher
        self._key = api_key(KEY_VARIABLES)
        self._waiting: queue.SimpleQueue[tuple[str, Chat]] = queue.SimpleQueue()
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._reached = self._answered = False  # has the server sent anything at all; a chat completion?
        self._strikes = 0  # senseless or rejecting replies since the last answer
        self._failing_since: float | None = None  # time of the first failure since the last answer
        self._resume_at = 0.0  # the server asked for silence until then
        for chat in chats:
            self._waiting.put(chat)
        self._client = open_client(teacher.url, self._key, teacher.timeout)
        self._working = min(teacher.concurrency, len(chats))
        for number in range(self._working):
            threading.Thread(target=self._work, name=f"teacher-{number}", daemon=True).start()

    def close(self) -> None:
        """Start no new request and forget those under way (their threads end with their reply or timeout)."""
        self._stop.set()
        self._close_client_when_done()

    def _close_client_when_done(self, leaving: int = 0) -> None:
        # Never under a thread that is reading: it would wait on a number that the next file to be opened gets.
        with self._lock:
            self._working -= leaving
            if self._working == 0:
                self._client.close()

    def _work(self) -> None:
        try:
            self._ask_all()
        finally:
            self._close_client_when_done(leaving=1)

    def _ask_all(self) -> None:
        try:
            while not self._stop.is_set():
                key, chat = self._waiting.get_nowait()
                answer = self._ask_until_answered(chat)
                if answer is not None:
                    self.news.put((key, answer))
        except queue.Empty:
            return
        except UserError as error:
            self._end(error)
        except Exception as error:  # a defect must end the job, not hang it, and must not show the key
            self._end(UserError(f"Asking the teacher failed unexpectedly ({type(error).__name__}: "
                                f"{self._scrubbed(str(error))}).", _KEPT))

    def _end(self, error: UserError) -> None:
        self._stop.set()
        error.__context__ = None  # openai's exceptions hold the request, and with it the key
        self.news.put(error.with_traceback(None))

    def _ask_until_answered(self, chat: Chat) -> str | None:
        """The answer, or None when the desk closed meanwhile."""
        import openai

        began, tries = time.monotonic(), 0
        while not self._stop.wait(max(0.0, self._resume_at - time.monotonic())):
            tries += 1
            try:
                return self._ask(chat)
            except (openai.APIError, _Nonsense) as error:
                if self._stop.is_set():
                    break
                if (pause := self._pause_after(error, tries, time.monotonic() - began)) is None:
                    return ""
            self.news.put(None)
            self._stop.wait(pause)
        return None

    def _ask(self, chat: Chat) -> str:
        """One request. Raises openai's errors, or _Nonsense for a reply that is no chat completion."""
        messages: Any = chat
        try:
            reply = self._client.chat.completions.create(
                model=self._teacher.model, messages=messages, temperature=_TEMPERATURE,
                max_tokens=self._teacher.answer_tokens)
            content = reply.choices[0].message.content
        except (ValueError, AttributeError, LookupError, TypeError) as error:  # no JSON, or not of this shape
            raise _Nonsense from error
        if not isinstance(content, str | None):
            raise _Nonsense
        with self._lock:
            self._reached = self._answered = True
            self._strikes, self._failing_since = 0, None
        return self._scrubbed(_THOUGHTS.sub("", content or "").strip())

    def _pause_after(self, error: Exception, tries: int, asking_for: float) -> float | None:
        """Seconds to wait before the next try; None: give this one line up. Raises UserError when the job must stop."""
        with self._lock:
            self.retries += 1
            self._reached = self._reached or not _is_unreachable(error)
            if not self._reached and (tries > 2 or asking_for > CONNECT_SECONDS / 2):
                raise UserError(f"The teacher at {self._teacher.url} cannot be reached.",
                                "Check that the server runs, and its address and port.")
            status = getattr(error, "status_code", None)
            if isinstance(error, _Nonsense):
                self._strike(f"The teacher at {self._teacher.url} does not answer like a chat completion server.",
                             "Check the address; it usually ends in /v1.")
            elif _is_unpaid(error) or (status is not None and status < 500 and status not in _PASSING):
                self._check_rejection(error, status)
                return None
            return self._patient_pause(error, tries)

    def _strike(self, sentence: str, hint: str) -> None:
        self._strikes += 1
        if self._strikes >= _STRIKES:
            raise UserError(sentence, hint)

    def _check_rejection(self, error: Exception, status: int | None) -> None:
        """Raise UserError when the server rejects all of us, not this line alone."""
        body = getattr(error, "body", None)
        words = body.get("message") if isinstance(body, dict) else None
        said = f" It says: {self._scrubbed(' '.join(words.split()))[:200]}" if isinstance(words, str) else ""
        server = f"The teacher at {self._teacher.url}"
        if status in (401, 403):
            raise UserError(f"{server} refuses the API key.{said}", f"Set the variable {' or '.join(KEY_VARIABLES)}.")
        if status == 404:
            raise UserError(f"{server} has no model named {self._teacher.model}.{said}",
                            "Check the model's name, and that the address ends in /v1.")
        sentence = f"{server} rejects the request (status {status}).{said}"
        if not self._answered or _is_unpaid(error):
            raise UserError(sentence, _KEPT)
        self._strike(sentence, _KEPT)

    def _patient_pause(self, error: Exception, tries: int) -> float:
        """Seconds to wait after a failure that may pass. Raises UserError when the patience is at its end."""
        now = time.monotonic()
        self._failing_since = now if self._failing_since is None else self._failing_since
        asked_for = _retry_after(error)
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(tries - 1, 10)) * random.uniform(0.7, 1.3)
        if asked_for is not None:
            self._resume_at = max(self._resume_at, now + asked_for)
            pause = max(pause, asked_for)
        waited = now - self._failing_since
        if waited + (asked_for or 0.0) > self._teacher.patience:
            asks = f" and asks us to wait {asked_for:.0f} seconds" if asked_for else ""
            raise UserError(f"The teacher at {self._teacher.url} is too busy or failing{asks}; we waited "
                            f"{waited:.0f} seconds.", _KEPT)
        return min(pause, max(0.1, self._teacher.patience - waited))

    def _scrubbed(self, text: str) -> str:
        """The text without the key (a server may echo it) and without what UTF-8 cannot write."""
        safe = text.encode("utf-8", "replace").decode()
        return safe.replace(self._key, "***") if len(self._key) >= 6 else safe


class _Nonsense(Exception):
    """A reply that is no chat completion: HTML, broken JSON, no choices."""


def _is_unreachable(error: Exception) -> bool:
    """Whether no server answered at all: no connection, or one that was dropped without a reply."""
    import openai

    if isinstance(error, openai.APITimeoutError):
        return type(error.__cause__).__name__ == "ConnectTimeout"
    return isinstance(error, openai.APIConnectionError)


def _is_unpaid(error: Exception) -> bool:
    return getattr(error, "code", None) == "insufficient_quota"


def _retry_after(error: Exception) -> float | None:
    """Seconds that the server's Retry-After asks for (a number or a date), None without one."""
    response = getattr(error, "response", None)
    value = response.headers.get("retry-after", "") if response is not None else ""
    try:
        seconds = float(value) if value[:1].isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, TypeError):
        return None
    return max(0.0, seconds)
