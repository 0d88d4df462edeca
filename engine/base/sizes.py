"""What a cut makes of a model's size, by arithmetic alone: channels, parameters, bytes, and who likes the result.

Knows no model files: a model is four whole numbers here. The speed it gives is
what the bytes promise, not a measurement.
"""

from dataclasses import dataclass

from engine.base.recipe import channels_kept


@dataclass(frozen=True)
class ModelShape:
    """A decoder whose layers all have a gated FFN (gate, up and down) of the same size, without biases."""

    layers: int
    hidden_size: int
    intermediate_size: int  # FFN channels a layer
    parameters: int  # of the whole model
    bytes_per_weight: int = 2  # 2: 16 bit

    def __post_init__(self) -> None:
        if min(self.layers, self.hidden_size, self.intermediate_size, self.bytes_per_weight) < 1:
            raise ValueError("a model's sizes must be at least 1")
        if self.parameters < self.ffn_parameters:
            raise ValueError("a model cannot have fewer parameters than its FFNs")

    @property
    def ffn_parameters(self) -> int:
        """Parameters of the FFNs of all layers: three matrices of hidden x intermediate size each."""
        return 3 * self.layers * self.hidden_size * self.intermediate_size

    @property
    def bytes(self) -> int:
        """Bytes of all weights."""
        return self.parameters * self.bytes_per_weight


@dataclass(frozen=True)
class Cut:
    """A model after its cut."""

    kept: int  # FFN channels a layer
    removed_share_ffn: float  # of the FFN's parameters, 0 to 1
    removed_share_all: float  # of all parameters, 0 to 1
    parameters: int
    bytes: int
    expected_speedup: float  # bytes before / bytes after: answers are as fast as weights are read


@dataclass(frozen=True)
class Runtime:
    """A way to run or store a model, and the multiple that it wants the intermediate size to be."""

    name: str
    multiple: int
    otherwise: str  # what happens with any other size


RUNTIMES = (
    Runtime("16-bit weights on a graphics card", 8, "the card's fast units cannot be used fully"),
    Runtime("llama.cpp and Ollama, Q4_0 and Q8_0", 32, "the narrower parts stay in 16 bit"),
    Runtime("MLX, 4 bit and 8 bit", 64, "its usual groups of weights do not fit"),
    Runtime("vLLM and EXL3, 4 bit", 128, "their groups of weights do not fit"),
    Runtime("llama.cpp and Ollama, Q4_K_M and other K formats", 256, "parts of the file fall back to larger formats"),
)


def after_cut(shape: ModelShape, sparsity: float, multiple: int) -> Cut:
    """The model after removing a share `sparsity` (0 to 0.9) of each layer's FFN channels, to a whole `multiple`.

    Raises UserError where `channels_kept` does.
    """
    kept = channels_kept(shape.intermediate_size, sparsity, multiple)
    removed = 3 * shape.layers * shape.hidden_size * (shape.intermediate_size - kept)
    parameters = shape.parameters - removed
    return Cut(kept, removed / shape.ffn_parameters, removed / shape.parameters, parameters,
               parameters * shape.bytes_per_weight, shape.parameters / parameters)


def runtimes_that_like(kept: int) -> list[tuple[str, bool, str]]:
    """For each of RUNTIMES its name, whether `kept` channels a layer suit it, and why, as a sentence."""
    return [(runtime.name, True, f"{kept:,} is a multiple of {runtime.multiple}.") if kept % runtime.multiple == 0
            else (runtime.name, False, f"{kept:,} is not a multiple of {runtime.multiple}: {runtime.otherwise}.")
            for runtime in RUNTIMES]
