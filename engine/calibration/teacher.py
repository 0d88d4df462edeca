"""Neutral answers rewritten in a persona's voice by a teacher: any server that speaks OpenAI's chat completions.

Every answer is on the disk before the next event is yielded, so nothing that was
paid for is asked for twice. This module does not know whether an answer is good
(filtering.py does), nor how a server is asked (asking.py does).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.base.errors import UserError
from engine.base.events import Step, Stream
from engine.base.files import explain_write_errors
from engine.base.ids import StageId
from engine.calibration.asking import Chat, Teacher, TeacherClient
from engine.calibration.lines import Journal

__all__ = ["Request", "Teacher", "rewrite", "rewriting_messages"]

_INSTRUCTION = """You rewrite lines for a character in a game. You get the character, what the player said, and a \
plain answer. Say the plain answer as this character would say it to the player.
Rules:
- Keep the meaning. Add nothing that contradicts the character.
- Use the character's own words, rhythm, habits and mood. Speak as the character, never about the character.
- No assistant manners: no offers of help, no apologies for what you are, no talk of models, tasks or roles.
- One to three sentences. Write nothing but these sentences: no name in front, no quotation marks, no remarks."""
_DIRECTLY = "There is no plain answer this time: answer the player directly, as the character."


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


def rewrite(teacher: Teacher, persona: str, requests: Sequence[Request],
            answered: Path) -> Stream[dict[str, str]]:
    """Ask for all rewritings; the generator's value is the answers by key, in the order of `requests`.

    Each answer is appended to `answered` (JSON Lines of key and answer) before its Step is yielded; keys that the
    file holds are not asked again, and a torn last line is cut off. A Step also follows each failed try ("retries").
    An answer may be "" (the server sent none, or rejected that one line). Raises UserError when the server cannot be
    reached, refuses the key or the model, talks nonsense, or gives no answer for `teacher.patience` seconds. A closed
    generator starts no new request, keeps what has arrived, and does not wait for what is under way.
    """
    with explain_write_errors(answered):
        answered.parent.mkdir(parents=True, exist_ok=True)
        journal = Journal(answered)
    wanted = {request.key: request for request in requests}
    answers = {record["key"]: record["answer"] for record in journal.records
               if isinstance(record, dict) and record.get("key") in wanted and isinstance(record.get("answer"), str)}
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
