"""The bank file: what goes in comes out, whoever adds or removes does it whole, and no damage goes unseen."""

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from engine.base.errors import UserError
from engine.cast.bank import Bank, Base, Entry, add, encode_bank, list_bank, read_bank, remove, write_bank
from engine.cast.delta import Delta
from engine.cast.listing import list_characters

BASE = Base("starter", "ab" * 32, "llama")
SHAPE = (2, 32, 60)  # 60 channels: the last byte of a packed row is not full


def make_entry(name: str, seed: int = 1, rank: int = 3) -> Entry:
    """A character with a delta of random numbers."""
    draw = torch.Generator().manual_seed(seed)
    numbers = lambda *shape: torch.randint(-127, 128, shape, generator=draw).to(torch.int8)
    mask = torch.zeros(2, 60, dtype=torch.bool)
    for layer in mask:
        layer[torch.randperm(60, generator=draw)[:40]] = True
    delta = Delta(mask, numbers(2, 40), torch.rand(2, generator=draw), numbers(2, rank, 32), numbers(2, rank, 40),
                  torch.rand(2, rank, generator=draw))
    card = {"spec": "chara_card_v3", "data": {"name": f"{name.title()} Ö."}}
    return Entry(name, card, [{"role": "system", "content": f"You are {name}.\n"}], {"character": name}, delta)


def same(one: Entry, other: Entry) -> bool:
    """Whether two entries are equal to the bit."""
    words = lambda entry: (entry.name, entry.card, entry.prompt, entry.report)
    tensors = [(entry.tensors(), entry.delta.mask) for entry in (one, other)]
    return words(one) == words(other) and torch.equal(tensors[0][1], tensors[1][1]) and all(
        torch.equal(tensor, tensors[1][0][name]) for name, tensor in tensors[0][0].items())


@pytest.fixture
def bank_file(tmp_path: Path) -> Path:
    """A bank of two characters."""
    for seed, name in enumerate(("ada", "bert")):
        add(tmp_path / "cast.bank", BASE, SHAPE, make_entry(name, seed))
    return tmp_path / "cast.bank"


def test_what_goes_in_comes_out(bank_file: Path) -> None:
    bank = read_bank(bank_file)
    assert (bank.base, bank.shape) == (BASE, SHAPE)
    assert [one.name for one in bank.entries] == ["ada", "bert"]
    assert all(same(one, make_entry(one.name, seed)) for seed, one in enumerate(bank.entries))
    assert [one.name for one in read_bank(bank_file, ["Bert Ö."]).entries] == ["bert"], "the card's own name serves as well"
    assert bank_file.stat().st_size == pytest.approx(sum(one.bytes for one in bank.entries), abs=3000)


def test_the_same_name_again_takes_its_place_and_removing_leaves_the_others(bank_file: Path) -> None:
    add(bank_file, BASE, SHAPE, make_entry("ada", 9))
    assert [one.name for one in read_bank(bank_file).entries] == ["bert", "ada"]
    assert same(read_bank(bank_file, ["ada"]).entries[0], make_entry("ada", 9))
    assert remove(bank_file, "ADA") == "ada"
    assert [one.name for one in read_bank(bank_file).entries] == ["bert"]
    remove(bank_file, "bert")
    assert read_bank(bank_file).entries == ()
    with pytest.raises(UserError, match=r"no character 'bert' in the bank\. It has: none\."):
        remove(bank_file, "bert")


def test_another_dense_model_is_refused_and_nothing_is_lost(bank_file: Path) -> None:
    before = bank_file.read_bytes()
    with pytest.raises(UserError, match="belongs to the dense model starter, but the weights of other differ"):
        add(bank_file, replace(BASE, name="other", sha256="cd" * 32), SHAPE, make_entry("cleo"))
    assert bank_file.read_bytes() == before


def test_a_full_disk_leaves_the_old_bank(bank_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, names = bank_file.read_bytes(), set(os.listdir(bank_file.parent))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="is full; nothing half-written was kept"):
        add(bank_file, BASE, SHAPE, make_entry("cleo"))
    assert bank_file.read_bytes() == before and set(os.listdir(bank_file.parent)) == names


@pytest.fixture(scope="module")
def encoded() -> bytes:
    """The bytes of a bank of one small character."""
    return encode_bank(Bank(BASE, SHAPE, (make_entry("ada", rank=1),)))


def test_a_flipped_bit_is_found_in_every_byte(tmp_path: Path, encoded: bytes) -> None:
    file = tmp_path / "flipped.bank"
    for place in range(len(encoded)):
        damaged = bytearray(encoded)
        damaged[place] ^= 1 << place % 8
        file.write_bytes(damaged)
        with pytest.raises(UserError) as found:
            read_bank(file)
        assert "\n" not in str(found.value)


@given(st.integers(0, 10**6))
@settings(max_examples=60)
def test_any_cut_is_found(tmp_path_factory: pytest.TempPathFactory, encoded: bytes, length: int) -> None:
    file = tmp_path_factory.getbasetemp() / "cut.bank"
    file.write_bytes(encoded[: length % len(encoded)])
    with pytest.raises(UserError, match=r"is not a bank|is truncated"):
        read_bank(file)


def test_the_list_tells_who_is_damaged_and_who_is_whole(bank_file: Path) -> None:
    damaged = bytearray(bank_file.read_bytes())
    damaged[-1] ^= 1  # the last tensor of the file
    bank_file.write_bytes(damaged)
    bank, faults = list_bank(bank_file)
    assert len(bank.entries) == 1 and len(faults) == 1
    gone = {"ada", "bert"} - {bank.entries[0].name}
    assert f"{gone.pop()} was changed since it was written" in faults[0]


@pytest.mark.parametrize(("make", "sentence"), [
    (lambda file: None, "There is no bank"),
    (lambda file: file.mkdir(), "There is no bank"),
    (lambda file: file.write_bytes(b""), "is not a bank"),
    (lambda file: file.write_text("a letter"), "is not a bank"),
    (lambda file: save_file({"a": torch.zeros(2)}, file), "is not a bank of characters"),
    (lambda file: save_file({}, file, {"format": "persona-studio cast bank", "version": "2"}), "a bank of version 2"),
    (lambda file: save_file({}, file, {"format": "persona-studio cast bank", "version": "1"}), "is damaged"),
    (lambda file: save_file({}, file, {"format": "persona-studio cast bank", "version": "1", "bank": "{}", "sha256": ""}),
     "is damaged"),
])
def test_what_is_not_a_bank_gets_one_sentence(tmp_path: Path, make: Any, sentence: str) -> None:
    make(tmp_path / "odd")
    with pytest.raises(UserError, match=sentence):
        read_bank(tmp_path / "odd")


def test_a_name_that_holds_half_a_character_is_kept(tmp_path: Path) -> None:
    entry = replace(make_entry("ada"), card=json.loads(r'{"name": "\ud83d broken"}'))
    write_bank(tmp_path / "cast.bank", Bank(BASE, SHAPE, (entry,)))
    assert same(read_bank(tmp_path / "cast.bank").entries[0], entry)


def test_the_list_of_a_bank_needs_no_torch_and_its_keys_change_with_what_a_character_says(bank_file: Path) -> None:
    first = list_characters(bank_file)
    assert [one.name for one in first] == ["ada", "bert"]
    assert [json.loads(one.card) for one in first] == [one.card for one in read_bank(bank_file).entries]
    for base, seed in ((replace(BASE, sha256="cd" * 32), 0), (BASE, 7)):
        other = bank_file.with_name("other.bank")
        write_bank(other, Bank(base, SHAPE, (make_entry("ada", seed),)))
        assert list_characters(other)[0].key not in {one.key for one in first}
    code = f"import sys, pathlib; from engine.cast.listing import list_characters as list; list(pathlib.Path({str(bank_file)!r}))"
    result = subprocess.run([sys.executable, "-c", f"{code}; print('torch' in sys.modules)"], cwd=Path(__file__).parents[1],
                            capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
