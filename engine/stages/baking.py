"""Baking (context distillation): what the card says goes into the weights, and the model's prompt becomes a few tokens.

A LoRA adapter on the model, cut or whole, learns to answer with the short prompt of a baked card as the dense model does with
the whole one (Askell et al. 2021, arXiv 2112.00861; Bhargava et al. 2024, arXiv 2409.13697): to all lines and extra samples of
the job, in a conversation of two turns for each line, and later after the student's own answers. Then it is merged. What the
lorebook adds to a single line stays in the prompt, on both sides. Validation lines and conversations choose the best step.

Leaves talks.jsonl, bake_dense.safetensors (the dense model's targets and states), baked.safetensors (the adapter, in 16 bit), and
the folder adapter/ that goes into the export.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.base.errors import UserError
from engine.base.events import Stage, Step, Stream
from engine.base.families import FAMILIES
from engine.base.files import slug
from engine.base.ids import ReadingId, StageId
from engine.base.job import Recipe
from engine.calibration.conversations import Talk, answer_talks, encode_prompt, encode_talk, follow_ups, read_talks, write_talks
from engine.calibration.lines import Journal, read_lines
from engine.calibration.rewriting import Voice
from engine.cards.baked import SHORT_TOKENS, bake
from engine.cards.prompt import render_system_prompt
from engine.evaluation.fidelity import Reading, dense_states, measure
from engine.export.adapters import round_adapter, write_adapter, write_gguf_adapter
from engine.models.packing import Example, Row, answer_states, pack
from engine.pruning.adapter import AdapterSettings, attach_adapter, merge, train_adapter
from engine.pruning.masks import Lessons
from engine.stages.context import JobContext
from engine.stages.lines import answer_files
from engine.stages.mask import DistillationData, kept_targets, targets_of
from engine.stages.own_answers import loaded_beside, own_lessons, without_adapter
from engine.stages.tuning import as_events
from engine.stages.work_folder import TensorFile, save_tensors

TALKS = "talks.jsonl"
ADAPTER = "adapter"  # in the work folder and in the export
_DENSE = "bake_dense.safetensors"


@dataclass(frozen=True)
class Held:
    """Held-out examples with the short prompt, and the dense model's final states with the whole one."""

    rows: list[Row]
    dense: list[Tensor]

    def read(self, model: Any) -> Reading:
        """How close a model stays."""
        return measure(model, self.rows, self.dense)


def short_voice(ctx: JobContext) -> Voice:
    """The character as the baked model has it. Raises UserError where its prompt would not be short."""
    card = bake(ctx.job.card)
    voice = Voice.of(card, ctx.tokenizer)
    size = voice.setting.count(render_system_prompt(card))
    if size > SHORT_TOKENS:
        raise UserError(f"The name of this character is too long to bake it: its short prompt has {size} tokens instead of at most "
                        f"{SHORT_TOKENS}.", "Give the card a short nickname.")
    return voice


def require_room(ctx: JobContext) -> None:
    """Raise UserError for a card whose prompt, with an answer, is longer than the model's context."""
    window = int(getattr(ctx.model.config, "max_position_embeddings", None) or 0)
    size = len(encode_prompt(ctx.tokenizer, ctx.voice, ("",))) + ctx.job.recipe.answer_tokens
    if window and size > window:
        raise UserError(f"The card is too long for this model: with an answer it has {size:,} tokens, the model reads {window:,}.",
                        "Shorten the card, or choose a model with a longer context.")


def make_talks(ctx: JobContext) -> Stream[None]:
    """Leave talks.jsonl: each line goes on with another one's question, answered by the dense model."""
    target = ctx.path(TALKS)
    if target.exists():
        yield Stage(StageId.TALKS, reused=True)
        return
    train, choosing, reporting, shared = ctx.split_lines()
    groups = [train, choosing] if shared else [train, choosing, reporting]
    asked = [said for lines in groups for said in follow_ups(lines, ctx.job.recipe.seed)]
    yield Stage(StageId.TALKS, len(asked))
    journal = Journal(ctx.path("answers.talks.jsonl"))
    talks = yield from answer_talks(ctx.model, ctx.tokenizer, ctx.voice, asked, ctx.job.recipe, journal,
                                    lambda done: Step(StageId.TALKS, done, len(asked)))
    write_talks(target, talks)


def _talks(ctx: JobContext) -> tuple[list[Talk], list[Talk], list[Talk]]:
    """Train, validation and test conversations; the last two are the same for want of others."""
    found = read_talks(ctx.path(TALKS))
    train, choosing, reporting = ([talk for talk in found if talk.split == split] for split in ("train", "validation", "test"))
    return train, choosing or reporting, reporting or choosing


def _lesson_talks(ctx: JobContext) -> list[Talk]:
    """What is learned beside the train lines: all extra samples, and the train conversations."""
    return [Talk.of(line) for file in answer_files(ctx) for line in read_lines(file)] + _talks(ctx)[0]


def _encoded(ctx: JobContext, voice: Voice, talks: Sequence[Talk]) -> list[Example]:
    return [encode_talk(ctx.tokenizer, voice, talk) for talk in talks]


def read_dense_for_baking(ctx: JobContext) -> Stream[None]:
    """One pass of the dense model, with the whole card, over all that baking reads and that was not read yet."""
    saved = ctx.path(_DENSE)
    if saved.exists():
        return
    _, choosing, reporting = _talks(ctx)
    rows = pack(_encoded(ctx, ctx.voice, _lesson_talks(ctx)), ctx.job.recipe.row_tokens)
    yield Stage(StageId.DENSE, len(rows) + 1)
    found: dict[str, Tensor] = {}
    for number, (row, hidden) in enumerate(zip(rows, answer_states(ctx.model, rows), strict=True), start=1):
        found |= targets_of(ctx, row, hidden)
        yield Step(StageId.DENSE, number, len(rows) + 1)
    for name, talks in (("validation", choosing), ("test", reporting)):
        rows = pack(_encoded(ctx, ctx.voice, talks), ctx.job.recipe.row_tokens)
        states = _of_examples(rows, dense_states(ctx.model, rows))
        found |= {f"{name}.{number}": states[number].float() for number in range(len(talks))}
    save_tensors(saved, found)


def _of_examples(rows: Sequence[Row], states: Sequence[Tensor]) -> dict[int, Tensor]:
    """The states of each example, by its index, from those of packed rows."""
    return {index: found[row.owner == index] for row, found in zip(rows, states, strict=True) for index in row.members}


def _held(examples: Sequence[Example], states: dict[int, Tensor], row_tokens: int) -> Held:
    rows = pack(examples, row_tokens)
    return Held(rows, [torch.cat([states[index] for index in row.members]) for row in rows])


def held_lines(ctx: JobContext, voice: Voice, rows: Sequence[Row], dense: Sequence[Tensor], split: int) -> Held:
    """Validation (1) or test (2) lines with the short prompt, from the dense states of their rows with the whole one."""
    talks = [Talk.of(line) for line in ctx.split_lines()[:3][split]]
    return _held(_encoded(ctx, voice, talks), _of_examples(rows, dense), ctx.job.recipe.row_tokens)


def held_talks(ctx: JobContext, voice: Voice, split: int) -> Held:
    """Validation (1) or test (2) conversations with the short prompt."""
    talks, found = _talks(ctx)[split], load_file(ctx.path(_DENSE))
    name = ("validation", "test")[split - 1]
    return _held(_encoded(ctx, voice, talks), {number: found[f"{name}.{number}"] for number in range(len(talks))},
                 ctx.job.recipe.row_tokens)


def short_lines(ctx: JobContext) -> list[Example]:
    """The train lines with the short prompt."""
    return _encoded(ctx, short_voice(ctx), [Talk.of(line) for line in ctx.split_lines()[0]])


def adapter_settings(recipe: Recipe) -> AdapterSettings:
    """How an adapter learns that stays beside its model: a baked one, or that of a cast's character."""
    return AdapterSettings(recipe.bake_rank, recipe.bake_steps, recipe.bake_step_lines, recipe.bake_rate, recipe.seed,
                           recipe.row_tokens, max(1, recipe.bake_steps // 20), recipe.checkpointing,
                           own_from=recipe.bake_own_from)


def learn_adapter(ctx: JobContext, data: DistillationData) -> Stream[Any]:
    """The model of `ctx` with the adapter of the best step, rounded to the 16 bit in which it is kept."""
    recipe, saved = ctx.job.recipe, ctx.path("baked.safetensors")
    if saved.exists():
        yield Stage(StageId.BAKE, reused=True)
        adapted = attach_adapter(ctx.model, recipe.bake_rank, recipe.seed)
        _put(adapted, load_file(saved))
        return adapted
    yield Stage(StageId.BAKE, recipe.bake_steps)
    settings = adapter_settings(recipe)
    voice = short_voice(ctx)
    lines, talks = [Talk.of(line) for line in ctx.split_lines()[0]], _lesson_talks(ctx)
    targets = [*(data.targets or []), *kept_targets(load_file(ctx.path(_DENSE)), len(talks))]
    lessons = Lessons(_encoded(ctx, voice, [*lines, *talks]), targets)
    held = [held_lines(ctx, voice, data.validation, data.validation_dense, 1), held_talks(ctx, voice, 1)]
    both = Held([row for one in held for row in one.rows], [states for one in held for states in one.dense])
    contexts = [(encode_prompt(ctx.tokenizer, voice, talk.said), encode_prompt(ctx.tokenizer, ctx.voice, talk.said))
                for talk in [*lines, *_talks(ctx)[0]]] if recipe.bake_own_from < 1 else []
    dense = (lambda _adapted: loaded_beside(ctx)) if recipe.sparsity else without_adapter
    own = own_lessons(ctx, "bake_own", StageId.BAKE, contexts, settings, dense) if contexts else None
    training = train_adapter(ctx.model, lessons, lambda: both.read(ctx.model), settings,
                             TensorFile(ctx.path("baking.safetensors")), own)
    adapted = yield from as_events(training, StageId.BAKE, ReadingId.BAKE_STEP, recipe.bake_steps)
    round_adapter(adapted)
    save_tensors(saved, {name: part.half() for name, part in _parts(adapted).items()})
    return adapted


def _parts(adapted: Any) -> dict[str, Tensor]:
    return {name: part.data for name, part in adapted.named_parameters() if ".lora_" in name}


def _put(adapted: Any, found: dict[str, Tensor]) -> None:
    for name, part in _parts(adapted).items():
        part.copy_(found[name])


def bake_model(ctx: JobContext, data: DistillationData) -> Stream[None]:
    """Learn the adapter, leave it in adapter/ as peft's folder and as GGUF, and merge it into the model of `ctx`."""
    adapted = yield from learn_adapter(ctx, data)
    folder: Path = ctx.path(ADAPTER)
    assert ctx.source is not None
    size = write_adapter(adapted, folder, str(ctx.source.config.get("_name_or_path") or Path(ctx.source.name).name))
    if FAMILIES[ctx.source.config["model_type"]].gguf:
        write_gguf_adapter(folder, ctx.source, folder / f"{slug(ctx.job.card.char)}.gguf")
    whole, short = (len(encode_prompt(ctx.tokenizer, voice, ("",))) for voice in (ctx.voice, short_voice(ctx)))
    ctx.notes[StageId.BAKE] = {"prompt_tokens": short, "whole_prompt_tokens": whole, "adapter_bytes": size,
                               "lessons": len(ctx.split_lines()[0]) + len(_lesson_talks(ctx)), "talks": len(_talks(ctx)[0])}
    ctx.model = merge(adapted)

