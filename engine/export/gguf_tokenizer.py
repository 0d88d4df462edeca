r"""A tokenizer as the fields of a GGUF file: tokens, their kinds, merges or scores, special tokens, chat template.

llama.cpp has two tokenizers that matter here, and both begin from tokenizer.json. Byte-level BPE (its "gpt2") takes the
merges and the name of the rule that splits a text into words. BPE over characters with a fallback to bytes (its "llama",
made for SentencePiece) merges by the score of the result, so that a token's score is the falling rank of its first merge.
Knows no weights.
"""

import json
from typing import Any

import gguf
from gguf import TokenType

from engine.base.errors import UserError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORDS = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LLAMA3 = rf"{_WORDS}\p{{N}}{{1,3}}{_REST}"
# The rules for splitting a text into words by the names that llama.cpp's llama-vocab.cpp knows them by.
_RULES = {
    _LLAMA3: "smaug-bpe",
    rf"{_WORDS}\p{{N}}{_REST}": "qwen2",
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+": "tekken",
}
_NO_MERGE = -1e9  # the score of a token that no merge makes


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, rows: int, ends: list[int]) -> None:
    """Write a fast tokenizer of transformers for an embedding of so many `rows`; `ends`: tokens that end an answer.

    Raises UserError where llama.cpp has no tokenizer that does the same.
    """
    told = json.loads(tokenizer.backend_tokenizer.to_str())
    if told["model"]["type"] != "BPE":
        raise UserError(f"A tokenizer of the kind {told['model']['type']} cannot be written as GGUF.",
                        "Byte-level BPE and BPE with a fallback to bytes can.")
    bytewise = any(part["type"] == "ByteLevel" for part in _parts(told["decoder"]))
    tokens, kinds = _tokens(told, tokenizer.unk_token, rows)
    if bytewise:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(name_of_rule(told))
    else:
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    if bytewise:
        writer.add_token_merges([" ".join(pair) for pair in _merges(told)])
    else:
        writer.add_token_scores(_scores(told, tokens))
        writer.add_add_space_prefix(_prepends_space(told))
    _add_special_tokens(writer, tokenizer, rows, ends)
    template = tokenizer.chat_template
    writer.add_chat_template(template["default"] if isinstance(template, dict) else template)


def _parts(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a normalizer, pre-tokenizer or decoder that may be a sequence, or nothing."""
    if not step:
        return []
    inner = next((step[name] for name in ("pretokenizers", "normalizers", "decoders") if name in step), None)
    return [step] if inner is None else [part for one in inner for part in _parts(one)]


def name_of_rule(told: dict[str, Any]) -> str:
    """The name by which llama.cpp knows how a byte-level tokenizer (parsed tokenizer.json) splits a text into words."""
    steps = _parts(told["pre_tokenizer"])
    kinds = [step["type"] for step in steps]
    plain = bool(steps) and not steps[-1].get("add_prefix_space")
    if plain and kinds == ["ByteLevel"] and steps[0]["use_regex"]:
        return "gpt-2"
    if plain and kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and steps[1]["use_regex"]:
        return "smollm"
    if plain and kinds == ["Split", "ByteLevel"] and not steps[1]["use_regex"]:
        rule = steps[0]["pattern"].get("Regex")
        if rule == _LLAMA3 and told["model"].get("ignore_merges"):
            return "llama-bpe"
        if rule in _RULES:
            return _RULES[rule]
    raise UserError("This tokenizer's rule for splitting a text into words is not known by a name that llama.cpp has.",
                    "The model cannot be written as GGUF.")


def _merges(told: dict[str, Any]) -> list[list[str]]:
    return [merge.split(" ") if isinstance(merge, str) else merge for merge in told["model"]["merges"]]


def _tokens(told: dict[str, Any], unknown: str | None, rows: int) -> tuple[list[str], list[int]]:
    """Text and kind of the token of every row; a row without a token gets a name that cannot be typed by accident."""
    tokens = [f"[PAD{row}]" for row in range(rows)]
    kinds = [int(TokenType.UNUSED)] * rows
    for text, row in told["model"]["vocab"].items():
        if row < rows:
            is_byte = len(text) == 6 and text.startswith("<0x") and text.endswith(">")
            tokens[row], kinds[row] = text, int(TokenType.BYTE if is_byte else TokenType.NORMAL)
    for added in told["added_tokens"]:
        if added["id"] < rows:
            tokens[added["id"]] = added["content"]
            kinds[added["id"]] = int(TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED)
    if unknown in told["model"]["vocab"]:
        kinds[told["model"]["vocab"][unknown]] = int(TokenType.UNKNOWN)
    return tokens, kinds


def _scores(told: dict[str, Any], tokens: list[str]) -> list[float]:
    """The falling rank of the first merge that makes each token; llama.cpp joins the pair of the highest score first."""
    first: dict[str, float] = {}
    for rank, pair in enumerate(_merges(told)):
        first.setdefault("".join(pair), -float(rank))
    return [first.get(token, _NO_MERGE) for token in tokens]


def _prepends_space(told: dict[str, Any]) -> bool:
    """Whether a text gets a space before its first word."""
    if any(part["type"] == "Prepend" for part in _parts(told["normalizer"])):
        return True
    return any(part["type"] == "Metaspace" and part["prepend_scheme"] != "never" for part in _parts(told["pre_tokenizer"]))


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
