"""Every knob of the main job, documented with its unit and checked when it is set.

The paper meant throughout is Persona-Pruner (ICML 2026, arXiv 2606.14695).
This module knows no model: whether a sparsity leaves a whole multiple of
channels is decided in `channels_kept`, with the model's own intermediate size.
"""

import dataclasses
from typing import Any, Literal

from engine.base.errors import UserError

Loss = Literal["kl", "ce"]
Start = Literal["wanda", "random"]
LoadIn = Literal["16bit", "8bit", "4bit"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The knobs of one pruning job. Defaults are those of the preset `standard`."""

    # What is removed
    sparsity: float = 0.25  # share of each layer's FFN channels removed, 0 to 0.9
    multiple: int = 128  # the kept intermediate size is a multiple of this many channels
    seed: int = 0  # of sampling, of the order of lines, of random baselines

    # Stage 1: lines
    candidates: int = 640  # player lines that come into question, evenly from all categories
    references: int = 3  # other characters that the persona sensitivity compares with (paper: all others)
    keep_share: float = 1.0  # share of the candidates kept, by falling persona sensitivity (paper: 0.4; 1: none is scored)
    self_asked: int = 128  # further questions that the model makes up behind the persona prompt
    validation_lines: int = 24  # held-out lines that choose (which mask, whether to refit); never learnt from
    test_lines: int = 48  # held-out lines that report; they never choose
    answer_tokens: int = 64  # longest answer sampled, in tokens
    temperature: float = 0.8  # of sampled answers
    top_p: float = 0.95  # of sampled answers, share of probability kept
    batch_lines: int = 96  # answers sampled at once; 64 take two cores almost as long
    teacher_concurrency: int = 4  # requests under way at once, with a teacher server

    # Stage 2: mask
    loss: Loss = "kl"  # "kl": to the dense model's cached logits; "ce": on the answers (the paper's)
    teacher_top: int = 64  # logits cached a token; the rest of the vocabulary is one bucket
    start: Start = "wanda"  # scores before the first step: rank-normalised importance, or random
    mask_from: float = 0.4  # sparsity from which the mask is learned; below it the refitted start goes on: what learning wins
    # there is within the noise (docs/recipe.md), and more text wins more for the same time
    steps: int = 30  # optimiser steps
    step_lines: int = 16  # lines a step
    learning_rate: float = 0.01  # AdamW, on scores that are ranks from -1 to 1 in every layer, whatever the model
    ramp: float = 0.0  # share of the steps over which the sparsity grows, cubic (0: full from the start)
    validate_every: int = 5  # steps between readings on the validation lines
    row_tokens: int = 1536  # longest packed row, in tokens
    checkpointing: bool = True  # recompute layers in the backward pass where memory is short: a tenth of it, a third more time
    load_in: LoadIn = "16bit"  # weights of the frozen base while learning; the cut is always made in 16 bit

    # After the mask
    least_squares: bool = True  # refit W_down on the kept channels
    refit_within: float = 1.05  # the learned mask is refitted unless it reads worse than the start by more than this factor
    further_answers: int = 3  # answers more to each train line, read along while repairing
    neutral_lines: int = 256  # unanswered player lines read along with their neutral answers while repairing
    resampled_copies: int = 1  # copies of all these lines with their tokens drawn anew, for tuning layers (else for the refit)
    layer_epochs: float = 4.0  # passes over these tokens in which each layer's kept channels are tuned (0: none)
    layer_rate: float = 0.01  # Adam, at the start of each layer, as a share of its weights' root mean square; it falls to 0
    recover: bool = False  # tune the layers again on answers written for it, and fine-tune the cut model by LoRA with the same KL
    recovery_answers: int = 5  # times as many answers as there are train lines, written for tuning again and for the fine-tune
    recovery_epochs: float = 2.0  # passes over the first of them
    recovery_steps: int = 60  # optimiser steps of the fine-tune
    recovery_step_lines: int = 16  # lines a step
    recovery_rate: float = 1e-3  # AdamW, of the fine-tune, as a share of the weights' root mean square
    recovery_rank: int = 16  # LoRA rank

    def __post_init__(self) -> None:
        if not 0.0 <= self.sparsity <= 0.9:
            raise UserError(f"The sparsity must lie between 0 and 0.9; {self.sparsity:g} does not.",
                            "0.25 removes a quarter of every layer's FFN channels.")
        if not 0 <= self.seed < 2**32:
            raise UserError(f"The seed must lie between 0 and {2**32 - 1}; {self.seed} does not.")
        if self.multiple < 1:
            raise UserError(f"The multiple must be at least 1; {self.multiple} is not.")
        whole = ("candidates", "references", "validation_lines", "test_lines", "answer_tokens", "batch_lines",
                 "steps", "step_lines", "validate_every", "teacher_top", "teacher_concurrency", "row_tokens",
                 "recovery_steps", "recovery_step_lines", "recovery_rank")
        for name in whole:
            if getattr(self, name) < 1:
                raise UserError(f"The setting {name} must be at least 1; {getattr(self, name)} is not.")
        for name in ("further_answers", "neutral_lines", "resampled_copies", "recovery_answers"):
            if getattr(self, name) < 0:
                raise UserError(f"The setting {name} must not be negative; {getattr(self, name)} is.")
        for name in ("layer_epochs", "recovery_epochs"):
            if getattr(self, name) < 0:
                raise UserError(f"The setting {name} must not be negative; {getattr(self, name):g} is.")
        if not self.refit_within > 0:
            raise UserError(f"The setting refit_within must be above 0; {self.refit_within:g} is not.")
        for name in ("keep_share", "top_p"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise UserError(f"The setting {name} must lie above 0 and at most at 1; {getattr(self, name):g} does not.")
        for name in ("learning_rate", "layer_rate", "recovery_rate"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise UserError(f"The setting {name} must be a number from 0 on; {getattr(self, name)} is not.")
        if not 0.0 <= self.mask_from <= 1.0:
            raise UserError(f"The setting mask_from must lie between 0 and 1; {self.mask_from:g} does not.")
        if not 0.0 <= self.ramp <= 1.0:
            raise UserError(f"The setting ramp must lie between 0 and 1; {self.ramp:g} does not.")

    def to_dict(self) -> dict[str, Any]:
        """All knobs by name, as plain JSON values."""
        return dataclasses.asdict(self)


PRESETS: dict[str, dict[str, Any]] = {
    # Sized for two laptop cores and about ten minutes on the starter model.
    "quick": {"candidates": 160, "references": 2, "self_asked": 32, "steps": 12, "step_lines": 8,
              "validation_lines": 16, "test_lines": 40, "answer_tokens": 40, "layer_epochs": 1.25,
              "recovery_answers": 12, "recovery_steps": 40},
    "standard": {},
    # The paper's objective: plain straight-through top-k and cross entropy, nothing repaired, no lines of the model's own.
    "paper": {"candidates": 640, "references": 9, "keep_share": 0.4, "self_asked": 0, "loss": "ce", "start": "random", "steps": 200,
              "learning_rate": 0.05, "mask_from": 0.0, "least_squares": False},
}


def make_recipe(preset: str = "standard", **changes: Any) -> Recipe:
    """The recipe of a preset with some knobs changed. Raises UserError for an unknown preset or a bad value."""
    if preset not in PRESETS:
        raise UserError(f"There is no preset {preset!r}.", f"Choose one of: {', '.join(PRESETS)}.")
    return Recipe(**{**PRESETS[preset], **changes})


def channels_kept(intermediate_size: int, sparsity: float, multiple: int) -> int:
    """k, the channels that each layer keeps: (1 - sparsity) of the intermediate size, at the nearest multiple.

    A sparsity of 0 keeps all. A tie goes to the larger k. Raises UserError where no multiple lies between one
    and the intermediate size, or where rounding would leave nothing to remove.
    """
    if sparsity == 0:
        return intermediate_size
    target = (1.0 - sparsity) * intermediate_size
    k = int(target / multiple + 0.5) * multiple
    largest = (intermediate_size - 1) // multiple * multiple
    if k == 0 or largest == 0:
        raise UserError(f"At a sparsity of {sparsity:g} and a multiple of {multiple}, nothing is left of the model's "
                        f"{intermediate_size} channels a layer.", "Choose a smaller --multiple or a lower --sparsity.")
    if k > largest:
        raise UserError(f"At a sparsity of {sparsity:g} and a multiple of {multiple}, all {intermediate_size} channels "
                        "of a layer would stay.", "Choose a smaller --multiple or a higher --sparsity.")
    return k
