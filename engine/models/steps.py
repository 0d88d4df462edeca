"""One more token for every row of a batch, through a decoder built like llama's, in few operations.

transformers' own forward pass spends much of a single token's time between its products. Here a layer is a few operations on
flat rows: queries, keys and values come from one product, and a residual is added within the product that makes it. Results
agree up to rounding. The model's own weights are used: those that one product reads are moved side by side in memory, once.
Models of other families, on other devices, quantised or hooked are left to transformers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine.base.families import FAMILIES
from engine.models.ffn import compute_dtype, decoder

_STEADY_ROPES = {"default", "linear", "llama3", "yarn"}  # angles that do not depend on how long the text has become
# (layer, queries (B, heads, D), keys (B, key heads, D), values (B, key heads, D)) -> outputs (B, heads * D)
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class _Product:
    """One or more linear layers on the same flat rows, as one product: the outputs stand side by side. A single row goes
    through the product of a matrix with a vector, which reads the weight twice as fast as the general one."""

    def __init__(self, *linears: nn.Linear) -> None:
        self.matrix = _side_by_side([linear.weight for linear in linears])
        self.weight = self.matrix.t()
        biases = [linear.bias.detach() for linear in linears if linear.bias is not None]
        self.bias = torch.cat(biases) if biases else None  # a family has all of a product's, or none

    def of(self, rows: Tensor) -> Tensor:
        """W rows + b, for rows (B, d) or one row (d,)."""
        if rows.dim() == 1:
            return torch.mv(self.matrix, rows) if self.bias is None else torch.addmv(self.bias, self.matrix, rows)
        return torch.mm(rows, self.weight) if self.bias is None else torch.addmm(self.bias, rows, self.weight)

    def added_to(self, stream: Tensor, rows: Tensor) -> Tensor:
        """stream + W rows + b, in one product."""
        added = torch.addmv(stream, self.matrix, rows) if rows.dim() == 1 else torch.addmm(stream, rows, self.weight)
        return added if self.bias is None else added.add_(self.bias)


@dataclass(frozen=True)
class _Layer:
    first_norm: Tensor
    second_norm: Tensor
    head_norm: Tensor | None  # (heads + key heads, D): qwen3 norms queries and keys
    turns: bool  # smollm3 leaves some layers without positions
    attended: _Product  # queries, keys and values
    output: _Product
    gate_and_up: _Product
    down: _Product


def can_step(model: Any) -> bool:
    """Whether TokenSteps computes what the model computes."""
    config = model.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if not FAMILIES[config.model_type].stepped or rope not in _STEADY_ROPES or getattr(config, "hidden_act", "") != "silu":
        return False
    if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or []):
        return False
    if getattr(config, "sliding_window", None) and not getattr(config, "layer_types", None):
        return False
    return all(_is_plain(module, compute_dtype(model)) for module in decoder(model).layers.modules())


def _is_plain(module: nn.Module, dtype: torch.dtype) -> bool:
    if module._forward_pre_hooks or module._forward_hooks or "forward" in vars(module):
        return False
    if hasattr(module, "lora_A") or (isinstance(module, nn.Linear) and type(module) is not nn.Linear):  # adapted, quantised
        return False
    return all(weight.dtype == dtype and weight.device.type == "cpu" for weight in module.parameters(recurse=False))


class TokenSteps:
    """The layers of a model for which can_step holds."""

    def __init__(self, model: nn.Module) -> None:
        stack = decoder(model)
        config: Any = model.config
        self.embed, self.rotary, self.norm = stack.embed_tokens, stack.rotary_emb, stack.norm.weight
        self.size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.layers = [_layer_of(layer, self.heads, self.key_heads) for layer in stack.layers]
        self.cosines = self.sines = torch.zeros(0, 1, self.size)
        self.epsilon = config.rms_norm_eps
        self.floor = torch.tensor(self.epsilon)
        self.nothing = torch.zeros(config.hidden_size)

    def step(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Final hidden states (B, d) of tokens (B,) at `positions` (B,). `attend` is called once a layer."""
        cosines, sines = self._angles(positions)
        stream = self.embed(tokens)  # (B, d)
        if one := len(tokens) == 1:
            stream = stream[0]
        turned, half = self.heads + self.key_heads, self.size // 2
        for index, layer in enumerate(self.layers):
            fresh = self._scaled(stream, layer.first_norm)
            states = layer.attended.of(fresh).view(len(tokens), -1, self.size)  # (B, heads + 2 key heads, D)
            heads = states[:, :turned]
            if layer.head_norm is not None:
                heads = self._scaled(heads, layer.head_norm)
            if layer.turns:
                crossed = torch.cat([heads[..., half:], heads[..., :half]], dim=-1)
                heads = torch.addcmul(heads * cosines, crossed, sines)
            seen = attend(index, heads[:, :self.heads], heads[:, self.heads:], states[:, turned:])
            stream = layer.output.added_to(stream, seen[0] if one else seen)
            fresh = self._scaled(stream, layer.second_norm)
            gate, up = layer.gate_and_up.of(fresh).chunk(2, dim=-1)
            stream = layer.down.added_to(stream, functional.silu(gate).mul_(up))
        return self._scaled(stream, self.norm).view(len(tokens), -1)

    def _scaled(self, rows: Tensor, weight: Tensor) -> Tensor:
        """RMS norm over the last dimension: in fp32, like transformers, then back to the rows' type."""
        if rows.dim() == 1 and rows.dtype == torch.float32:
            scale = (float(torch.dot(rows, rows)) / len(rows) + self.epsilon) ** -0.5
            return torch.addcmul(self.nothing, rows, weight, value=scale)
        wide = rows.float()
        length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = torch.addcmul(self.floor, length, length, value=1 / rows.shape[-1]).rsqrt_()
        return torch.mul(wide, scale).to(rows.dtype).mul_(weight)

    def _angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (B, 1, D) of positions; the first half's sines are negative, for they turn the second half."""
        last = int(positions.max())
        if last >= len(self.cosines):
            places = torch.arange(max(2 * len(self.cosines), last + 256))[None]
            cosines, sines = self.rotary(self.norm, places)
            sines = torch.cat([-sines[..., : self.size // 2], sines[..., self.size // 2:]], dim=-1)
            self.cosines, self.sines = cosines[0, :, None], sines[0, :, None]
        return self.cosines[positions], self.sines[positions]


def _layer_of(layer: Any, heads: int, key_heads: int) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    norms = None
    if hasattr(attention, "q_norm"):
        norms = torch.cat([attention.q_norm.weight.expand(heads, -1), attention.k_norm.weight.expand(key_heads, -1)])
    return _Layer(layer.input_layernorm.weight, layer.post_attention_layernorm.weight, norms,
                  bool(getattr(attention, "use_rope", True)),
                  _Product(attention.q_proj, attention.k_proj, attention.v_proj), _Product(attention.o_proj),
                  _Product(mlp.gate_proj, mlp.up_proj), _Product(mlp.down_proj))


@torch.inference_mode(False)
@torch.no_grad()
def _side_by_side(weights: Sequence[Tensor]) -> Tensor:
    """Matrices (n_i, d) as one (sum of n_i, d). The model's own weights become parts of it, so that it takes no memory."""
    first, places = weights[0], [weight.data_ptr() for weight in weights]
    sizes = [weight.numel() * weight.element_size() for weight in weights]
    rows = [len(weight) for weight in weights]
    storage = first.untyped_storage().data_ptr()
    if any(weight.untyped_storage().data_ptr() != storage or not weight.is_contiguous() for weight in weights) or any(
            place + size != after for place, size, after in zip(places, sizes, places[1:], strict=False)):
        for weight, part in zip(weights, torch.cat(list(weights)).split(rows), strict=True):
            weight.data = part
    return first.data.as_strided((sum(rows), first.shape[1]), (first.shape[1], 1))
