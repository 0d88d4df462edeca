"""The characters of a cast on their one cut model: what each of them reads there, and what each learns beside it, a LoRA adapter.

An adapter learns the dense model's distributions under the character's own prompt: on its train lines and, with --recover, on
answers that nothing has read, else on the extra samples; half of every step's lines are what it answers itself. The dense model
reads the lines beforehand, while it is still whole; its targets stay in the character's work folder. With --bake the adapter is
the baked one, for the short prompt (baking.py).

Leaves in the cast's work folder, for each character, own-ID.jsonl and own-ID.safetensors (its own answers), adapter-ID.safetensors
(peft's tensors, rounded to what is written) and, for all, characters.json: each one's readings on its own test lines, by reading.
"""

from dataclasses import replace
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from engine.base.events import Stage, Stream
from engine.base.files import read_json, write_json
from engine.base.ids import ReadingId, StageId
from engine.calibration.lines import Line
from engine.cards.baked import bake
from engine.evaluation.fidelity import Reading, measure
from engine.export.adapters import round_adapter, write_adapter
from engine.export.cast import CastCharacter
from engine.pruning.adapter import attach_adapter, train_adapter
from engine.pruning.masks import Lessons
from engine.stages.baking import Held, adapter_settings, held_lines, learn_adapter, short_voice
from engine.stages.context import JobContext, Member
from engine.stages.finish import test_rows
from engine.stages.lines import extra_lines, recovery_lines
from engine.stages.mask import DistillationData, kept_targets, measured
from engine.stages.own_answers import loaded_beside, own_lessons
from engine.stages.tuning import as_events, read_answers
from engine.stages.work_folder import TensorFile, save_tensors

ADAPTERS = "adapters"  # peft's folders, written again each time from what was learned
_DENSE = "adapter_dense.safetensors"
_READINGS = "characters.json"


def read_for_adapters(ctx: JobContext) -> Stream[None]:
    """One pass of the dense model over the answers that each adapter reads beside the train lines."""
    if ctx.job.adapters and not ctx.job.recipe.bake:
        for part in ctx.parts:
            yield from read_answers(part, part.encode(_more_lines(part)), _DENSE)


def _more_lines(part: JobContext) -> list[Line]:
    return recovery_lines(part)[1] if part.job.recipe.recover else extra_lines(part)


def finish_characters(ctx: JobContext, data: DistillationData, dense: list[Tensor]) -> Stream[list[CastCharacter]]:
    """Measure each character on the cut model in `ctx`, and with its adapter. `dense`: the dense states of all test rows."""
    found: list[CastCharacter] = []
    if not ctx.job.members:
        return found
    saved = ctx.path(_READINGS)
    known: dict[str, dict[str, Any]] = read_json(saved) if saved.exists() else {}
    begin = 0
    for member, part, own, rows in zip(ctx.job.members, ctx.parts, data.parts, test_rows(ctx), strict=True):
        states, begin = dense[begin: begin + len(rows)], begin + len(rows)
        readings = known.setdefault(member.id, {})
        if ReadingId.SHARED not in readings:
            readings[ReadingId.SHARED] = vars(measure(ctx.model, rows, states))
            write_json(saved, known)
        yield measured(ReadingId.SHARED, "test", Reading(**readings[ReadingId.SHARED]), subject=member.id)
        adapter, beside, card = None, {}, member.job.card
        if ctx.job.adapters:
            adapter, card = ctx.path(ADAPTERS) / member.id, bake(card) if ctx.job.recipe.bake else card
            model = yield from _learn(ctx, member, part, own)
            if ReadingId.ADAPTED not in readings:
                held = held_lines(part, short_voice(part), rows, states, 2) if ctx.job.recipe.bake else Held(rows, states)
                readings[ReadingId.ADAPTED] = vars(held.read(ctx.model))
                write_json(saved, known)
            beside["adapter"] = {"rank": model.peft_config["default"].r, "bytes": write_adapter(model, adapter, ctx.job.card.name)}
            model.unload()
            yield measured(ReadingId.ADAPTED, "test", Reading(**readings[ReadingId.ADAPTED]), subject=member.id)
        train, choosing, reporting, _ = part.split_lines()
        lines = {"train": len(train), "validation": len(choosing), "test": len(reporting)}
        found.append(CastCharacter(member.id, card.raw, {"lines": lines, "readings": readings, **beside}, adapter))
    return found


def _learn(ctx: JobContext, member: Member, part: JobContext, own: DistillationData) -> Stream[Any]:
    """The cut model with the character's adapter, learned now or kept from an earlier process."""
    saved, recipe = ctx.path(f"adapter-{member.id}.safetensors"), ctx.job.recipe
    if recipe.bake:
        return (yield from learn_adapter(part, own))
    if saved.exists():
        yield Stage(StageId.ADAPT, reused=True, subject=member.id)
        return _attach(ctx.model, recipe.bake_rank, load_file(saved))
    # The model is near already, so it takes recovery's rate; its layers know the lines by heart, so it learns from its own answers.
    settings, lessons = replace(adapter_settings(recipe), rate=recipe.recovery_rate, own_from=0.0), _lessons(part, own)
    yield Stage(StageId.ADAPT, settings.steps, subject=member.id)
    asked = [(example.prompt, example.prompt) for example in own.train]
    said = own_lessons(ctx, f"own-{member.id}", StageId.ADAPT, asked, settings, lambda _adapted: loaded_beside(ctx),
                       member.id) if lessons.targets is not None else None
    training = train_adapter(ctx.model, lessons, lambda: measure(ctx.model, own.validation, own.validation_dense),
                             settings, TensorFile(ctx.path(f"learning-{member.id}.safetensors")), said)
    adapted = yield from as_events(training, StageId.ADAPT, ReadingId.RECOVERY_STEP, settings.steps, member.id)
    round_adapter(adapted)
    save_tensors(saved, _state(adapted))
    return adapted


def _lessons(part: JobContext, own: DistillationData) -> Lessons:
    examples, file = part.encode(_more_lines(part)), part.path(_DENSE)
    if not examples:
        return own.lessons
    return own.lessons + Lessons(examples, kept_targets(load_file(file), len(examples)) if file.exists() else None)


def _state(model: Any) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    return dict(get_peft_model_state_dict(model))


def _attach(model: Any, rank: int, found: dict[str, Tensor]) -> Any:
    from peft import set_peft_model_state_dict

    attached = attach_adapter(model, rank, 0)
    set_peft_model_state_dict(attached, found)
    return attached
