r"""What a GGUF file contains besides its weights: sizes, rotary embedding, origin, licence, the character, and the tokenizer.

Refuses models that llama.cpp's fixed rules for a family would compute differently from transformers.

Of llama.cpp's tokenizers two are written, both from tokenizer.json. Byte-level BPE (its "gpt2") takes the merges and the name
of the rule that splits a text into words. BPE over characters with a fallback to bytes (its "llama") merges by the score of
the result, so a token's score is the falling rank of its first merge. Special tokens are those that transformers uses.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
from gguf import LlamaFileType, RopeScalingType, TokenType

from engine.base.errors import UserError
from engine.base.files import read_json
from engine.export.gguf_tensors import architecture_of, head_size
from engine.export.model_card import base_name, opening_of

CHARACTER = "persona_studio.character"  # our own keys: .name, .card (JSON, as it came), .opening (JSON, the first messages)


def add_sizes(writer: gguf.GGUFWriter, config: Any, type: str) -> list[str]:
    """Write the hyperparameters of a transformers config; sentences about what the file's model cannot do and the folder's can.

    Raises UserError where llama.cpp would compute something else.
    """
    _refuse_differences(config)
    notes = []
    context = config.max_position_embeddings
    window = getattr(config, "sliding_window", None)
    if architecture_of(config.model_type).windows:
        writer.add_sliding_window(config.sliding_window)
        writer.add_sliding_window_pattern(_pattern_of(config))
    elif window and window < context:
        context = window
        notes.append(f"Some layers of this model attend to the last {window:,} tokens only, which llama.cpp does not support for "
                     f"this family; the file therefore gives {window:,} tokens as its context length.")
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
    """The n of "every n-th layer attends to everything"."""
    full = [index for index, kind in enumerate(config.layer_types) if kind == "full_attention"]
    period = full[0] + 1 if full else config.num_hidden_layers + 1
    if full != list(range(period - 1, config.num_hidden_layers, period)):
        raise UserError("llama.cpp does not support this model's pattern of full and sliding-window attention layers.")
    return period


def _refuse_differences(config: Any) -> None:
    """Raise UserError where llama.cpp's fixed rules for the family contradict the config."""
    family, rules = config.model_type, architecture_of(config.model_type)
    activation = getattr(config, "hidden_activation", None) or getattr(config, "hidden_act", None)
    if activation != rules.activation:
        raise UserError(f"llama.cpp computes {family} models with {rules.activation}, not with {activation}.")
    if rules.no_rope_step:
        expected = [int((index + 1) % rules.no_rope_step != 0) for index in range(config.num_hidden_layers)]
        if list(config.no_rope_layers) != expected:
            raise UserError(f"llama.cpp omits the rotary embedding in every {rules.no_rope_step}th layer of a {family} model; "
                            "this one omits it in others.")
    if rules.windows:
        wanted = head_size(config)
        if config.num_hidden_layers == rules.scaled_by_width:
            wanted = config.hidden_size // config.num_attention_heads
        if config.query_pre_attn_scalar != wanted:
            raise UserError(f"llama.cpp scales the attention of this model by {wanted}, its config.json by "
                            f"{config.query_pre_attn_scalar}.")


def _add_rope(writer: gguf.GGUFWriter, config: Any) -> None:
    """Write the rotary embedding; Gemma 3 has one for its full-attention layers and one for its sliding-window layers."""
    rope = config.rope_parameters
    if "full_attention" in rope:
        writer.add_rope_freq_base_swa(rope["sliding_attention"]["rope_theta"])
        rope = rope["full_attention"]
    writer.add_rope_dimension_count(head_size(config))
    writer.add_rope_freq_base(rope["rope_theta"])
    kind = rope.get("rope_type", "default")
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif kind == "yarn":
        writer.add_rope_scaling_type(RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    elif kind != "default" and not (kind == "llama3" and architecture_of(config.model_type).architecture == "LLAMA"):
        raise UserError(f"A rotary embedding of type {kind!r} cannot be written as GGUF for this family.")


def add_origin(writer: gguf.GGUFWriter, folder: Path) -> None:
    """Write where the model comes from and which character it plays; only a name for a folder that is not an export of ours."""
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


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LLAMA3 = rf"{_WORDS}\p{{N}}{{1,3}}{_REST}"
# The rules that split a text into words, and their names in llama.cpp's llama-vocab.cpp.
RULES = {
    _LLAMA3: "smaug-bpe",
    rf"{_WORDS}\p{{N}}{_REST}": "qwen2",
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+": "tekken",
}
_NO_MERGE = -1e9  # the score of a token that no merge makes


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, rows: int, ends: list[int]) -> None:
    """Write a fast tokenizer of transformers for an embedding of `rows` rows; `ends`: tokens that end an answer.

    Raises UserError where llama.cpp has no equivalent tokenizer.
    """
    parsed = json.loads(tokenizer.backend_tokenizer.to_str())
    if parsed["model"]["type"] != "BPE":
        raise UserError(f"A tokenizer of type {parsed['model']['type']} cannot be written as GGUF.",
                        "Byte-level BPE and BPE with a fallback to bytes can.")
    bytewise = any(part["type"] == "ByteLevel" for part in _parts(parsed["decoder"]))
    tokens, kinds = _tokens(parsed, tokenizer.unk_token, rows)
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in parsed["model"]["merges"]]
    writer.add_tokenizer_model("gpt2" if bytewise else "llama")
    writer.add_tokenizer_pre(_rule_name(parsed) if bytewise else "default")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if bytewise:
        writer.add_token_merges([" ".join(pair) for pair in merges])
    else:
        first: dict[str, float] = {}
        for rank, pair in enumerate(merges):
            first.setdefault("".join(pair), -float(rank))
        writer.add_token_scores([first.get(token, _NO_MERGE) for token in tokens])
        writer.add_add_space_prefix(any(part["type"] == "Prepend" for part in _parts(parsed["normalizer"])) or any(
            part["type"] == "Metaspace" and part["prepend_scheme"] != "never" for part in _parts(parsed["pre_tokenizer"])))
    _add_special_tokens(writer, tokenizer, rows, ends)
    template = tokenizer.chat_template
    writer.add_chat_template(template["default"] if isinstance(template, dict) else template)


def ends_of(folder: Path, config: Any) -> list[int]:
    """The tokens that end an answer, from generation_config.json, else config.json."""
    ends = config.eos_token_id
    with suppress(UserError, AttributeError):
        ends = read_json(folder / "generation_config.json").get("eos_token_id", ends)
    return [] if ends is None else [int(one) for one in (ends if isinstance(ends, list) else [ends])]


def _parts(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder that may be a sequence, or nothing."""
    if not step:
        return []
    inner = next((step[name] for name in ("pretokenizers", "normalizers", "decoders") if name in step), None)
    return [step] if inner is None else [part for one in inner for part in _parts(one)]


def _rule_name(parsed: dict[str, Any]) -> str:
    """llama.cpp's name for how a byte-level tokenizer splits a text into words."""
    steps = _parts(parsed["pre_tokenizer"])
    kinds = [step["type"] for step in steps]
    plain = bool(steps) and not steps[-1].get("add_prefix_space")
    if plain and kinds == ["ByteLevel"] and steps[0]["use_regex"]:
        return "gpt-2"
    if plain and kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and steps[1]["use_regex"]:
        return "smollm"
    if plain and kinds == ["Split", "ByteLevel"] and not steps[1]["use_regex"]:
        rule = steps[0]["pattern"].get("Regex")
        if rule == _LLAMA3 and parsed["model"].get("ignore_merges"):
            return "llama-bpe"
        if rule in RULES:
            return RULES[rule]
    raise UserError("llama.cpp does not support this tokenizer's rule for splitting a text into words.",
                    "The model cannot be written as GGUF.")


def _tokens(parsed: dict[str, Any], unknown: str | None, rows: int) -> tuple[list[str], list[int]]:
    """Text and kind of the token of every row; a row without a token gets a placeholder."""
    tokens = [f"[PAD{row}]" for row in range(rows)]
    kinds = [int(TokenType.UNUSED)] * rows
    for text, row in parsed["model"]["vocab"].items():
        if row < rows:
            is_byte = len(text) == 6 and text.startswith("<0x") and text.endswith(">")
            tokens[row], kinds[row] = text, int(TokenType.BYTE if is_byte else TokenType.NORMAL)
    for added in parsed["added_tokens"]:
        if added["id"] < rows:
            tokens[added["id"]] = added["content"]
            kinds[added["id"]] = int(TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED)
    if unknown in parsed["model"]["vocab"]:
        kinds[parsed["model"]["vocab"][unknown]] = int(TokenType.UNKNOWN)
    return tokens, kinds


def _add_special_tokens(writer: gguf.GGUFWriter, tokenizer: Any, rows: int, ends: list[int]) -> None:
    for name in ("bos", "eos", "unk", "pad"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None and number < rows:
            getattr(writer, f"add_{name}_token_id")(number)
    others = [end for end in ends if end != tokenizer.eos_token_id and end < rows]
    if others:
        writer.add_eot_token_id(others[0])
    encoded = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and encoded[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(tokenizer.eos_token_id is not None and encoded[-1] == tokenizer.eos_token_id)
