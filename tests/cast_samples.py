"""Deltas of tiny models (two layers, hidden 32, 64 channels) with corrections that matter."""

import copy
from typing import Any

import torch
from torch import Tensor

from engine.cast.delta import Delta, fit_layer, stack
from engine.models.ffn import feed_forwards
from engine.pruning.cutting import cut, kept_indices
from engine.pruning.importance import random_scores, top_channels


def make_delta(model: Any, seed: int, kept: int = 40, rank: int = 5) -> Delta:
    """A random mask, its W_down moved at random, and the delta fitted to that on random activations."""
    mask = top_channels(random_scores(2, 64, seed), kept)
    draw = torch.Generator().manual_seed(seed)
    layers = []
    for ffn, index in zip(feed_forwards(model), kept_indices(mask), strict=True):
        own = ffn.down.weight[:, index].float()
        activations = torch.randn(200, kept, generator=draw) * torch.rand(kept, generator=draw)
        layers.append(fit_layer(own + 0.2 * torch.randn(own.shape, generator=draw), own, activations.T @ activations, rank))
    return stack(mask, layers)


def standalone(model: Any, delta: Delta) -> Any:
    """The cut model of its own that a delta stands for, made by cutting it."""
    columns = [delta.columns(ffn.index, ffn.down.weight) for ffn in feed_forwards(model)]
    return cut(copy.deepcopy(model), kept_indices(delta.mask.float()), columns)


def random_prompts(count: int, seed: int = 2) -> list[list[int]]:
    """Prompts of unlike lengths, each with tokens of its own."""
    draw = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 300, (5 + 7 * number,), generator=draw).tolist() for number in range(count)]


@torch.inference_mode()
def logits_after(model: Any, tokens: list[int]) -> Tensor:
    """What a model says after some tokens, (vocabulary,) in fp32."""
    return model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0, -1].float()
