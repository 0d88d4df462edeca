"""How long a run still takes, or would take, by this machine's own pace: how long earlier runs took.

Pure functions of runs and views.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from engine.base.ids import StageId
from engine.base.job import Recipe, make_recipe
from studio.store.runs import Run
from studio.workers.view import Key, RunView

LEAST = 10.0  # seconds of finished stages that it takes to know today's pace
_OF_LINES = (StageId.SCORE, StageId.ASK, StageId.ANSWERS)
# Seconds of the stages of runs that learn no mask, with the starter (benchmarks/readings.md). Only their proportions count.
_TYPICAL: dict[str, dict[StageId, float]] = {
    "try": {StageId.LOAD: 2, StageId.ASK: 5, StageId.ANSWERS: 49, StageId.SAMPLES: 27, StageId.DENSE: 18,
            StageId.RECONSTRUCT_START: 69, StageId.TUNE: 184, StageId.MEASURE: 25, StageId.IMPORTANCE: 9, StageId.EXPORT: 1,
            StageId.PROVE: 7, StageId.GGUF_FILES: 6},
    "quick": {StageId.LOAD: 2, StageId.ASK: 4, StageId.ANSWERS: 46, StageId.SAMPLES: 71, StageId.DENSE: 16,
              StageId.RECONSTRUCT_START: 66, StageId.TUNE: 310, StageId.MEASURE: 23, StageId.IMPORTANCE: 4, StageId.EXPORT: 1,
              StageId.PROVE: 4, StageId.GGUF_FILES: 3}}
_LIKE = ("model", "preset", "load_in", "recover", "bake")  # what decides how long a run takes, beside mask learning


def learns_mask(spec: Mapping[str, Any]) -> bool:
    """Whether a prune of these settings learns a mask."""
    return float(spec.get("sparsity") or 0) >= make_recipe(str(spec.get("preset") or "quick")).mask_from


def left_out(run: Run) -> set[str]:
    """The stages that a run cannot have, by its settings."""
    if run.kind != "prune":
        return set()
    out: set[str] = set(_OF_LINES)  # its lines are given
    if not run.spec.get("bake"):
        out |= {StageId.TALKS, StageId.BAKE}
    if not run.spec.get("recover"):
        out |= {StageId.TUNE_AGAIN, StageId.RECOVER}
    if not learns_mask(run.spec):
        out |= {StageId.LEARN_MASK, StageId.RECONSTRUCT}
    return out


def like(run: Run, others: Sequence[Run]) -> Run | None:
    """The newest finished one of `others` (newest first) that took the same steps on the same model, and on this machine: one that
    was added has its folder elsewhere, and may be of another."""
    wanted = [run.spec.get(name) or None for name in _LIKE], learns_mask(run.spec)
    return next((one for one in others if one.kind == run.kind and one.state == "done" and one.id != run.id and not one.damaged
                 and "folder" not in one.spec
                 and ([one.spec.get(name) or None for name in _LIKE], learns_mask(one.spec)) == wanted), None)


def took(earlier: RunView) -> dict[Key, float]:
    """Seconds of each finished stage of a run."""
    return {key: stage.seconds for key, stage in earlier.stages.items() if stage.state in ("done", "reused")}


def typical(run: Run) -> dict[Key, float]:
    """The same of plain runs of its preset in general, as proportions; {} where they are not known."""
    preset, never = str(run.spec.get("preset")), left_out(run)
    known = _TYPICAL.get(preset, {}) if is_plain(run, preset) else {}
    return {(stage, ""): seconds for stage, seconds in known.items() if stage not in never}


def seconds_left(view: RunView, took: Mapping[Key, float], by_pace: bool = False) -> float | None:
    """Seconds until a run ends whose stages take as long as they `took`, at today's pace; None where that is not known.

    The further the stage under way is, the more its own steps count, beside what is usual. Today's pace: what the finished
    stages took, beside what they took then; before LEAST seconds of them it is 1, or, `by_pace`, not known.
    """
    ended = [(stage.seconds, took[key]) for key, stage in view.stages.items() if stage.state == "done" and key in took]
    now, then = sum(one for one, _ in ended), sum(other for _, other in ended)
    is_known = now >= LEAST and then >= LEAST
    if by_pace and not is_known:
        return None
    pace = now / then if is_known else 1.0
    left = 0.0
    for key, stage in view.stages.items():
        usual = took.get(key, 0.0) * pace
        if stage.state == "waiting":
            left += usual
        elif stage.state == "running":
            expected = max(usual - stage.seconds, 0.0)
            own = expected if stage.eta is None else stage.eta
            share = stage.share if usual else 1.0  # its first steps say little of the rest
            left += share * own + (1 - share) * expected
    return left if took and view.stages else None


def is_plain(run: Run, preset: str) -> bool:
    """Whether a run, of lines or a prune, is of this preset with nothing that makes it longer: no teacher, no learned mask,
    nothing recovered or baked."""
    spec = run.spec
    usual = Recipe.model_fields["load_in"].default
    return (spec.get("preset") == preset and not any(spec.get(name) for name in ("teacher", "recover", "bake"))
            and spec.get("load_in", usual) == usual
            and not (run.kind == "prune" and learns_mask(spec)))


def seconds_of(view: RunView) -> float:
    """Seconds that the stages of a run took, in all of its processes."""
    return sum(stage.seconds for stage in view.stages.values())


def scaled(parameters: int, measured: Mapping[int, float]) -> float | None:
    """Seconds for a model of so many parameters, from those `measured` of others (by parameters): in proportion to the one nearest
    in size; None without any."""
    if not measured:
        return None
    near = min(measured, key=lambda one: abs(math.log(one / parameters)))
    return measured[near] * parameters / near
