"""Further answers: what the character says to the same player lines on other occasions.

A refit and layer tuning need tokens, and no label: what the dense model says to a question a second and a third time is
worth to them nearly what a new line is, and nobody has to find a new question. The mask, the baselines' scores and
recovery go by the train lines alone. Leaves further-0.jsonl and so on, a round each, and their journals.
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
    """`recipe.further_answers` times an answer to every train line, without those that the filter rejects."""
    files = further_files(bench)
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
    """The further answers, round by round; none where none are wanted."""
    return [line for file in further_files(bench) for line in read_lines(file)]


def further_files(bench: Workbench) -> list[Path]:
    """Where the answers of each round lie; no rounds where nothing is repaired."""
    recipe = bench.job.recipe
    return [bench.path(f"further-{number}.jsonl") for number in range(recipe.further_answers if recipe.least_squares else 0)]
