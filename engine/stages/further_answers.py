"""Further answers: what the character says to the same player lines on other occasions.

A refit and layer tuning need tokens, and no label: what the dense model says to a question a second and a third time is
worth to them nearly what a new line is, and nobody has to find a new question. Some rounds are for the repair, the others
for recovery, which wants text that nothing has read. The mask and the baselines' scores go by the train lines alone.
Leaves further-0.jsonl and so on, a round each, and their journals.
"""

from collections.abc import Generator
from pathlib import Path

from engine.base.events import Event, Stage
from engine.calibration.lines import Journal, Line, Query, read_lines, write_lines
from engine.calibration.rewriting import Round, answer_questions
from engine.stages.workbench import Workbench

STAGE = "write more answers"
SEEDS = 3  # the first round's; 1 and 2 are those of the lines


def write_further_answers(bench: Workbench) -> Generator[Event, None, None]:
    """So many times as the recipe says an answer to every train line, without those that the filter rejects."""
    files = answer_files(bench)
    if all(file.exists() for file in files):
        if files:
            yield Stage(STAGE, reused=True)
        return
    train, *_ = bench.split_lines()
    queries = [Query(line.question, line.neutral, line.category, line.source) for line in train]
    yield Stage(STAGE, len(files) * len(queries))
    done = 0
    for number, file in enumerate(files):
        if not file.exists():
            how = Round(1, SEEDS + number, STAGE, done, len(files) * len(queries))
            journal = Journal(bench.path(f"answers.{file.name}"))
            lines, _ = yield from answer_questions(bench.model, bench.tokenizer, bench.voice, queries, bench.job.recipe,
                                                   journal, how)
            write_lines(file, lines)
        done += len(queries)


def further_lines(bench: Workbench) -> list[Line]:
    """The further answers that the repair reads, round by round; none where none are wanted."""
    return [line for file in answer_files(bench)[: _rounds(bench)] for line in read_lines(file)]


def recovery_lines(bench: Workbench) -> list[Line]:
    """The further answers that only recovery reads."""
    return [line for file in answer_files(bench)[_rounds(bench):] for line in read_lines(file)]


def answer_files(bench: Workbench) -> list[Path]:
    """Where the answers of each round lie, those of the repair before those of recovery; no rounds where nothing reads them."""
    recipe = bench.job.recipe
    again = recipe.recovery_answers if recipe.recover and bench.tunes_layers else 0
    return [bench.path(f"further-{number}.jsonl") for number in range(_rounds(bench) + again)]


def _rounds(bench: Workbench) -> int:
    """How many of the rounds are the repair's."""
    recipe = bench.job.recipe
    return recipe.further_answers if recipe.least_squares else 0
