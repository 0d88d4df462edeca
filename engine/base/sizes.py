"""Sizes by arithmetic alone, from a model's figures to bytes: what a cut makes of a model, how much its weights take in each number
format, and what a cast of characters takes in memory.

Two ways to have N characters ready to speak: standalone, N pruned models, each whole; or a cast, one pruned model and N
adapters."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from engine.base.errors import UserError
from engine.base.ids import ErrorCode


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
                        f"{intermediate_size} channels a layer.", "Choose a smaller --multiple or a lower --sparsity.",
                        ErrorCode.NOTHING_LEFT)
    if k > largest:
        raise UserError(f"At a sparsity of {sparsity:g} and a multiple of {multiple}, all {intermediate_size} channels "
                        "of a layer would stay.", "Choose a smaller --multiple or a higher --sparsity.",
                        ErrorCode.NOTHING_REMOVED)
    return k


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


Shapes = Mapping[str, tuple[int, ...]]  # by the names that transformers gives


@dataclass(frozen=True)
class FileType:
    """A format: `block` weights of a row take `block_bytes`. Where a row is no multiple of it, `otherwise` is taken.

    `logits`: the format of the matrix that makes the logits, "" for the same. `better`: of the parts that a mixed format
    keeps more of.
    """

    name: str
    block: int
    block_bytes: int
    otherwise: str = "F16"
    logits: str = ""
    better: str = ""
    needs_matrix: bool = False  # llama.cpp makes it with an importance matrix alone

    @property
    def bits(self) -> float:
        """Bits a weight."""
        return 8 * self.block_bytes / self.block

    @property
    def takes_matrix(self) -> bool:
        """Whether an importance matrix makes it better: below 8 bit."""
        return self.bits < 8


# https://github.com/ggml-org/llama.cpp: ggml-common.h (blocks), llama-quant.cpp (mixtures, and what is taken otherwise).
_ALL = (FileType("F32", 1, 4), FileType("F16", 1, 2), FileType("BF16", 1, 2), FileType("Q8_0", 32, 34),
        FileType("Q6_K", 256, 210, "Q8_0"), FileType("Q5_1", 32, 24, logits="Q8_0"),
        FileType("Q5_K_M", 256, 176, "Q5_1", "Q6_K", "Q6_K"), FileType("Q5_0", 32, 22, logits="Q8_0"),
        FileType("Q4_1", 32, 20, logits="Q8_0"), FileType("Q4_K_M", 256, 144, "Q5_0", "Q6_K", "Q6_K"),
        FileType("IQ4_NL", 32, 18, logits="Q8_0"), FileType("Q4_0", 32, 18, logits="Q8_0"),
        FileType("IQ4_XS", 256, 136, "IQ4_NL", "Q6_K"), FileType("Q3_K_M", 256, 110, "IQ4_NL", "Q6_K", "Q4_K_M"),
        FileType("IQ3_S", 256, 110, "IQ4_NL", "Q6_K", "Q4_K_M"),
        FileType("IQ2_XS", 256, 74, "IQ4_NL", "Q6_K", "IQ3_S", needs_matrix=True))
FILE_TYPES = {one.name: one for one in _ALL}
WRITTEN = tuple(FILE_TYPES)
COMMON_TYPES = ("F16", "Q8_0", "Q5_0", "Q4_1", "Q4_K_M", "IQ4_NL", "Q4_0")  # what a reader chooses between


def expected_bytes(shapes: Shapes, name: str) -> int:
    """Bytes of all weights in a format; tied logits are written once. Raises KeyError for an unknown format."""
    layers = 1 + max((_layer(tensor) for tensor in shapes), default=0)
    head = "lm_head.weight" if "lm_head.weight" in shapes else "model.embed_tokens.weight"
    total = 0
    for tensor, shape in shapes.items():
        _, used = format_of(tensor, shape, name, head, layers)
        total += math.prod(shape) // used.block * used.block_bytes
    return total


def format_of(tensor: str, shape: tuple[int, ...], name: str, head: str, layers: int) -> tuple[FileType, FileType]:
    """The format that a tensor of a file of format `name` should have, and the one it gets, as its rows fill whole blocks.

    Vectors stay in F32. `head`: the tensor that makes the logits, whose errors matter most. Mixed formats keep more of
    v_proj and down_proj in the first and last eighth of the `layers`, and in every third between, as llama.cpp does.
    """
    if len(shape) < 2:
        return FILE_TYPES["F32"], FILE_TYPES["F32"]
    wanted, layer = FILE_TYPES[name], _layer(tensor)
    unread = wanted.needs_matrix and ".embed_tokens." in tensor  # nothing is multiplied with it, so no matrix has it
    better = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
    if tensor == head and wanted.logits:
        wanted = FILE_TYPES[wanted.logits]
    elif unread or (wanted.better and better and (".v_proj." in tensor or ".down_proj." in tensor)):
        wanted = FILE_TYPES[wanted.better]
    used = wanted
    while shape[-1] % used.block:
        used = FILE_TYPES[used.otherwise]
    return wanted, used


def odd_rows(shapes: Shapes, name: str) -> list[int]:
    """The lengths of rows that do not fill the format's blocks, so that another format is taken for them."""
    return sorted({shape[-1] for shape in shapes.values() if len(shape) > 1 and shape[-1] % FILE_TYPES[name].block})


def count(shapes: Iterable[tuple[int, ...]]) -> int:
    """Weights of all shapes."""
    return sum(math.prod(shape) for shape in shapes)


def _layer(tensor: str) -> int:
    """The number of a tensor's layer; -1 outside of all."""
    parts = tensor.split(".")
    return int(parts[parts.index("layers") + 1]) if "layers" in parts else -1


WAYS = ("standalone", "cast")


@dataclass(frozen=True)
class Decoder:
    """A decoder's figures: its shape, its heads, and those that its keys and values have."""

    shape: ModelShape
    heads: int
    key_value_heads: int
    head_size: int

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token, all layers, in the weights' width."""
        return 2 * self.shape.layers * self.key_value_heads * self.head_size * self.shape.bytes_per_weight


def decoder_of(config: Mapping[str, Any], parameters: int, bytes_per_weight: int = 2) -> Decoder:
    """The figures of a model from its parsed config.json and its count of parameters. Raises KeyError where it lacks one."""
    heads = int(config["num_attention_heads"])
    shape = ModelShape(int(config["num_hidden_layers"]), int(config["hidden_size"]), int(config["intermediate_size"]),
                       parameters, bytes_per_weight)
    return Decoder(shape, heads, int(config.get("num_key_value_heads") or heads),
                   int(config.get("head_dim") or shape.hidden_size // heads))


def adapter_bytes(decoder: Decoder, kept: int, rank: int) -> int:
    """Bytes of a LoRA adapter's matrices, in 16 bit, on q, k, v, o and the FFN's three matrices of `kept` channels.

    Of a matrix (out, in) it has two, (rank, in) and (out, rank).
    """
    hidden = decoder.shape.hidden_size
    queries, keys = decoder.heads * decoder.head_size, decoder.key_value_heads * decoder.head_size
    sides = 2 * (hidden + queries) + 2 * (hidden + keys) + 3 * (hidden + kept)
    return 2 * decoder.shape.layers * rank * sides


@dataclass(frozen=True)
class Cast:
    """The memory needed for this many characters, on models of `kept` channels a layer, and this many players at once.

    context: tokens of the longest conversation, prompt and answers; rank: of the adapters.
    """

    characters: int
    players: int
    context: int
    kept: int
    rank: int

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 1:
            raise ValueError("a cast's sizes must be at least 1")


@dataclass(frozen=True)
class Needed:
    """Bytes that a way takes: weights of models, adapters, keys and values of conversations."""

    way: str
    weights: int
    adapters: int
    key_values: int

    @property
    def bytes(self) -> int:
        """All together."""
        return self.weights + self.adapters + self.key_values


def plan(decoder: Decoder, cast: Cast) -> list[Needed]:
    """What each of WAYS takes, in their order."""
    return [memory_of(way, decoder, cast) for way in WAYS]


def memory_of(way: str, decoder: Decoder, cast: Cast) -> Needed:
    """What one of WAYS takes."""
    shape = decoder.shape
    removed = 3 * shape.layers * shape.hidden_size * (shape.intermediate_size - cast.kept)
    models, adapters = (cast.characters, 0) if way == "standalone" else (1, cast.characters)
    return Needed(way, models * (shape.parameters - removed) * shape.bytes_per_weight,
                  adapters * adapter_bytes(decoder, cast.kept, cast.rank), cast.players * cast.context * decoder.token_bytes)


def most_characters(way: str, decoder: Decoder, cast: Cast, memory: int) -> int:
    """The most characters that `memory` bytes hold, all else as in `cast`; 0 where not even one fits."""
    one, two = (memory_of(way, decoder, replace(cast, characters=count)).bytes for count in (1, 2))
    return max(0, 1 + (memory - one) // (two - one))
