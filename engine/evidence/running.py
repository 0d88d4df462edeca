"""The verb `evaluate`: everyone is asked, every measure makes its numbers, runs are compared with the dense model.

What was answered and what was measured is kept in the work folder, so the same job goes on where it stopped, and says the same
when it is run again.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from engine.base.errors import UserError
from engine.base.evaluation_events import Assessed, Compared
from engine.base.events import Event, Finished, Started, Warned
from engine.base.evidence import DENSE, RESULT, Asked, Evaluation, write_evaluation
from engine.base.files import data_folder, explain_write_errors, slug, write_atomic
from engine.base.ids import StageId
from engine.base.job import EvaluateJob
from engine.base.sampling import read_params
from engine.base.verdict import Difference, Interval, compare, estimate
from engine.base.verdict_page import verdict_page
from engine.cards.card import Card, bundled_cards
from engine.cards.files import read_card
from engine.evaluation import measures as _measures  # registers them
from engine.evaluation.measure import EVERY, MEASURES, ItemKind, Measure, Need
from engine.evaluation.proof import caveat, doubt, untried
from engine.evidence.asking import ask_all
from engine.evidence.gate import Gate, read_gate
from engine.evidence.items import FULL, QUICK, USUAL, choose_items
from engine.evidence.judging import Bench, call_judge
from engine.evidence.playing import Player, played_items, played_note
from engine.evidence.scoring import Scored, Scoring
from engine.evidence.speakers import Candidate, find_candidates
from engine.evidence.telling import most_telling
from engine.serving.interview import shared_type

assert _measures
BORROWED = 5  # bundled characters that one is told from, where no others are given


@dataclass(frozen=True)
class Plan:
    """What an evaluation does, checked before anything is asked."""

    card: Card
    others: dict[str, Card]
    measures: list[Measure]
    margins: dict[str, float]
    gates: dict[str, Gate]
    seeds: list[int]


def evaluate(job: EvaluateJob) -> Iterator[Event]:
    """Replied for every new answer, Assessed for each measure and speaker, Compared for each run; the result is in the work folder.

    Raises UserError. Closing the generator stops it within a second; the same job goes on.
    """
    start = time.perf_counter()
    plan = make_plan(job)
    size = QUICK if job.quick else FULL if job.full else USUAL
    candidates = yield from find_candidates(job, plan.card)
    folder = Path(job.workdir) if job.workdir else default_folder(plan.card, candidates[0])
    kinds = kinds_to_ask([one for one in plan.measures if not doubt(one.name, candidates[0].speaker.model)], bool(job.judge))
    items = choose_items(plan.card, size, kinds)
    if job.player and ItemKind.LONG in kinds:
        items += played_items(plan.card, size.turns)[:size.played]
    yield Started(plan.card.char, candidates[0].speaker.name, 0.0,
                  [*((StageId.INTERVIEW, one.speaker.name) for one in candidates),
                   *((StageId.ASSESS, one.label) for one in plan.measures)])
    notes = [*_notes(job, plan), *untried({one.name: one.label for one in plan.measures}, candidates[0].speaker.model)]
    yield from map(Warned, notes)
    type = job.type or shared_type([one.speaker.model for one in candidates])
    with closing(Player(job.player, plan.card)) as player:
        replies = yield from ask_all([one.speaker for one in candidates], items, plan.seeds, folder, read_params(job.sampling),
                                     type, player)
    notes += played_note(job.player, [one for said in replies.values() for one in said])
    with ExitStack() as stack:
        judged = any(Need.JUDGE in one.needs for one in plan.measures)
        bench = (yield from call_judge(job.judge, job.judge_model, folder, stack)) if judged else Bench()
        asked = [one for one in candidates if one.speaker.id in replies]
        scoring = Scoring(plan.card, plan.others, asked, replies, folder, bench, job.quick)
        stack.callback(scoring.close)
        scored = yield from scoring.score(plan.measures)
    assessed = [_assessed(one, caveat(one.measure.name, candidates[0].speaker.model)) for one in scored]
    yield from assessed
    compared = list(_compared(plan, scored))
    yield from compared
    result = Evaluation(
        character=plan.card.char, dense=candidates[0].speaker.model, speakers=[one.voiced(type) for one in candidates],
        measures=[Asked(name=one.name, label=one.label, about=one.about, unit=one.unit, higher=one.higher,
                        margin=plan.margins[one.name], judged=Need.JUDGE in one.needs, source=one.source) for one in plan.measures],
        figures=assessed, findings=compared,
        telling=most_telling(plan.measures, plan.margins, scored, replies), judge=bench.words, quick=job.quick, notes=notes,
        replies=sum(len(one.answers) for said in replies.values() for one in said), seeds=len(plan.seeds),
        seconds=time.perf_counter() - start, made=time.time())
    _write(job, folder, result)
    yield Finished(str(folder / RESULT), time.perf_counter() - start)


def make_plan(job: EvaluateJob) -> Plan:
    """The job's card, measures, margins and gates. Raises UserError for what cannot be."""
    card = read_card(job.card)
    names = list(dict.fromkeys(job.measures)) or [
        one.name for one in MEASURES.values() if one.quick or not job.quick or (job.judge and Need.JUDGE in one.needs)]
    if unknown := [name for name in names if name not in MEASURES]:
        raise UserError(f"There is no measure {unknown[0][:60]!r}.", f"Choose from: {', '.join(MEASURES)}.")
    measures = [MEASURES[name] for name in names]
    margins = {one.name: one.margin for one in measures}
    for given in job.margins:
        name, _, number = given.partition("=")
        margins[_known(name, margins)] = _number(given, number)
    gates = read_gate(Path(job.gate), margins) if job.gate else {}
    margins |= {name: float(gate.margin) for name, gate in gates.items() if gate.margin is not None}
    size = FULL if job.full else QUICK if job.quick else USUAL
    seed = read_params({"seed": 0, **job.sampling}).seed or 0
    return Plan(card, _others(job, card), measures, margins, gates, [seed + number for number in range(size.seeds)])


def kinds_to_ask(measures: Sequence[Measure], judged: bool) -> frozenset[ItemKind]:
    """The kinds of items that these measures need: those of EVERY kind take what the others ask for, or, alone, ask everything.

    Without a judge (`judged`) nothing is asked for measures that need one.
    """
    usable = [one.kinds for one in measures if judged or Need.JUDGE not in one.needs]
    of_their_own = [kinds for kinds in usable if kinds != EVERY]
    return frozenset().union(*(of_their_own or usable))


def _others(job: EvaluateJob, card: Card) -> dict[str, Card]:
    """The characters to tell this one from, by name."""
    named = [read_card(name) for name in job.others]
    found = {one.name: one for one in named or bundled_cards() if one.name != card.name}
    return dict(list(found.items())[:len(found) if named else BORROWED])


def _notes(job: EvaluateJob, plan: Plan) -> Iterator[str]:
    if not job.others and any(Need.OTHERS in one.needs for one in plan.measures):
        yield (f"No other characters were named, so {plan.card.char} is told from {len(plan.others)} bundled ones: "
               f"{', '.join(one.char for one in plan.others.values())}.")


def _known(name: str, measures: Mapping[str, object]) -> str:
    if name not in measures:
        raise UserError(f"The margin is of a measure that is not taken: {name[:60]!r}.", f"Choose from: {', '.join(measures)}.")
    return name


def _number(given: str, number: str) -> float:
    try:
        if (value := float(number)) >= 0 and value < float("inf"):
            return value
    except ValueError:
        pass
    raise UserError(f"The margin {given[:60]!r} is none.", "Write it like identification=0.1.")


def default_folder(card: Card, dense: Candidate) -> Path:
    """evaluations/CHARACTER-MODEL in the data folder."""
    return data_folder() / "evaluations" / f"{slug(card.char)}-{slug(Path(dense.speaker.model).name)}"


def _assessed(scored: Scored, limits: str) -> Assessed:
    """The numbers of a speaker; `limits`: what is to be said of them, where there are any."""
    found = estimate(scored.values)
    missing = found.missing if found else len(scored.values)
    note = scored.note or (limits if found else next(iter(scored.why.values()), "Nothing could be measured."))
    return Assessed(scored.measure.name, scored.speaker, *_ends(found), found.items if found else 0, found.samples if found else 0,
                    missing, note)


def _compared(plan: Plan, scored: Sequence[Scored]) -> Iterator[Compared]:
    dense = {one.measure.name: one for one in scored if one.speaker == DENSE}
    for one in scored:
        if one.speaker != DENSE:
            margin = plan.margins[one.measure.name]
            found: Difference = compare(dense[one.measure.name].values, one.values, margin, one.measure.higher)
            items = found.interval.items if found.interval else 0
            yield Compared(one.measure.name, one.speaker, *_ends(found.interval), margin, items, found.outcome, found.more)


def _ends(found: Interval | None) -> tuple[float | None, float | None, float | None]:
    return (found.mean, found.low, found.high) if found else (None, None, None)


def _write(job: EvaluateJob, folder: Path, result: Evaluation) -> None:
    for file in filter(None, (str(folder / RESULT), job.result)):
        with explain_write_errors(Path(file), "run the same command again"):
            write_evaluation(Path(file), result)
    if job.html:
        with explain_write_errors(Path(job.html), "run the same command again"):
            write_atomic(Path(job.html), verdict_page(result))
