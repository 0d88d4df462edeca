"""A teacher at an address: neutral answers rewritten in a persona's voice by a server that speaks OpenAI's chat completions.

Many chats are asked at once, with our own retries. Every answer is on the disk before the next event is yielded, so nothing that
was paid for is asked for twice. The API key comes from the environment and is never written, logged or shown.
"""

import asyncio
import contextlib
import queue
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.base.errors import UserError
from engine.base.events import Step, Stream
from engine.base.files import explain_write_errors
from engine.base.ids import ErrorCode, Rejection, StageId
from engine.base.job import Recipe
from engine.base.questions import normalise
from engine.calibration.filtering import ROUNDS, tidy
from engine.calibration.lines import Journal, Line, Query
from engine.cards.prompt import render_description
from engine.models.server import CONNECT_SECONDS, api_key, check_address, open_async_client

if TYPE_CHECKING:
    from engine.calibration.rewriting import Voice  # it needs torch, and who writes with a server does not

KEY_VARIABLES = ("PERSONA_STUDIO_TEACHER_KEY", "OPENAI_API_KEY")  # the first that is set counts
Chat = list[dict[str, str]]
_TEMPERATURE = 0.8
_FIRST_PAUSE, _LONGEST_PAUSE = 0.3, 20.0  # seconds between two tries, doubling, unless the server asks for more
_PASSING = (408, 409, 425, 429)  # statuses below 500 that are worth another try
_STRIKES = 3  # malformed replies or rejections in a row before the job stops
_THOUGHTS = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)|\A(?:(?!<think).)*?</think(?:ing)?>", re.DOTALL)
_INSTRUCTION = """You rewrite lines for a character in a game. You get the character, what the player said, and a \
plain answer. Say the plain answer as this character would say it to the player.
Rules:
- Keep the meaning. Add nothing that contradicts the character.
- Use the character's own words, rhythm, habits and mood. Speak as the character, never about the character.
- No assistant manners: no offers of help, no apologies for what you are, no talk of models, tasks or roles.
- One to three sentences. Write nothing but these sentences: no name in front, no quotation marks, no remarks."""
_DIRECTLY = "There is no plain answer this time: answer the player directly, as the character."


@dataclass(frozen=True)
class ServerTeacher:
    """A server and how to treat it. Raises UserError for an address that cannot be one."""

    url: str  # http or https, with or without the closing /v1
    model: str  # the model's name on that server
    concurrency: int = 4  # requests at the same time
    timeout: float = 120  # seconds until a request counts as lost
    patience: float = 120  # seconds without a single answer, while the server is busy or failing, until the job stops
    answer_tokens: int = 160  # longest answer, in tokens

    def __post_init__(self) -> None:
        check_address(self.url, "teacher", KEY_VARIABLES[0])
        if not self.model.strip():
            raise UserError("The teacher's model has no name.", "Give the name of one that the server offers.")

    @classmethod
    def named(cls, value: str, model: str | None, recipe: Recipe) -> "ServerTeacher":
        """The teacher at an address. Raises UserError where that cannot be one, or its model has no name."""
        if not model:
            raise UserError("A teacher server needs the name of its model.", "Add --teacher-model NAME.")
        return cls(value, model, recipe.teacher_concurrency)

    @property
    def identity(self) -> list[str]:
        return [self.url, self.model]

    def answers(self, _model: Any, _tokenizer: Any, voice: "Voice", queries: Sequence[Query], _recipe: Recipe,
                folder: Path) -> Stream[tuple[list[Line], Counter[Rejection]]]:
        """Lines for the queries, see `Teacher`; answers that the filter rejects are asked for again, as often as our own are."""
        persona = render_description(voice.card)
        lines: dict[str, Line] = {}
        rejected: Counter[Rejection] = Counter()
        for attempt in range(ROUNDS):
            asked = {normalise(query.question): query for query in queries}
            waiting = {f"{question}#{attempt}": query for question, query in asked.items() if question not in lines}
            if not waiting:
                break
            requests = [Request(key, voice.said(query.question), query.neutral) for key, query in waiting.items()]
            answers = yield from rewrite(self, persona, requests, folder / "answers.teacher.jsonl")
            for key, query in waiting.items():
                answer, complete = tidy(answers.get(key, ""), voice.names, False)
                if fault := voice.fault(answer, complete):
                    rejected[fault] += 1
                else:
                    lines[normalise(query.question)] = Line(query.question, answer, query.neutral, query.category, query.source)
        return list(lines.values()), rejected


@dataclass(frozen=True)
class Request:
    """A question to answer under `key`. `neutral`: the plain answer to rewrite; "" has it answered directly."""

    key: str
    question: str
    neutral: str = ""


def rewriting_messages(persona: str, request: Request) -> Chat:
    """The chat that asks for one rewriting (method, stage 1.2): system and user message."""
    plain = f"The plain answer:\n{request.neutral.strip()}" if request.neutral.strip() else _DIRECTLY
    asked = f"The character:\n{persona.strip()}\n\nThe player said:\n{request.question.strip()}\n\n{plain}"
    return [{"role": "system", "content": _INSTRUCTION},
            {"role": "user", "content": f"{asked}\n\nThe character's words:"}]


def rewrite(teacher: ServerTeacher, persona: str, requests: Sequence[Request],
            answered: Path) -> Stream[dict[str, str]]:
    """Ask for all rewritings; the generator's value is the answers by key, in the order of `requests`.

    Each answer is appended to the journal `answered` before its Step is yielded; keys that it holds are not asked again. A Step
    also follows each failed try ("retries"). An answer may be "" (the server sent none, or rejected that one line). Raises
    UserError when the server cannot be reached, refuses the key or the model, answers nonsense, or gives no answer for
    `teacher.patience` seconds. A closed generator starts no new request and keeps what has arrived.
    """
    with explain_write_errors(answered):
        answered.parent.mkdir(parents=True, exist_ok=True)
        journal = Journal(answered)
    wanted = {request.key: request for request in requests}
    answers = {record["key"]: record["answer"] for record in journal.records
               if record.get("key") in wanted and isinstance(record.get("answer"), str)}
    if answers:
        yield Step(StageId.ANSWERS, len(answers), len(wanted), {"retries": 0})
    client = TeacherClient(teacher, [(key, rewriting_messages(persona, request)) for key, request in wanted.items()
                                     if key not in answers])
    try:
        while len(answers) < len(wanted):
            reply = client.replies.get()
            if isinstance(reply, UserError):
                raise reply
            if reply is not None:
                _keep(reply, answers, journal)
            yield Step(StageId.ANSWERS, len(answers), len(wanted), {"retries": client.retries})
    finally:
        client.close()
        while not client.replies.empty():
            if isinstance(reply := client.replies.get(), tuple):
                _keep(reply, answers, journal)
    return {key: answers[key] for key in wanted}


def _keep(reply: tuple[str, str], answers: dict[str, str], journal: Journal) -> None:
    key, answer = reply
    with explain_write_errors(journal.path):
        journal.add({"key": key, "answer": answer})
    answers[key] = answer


class TeacherClient:
    """Asks all chats in a thread of its own, at most `teacher.concurrency` at the same time.

    `replies` brings, as they arrive: (key, answer), None for a failed try that will be repeated, or the UserError that ended it
    all. Thinking (<think>...</think>) is removed from answers. `retries` counts failed tries.
    """

    def __init__(self, teacher: ServerTeacher, chats: Sequence[tuple[str, Chat]]) -> None:
        self.replies: queue.SimpleQueue[tuple[str, str] | UserError | None] = queue.SimpleQueue()
        self.retries = 0
        self._teacher = teacher
        self._key = api_key(KEY_VARIABLES)
        self._reached = self._answered = False  # has the server sent anything at all; a chat completion?
        self._strikes = 0  # malformed replies or rejections since the last answer
        self._failing_since: float | None = None  # time of the first failure since the last answer
        self._resume_at = 0.0  # the server asked for a pause until then
        self._loop = asyncio.new_event_loop()
        self._work = self._loop.create_task(self._ask_all(chats))
        threading.Thread(target=self._run, name="teacher", daemon=True).start()

    def close(self) -> None:
        """Start no new request and cancel those in progress, without waiting for them."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: all is done
            self._loop.call_soon_threadsafe(self._work.cancel)

    def _run(self) -> None:
        with contextlib.closing(self._loop), contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._work)

    async def _ask_all(self, chats: Sequence[tuple[str, Chat]]) -> None:
        slots = asyncio.Semaphore(self._teacher.concurrency)

        async def ask(key: str, chat: Chat) -> None:
            async with slots:
                self.replies.put((key, await self._ask_until_answered(chat)))

        try:
            client = open_async_client(self._teacher.url, self._key, self._teacher.timeout)
            async with client as self._client, asyncio.TaskGroup() as tasks:
                for key, chat in chats:
                    tasks.create_task(ask(key, chat))
        except BaseExceptionGroup as group:
            self._end(group.exceptions[0])
        except Exception as error:
            self._end(error)

    def _end(self, error: BaseException) -> None:
        if not isinstance(error, UserError):  # a defect must end the job, not hang it, and must not show the key
            error = self._failure(f"Asking the teacher failed unexpectedly ({type(error).__name__}: {self._scrubbed(str(error))}).")
        error.__context__ = None  # openai's exceptions hold the request, and with it the key
        self.replies.put(error.with_traceback(None))

    async def _ask_until_answered(self, chat: Chat) -> str:
        import openai

        began, tries = time.monotonic(), 0
        while True:
            await asyncio.sleep(max(0.0, self._resume_at - time.monotonic()))
            tries += 1
            try:
                return await self._ask(chat)
            except (openai.APIError, _Malformed) as error:
                pause = self._pause_after(error, tries, time.monotonic() - began)
            if pause is None:
                return ""
            self.replies.put(None)
            await asyncio.sleep(pause)

    async def _ask(self, chat: Chat) -> str:
        """One request. Raises openai's errors, or _Malformed for a reply that is no chat completion."""
        messages: Any = chat
        try:
            reply = await self._client.chat.completions.create(
                model=self._teacher.model, messages=messages, temperature=_TEMPERATURE, max_tokens=self._teacher.answer_tokens)
            content = reply.choices[0].message.content
        except (ValueError, AttributeError, LookupError, TypeError) as error:  # no JSON, or not of this shape
            raise _Malformed from error
        if not isinstance(content, str | None):
            raise _Malformed
        self._reached = self._answered = True
        self._strikes, self._failing_since = 0, None
        return self._scrubbed(_THOUGHTS.sub("", content or "").strip())

    def _pause_after(self, error: Exception, tries: int, asking_for: float) -> float | None:
        """Seconds to wait before the next try; None: give up on this chat. Raises UserError when the job must stop."""
        self.retries += 1
        self._reached = self._reached or not _is_unreachable(error)
        if not self._reached and (tries > 2 or asking_for > CONNECT_SECONDS / 2):
            raise UserError(f"The teacher at {self._teacher.url} cannot be reached.",
                            "Check that the server runs, and its address and port.")
        status = getattr(error, "status_code", None)
        if isinstance(error, _Malformed):
            self._strike(UserError(f"The teacher at {self._teacher.url} does not answer like a chat completion server.",
                                   "Check the address; it usually ends in /v1."))
        elif _is_unpaid(error) or (status is not None and status < 500 and status not in _PASSING):
            self._check_rejection(error, status)
            return None
        return self._patient_pause(error, tries)

    def _strike(self, error: UserError) -> None:
        self._strikes += 1
        if self._strikes >= _STRIKES:
            raise error

    def _check_rejection(self, error: Exception, status: int | None) -> None:
        """Raise UserError when the server rejects all requests, not this one alone."""
        body = getattr(error, "body", None)
        words = body.get("message") if isinstance(body, dict) else None
        said = f" It says: {self._scrubbed(' '.join(words.split()))[:200]}" if isinstance(words, str) else ""
        server = f"The teacher at {self._teacher.url}"
        if status in (401, 403):
            raise UserError(f"{server} refuses the API key.{said}", f"Set the variable {' or '.join(KEY_VARIABLES)}.")
        if status == 404:
            raise UserError(f"{server} has no model named {self._teacher.model}.{said}",
                            "Check the model's name, and that the address ends in /v1.")
        rejection = self._failure(f"{server} rejects the request (status {status}).{said}")
        if not self._answered or _is_unpaid(error):
            raise rejection
        self._strike(rejection)

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
            asks = f" and asks for a pause of {asked_for:.0f} seconds" if asked_for else ""
            raise self._failure(f"The teacher at {self._teacher.url} is too busy or failing{asks}; it has sent no answer for "
                                f"{waited:.0f} seconds.")
        return min(pause, max(0.1, self._teacher.patience - waited))

    def _failure(self, sentence: str) -> UserError:
        return UserError(sentence, "The answers so far are kept; run the same command with --resume to continue.", ErrorCode.SERVER)

    def _scrubbed(self, text: str) -> str:
        """The text without the key (a server may echo it) and without what UTF-8 cannot write."""
        safe = text.encode("utf-8", "replace").decode()
        return safe.replace(self._key, "***") if len(self._key) >= 6 else safe


class _Malformed(Exception):
    """A reply that is no chat completion: HTML, broken JSON, no choices."""


def _is_unreachable(error: Exception) -> bool:
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
