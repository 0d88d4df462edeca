"""LoRA adapters that learn the dense model's distributions: recovery merges one, baking and casts keep one beside the model.

    adapted = yield from train_adapter(student, lessons, validate, settings, checkpoint, own)

The lessons are examples with the dense model's targets for their answers. Student and dense model may have had different prompts
before these answers: with a short one for the student this is context distillation (Askell et al. 2021, arXiv 2112.00861). LoRA
(Hu et al. 2021, arXiv 2106.09685) by the library peft. With `own`, half of the later steps' lines are the student's own answers,
read by the dense model: on-policy distillation (GKD, Agarwal et al. 2023, arXiv 2306.13649), drawn once instead of at every step.
"""

import copy
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from engine.base.events import Event
from engine.models.ffn import decoder
from engine.models.loading import quieten_bitsandbytes
from engine.models.packing import Row
from engine.pruning import masks
from engine.pruning.masks import Lessons, Target, step_gradient


@dataclass(frozen=True)
class AdapterSettings:
    """How to learn. `rate`: AdamW's, as a share of the weights' root mean square; `final`: the share of it that is left at the end.

    `own_from`: the share of the steps after which the student's own answers are read along, where there are any.
    """

    rank: int
    steps: int
    step_lines: int
    rate: float
    seed: int
    row_tokens: int
    validate_every: int
    checkpointing: bool = True
    final: float = 0.1
    own_from: float = 0.5

    @property
    def own_step(self) -> int:
        """The first step that reads the student's own answers."""
        return min(self.steps - 1, round(self.own_from * self.steps))

    @property
    def own_lines(self) -> int:
        """How many of its own answers the later steps have time for, each read twice: to write one takes longer than to read it."""
        return -(-(self.steps - self.own_step) * (self.step_lines // 2) // 2)


class Judged(Protocol):
    """A reading of the validation lines; the adapter with the lowest KL is taken."""

    @property
    def kl(self) -> float: ...


class Checkpoint(Protocol):
    """Where a run is kept, so that it goes on with the same bits after any stop."""

    def load(self) -> Mapping[str, Tensor]:
        """What was stored last; {} for nothing."""

    def store(self, tensors: dict[str, Tensor]) -> None:
        """Write it, whole or not at all."""


Read = TypeVar("Read", bound=Judged)


@dataclass(frozen=True)
class Progress:
    """A step is done (0: none yet): its mean loss in nats a token, and the validation reading where one was made."""

    step: int
    loss: float | None
    reading: Any = None


Own = Callable[[Any], Generator[Event, None, Lessons]]


def train_adapter(model: nn.Module, lessons: Lessons, validate: Callable[[], Judged], settings: AdapterSettings,
                  checkpoint: Checkpoint, own: Own | None = None) -> Generator[Progress | Event, None, Any]:
    """The model with trained adapters, those of the lowest validation KL, as peft's model; its layers are changed in place.

    `lessons`: what the student reads, under its own prompt. `validate()`: reads the held-out lines with the model as it is now.
    `own(adapted)`: called once, on the way, for lessons on answers of its own (`answering_copy` samples faster); what it yields is
    passed on. It must give the same lessons when it is called again after a stop. Yields Progress before the first step and after
    every other; it is kept in `checkpoint` before, so that a stopped run goes on with the same bits.
    """
    adapted = attach_adapter(model, settings.rank, settings.seed)
    run = _Run(adapted, checkpoint)
    later: Lessons | None = None
    if run.step == 0:
        yield Progress(0, None, run.judge(validate()))
    while run.step < settings.steps:
        if own and later is None and run.step >= settings.own_step:
            later = yield from own(adapted)
        set_rate(run.optimizer, rate_at(run.step, settings.steps, settings.rate, settings.final))
        rows, targets = _lines_of(lessons, later, run.step, settings)
        loss = adapter_step(adapted, run.optimizer, rows, targets, settings.checkpointing)
        run.step += 1
        reading = None
        if run.step % settings.validate_every == 0 or run.step == settings.steps:
            reading = run.judge(validate())
        run.store()
        yield Progress(run.step, loss, reading)
    run.use_best()
    return adapted


def _lines_of(lessons: Lessons, own: Lessons | None, step: int, settings: AdapterSettings) -> tuple[list[Row], list[Target] | None]:
    """The rows of a step: seeded passes over the lessons; where there are own answers, half of the lines are those."""
    size, seed = settings.step_lines, settings.seed + 1
    if own is None or not own.examples:
        return lessons.step(masks.order_of_lines(len(lessons.examples), size, step, seed), settings.row_tokens)
    half = size // 2
    given = masks.order_of_lines(len(lessons.examples), size - half, step, seed)
    said = masks.order_of_lines(len(own.examples), half, step - settings.own_step, seed) if half else []
    both = Lessons([*(lessons.examples[one] for one in given), *(own.examples[one] for one in said)],
                   None if lessons.targets is None or own.targets is None else
                   [*(lessons.targets[one] for one in given), *(own.targets[one] for one in said)])
    return both.step(range(len(both.examples)), settings.row_tokens)


def attach_adapter(model: nn.Module, rank: int, seed: int) -> Any:
    """The model with fresh LoRA adapters (alpha = 2 * rank) on every linear layer of its decoder."""
    quieten_bitsandbytes()  # peft imports it
    from peft import LoraConfig, get_peft_model  # here, for it takes seconds to import and few jobs recover

    names = sorted({name.rsplit(".", 1)[-1] for name, module in decoder(model).named_modules() if isinstance(module, nn.Linear)})
    torch.manual_seed(seed)  # peft draws the adapters' first matrix from the global generator
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, task_type="CAUSAL_LM")
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft asks for what transformers renamed
        return get_peft_model(model, settings)


def adapter_step(adapted: Any, optimizer: torch.optim.Optimizer, rows: Sequence[Row], targets: Sequence[Target] | None,
                 checkpointing: bool) -> float:
    """One optimiser step on a step's rows; returns the mean loss before it, in nats a token.

    The loss is the KL to the targets, one a row; without targets it is cross entropy on the answers.
    """
    optimizer.zero_grad(set_to_none=True)
    loss = step_gradient(adapted.get_base_model(), rows, targets, checkpointing)
    optimizer.step()
    return loss


def make_optimizer(adapted: Any) -> torch.optim.AdamW:
    """AdamW without weight decay over the adapters: a group for each linear layer, with the "scale" of its rate.

    A step of size one moves every entry of an adapter's B, (d, r), by one, and so the weight by
    scaling * sqrt(r) * rms(A) in the root mean square. Divided by the weight's own, a rate is the share of it that a step
    may change, whatever the model's weights are like.
    """
    groups = []
    for module in adapted.modules():
        if not hasattr(module, "lora_A"):
            continue
        first, second = module.lora_A["default"].weight, module.lora_B["default"].weight
        reach = module.scaling["default"] * first.shape[0] ** 0.5 * _rms(first)
        groups.append({"params": [first, second], "scale": _rms(module.get_base_layer().weight) / reach})
    return torch.optim.AdamW(groups, weight_decay=0.0)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of the next step, as a share of the weights' root mean square."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def _rms(weight: nn.Parameter) -> float:
    return float(weight.detach().float().square().mean().sqrt())


def rate_at(step: int, steps: int, learning_rate: float, final: float = 0.1) -> float:
    """Learning rate of a step: a tenth of the steps warm up, then a straight line down to the share `final` of it."""
    warm = max(1, steps // 10)
    if step < warm:
        return learning_rate * (step + 1) / warm
    return learning_rate * (1 - (1 - final) * (step - warm) / max(steps - warm, 1))


def merge(adapted: Any) -> nn.Module:
    """The plain model with the adapters merged into its weights, frozen."""
    return adapted.merge_and_unload().requires_grad_(False)


def answering_copy(adapted: Any) -> nn.Module:
    """A merged copy, which samples faster; the adapted model stays as it is, to the bit."""
    return merge(copy.deepcopy(adapted))


class _Run:
    """The adapters, the optimiser's moments and the best adapters so far."""

    def __init__(self, adapted: Any, checkpoint: Checkpoint) -> None:
        self.checkpoint, self.optimizer = checkpoint, make_optimizer(adapted)
        self.parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        self.step, self.best_kl = 0, float("inf")
        self.best = [parameter.detach().clone() for parameter in self.parameters]
        found = checkpoint.load()
        if found and "first.0" not in found:  # version 0.1 kept the moments under other names: that run begins again
            self._load(found)

    def _load(self, found: Mapping[str, Tensor]) -> None:
        self.step, self.best_kl = int(found["step"]), float(found["best_kl"])
        masks.restore_optimizer(self.optimizer, found)
        with torch.no_grad():
            for index, parameter in enumerate(self.parameters):
                parameter.copy_(found[f"value.{index}"])
                self.best[index] = found[f"best.{index}"].to(parameter.device)

    def judge(self, reading: Read) -> Read:
        """Remember the adapters where they read best so far."""
        if reading.kl < self.best_kl:
            self.best_kl = reading.kl
            self.best = [parameter.detach().clone() for parameter in self.parameters]
        return reading

    def store(self) -> None:
        """Write the checkpoint."""
        found = {"step": torch.tensor(self.step), "best_kl": torch.tensor(self.best_kl, dtype=torch.float64),
                 **masks.optimizer_tensors(self.optimizer)}
        for index, parameter in enumerate(self.parameters):
            found |= {f"value.{index}": parameter.detach(), f"best.{index}": self.best[index]}
        self.checkpoint.store(found)

    def use_best(self) -> None:
        """Put the best adapters in place."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters, self.best, strict=True):
                parameter.copy_(value)
