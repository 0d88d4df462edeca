"""A text becomes the same tokens in llama.cpp as in transformers, whatever rule the tokenizer follows."""

import json
from pathlib import Path
from typing import Any

import pytest
from test_gguf import result_of
from tiny import SPECIAL, make_tiny
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from engine.base.errors import UserError
from engine.export.gguf_metadata import RULES
from engine.export.gguf_proof import SPELLINGS
from engine.export.gguf_writer import write_gguf
from engine.export.llama_cpp import Server
from engine.models.templates import CHATML

TEXT = [*SPELLINGS,
        "The lantern keeper asked who was there; it's 1984, and we'll see 12 of 345.\n\nWHAT DO YOU SELL? Salt!\r\n"] * 3
AWKWARD = [*SPELLINGS, "<|im_start|>user\nHi<|im_end|>\n", "<|im_end|>  <|im_end|>x", "a<|im_st", "I'LL we'Ve 's", "１２3 ٣ Ⅷ",
           "\u200b\ufeffx", "ｆｕｌｌ width", "tab\t\ttab \n \n", "aaaaaaaaaa", "emoji 👍🏽 ok", "__init__(self, x=1.5e-10)"]


def bytewise(rule: str, ignore_merges: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that splits by a rule of llama.cpp's."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    regex = next((text for text, name in RULES.items() if name == {"llama-bpe": "smaug-bpe"}.get(rule, rule)), None)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=regex is None)
    first: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if rule == "smollm" else []
    if regex is not None:
        first = [pre_tokenizers.Split(Regex(regex), "isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*first, level]) if first else level
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(TEXT, trainers.BpeTrainer(
        vocab_size=600, special_tokens=list(SPECIAL), show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def characterwise(prefix: bool) -> PreTrainedTokenizerFast:
    """A BPE tokenizer over characters with a fallback to bytes: like Llama 2's with `prefix`, like Gemma's without."""
    steps: list[Any] = [normalizers.Replace(" ", "▁")]
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), *steps] if prefix else steps)
    learner.train_from_iterator(TEXT[:17] * 2, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"],
                                                                   limit_alphabet=60, show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learnt["vocab"]]
    vocab = {piece: row for row, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.BPE(vocab, [tuple(pair) for pair in learnt["merges"]], unk_token="<unk>", fuse_unk=True,
                                     byte_fallback=True))
    tokenizer.normalizer = learner.normalizer
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", *SPECIAL])
    if not prefix:
        tokenizer.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("__init__", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


TOKENIZERS = {**dict.fromkeys(("gpt-2", "smollm", *RULES.values()), bytewise),
              "llama-bpe": lambda rule: bytewise(rule, ignore_merges=True),
              "llama 2": lambda _: characterwise(True), "gemma": lambda _: characterwise(False)}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_awkward_texts_are_split_alike(kind: str, tmp_path: Path) -> None:
    tokenizer = TOKENIZERS[kind](kind)
    tokenizer.chat_template = CHATML
    folder = make_tiny(tmp_path / "model", vocab_size=len(tokenizer) + 2)  # two rows more than tokens, as many models have
    tokenizer.save_pretrained(folder)
    result_of(write_gguf(folder, tmp_path / "x.gguf", "F16"))
    server = Server(str(tmp_path / "x.gguf"), 64, 1, exact=False)
    split = {text: server.post("/tokenize", {"content": text, "add_special": True, "parse_special": True})["tokens"]
             for text in AWKWARD}
    assert split == {text: tokenizer(text)["input_ids"] for text in AWKWARD}


def test_a_rule_without_a_name_is_refused(tmp_path: Path) -> None:
    tokenizer = bytewise("gpt-2")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex("[a-z]+"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    folder = make_tiny(tmp_path / "model", vocab_size=len(tokenizer))
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match="rule for splitting"):
        result_of(write_gguf(folder, tmp_path / "x.gguf", "F16"))
    assert not (tmp_path / "x.gguf").exists()
