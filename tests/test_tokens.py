"""The studio's own reading of a model's folder: what is damaged, or would never end, is passed over."""

import json
import os
from pathlib import Path

import pytest

from studio.tokens import CHARACTERS_A_TOKEN, TokenCounter


def test_tokens_and_context_of_a_folder(llama: Path, tmp_path: Path) -> None:
    counter = TokenCounter(tmp_path)
    assert counter.exact(str(llama)) and counter.count(str(llama), "Salt") <= 4 and counter.context(str(llama)) == 512


@pytest.mark.parametrize("value", ["NaN", "1e999", "[]", '"x"', "null", "[" * 100_000, " " * 1_000_001])
def test_a_context_that_is_no_number(value: str, llama: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((llama / "tokenizer.json").read_bytes())
    (tmp_path / "config.json").write_text(f'{{"max_position_embeddings": {value}}}')
    assert TokenCounter(tmp_path).context(str(tmp_path)) is None


def test_what_would_never_end_is_not_read(tmp_path: Path) -> None:
    text = "x" * 42
    (tmp_path / "config.json").write_text(json.dumps({}))
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(20_000_000_000)  # takes no room on the disk
    counter = TokenCounter(tmp_path)
    assert not counter.exact(str(tmp_path)) and counter.count(str(tmp_path), text) == round(42 / CHARACTERS_A_TOKEN)
    (tmp_path / "config.json").unlink()
    os.mkfifo(tmp_path / "config.json")
    assert counter.context(str(tmp_path)) is None
