"""Recovery: the stage that fine-tunes the cut model towards the dense one, when asked for.

It learns from answers that were written for it and that nothing else has read, or, where there are none, from the train
lines. The dense model reads these answers beforehand, while it is still whole; its targets stay in
recovery_dense.safetensors. Leaves recovered.safetensors, the cut model's merged weights. Its checkpoint holds the adapters
and the optimiser's moments, so that it resumes bit for bit.
"""

from collections.abc import Generator
from dataclasses import replace

import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.base.events import Event, Stage, Step
from engine.evaluation.fidelity import measure
from engine.models.packing import answer_states, pack
from engine.pruning import masks, recovery
from engine.stages.further_answers import recovery_lines
from engine.stages.mask import Lesson, kept_targets, measured, rows_of_step, save_tensors, targets_of
from engine.stages.workbench import Workbench

DENSE = "recovery_dense.safetensors"


def read_dense_again(bench: Workbench) -> Generator[Event, None, None]:
    """One pass of the dense model over the answers that the fine-tune learns from."""
    examples, saved = bench.encode(recovery_lines(bench)[1]), bench.path(DENSE)
    if saved.exists() or not examples or bench.job.recipe.loss != "kl":
        return
    rows = pack(examples, bench.job.recipe.row_tokens)
    yield Stage("read the dense model", len(rows))
    found: dict[str, Tensor] = {}
    for number, (row, hidden) in enumerate(zip(rows, answer_states(bench.model, rows), strict=True), start=1):
        found |= targets_of(bench, row, hidden)
        yield Step("read the dense model", number, len(rows))
    save_tensors(saved, found)


def _lesson(bench: Workbench, lesson: Lesson) -> Lesson:
    """The lesson with these answers in the place of the train lines, where there are any."""
    examples, saved = bench.encode(recovery_lines(bench)[1]), bench.path(DENSE)
    if not examples:
        return lesson
    targets = kept_targets(load_file(saved), len(examples)) if saved.exists() else None
    return replace(lesson, train=examples, targets=targets, prefix=bench.prefix(examples))


def recover(bench: Workbench, lesson: Lesson) -> Generator[Event, None, None]:
    """Fine-tune the cut model on the bench by LoRA; the weights with the lowest validation KL replace its own."""
    recipe, target = bench.job.recipe, bench.path("recovered.safetensors")
    if target.exists():
        yield Stage("recover", reused=True)
        bench.model.load_state_dict({name: value.to(bench.dtype) for name, value in load_file(target).items()}, strict=False)
        bench.model.tie_weights()
        return
    yield Stage("recover", recipe.recovery_steps)
    lesson = _lesson(bench, lesson)
    adapted = recovery.attach_adapter(bench.model, recipe.recovery_rank, recipe.seed)
    optimizer = recovery.make_optimizer(adapted)
    parameters = recovery.adapter_parameters(adapted)
    run = _Run(bench, parameters, optimizer)
    if run.step == 0:
        yield from _check(run, adapted, lesson)
    while run.step < recipe.recovery_steps:
        recovery.set_rate(optimizer, recovery.rate_at(run.step, recipe.recovery_steps, recipe.recovery_rate))
        chosen = masks.order_of_lines(len(lesson.train), recipe.recovery_step_lines, run.step, recipe.seed + 1)
        rows, targets = rows_of_step(lesson, chosen, recipe.row_tokens)
        loss = recovery.recovery_step(adapted, optimizer, rows, targets, recipe.checkpointing)
        run.step += 1
        if run.step % (2 * recipe.validate_every) == 0 or run.step == recipe.recovery_steps:
            yield from _check(run, adapted, lesson)
        run.store()
        yield Step("recover", run.step, recipe.recovery_steps, {"loss": loss})
    run.use_best()
    bench.model = recovery.merge(adapted)
    save_tensors(target, _weights(bench))


def _check(run: "_Run", adapted: object, lesson: Lesson) -> Generator[Event, None, None]:
    reading = measure(run.bench.model, lesson.validation, lesson.validation_dense)
    if reading.kl < run.best_kl:
        run.best_kl = reading.kl
        run.best = [parameter.detach().clone() for parameter in run.parameters]
    yield measured(f"recovery, step {run.step}", "validation", reading)


def _weights(bench: Workbench) -> dict[str, Tensor]:
    """The model's weights without tied copies."""
    tied = set(getattr(bench.model, "_tied_weights_keys", None) or []) if bench.model.config.tie_word_embeddings else set()
    return {name: value for name, value in bench.model.state_dict().items() if name not in tied}


class _Run:
    """The adapters, the optimiser's moments and the best adapters so far, kept on disk after every step."""

    def __init__(self, bench: Workbench, parameters: list[torch.nn.Parameter], optimizer: torch.optim.AdamW) -> None:
        self.bench, self.parameters, self.optimizer = bench, parameters, optimizer
        self.step, self.best_kl = 0, float("inf")
        self.best = [parameter.detach().clone() for parameter in parameters]
        self.file = bench.path("recovery.safetensors")
        found = load_file(self.file) if self.file.exists() else {}
        if found and "first.0" not in found:  # version 0.1 kept the moments under other names: that run begins again
            self._load(found)

    def _load(self, found: dict[str, Tensor]) -> None:
        self.step, self.best_kl = int(found["step"]), float(found["best_kl"])
        masks.restore_optimizer(self.optimizer, found)
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters):
                parameter.copy_(found[f"value.{index}"])
                self.best[index] = found[f"best.{index}"].to(parameter.device)

    def store(self) -> None:
        """Write the checkpoint, whole or not at all."""
        found = {"step": torch.tensor(self.step), "best_kl": torch.tensor(self.best_kl, dtype=torch.float64),
                 **masks.optimizer_tensors(self.optimizer)}
        for index, parameter in enumerate(self.parameters):
            found |= {f"value.{index}": parameter.detach(), f"best.{index}": self.best[index]}
        save_tensors(self.file, found)

    def use_best(self) -> None:
        """Put the best adapters in place."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters, self.best, strict=True):
                parameter.copy_(value)
