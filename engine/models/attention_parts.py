"""Attention over two sets of keys as one: each by itself, then put together by their log-sum-exp.

What a query sees of a shared prefix and what it sees of its own keys can be computed apart; the softmax over both is the
mean of the two outputs, weighted by the sums of their exponentials. Exact up to rounding. CPU only, and what is here knows
no gradient by itself. Knows tensors only.
"""

import torch
from torch import Tensor

weighed = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # attention (..., T, D) with its log-sum-exp (..., T)
gradients = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward  # of query, key and value


def join(first: Tensor, first_weight: Tensor, second: Tensor, second_weight: Tensor) -> Tensor:
    """The output over both sets of keys, of outputs (..., D) and their log-sum-exps (...)."""
    return torch.lerp(first, second, torch.sigmoid(second_weight - first_weight)[..., None].to(first.dtype))
