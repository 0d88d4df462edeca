"""Mask learning: which k channels of each layer the character needs.

Persona-Pruner, section "sub-network discovery" (arXiv 2606.14695): the weights
are frozen, scores z (L, d_ff) learn; forward, the mask is the top k of z in each
layer; backward, the gradient passes straight through (dM/dz = I). The paper's
loss is cross entropy on the answers; ours is the KL to the dense model's cached
top logits, from scores that start at an importance.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor, nn

from engine.base.process import return_freed_memory
from engine.models.ffn import masked, project_logits
from engine.models.memory_saving import recomputed_where_tight
from engine.models.packing import Example, Prefix, Row, pack, states_that_predict
from engine.pruning.importance import top_channels

CHUNK = {"cpu": 64, "cuda": 1024}  # answer tokens whose logits are held at once


@dataclass(frozen=True)
class Target:
    """The dense model's likeliest tokens at N answer positions: ids and log-probabilities, each (N, top)."""

    tokens: Tensor
    log_probability: Tensor


@dataclass(frozen=True)
class Lessons:
    """What a student reads: examples, and the dense model's target for each answer; without targets the loss is cross entropy.

    `prefix`: how many leading tokens all examples share, where it is known; one for each where they are of several characters;
    else each step packs by what its own lines share.
    """

    examples: Sequence[Example]
    targets: Sequence[Target] | None
    prefix: Prefix | None = None

    def step(self, chosen: Sequence[int], row_tokens: int) -> tuple[list[Row], list[Target] | None]:
        """The packed rows of the chosen examples, and their targets joined row by row."""
        prefix = self.prefix
        if prefix is not None and not isinstance(prefix, int):
            own = prefix
            chosen = sorted(chosen, key=lambda index: self.examples[index].prompt[:own[index]])  # so that neighbours share rows
            prefix = [own[index] for index in chosen]
        rows = pack([self.examples[index] for index in chosen], row_tokens, prefix)
        if self.targets is None:
            return rows, None
        joined = []
        for row in rows:
            taught = [self.targets[chosen[member]] for member in row.members]
            joined.append(Target(torch.cat([one.tokens for one in taught]), torch.cat([one.log_probability for one in taught])))
        return rows, joined

    def __add__(self, other: "Lessons") -> "Lessons":
        both = None if self.targets is None or other.targets is None else [*self.targets, *other.targets]
        return Lessons([*self.examples, *other.examples], both)


@torch.inference_mode()
def dense_target(model: nn.Module, hidden: Tensor, top: int) -> Target:
    """The target of one row from the dense model's final states (N, d)."""
    ids, values = [], []
    for part in hidden.split(CHUNK[hidden.device.type]):
        log_probability = project_logits(model, part).log_softmax(-1)
        best = log_probability.topk(min(top, log_probability.shape[-1]), dim=-1)
        ids.append(best.indices.int().cpu())
        values.append(best.values.cpu())
    return Target(torch.cat(ids), torch.cat(values))


def kl_to_target(logits: Tensor, target: Target) -> Tensor:
    """Summed KL(dense || model) in nats over the cached tokens, the rest of the vocabulary as one bucket.

    `logits`: (N, vocabulary). Merging tokens into a bucket can only lower a KL: this is a lower bound, and exact
    where the cached tokens hold all the mass.
    """
    log_model = logits.log_softmax(-1).gather(-1, target.tokens.to(logits.device).long())
    log_dense = target.log_probability.to(logits.device)
    probability = log_dense.exp()
    seen = (probability * (log_dense - log_model)).sum()
    rest_dense = (1 - probability.sum(-1)).clamp_min(1e-6)
    rest_model = (1 - log_model.exp().sum(-1)).clamp_min(1e-6)
    return seen + (rest_dense * (rest_dense.log() - rest_model.log())).sum()


def backward_in_chunks(model: nn.Module, hidden: Tensor, labels: Tensor, target: Target | None, scale: float) -> float:
    """Add the gradient of scale * summed loss to whatever `hidden` (N, d) depends on; returns the summed loss in nats.

    Logits exist for a chunk of tokens at a time only. With a target the loss is its KL, without one cross entropy.
    Without labels the loss is 0 and no gradient is added.
    """
    if not len(labels):
        return 0.0
    leaf = hidden.detach().requires_grad_(True)
    total = 0.0
    size = CHUNK[hidden.device.type]
    for begin in range(0, len(labels), size):
        part = slice(begin, begin + size)
        logits = project_logits(model, leaf[part])
        if target is None:
            loss = functional.cross_entropy(logits, labels[part].to(logits.device), reduction="sum")
        else:
            loss = kl_to_target(logits, Target(target.tokens[part], target.log_probability[part]))
        (loss * scale).backward()
        total += float(loss.detach())
    hidden.backward(leaf.grad)
    return total


def step_gradient(model: nn.Module, rows: Sequence[Row], targets: Sequence[Target] | None, checkpointing: bool) -> float:
    """Add the gradient of a step's mean loss to whatever the rows' final states depend on; the mean loss in nats a token.

    `targets`: one a row; without them the loss is cross entropy on the answers.
    """
    total = sum(len(row.labels) for row in rows)
    loss = 0.0
    for index, row in enumerate(rows):
        with recomputed_where_tight(model, row.size) if checkpointing else nullcontext():
            target = targets[index] if targets else None
            loss += backward_in_chunks(model, states_that_predict(model, row), row.labels, target, 1 / total)
    return loss / total


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser (moments, step counts), named for a file of tensors."""
    return {f"optimizer.{index}.{name}": value for index, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, found: Mapping[str, Tensor]) -> None:
    """Put the state of `optimizer_tensors` back; it goes on bit for bit. The rates stay as they are."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in found.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


class Learning:
    """All that mask learning carries from step to step: scores (L, d_ff) in fp32, AdamW's moments, and counters.

    `best_*` is the mask with the lowest validation KL so far. `to_tensors` and `from_tensors` keep all of it, bit for bit.
    """

    def __init__(self, scores: Tensor) -> None:
        self.scores = nn.Parameter(scores.clone().float())
        self.optimizer = torch.optim.AdamW([self.scores], betas=(0.9, 0.999), eps=1e-12, weight_decay=0.0)
        self.step, self.tokens = 0, 0
        self.best_mask, self.best_kl, self.best_step = torch.zeros(0), float("inf"), -1

    def to_tensors(self) -> dict[str, Tensor]:
        """The state as named tensors."""
        return {"scores": self.scores.detach(), **optimizer_tensors(self.optimizer), "best_mask": self.best_mask,
                "best_kl": torch.tensor(self.best_kl, dtype=torch.float64),
                "counters": torch.tensor([self.step, self.tokens, self.best_step])}

    @classmethod
    def from_tensors(cls, found: Mapping[str, Tensor]) -> "Learning":
        """The state that `to_tensors` gave."""
        state = cls(found["scores"])
        restore_optimizer(state.optimizer, found)
        state.step, state.tokens, state.best_step = (int(value) for value in found["counters"])
        state.best_mask, state.best_kl = found["best_mask"], float(found["best_kl"])
        return state


def channels_at(step: int, steps: int, k: int, channels: int, ramp: float) -> int:
    """Channels kept a layer at a step: from all to k along a cubic over the first `ramp` share of the steps.

    The schedule of Zhu and Gupta 2017 (arXiv 1710.01878), as in Sheared LLaMA.
    """
    if step >= ramp * steps:
        return k
    left = 1 - (step + 1) / max(ramp * steps, 1)
    return k + round((channels - k) * max(left, 0.0) ** 3)


def learn_step(model: nn.Module, state: Learning, rows: Sequence[Row], targets: Sequence[Target] | None, k: int,
               learning_rate: float, checkpointing: bool) -> float:
    """One AdamW step (betas .9, .999, no weight decay) on the mask scores; returns the mean loss in nats a token.

    `rows` are the step's lines; `targets`, if any, belong to the rows one by one.
    """
    leaf = top_channels(state.scores, k).requires_grad_(True)
    with masked(model, leaf):
        loss = step_gradient(model, rows, targets, checkpointing)
    state.scores.grad = leaf.grad  # straight through (Bengio et al. 2013, arXiv 1308.3432): dM/dz = I
    state.optimizer.param_groups[0]["lr"] = learning_rate
    state.optimizer.step()
    state.step += 1
    state.tokens += sum(row.size for row in rows)
    return_freed_memory()
    return loss


def order_of_lines(lines: int, step_lines: int, step: int, seed: int) -> list[int]:
    """Indices of the lines of a step: seeded passes over all lines, each in a new order; needs no memory of the past."""
    chosen: list[int] = []
    size = min(step_lines, lines)
    while len(chosen) < size:
        epoch, offset = divmod(step * size + len(chosen), lines)
        order = torch.randperm(lines, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).tolist()
        chosen += order[offset: offset + size - len(chosen)]
    return chosen


def changes(before: Tensor, after: Tensor) -> list[int]:
    """Channels a layer that are in `after` and not in `before`."""
    return ((after > 0) & (before == 0)).sum(dim=1).tolist()
