"""On-policy lessons: a student answers, and the dense model reads what it said, under its own prompt.

A student errs where its own words lead it, and only there can it learn better (GKD, arXiv 2306.13649). The answers are drawn
once, from the student as it is then. Leaves NAME.jsonl, the answers as token ids, and NAME.safetensors, the dense model's targets.
"""

import random
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import cycle, islice
from typing import Any

import torch
from safetensors.torch import load_file

from engine.base.events import Event, Step
from engine.base.ids import StageId
from engine.calibration.conversations import own_answers
from engine.calibration.lines import Journal
from engine.models.loading import load_model
from engine.models.packing import Example, answer_states, pack
from engine.pruning.adapter import AdapterSettings, answering_copy
from engine.pruning.masks import Lessons
from engine.stages.context import JobContext, round_to
from engine.stages.mask import kept_targets, targets_of
from engine.stages.work_folder import save_tensors

Prompts = tuple[tuple[int, ...], tuple[int, ...]]  # the student's and the dense model's, of one conversation, as token ids
Dense = Callable[[Any], AbstractContextManager[Any]]  # from the adapted student to the dense model


@contextmanager
def loaded_beside(ctx: JobContext) -> Iterator[Any]:
    """The dense model, once more, beside the cut one."""
    assert ctx.source is not None
    model = load_model(ctx.source, ctx.dtype, "16bit")
    round_to(model, ctx.weight_dtype)
    yield model


@contextmanager
def without_adapter(adapted: Any) -> Iterator[Any]:
    """The dense model, where it is the student without its adapter."""
    with adapted.disable_adapter():
        yield adapted.get_base_model()


def own_lessons(ctx: JobContext, name: str, stage: StageId, contexts: Sequence[Prompts], settings: AdapterSettings,
                dense: Dense, subject: str = "") -> Callable[[Any], Generator[Event, None, Lessons]]:
    """What train_adapter calls for lessons on the student's own answers. Each context is used as often as there are lines for."""
    order = list(contexts)
    random.Random(ctx.job.recipe.seed).shuffle(order)
    chosen = list(islice(cycle(order), settings.own_lines)) if order else []

    def own(adapted: Any) -> Generator[Event, None, Lessons]:
        beat = lambda done: Step(stage, settings.own_step, settings.steps, {"own_answers": done}, subject=subject)
        said = yield from own_answers(lambda: answering_copy(adapted), ctx.tokenizer, [short for short, _ in chosen],
                                      ctx.job.recipe, Journal(ctx.path(f"{name}.jsonl")), beat)
        pairs = [(Example(short, answer), Example(whole, answer))
                 for (short, whole), answer in zip(chosen, said, strict=True) if answer]
        saved = ctx.path(f"{name}.safetensors")
        if not saved.exists() and pairs:
            found: dict[str, torch.Tensor] = {}
            rows = pack([whole for _, whole in pairs], ctx.job.recipe.row_tokens)
            with dense(adapted) as model:
                for row, hidden in zip(rows, answer_states(model, rows), strict=True):
                    found |= targets_of(ctx, row, hidden)
                    yield beat(len(pairs))
            save_tensors(saved, found)
        return Lessons([short for short, _ in pairs], kept_targets(load_file(saved), len(pairs)) if pairs else [])

    return own
