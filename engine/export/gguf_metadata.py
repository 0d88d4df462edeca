"""What a GGUF file says of a model beside its weights: sizes, rotary embedding, origin, licence, and the character.

Refuses what llama.cpp's fixed rules for a family would compute otherwise than transformers does.
"""

import json
from pathlib import Path
from typing import Any

import gguf
from gguf import LlamaFileType, RopeScalingType

from engine.base.errors import UserError
from engine.base.files import read_json
from engine.export.gguf_tensors import ARCHITECTURES, head_size
from engine.export.model_card import base_name, opening_of

CHARACTER = "persona_studio.character"  # our own keys: .name, .card (JSON, as it came), .opening (JSON, the first messages)
_PATTERN = {"gemma2": 2, "gemma3_text": 6}  # every so manieth layer attends to everything; llama.cpp's own default
_LARGEST = {"gemma2": 46, "gemma3_text": 62}  # layers of the 27B, whose attention llama.cpp scales by hidden size / heads
_NO_ROPE_STEP = 4  # every so manieth layer of a SmolLM3 has no rotary embedding; fixed in llama.cpp


def add_sizes(writer: gguf.GGUFWriter, config: Any, type: str) -> list[str]:
    """Write the hyperparameters of a transformers config; sentences about what the file's model does less than the folder's.

    Raises UserError where llama.cpp would compute something else.
    """
    _refuse_what_differs(config)
    notes = []
    context = config.max_position_embeddings
    window = getattr(config, "sliding_window", None)
    if config.model_type in _PATTERN:
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern(_pattern_of(config))
    elif window and window < context and config.model_type in {"mistral", "qwen2", "qwen3", "smollm3"}:
        context = window
        notes.append(f"The model looks back {window:,} tokens in some layers, which llama.cpp does not do for this family; "
                     f"the file therefore names {window:,} tokens as its context.")
    writer.add_context_length(context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(head_size(config))
    writer.add_value_length(head_size(config))
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(LlamaFileType.ALL_F32 if type == "F32" else LlamaFileType[f"MOSTLY_{type}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if getattr(config, "attn_logit_softcapping", None):
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
    if getattr(config, "final_logit_softcapping", None):
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    _add_rope(writer, config)
    return notes


def _pattern_of(config: Any) -> int:
    """Every how manieth layer attends to everything."""
    full = [index for index, kind in enumerate(config.layer_types) if kind == "full_attention"]
    period = full[0] + 1 if full else config.num_hidden_layers + 1
    if full != list(range(period - 1, config.num_hidden_layers, period)):
        raise UserError("The layers of this model take turns in a way that llama.cpp does not know.")
    return period


def _refuse_what_differs(config: Any) -> None:
    """Raise UserError where llama.cpp's fixed rules for the family contradict the config."""
    family = config.model_type
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    if activation != ARCHITECTURES[family].activation:
        raise UserError(f"llama.cpp computes {family} models with {ARCHITECTURES[family].activation}, not with {activation}.")
    if family == "smollm3":
        expected = [int((index + 1) % _NO_ROPE_STEP != 0) for index in range(config.num_hidden_layers)]
        if list(config.no_rope_layers) != expected:
            raise UserError("llama.cpp leaves the rotary embedding out of every fourth layer of a smollm3 model, and this one "
                            "has others.")
    if family in _PATTERN:
        wanted = config.hidden_size // config.num_attention_heads if config.num_hidden_layers == _LARGEST[family] else (
            head_size(config))
        if config.query_pre_attn_scalar != wanted:
            raise UserError(f"llama.cpp scales the attention of this model by {wanted}, its config.json by "
                            f"{config.query_pre_attn_scalar}.")


def _add_rope(writer: gguf.GGUFWriter, config: Any) -> None:
    """Write the rotary embedding; Gemma 3 has one for its wide layers and one for its narrow ones."""
    told = config.rope_parameters
    if "full_attention" in told:
        writer.add_rope_freq_base_swa(told["sliding_attention"]["rope_theta"])
        told = told["full_attention"]
    writer.add_rope_dimension_count(head_size(config))
    writer.add_rope_freq_base(told["rope_theta"])
    kind = told.get("rope_type", "default")
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(told["factor"])
    elif kind == "yarn":
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(told["factor"])
        writer.add_rope_scaling_orig_ctx_len(told["original_max_position_embeddings"])
    elif kind != "default" and not (kind == "llama3" and ARCHITECTURES[config.model_type].kind == gguf.MODEL_ARCH.LLAMA):
        raise UserError(f"A rotary embedding of the kind {kind!r} cannot be written as GGUF for this family.")


def add_origin(writer: gguf.GGUFWriter, folder: Path) -> None:
    """Write where the model comes from and whom it plays, for a folder that Persona Studio wrote; else only a name."""
    writer.add_type(gguf.GGUFType.MODEL)
    if not (folder / "report.json").is_file() or not (folder / "character.json").is_file():
        writer.add_name(folder.name)
        return
    report, card = read_json(folder / "report.json"), read_json(folder / "character.json")
    base = report["base"]
    writer.add_name(str(report.get("name") or f"{report['character']} on {base_name(report)}"))
    writer.add_license(str(base.get("licence") or ""))
    writer.add_tags(["pruned", "roleplay", "persona-pruner"])
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, base_name(report))
    if base["hub"]:
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{base['hub']}")
    writer.add_string(f"{CHARACTER}.name", str(report["character"]))
    writer.add_string(f"{CHARACTER}.card", json.dumps(card, ensure_ascii=False))
    writer.add_string(f"{CHARACTER}.opening", json.dumps(opening_of(card), ensure_ascii=False))
    writer.add_float32("persona_studio.sparsity", float(report["recipe"]["sparsity"]))
