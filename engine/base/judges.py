"""How a judge did in its exam (evaluation/exam.py): the sentence that goes with what it judges, and the result that is kept."""

from pathlib import Path

from engine.base import event_file
from engine.base.evaluation_events import ExamTaken
from engine.base.files import slug

CHANCE, PEOPLE = 0.2, 0.908  # of the right names: by guessing, and by people (PersonaEval)


def sentence_of(result: ExamTaken) -> str:
    """What is shown with everything that the judge says, or instead of it."""
    unanswered = f", {result.missing} of them without an answer " if result.missing else " "
    said = (f"this judge names the right speaker in {result.top1:.0%} of {result.lines} lines{unanswered}"
            f"(95 % interval {result.low:.0%} to {result.high:.0%}); chance {CHANCE:.0%}, people {PEOPLE:.0%} (PersonaEval)")
    return f"{said[:1].upper()}{said[1:]}." if result.passed else f"Not judged: {said}."


def judge_name(model: str, on_server: str = "") -> str:
    """What a judge is called: the server's model, or the last part of the name of a model on this machine."""
    return on_server or Path(model).name


def exam_folder(home: Path) -> Path:
    """Where the answers and results of judges lie in a data folder."""
    return home / "judges"


def last_result(home: Path, name: str) -> ExamTaken | None:
    """The result of the exam that a judge of this name took last; None where none has taken the whole of it."""
    for file in sorted(exam_folder(home).glob(f"{slug(name)}-{'?' * 16}.jsonl"), key=lambda one: -one.stat().st_mtime):
        if found := [one for one in event_file.read(file) if isinstance(one, ExamTaken)]:
            return found[-1]
    return None
