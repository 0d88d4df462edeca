"""The header of a GGUF file: what it says, as the gguf package reads it; and files that are cut short, changed or made up."""

import os
import random
import struct
from pathlib import Path

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.base.errors import UserError
from engine.serving import gguf_header
from engine.serving.gguf_header import BLOCKS, FILE_TYPES, read_header

END = "<|im_end|>"


def refusal(file: Path) -> str:
    with pytest.raises(UserError) as error:
        read_header(file)
    return error.value.sentence


def test_the_starters_file(starter_gguf: Path) -> None:
    header = read_header(starter_gguf)
    assert (header.architecture, header.type, header.context_length, header.vocabulary) == ("llama", "Q4_1", 8192, 49_152)
    assert header.tensors_end == starter_gguf.stat().st_size and header.weight_bytes == 96_576_768
    assert header.special == {"bos_token": "<|im_start|>", "eos_token": END, "unk_token": "<|endoftext|>", "pad_token": END}
    assert (header.bos_id, header.eos_ids, header.adds_bos) == (1, (2,), False)
    assert header.control[END] == 2 and len(header.control) == 17 and header.user_defined == {}
    assert "{% for message in messages %}" in header.chat_template


def test_a_file_that_export_writes_says_what_the_package_reads(tiny_gguf: Path) -> None:
    header, package = read_header(tiny_gguf), gguf.GGUFReader(tiny_gguf)
    tokens = package.fields["tokenizer.ggml.tokens"].contents()
    kinds = package.fields["tokenizer.ggml.token_type"].contents()
    assert header.vocabulary == len(tokens)
    assert header.control == {text: id for id, (text, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == 3}
    assert header.control and header.eos_ids == (header.control[END],)
    assert header.chat_template == package.fields["tokenizer.chat_template"].contents()
    assert header.context_length == 512 and header.type == "Q8_0"
    assert header.weight_bytes == sum(int(tensor.n_bytes) for tensor in package.tensors)
    last = max(package.tensors, key=lambda tensor: tensor.data_offset)
    assert header.tensors_end == last.data_offset + last.n_bytes


def test_the_numbers_of_types_are_those_of_the_package() -> None:
    known = {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert all(known[kind] == sizes for kind, sizes in BLOCKS.items()) and len(known) - len(BLOCKS) <= 1
    names = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in gguf.LlamaFileType}
    assert all(names[number] == name for number, name in FILE_TYPES.items())


def test_a_header_longer_than_the_first_read(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_header(tiny_gguf)
    monkeypatch.setattr(gguf_header, "_FIRST_READ", 100)
    assert read_header(tiny_gguf) == whole
    monkeypatch.setattr(gguf_header, "_LONGEST_HEADER", 200)
    assert refusal(tiny_gguf) == f"{tiny_gguf} is damaged: its header is too long."


@pytest.mark.parametrize(("content", "sentence"), [
    (b"", "is not a GGUF file"), (b"GGU", "is not a GGUF file"), (b"PK\x03\x04" * 9, "is not a GGUF file"),
    (b"GGUF", "it ends within its header"), (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "of a version that is not read (1)"),
    (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "of a version that is not read"),
    (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "holds no language model"),
    (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 1), "it ends within its header"),
    (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**64 - 1), "it ends within its header"),
    (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 4, 2**60), "it ends within its header"),
    (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 8, 1) + b"\xff" * 8, "it ends within its header"),
    (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 9, 1) + bytes(8), "a list of a type"),
    (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<I", 77), "has a type that does not exist (77)"),
])
def test_what_is_no_file_of_a_model(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(content)
    assert sentence in refusal(tmp_path / "a.gguf")


def test_a_list_that_claims_billions_of_texts_is_refused_before_it_is_read(tmp_path: Path) -> None:
    head = b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 21) + b"tokenizer.ggml.tokens" + struct.pack("<IIQ", 9, 8, 2**31)
    with (tmp_path / "a.gguf").open("wb") as file:
        file.write(head)
        file.truncate(2**35)  # sparse: large enough for the claim
    assert "a list in its header has 2,147,483,648 items" in refusal(tmp_path / "a.gguf")


def test_what_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path / "none.gguf")
    assert "not a regular file" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.gguf")
    assert "not a regular file" in refusal(tmp_path / "pipe.gguf")


@pytest.mark.parametrize("part", [0.01, 0.3, 0.9])
def test_a_file_cut_short(part: float, tiny_gguf: Path, tmp_path: Path) -> None:
    data = tiny_gguf.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(data[: int(part * len(data))])
    assert "cut short" in (sentence := refusal(tmp_path / "cut.gguf")) or "ends within its header" in sentence


@settings(max_examples=300)
@given(seed=st.integers(0, 2**32), flips=st.integers(1, 12), keep=st.floats(0.0, 1.0), cut=st.booleans())
def test_a_changed_file_is_read_or_refused(seed: int, flips: int, keep: float, cut: bool, tiny_gguf: Path,
                                           tmp_path_factory: pytest.TempPathFactory) -> None:
    draw, data = random.Random(seed), bytearray(tiny_gguf.read_bytes())
    for _ in range(flips):
        data[draw.randrange(min(len(data), 30_000))] = draw.choice((0, 1, 9, 127, 255, draw.randrange(256)))
    file = tmp_path_factory.getbasetemp() / "changed.gguf"
    file.write_bytes(data[: int(keep * len(data))] if cut else data)
    try:
        read_header(file)
    except UserError as error:
        assert "\n" not in error.sentence and len(error.sentence) < 1000
