"""Tiny random models of every supported family, with a real tokenizer, saved as folders like any other model.

Two layers, hidden 32, intermediate 64, 4 heads, 2 key-value heads. The weights are large enough that logits differ
clearly. They know no language: tests may rely on shapes, formats and arithmetic, never on what a model says.
"""

import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from engine.base.families import FAMILIES
from engine.base.files import write_manifest
from engine.export.folder import GGUF
from engine.export.gguf_writer import write_gguf
from engine.models.loading import ModelSource, locate
from engine.models.packing import Example
from engine.models.templates import CHATML

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_TEXT = ("The lantern keeper asked who was there, and the rain answered on the slates. "
         "What do you sell? Salt, thread, and the truth; the third is dear. system user assistant\n") * 4
_TIED = {"llama", "qwen2", "qwen3", "smollm3", "gemma2", "gemma3_text", "granite"}
_OWN: dict[str, dict[str, Any]] = {
    "gemma2": {"sliding_window": 16, "query_pre_attn_scalar": 8},
    "gemma3_text": {"sliding_window": 16, "query_pre_attn_scalar": 8,
                    "layer_types": ["sliding_attention", "full_attention"]},
    "mistral": {"sliding_window": None},
    "phi3": {"original_max_position_embeddings": 512},
    "granite": {"embedding_multiplier": 2.0, "residual_multiplier": 0.5, "logits_scaling": 2.0},
}


def random_examples(sizes: Sequence[int]) -> list[Example]:
    """Examples behind one random prefix of seven tokens, with answers of so many tokens; always the same ones."""
    draw = torch.Generator().manual_seed(9)
    ids = lambda size: tuple(torch.randint(1, 300, (size,), generator=draw).tolist())
    prefix = ids(7)
    return [Example(prefix + ids(4), ids(size)) for size in sizes]


@functools.cache
def _tokenizer_json(special: tuple[str, ...]) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=297 + len(special), special_tokens=list(special), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator([_TEXT], trainer)
    return tokenizer.to_str()


def make_tokenizer(special: tuple[str, ...] = SPECIAL, template: str | None = CHATML,
                   **names: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 300 tokens; `names` are its bos_token, eos_token and so on."""
    names = names or {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_tokenizer_json(special)), **names)
    tokenizer.chat_template = template
    return tokenizer


def make_tiny(folder: Path, family: str = "llama", endless: bool = False, **config_changes: Any) -> Path:
    """Write a tiny model of a family into `folder` (made if need be) and return the folder. Always the same weights.

    `endless`: a llama that never says a special token, so that only a limit ends what it says; in bfloat16.
    """
    assert family in FAMILIES
    tokenizer = make_tokenizer()
    fields = {"vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 512,
              "initializer_range": 0.2, "tie_word_embeddings": family in _TIED and not endless, "bos_token_id": None,
              "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
              **_OWN.get(family, {}), **config_changes}
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **fields), dtype=torch.float32)
        for name, weights in model.named_parameters():
            if "norm" in name:  # unlike one another, so that a mistake in their order shows
                weights.data += torch.randn_like(weights) * 0.1
        if endless:
            _silence(model, range(len(SPECIAL)))
            model.to(torch.bfloat16)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return Path(folder)


def add_files(folder: Path, *types: str) -> Path:
    """Write GGUF files into a model folder, F16 and Q8_0 unless others are named, as a run has them; about a tenth of a second."""
    for type in types or ("F16", "Q8_0"):
        for _ in write_gguf(folder, folder / GGUF / f"{folder.name}-{type}.gguf", type):
            pass
    write_manifest(folder)
    return folder


def _silence(model: Any, tokens: Iterable[int]) -> None:
    """Make tokens unsayable: channel 0 is the same positive number everywhere, which the head turns into their no."""
    loud = 50.0
    model.model.embed_tokens.weight.data[:, 0] = loud
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data[0] = 0
        layer.mlp.down_proj.weight.data[0] = 0
    model.model.norm.weight.data[0] = 1
    model.lm_head.weight.data[:, 0] = 0
    model.lm_head.weight.data[list(tokens), 0] = -1000


def find(model: Path | str) -> ModelSource:
    """The source of a model that needs no fetching."""
    search = locate(str(model))
    while True:
        try:
            next(search)
        except StopIteration as end:
            return end.value
