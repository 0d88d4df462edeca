"""A pruned model for as long as it is measured: the dense model under a mask, with swapped columns, with fewer blocks; or a copy.

The dense model is left as it was.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from benchmarks.meter import Spent
from engine.models.ffn import decoder
from engine.pruning import cutting


@dataclass(frozen=True)
class Pruned:
    """One method's result and its price.

    mask: (L, d_ff) of ones and zeros; columns, gates: W_down, and W_gate and W_up, a layer to use under the mask; dropped:
    indices of blocks left out; model: a cut model of its own. Without any of them it is the dense model.
    """

    spent: Spent
    mask: Tensor | None = None
    columns: Sequence[Tensor] | None = None
    gates: cutting.Gates | None = None
    dropped: Sequence[int] = ()
    model: Any = None

    @contextmanager
    def applied_to(self, dense: Any) -> Iterator[Any]:
        """The pruned model; where it has none of its own, `dense` is it while the block runs."""
        if self.model is not None:
            yield self.model
            return
        with ExitStack() as stack:
            if self.mask is not None:
                stack.enter_context(cutting.as_if_cut(dense, self.mask, self.columns, self.gates))
            if self.dropped:
                stack.enter_context(shortened(dense, self.dropped))
            yield dense


@contextmanager
def shortened(model: Any, dropped: Sequence[int]) -> Iterator[None]:
    """While the block runs, the model has no decoder blocks `dropped`.

    Unlike `depth.skipped` the blocks are really gone, so that the model also generates with a cache: the ones that
    stay are renumbered, in the configuration as well.
    """
    stack, config = decoder(model), model.config
    layers, kinds = stack.layers, getattr(config, "layer_types", None)
    staying = [index for index in range(len(layers)) if index not in set(dropped)]
    try:
        stack.layers = nn.ModuleList(layers[index] for index in staying)
        config.num_hidden_layers = len(staying)
        if kinds:
            config.layer_types = [kinds[index] for index in staying]
        for number, index in enumerate(staying):
            layers[index].self_attn.layer_idx = number
        yield
    finally:
        stack.layers, config.num_hidden_layers = layers, len(layers)
        if kinds:
            config.layer_types = kinds
        for index, layer in enumerate(layers):
            layer.self_attn.layer_idx = index
