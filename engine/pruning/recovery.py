"""Recovery: a short LoRA fine-tune of the cut model towards the dense one, merged at the end.

The paper recovers on its calibration lines; here the loss is the same KL to the
dense model's cached logits as in mask learning. LoRA (Hu et al. 2021, arXiv
2106.09685) by the library peft, on all linear layers below the head.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from engine.models.ffn import decoder
from engine.models.loading import quieten_bitsandbytes
from engine.models.packing import Row
from engine.pruning.masks import Target, step_gradient


def attach_adapter(model: nn.Module, rank: int, seed: int) -> Any:
    """The model with fresh LoRA adapters (alpha = 2 * rank) on every linear layer of its decoder."""
    quieten_bitsandbytes()  # peft imports it
    from peft import LoraConfig, get_peft_model  # here, for it takes seconds to import and few jobs recover

    names = sorted({name.rsplit(".", 1)[-1] for name, module in decoder(model).named_modules()
                    if isinstance(module, nn.Linear)})
    torch.manual_seed(seed)  # peft draws the adapters' first matrix from the global generator
    settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names, task_type="CAUSAL_LM")
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft asks for what transformers renamed
        return get_peft_model(model, settings)


def recovery_step(adapted: Any, optimizer: torch.optim.Optimizer, rows: Sequence[Row], targets: Sequence[Target] | None,
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


def rate_at(step: int, steps: int, learning_rate: float) -> float:
    """Learning rate of a step: a tenth of the steps warm up, then a straight line down to a tenth."""
    warm = max(1, steps // 10)
    if step < warm:
        return learning_rate * (step + 1) / warm
    return learning_rate * (1 - 0.9 * (step - warm) / max(steps - warm, 1))


def merge(adapted: Any) -> nn.Module:
    """The plain model with the adapters merged into its weights, frozen."""
    return adapted.merge_and_unload().requires_grad_(False)
