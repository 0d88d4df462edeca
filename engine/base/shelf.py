"""Instruct models that can be carved: a table of data, for users who do not know which to choose; and what some of them answered.

Parameters follow from each model's published config; tests/test_shelf.py computes them. A row's family is one of FAMILIES.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from engine.base.files import read_json, resource
from engine.base.known_models import KNOWN, SMALL, STARTER
from engine.base.sizes import FILE_TYPES

LLAMA_3_2, LLAMA_3_1, GEMMA, APACHE = "Llama 3.2", "Llama 3.1", "Gemma", "Apache-2.0"
_TALKS = "Q8_0"  # the type of file that speaks


@dataclass(frozen=True)
class ShelfModel:
    """`name`: the hub's, or that of a known model. `gated`: its owner asks for consent on the hub first, so a token is needed.
    `ollama`: the same model's name there."""

    name: str
    family: str
    parameters: int
    licence: str
    gated: bool = False
    ollama: str = ""

    @property
    def label(self) -> str:
        """Its name without the owner's, or a known model's own."""
        return KNOWN[self.name].label if self.name in KNOWN else self.name.partition("/")[2]

    @property
    def bytes(self) -> int:
        """Of its weights in 16 bit: on the disk, and in the memory that a prune needs for them."""
        return 2 * self.parameters

    @property
    def download_bytes(self) -> int:
        """What is fetched."""
        return KNOWN[self.name].download_bytes if self.name in KNOWN else self.bytes

    @property
    def talking_bytes(self) -> int:
        """Of the weights that speak."""
        return round(self.parameters * FILE_TYPES[_TALKS].bits / 8)


@dataclass(frozen=True)
class Sample:
    """What a model answered as a bundled character when it was asked once, with this seed. `type`: of the weights that spoke."""

    model: str
    type: str
    character: str
    question: str
    seed: int
    answer: str


SAMPLES = resource("assets/samples.json")  # written by python -m benchmarks samples


@cache
def read_samples() -> Mapping[str, Sample]:
    """The samples by model."""
    return {one["model"]: Sample(**one) for one in read_json(SAMPLES)} if SAMPLES.is_file() else {}


SHELF = (
    ShelfModel(STARTER.name, STARTER.family, STARTER.parameters, APACHE, ollama="smollm2:135m"),
    ShelfModel(SMALL.name, SMALL.family, SMALL.parameters, APACHE, ollama="qwen2.5-coder:0.5b"),
    ShelfModel("HuggingFaceTB/SmolLM2-360M-Instruct", "llama", 361_821_120, APACHE, ollama="smollm2:360m"),
    ShelfModel("Qwen/Qwen2.5-0.5B-Instruct", "qwen2", 494_032_768, APACHE, ollama="qwen2.5:0.5b"),
    ShelfModel("google/gemma-3-1b-it", "gemma3_text", 999_885_952, GEMMA, gated=True, ollama="gemma3:1b"),
    ShelfModel("meta-llama/Llama-3.2-1B-Instruct", "llama", 1_235_814_400, LLAMA_3_2, gated=True, ollama="llama3.2:1b"),
    ShelfModel("Qwen/Qwen2.5-1.5B-Instruct", "qwen2", 1_543_714_304, APACHE, ollama="qwen2.5:1.5b"),
    ShelfModel("HuggingFaceTB/SmolLM2-1.7B-Instruct", "llama", 1_711_376_384, APACHE, ollama="smollm2:1.7b"),
    ShelfModel("HuggingFaceTB/SmolLM3-3B", "smollm3", 3_075_098_624, APACHE),
    ShelfModel("meta-llama/Llama-3.2-3B-Instruct", "llama", 3_212_749_824, LLAMA_3_2, gated=True, ollama="llama3.2:3b"),
    ShelfModel("mistralai/Mistral-7B-Instruct-v0.3", "mistral", 7_248_023_552, APACHE, ollama="mistral:7b"),
    ShelfModel("meta-llama/Llama-3.1-8B-Instruct", "llama", 8_030_261_248, LLAMA_3_1, gated=True, ollama="llama3.1:8b"),
)
