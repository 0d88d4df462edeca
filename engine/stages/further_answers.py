"""Further answers: what the character says on other occasions, and to player lines that were left out.

A refit and layer tuning need tokens, and no label: what the dense model says to a question a second and a third time is
worth to them nearly what a new line is. The repair's rounds ask the train lines' questions once more. Recovery wants text
that nothing has read: its rounds ask what the pool has beside them, then all of it again. The mask and the baselines'
scores go by the train lines alone. Leaves further-0.jsonl and so on, a round of as many questions as there are train
lines each, and their journals.
"""

from collections.abc import Generator
from itertools import cycle, islice
from pathlib import Path

from engine.base.events import Event, Stage
from engine.base.questions import normalise
from engine.calibration.lines import Journal, Line, Query, of_split, read_lines, read_queries, write_lines
from engine.calibration.rewriting import Round, answer_questions
from engine.stages.workbench import Workbench

STAGE = "write more answers"
SEEDS = 3  # the first round's; 1 and 2 are those of the lines


def write_further_answers(bench: Workbench) -> Generator[Event, None, None]:
    """So many rounds of answers as the recipe says, without those that the filter rejects."""
    files = answer_files(bench)
    if all(file.exists() for file in files):
        if files:
            yield Stage(STAGE, reused=True)
        return
    rounds = _questions(bench, len(files))
    total, done = sum(map(len, rounds)), 0
    yield Stage(STAGE, total)
    for number, (file, queries) in enumerate(zip(files, rounds, strict=True)):
        if not file.exists():
            how = Round(1, SEEDS + number, STAGE, done, total)
            journal = Journal(bench.path(f"answers.{file.name}"))
            lines, _ = yield from answer_questions(bench.model, bench.tokenizer, bench.voice, queries, bench.job.recipe,
                                                   journal, how)
            write_lines(file, lines)
        done += len(queries)


def _questions(bench: Workbench, rounds: int) -> list[list[Query]]:
    """What each of the rounds asks."""
    train, *_ = bench.split_lines()
    known = [Query(line.question, line.neutral, line.category, line.source) for line in train]
    endless = cycle([*unanswered(bench), *known])
    return [list(islice(endless, len(known))) if number >= _rounds(bench) else known for number in range(rounds)]


def unanswered(bench: Workbench) -> list[Query]:
    """The player lines on the train side of the pool that no train line answers.

    None where the user's own lines have no question in common with the pool: they may be of another world or language.
    """
    train, *_ = bench.split_lines()
    answered = {normalise(line.question) for line in train}
    pool = of_split(read_queries(bench.job.queries), "train")
    left = [query for query in pool if normalise(query.question) not in answered]
    return [] if bench.job.lines and len(left) == len(pool) else left


def further_lines(bench: Workbench) -> list[Line]:
    """The further answers that the repair reads, round by round; none where none are wanted."""
    return [line for file in answer_files(bench)[: _rounds(bench)] for line in read_lines(file)]


def recovery_lines(bench: Workbench) -> tuple[list[Line], list[Line]]:
    """The further answers that only recovery reads: those for tuning the layers again, and those, as many as it has time for
    and no more than half, for the fine-tune. What one has read the other would learn little from: it is known by heart."""
    recipe = bench.job.recipe
    lines = [line for file in answer_files(bench)[_rounds(bench):] for line in read_lines(file)]
    kept = len(lines) - min(recipe.recovery_steps * recipe.recovery_step_lines, len(lines) // 2)
    return lines[:kept], lines[kept:]


def answer_files(bench: Workbench) -> list[Path]:
    """Where the answers of each round lie, those of the repair before those of recovery; no rounds where nothing reads them."""
    recipe = bench.job.recipe
    again = recipe.recovery_answers if recipe.recover and bench.tunes_layers else 0
    return [bench.path(f"further-{number}.jsonl") for number in range(_rounds(bench) + again)]


def _rounds(bench: Workbench) -> int:
    """How many of the rounds are the repair's."""
    recipe = bench.job.recipe
    return recipe.further_answers if recipe.least_squares else 0
