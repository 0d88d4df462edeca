"""The exam for judges: who says this line? A judge that cannot tell one character from another judges nothing.

assets/judge_exam.jsonl has lines of the bundled characters, written for this purpose: what was said, the reply, who gives it, and
four others who could. The judge sees five names, each with a sentence. After PersonaEval (arXiv 2508.10014), where people name
91 % and the best language model 69 %; its lines are others than these.

What a judge answered is kept in the data folder, one event a line, under its identity and the exam's own content: a judge takes
the exam once, an exam that was stopped goes on where it was, and another model, file or set of lines is another exam.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from engine.base import event_file
from engine.base.evaluation_events import Examined, ExamTaken
from engine.base.events import Stage, Step, Stream
from engine.base.files import PROGRAM, data_folder, explain_write_errors, resource, slug
from engine.base.ids import StageId
from engine.base.judges import CHANCE, exam_folder, sentence_of
from engine.base.verdict import wilson
from engine.evaluation.judge import Judge

BINS = 10  # of the calibration error
_VERSION = 1  # of how it is asked
_SYSTEM = ("You know the characters of a game well. You read what somebody said to one of them, and the answer. You say which "
           "character gives this answer: look at its manner of speech, its temper and what it knows. Write nothing but one letter.")


@dataclass(frozen=True)
class Character:
    """One of those who could have spoken."""

    id: str
    name: str
    about: str


@dataclass(frozen=True)
class Line:
    """One line of the exam. `options`: the speaker and four others, in an order that says nothing."""

    id: str
    said: str
    reply: str
    speaker: str
    options: tuple[Character, ...]


def read_exam() -> tuple[Line, ...]:
    """The lines, in the order of the file."""
    return _read(_FILE.read_bytes())


def take_exam(judge: Judge, again: bool = False) -> Stream[ExamTaken]:
    """Ask the judge about every line that it has not answered yet (`again`: about all); the generator's value is the result.

    Yields a step and Examined for each line, and the result at the end. Closing it, or a crash, loses at most the line under way.
    Raises UserError where the server cannot be used; what was answered before stays.
    """
    lines, file = read_exam(), file_of(judge.identity, judge.name)
    if again:
        file.unlink(missing_ok=True)
    answers = _answers(file)
    judge.answers_as = next((one.model for one in answers.values()), judge.answers_as)
    yield Stage(StageId.EXAM, len(lines), reused=len(answers) == len(lines), subject=judge.name)
    for line in lines:
        if line.id not in answers:
            found = _ask(judge, line)
            with explain_write_errors(file, "run the same command again"):
                file.parent.mkdir(parents=True, exist_ok=True)
                event_file.append(file, found)
            answers[line.id] = found
            yield found
            yield Step(StageId.EXAM, len(answers), len(lines), subject=judge.name)
    result = grade(judge.name, answers)
    if not any(isinstance(one, ExamTaken) for one in event_file.read(file)):  # for the studio, which does not grade
        event_file.append(file, result)
    yield result
    return result


def result_of(identity: str, name: str) -> ExamTaken | None:
    """The result of a judge that has taken the whole exam; None where it has not."""
    answers = _answers(file_of(identity, name))
    return grade(name, answers) if len(answers) == len(read_exam()) else None


def grade(judge: str, answers: Mapping[str, Examined]) -> ExamTaken:
    """The result of a whole exam.

    top1: the share of all lines where the speaker alone has the highest probability; a line without an answer is not named. Over
    the answered lines, Brier's score for several classes (Brier 1950), the mean of Σ_k (p_k − o_k)², 0 to 2, five options guessed
    evenly have .8; and the expected calibration error (Guo et al. 2017, arXiv 1706.04599), Σ_b n_b/n · |accuracy_b − confidence_b|
    over 10 equal bins of the highest probability. Both are None where nothing was answered.
    """
    given = [one for one in answers.values() if one.probabilities]
    right = [_is_right(one) for one in given]
    low, high = wilson(sum(right), len(answers))
    brier = [sum((share - (id == one.speaker)) ** 2 for id, share in one.probabilities.items()) for one in given]
    return ExamTaken(judge, sum(right), len(answers), len(answers) - len(given), sum(right) / len(answers), low, high,
                     sum(brier) / len(brier) if brier else None,
                     calibration_error([max(one.probabilities.values()) for one in given], right) if given else None, low > CHANCE)


def calibration_error(confidences: Sequence[float], right: Sequence[bool]) -> float:
    """See `grade`. A confidence on the border of two bins belongs to the lower one; 0 to the first."""
    error = 0.0
    for number in range(BINS):
        within = [place for place, one in enumerate(confidences) if number / BINS < one <= (number + 1) / BINS or (
            number == 0 and one <= 0)]
        if within:
            gap = sum(right[place] for place in within) - sum(confidences[place] for place in within)
            error += abs(gap) / len(confidences)
    return error


def standing(judge: Judge) -> tuple[bool, str]:
    """Whether what a judge says counts, and the sentence that belongs to it. A judge that has not taken the exam counts."""
    result = result_of(judge.identity, judge.name)
    if result is None:
        return True, f"The judge {judge.name} has not taken the exam: whether it can judge is not known (see `{PROGRAM} judge`)."
    return result.passed, sentence_of(result)


def file_of(identity: str, name: str) -> Path:
    """Where the answers of a judge lie."""
    asked = hashlib.sha256(f"{_VERSION}\n{_SYSTEM}\n{identity}\n".encode() + _FILE.read_bytes()).hexdigest()
    return exam_folder(data_folder()) / f"{slug(name)}-{asked[:16]}.jsonl"


_FILE = resource("assets/judge_exam.jsonl")


@cache
def _read(data: bytes) -> tuple[Line, ...]:
    rows = [json.loads(line) for line in data.splitlines()]
    characters = {row["character"]: Character(row["character"], row["name"], row["about"]) for row in rows if "character" in row}
    return tuple(Line(_digest(row["reply"]), row["said"], row["reply"], row["speaker"],
                      tuple(sorted((characters[id] for id in (row["speaker"], *row["others"])),
                                   key=lambda one: _digest(row["reply"] + one.id))))
                 for row in rows if "reply" in row)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _ask(judge: Judge, line: Line) -> Examined:
    about = "\n".join(f"{one.name}: {one.about}" for one in line.options)  # said once: only the letters change places
    text = f"{about}\n\nSomebody says: “{line.said}”\nThe answer: “{line.reply}”\n\nWho gives this answer?"
    choice = judge.choose(_SYSTEM, text, [one.name for one in line.options])
    shares = dict(zip((one.id for one in line.options), choice.probabilities or (), strict=False))
    return Examined(judge.name, line.id, line.speaker, shares, judge.answers_as, choice.reason)


def _answers(file: Path) -> dict[str, Examined]:
    """What a judge has answered, by line."""
    known = {line.id for line in read_exam()}
    return {one.line: one for one in event_file.read(file) if isinstance(one, Examined) and one.line in known}


def _is_right(answer: Examined) -> bool:
    """Whether the speaker alone is the likeliest."""
    own = answer.probabilities.get(answer.speaker, 0.0)
    return all(own > share + 1e-9 for id, share in answer.probabilities.items() if id != answer.speaker)
