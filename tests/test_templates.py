"""Tokenizers of model folders, and our chat templates for folders that come without one."""

from pathlib import Path

import pytest
from tiny import SPECIAL, find, make_tiny, make_tokenizer

from engine.base.errors import UserError
from engine.models.loading import load_tokenizer

TURNS = [{"role": "system", "content": "SYSTEM"}, {"role": "user", "content": "USER"},
         {"role": "assistant", "content": "ANSWER"}]


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match=r"tokenizer .*cannot be read"):
        load_tokenizer(find(folder))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="has no tokenizer"):
        load_tokenizer(find(folder))


LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
FORMATS = [
    ("qwen2", SPECIAL, "<|im_start|>system\nSYSTEM<|im_end|>\n<|im_start|>user\nUSER<|im_end|>\n"
                       "<|im_start|>assistant\nANSWER<|im_end|>\n"),
    ("llama", LLAMA, "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nSYSTEM<|eot_id|>"
                     "<|start_header_id|>user<|end_header_id|>\n\nUSER<|eot_id|>"
                     "<|start_header_id|>assistant<|end_header_id|>\n\nANSWER<|eot_id|>"),
    ("mistral", ("<s>", "</s>", "[INST]", "[/INST]"), "<s>[INST] SYSTEM\n\nUSER[/INST] ANSWER</s>"),
    ("gemma2", ("<bos>", "<start_of_turn>", "<end_of_turn>"), "<bos><start_of_turn>user\nSYSTEM\n\nUSER<end_of_turn>\n"
                                                              "<start_of_turn>model\nANSWER<end_of_turn>\n"),
    ("phi3", ("<|end|>", "<|user|>", "<|assistant|>"), "<|system|>\nSYSTEM<|end|>\n<|user|>\nUSER<|end|>\n"
                                                       "<|assistant|>\nANSWER<|end|>\n"),
    ("granite", ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
     "<|start_of_role|>system<|end_of_role|>SYSTEM<|end_of_text|>\n<|start_of_role|>user<|end_of_role|>USER"
     "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>ANSWER<|end_of_text|>\n"),
    ("llama", SPECIAL, "<|im_start|>system\nSYSTEM<|im_end|>\n<|im_start|>user\nUSER<|im_end|>\n"
                       "<|im_start|>assistant\nANSWER<|im_end|>\n"),
    ("gemma2", ("<end>",), "System: SYSTEM\n\nUser: USER\n\nAssistant: ANSWER<end>\n\n"),
]


@pytest.mark.parametrize(("family", "special", "expected"), FORMATS)
def test_our_templates_serve_folders_without_one(family: str, special: tuple[str, ...], expected: str,
                                                 tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model", family)
    (folder / "chat_template.jinja").unlink()
    names = {"eos_token": "</s>" if "</s>" in special else special[0 if len(special) == 1 else -1]}
    if special[0] in {"<|begin_of_text|>", "<s>", "<bos>"}:
        names["bos_token"] = special[0]
    make_tokenizer(special, None, **names).save_pretrained(folder)
    tokenizer = load_tokenizer(find(folder))
    assert tokenizer.apply_chat_template(TURNS, tokenize=False) == expected
