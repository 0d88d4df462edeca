"""The bank file: one dense model's characters, each a delta with its card, prompt and report, and a sha256 over all that.

A safetensors file. Its metadata:

  format, version     "persona-studio cast bank", "1"
  bank                JSON: base {name, sha256, family}, shape [L, d, d_ff], characters: a list of entries, in order
  sha256              of that JSON

An entry holds its name (a slug, unique in the bank), the card and the report as parsed JSON, the opening messages of the
prompt, and the sha256 over these and over its tensors: NAME.kept (packed bits, high bit first), NAME.scales, NAME.scale_step,
NAME.left, NAME.right and NAME.factor_step (see delta.py). So every byte with a meaning is hashed. Files are small: adding or
removing a character writes a new file beside the old one, under a lock, and renames it.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import save
from torch import Tensor

from engine.base.errors import UserError
from engine.base.files import explain_write_errors, write_atomic
from engine.cast.delta import Delta
from engine.cast.listing import AGAIN, FORMAT, VERSION, opened

_TENSORS = ("kept", "scales", "scale_step", "left", "right", "factor_step")


@dataclass(frozen=True)
class Base:
    """The dense model of a bank: its name, the sha256 of its weights (dense.py), its family."""

    name: str
    sha256: str
    family: str


@dataclass(frozen=True)
class Entry:
    """A character of a bank: its unique name, card and report as parsed JSON, the opening of its prompt, and its delta."""

    name: str
    card: dict[str, Any]
    prompt: list[dict[str, str]]
    report: dict[str, Any]
    delta: Delta

    def described(self) -> dict[str, Any]:
        """The entry's part of the metadata, the sha256 included."""
        words = {"name": self.name, "card": self.card, "prompt": self.prompt, "report": self.report}
        return {**words, "sha256": _hash(words, self.tensors())}

    def tensors(self) -> dict[str, Tensor]:
        """The entry's tensors, by the last part of their names in the file."""
        bits = torch.from_numpy(numpy.packbits(self.delta.mask.numpy(), axis=1))
        return {"kept": bits, **{name: getattr(self.delta, name).contiguous() for name in _TENSORS[1:]}}

    @property
    def bytes(self) -> int:
        """Bytes of the character in the file, up to the names of its tensors."""
        return sum(tensor.nbytes for tensor in self.tensors().values()) + len(_dump(self.described()))


@dataclass(frozen=True)
class Bank:
    """A bank in memory. shape: L, d and d_ff of the base."""

    base: Base
    shape: tuple[int, int, int]
    entries: tuple[Entry, ...] = ()

    def find(self, name: str) -> Entry:
        """The entry of a name, the bank's or the card's own. Raises UserError for an unknown one."""
        return self.entries[_place(name, [vars(entry) for entry in self.entries])]


def _place(name: str, described: Sequence[Mapping[str, Any]]) -> int:
    """The place of a character in a list of entries. Raises UserError for an unknown name."""
    wanted = name.strip().casefold()
    for place, one in enumerate(described):
        if wanted in (one["name"], str(one["card"].get("data", one["card"]).get("name", "")).casefold()):
            return place
    known = ", ".join(one["name"] for one in described) or "none"
    raise UserError(f"There is no character {name[:80]!r} in the bank.", f"It has: {known}.")


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))  # ASCII: a card may hold half a surrogate pair


def _hash(words: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """sha256 over an entry's words and its tensors, each with its name, type and shape."""
    digest = hashlib.sha256(_dump(words).encode())
    for name in _TENSORS:
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def encode_bank(bank: Bank) -> bytes:
    """The bytes of a bank file."""
    text = _dump({"base": vars(bank.base), "shape": list(bank.shape), "characters": [one.described() for one in bank.entries]})
    tensors = {f"{one.name}.{name}": tensor for one in bank.entries for name, tensor in one.tensors().items()}
    digest = hashlib.sha256(text.encode()).hexdigest()
    return save(tensors, {"format": FORMAT, "version": VERSION, "bank": text, "sha256": digest})


def read_bank(path: Path, names: Sequence[str] | None = None) -> Bank:
    """A bank with all its characters, or only those of `names`; each is checked. Raises UserError for a file that is not an
    intact bank, and for an unknown name."""
    with opened(path, "pt") as (file, words):
        listed = words["characters"]
        places = range(len(listed)) if names is None else sorted({_place(name, listed) for name in names})
        entries = tuple(_entry(path, file, listed[place], words["shape"]) for place in places)
        return Bank(Base(**words["base"]), tuple(words["shape"]), entries)


def list_bank(path: Path) -> tuple[Bank, list[str]]:
    """All intact characters, and a sentence for each damaged one. Raises UserError where the file is no bank."""
    found: list[Entry] = []
    faults = []
    with opened(path, "pt") as (file, words):
        for one in words["characters"]:
            try:
                found.append(_entry(path, file, one, words["shape"]))
            except UserError as error:
                faults.append(str(error))
        return Bank(Base(**words["base"]), tuple(words["shape"]), tuple(found)), faults


def _entry(path: Path, file: Any, described: dict[str, Any], shape: Sequence[int]) -> Entry:
    """One character, checked against its sha256. Raises UserError where it differs."""
    name = str(described["name"])
    words = {key: described[key] for key in ("name", "card", "prompt", "report")}
    try:
        tensors = {part: file.get_tensor(f"{name}.{part}") for part in _TENSORS}
    except SafetensorError as error:
        raise UserError(f"The bank {path} is damaged: {name} is incomplete.", AGAIN) from error
    if _hash(words, tensors) != described["sha256"]:
        raise UserError(f"The bank {path} is damaged: {name} was changed since it was written (its sha256 differs).", AGAIN)
    bits = numpy.unpackbits(tensors["kept"].numpy(), axis=1)[:, : int(shape[2])]
    return Entry(**words, delta=Delta(torch.from_numpy(bits).bool(), *(tensors[part] for part in _TENSORS[1:])))


def write_bank(path: Path, bank: Bank) -> None:
    """Write a bank file: the old one stays until the new one is complete. Raises UserError where it cannot be written."""
    with explain_write_errors(path, "try again"):
        write_atomic(path, encode_bank(bank))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """No other process changes the bank while the block runs."""
    with explain_write_errors(path, "try again"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            yield


def add(path: Path, base: Base, shape: tuple[int, int, int], entry: Entry) -> None:
    """Put a character into a bank, made where there is none; one of the same name is replaced. All or nothing.

    Raises UserError where the bank belongs to another dense model, by its hash.
    """
    with _locked(path):
        bank = read_bank(path) if path.exists() else Bank(base, shape)
        require_base(path, bank, base.sha256, base.name)
        others = tuple(one for one in bank.entries if one.name != entry.name)
        write_bank(path, Bank(bank.base, bank.shape, (*others, entry)))


def remove(path: Path, name: str) -> str:
    """Take a character out of a bank; its name. All or nothing. Raises UserError for an unknown one."""
    with _locked(path):
        bank = read_bank(path)
        gone = bank.find(name)
        write_bank(path, Bank(bank.base, bank.shape, tuple(one for one in bank.entries if one is not gone)))
    return gone.name


def require_base(path: Path, bank: Bank, digest: str, name: str) -> None:
    """Raise UserError unless the weights of the dense model `name` are the bank's, by their hash."""
    if digest != bank.base.sha256:
        raise UserError(f"The bank {path} belongs to the dense model {bank.base.name}, but the weights of {name} differ "
                        f"(sha256 {digest[:12]} instead of {bank.base.sha256[:12]}).",
                        "Give the bank's own model with --model, or make a bank for this one.")
