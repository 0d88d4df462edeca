"""A result on the terminal."""

from pathlib import Path

from engine.base.evaluation_events import Assessed, Compared
from engine.base.evidence import DENSE, OUTCOMES, Evaluation, headline, recommend
from engine.base.ids import Outcome
from engine.base.job import EvaluateJob
from engine.evidence.gate import read_gate, refusals
from engine.running import print_table


def print_evaluation(result: Evaluation) -> None:
    """For each run a table with a row a measure, then what all rests on and the verdicts."""
    seeds = f", {result.seeds} to each question" if result.seeds > 1 else ""
    for run in result.runs():
        rows = [[f"{one.label} ({one.unit}, {'more' if one.higher else 'less'} is better)",
                 _figure(result.figure(one.name, DENSE)), _figure(result.figure(one.name, run.id)),
                 *_finding(result.finding(one.name, run.id))] for one in result.measures]
        print_table(f"{result.character}, {run.name}: means with 95 % intervals; n: questions ({result.replies:,} answers in "
                    f"all{seeds})", ["measure", DENSE, run.name, "difference, more is better", "verdict"], rows)
    limited = [f"{one.label}: {figure.note}." for one in result.measures
               if (figure := result.figure(one.name, DENSE)) and figure.note and figure.mean is not None]
    for sentence in filter(None, (*limited, *result.notes, result.judge, *(headline(result, run.id) for run in result.runs()),
                                  recommend(result))):
        print(sentence)


def _figure(one: Assessed | None) -> str:
    if one is None or one.mean is None or one.low is None or one.high is None:
        return one.note if one else "not asked"
    missing = f", {one.missing} missing" if one.missing else ""
    return f"{one.mean:.3g} [{one.low:.3g}, {one.high:.3g}] n {one.items}{missing}"


def _finding(one: Compared | None) -> tuple[str, str]:
    if one is None:
        return "", OUTCOMES[Outcome.UNMEASURED]
    if one.difference is None or one.low is None or one.high is None:
        return "", OUTCOMES[one.outcome]
    more = f" (about {one.more:,} more questions)" if one.outcome is Outcome.UNSURE and one.more else ""
    said = f"{one.difference:+.3g} [{one.low:+.3g}, {one.high:+.3g}] n {one.items}"
    return said, f"{OUTCOMES[one.outcome]} at {one.margin:g}{more}"


def refused(job: EvaluateJob, result: Evaluation) -> list[str]:
    """What the job's gate does not let through, a sentence each; none without a gate."""
    return refusals(read_gate(Path(job.gate), [one.name for one in result.measures]), result) if job.gate else []
