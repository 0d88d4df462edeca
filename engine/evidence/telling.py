"""Which answers show best what a run lost: those where a measure falls furthest below the dense model's, in margins."""

from collections.abc import Mapping, Sequence

from engine.base.evidence import DENSE, Telling
from engine.base.verdict import Key
from engine.evaluation.measure import Measure, Reply
from engine.evidence.scoring import Scored

MOST = 3  # of each run


def most_telling(measures: Sequence[Measure], margins: Mapping[str, float], scored: Sequence[Scored],
                 replies: Mapping[str, Sequence[Reply]]) -> list[Telling]:
    """For each run up to MOST items, each shown once, the largest drop first. Nothing where a run fell nowhere."""
    found = {(one.measure.name, one.speaker): one.values for one in scored}
    told: list[Telling] = []
    for run in [id for id in replies if id != DENSE]:
        drops: dict[Key, tuple[float, Measure]] = {}
        for measure in measures:
            for key, drop in _drops(measure, found.get((measure.name, DENSE), {}), found.get((measure.name, run), {})):
                share = drop / max(margins[measure.name], 1e-9)
                if share > drops.get(key, (0.0, measure))[0]:
                    drops[key] = (share, measure)
        shown: set[str] = set()
        for key, (_, measure) in sorted(drops.items(), key=lambda one: (-one[1][0], one[0])):
            item = key[0].partition("#")[0]
            if item not in shown and (one := _told(run, key, measure, replies)):
                told.append(one)
                shown.add(item)
            if len(shown) == MOST:
                break
    return told


def _drops(measure: Measure, dense: Mapping[Key, float | None], run: Mapping[Key, float | None]) -> list[tuple[Key, float]]:
    sign = 1.0 if measure.higher else -1.0
    return [(key, sign * (before - after)) for key, before in dense.items()
            if before is not None and (after := run.get(key)) is not None and sign * (before - after) > 0]


def _told(run: str, key: Key, measure: Measure, replies: Mapping[str, Sequence[Reply]]) -> Telling | None:
    """The answers to an item, of a conversation those of its turn; None where the sample is of no item."""
    item, _, turn = key[0].partition("#")
    pair = [next((one for one in replies[id] if (one.item.id, one.seed) == (item, key[1])), None) for id in (DENSE, run)]
    dense, other = pair
    if dense is None or other is None:
        return None
    part = slice(int(turn) - 1, int(turn)) if turn.isdecimal() else slice(None)
    return Telling(speaker=run, item=key[0], kind=dense.item.kind, lines=list(dense.lines[part]), dense=list(dense.answers[part]),
                   run=list(other.answers[part]), measure=measure.name)
