"""The list in a bank's file: which characters it has, for which dense model. Imports no torch.

Whether the tensors of a character are intact is checked where they are read (bank.py).
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from engine.base.errors import UserError
from engine.base.files import PROGRAM, data_folder, is_file

FORMAT = "persona-studio cast bank"
VERSION = "1"
AGAIN = "Restore a backup, or build it again from the exported folders."
_LIMIT = 100_000  # characters of a bank; far more than a game has


@dataclass(frozen=True)
class Listed:
    """A character in a bank: its name there, its card as JSON, and a key that is another whenever what it says could be."""

    name: str
    card: bytes
    key: str

    @property
    def folder(self) -> Path:
        """Where the character is kept as a model of its own, once it was gathered."""
        return gathered_folder(self.key)


def key_of(base: str, entry: str) -> str:
    """The key of a character, from the sha256 of the dense model and of its entry."""
    return hashlib.sha256(f"{base} {entry}".encode()).hexdigest()


def gathered_folder(key: str) -> Path:
    """The folder in the data folder for a key."""
    return data_folder() / "cache" / "cast" / key[:20]


def list_characters(path: Path) -> list[Listed]:
    """The characters of a bank. Raises UserError for a file that is no bank, or whose list is damaged."""
    with opened(path, "numpy") as (_, words):
        base = str(words["base"]["sha256"])
        return [Listed(str(one["name"]), json.dumps(one["card"]).encode(), key_of(base, str(one["sha256"])))
                for one in words["characters"]]


@contextmanager
def opened(path: Path, framework: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """A bank file and its parsed list, while the block reads it; `framework`: of its tensors, "pt" or "numpy". Raises UserError
    for what is no intact bank."""
    if not is_file(path):
        raise UserError(f"There is no bank {path}.", f"Make one with: {PROGRAM} cast build.")
    try:
        with safe_open(path, framework=framework) as file:
            yield file, _words(path, file.metadata() or {})
    except SafetensorError as error:
        raise UserError(f"{path} is not a bank, or is truncated or damaged ({str(error).splitlines()[0][:120]}).",
                        AGAIN) from error
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(f"The bank {path} is damaged: its list of characters cannot be read.", AGAIN) from error


def _words(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    """The parsed list of a bank file. Raises UserError."""
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} is not a bank of characters.", f"Make one with: {PROGRAM} cast build.")
    if metadata.get("version") != VERSION:
        raise UserError(f"{path} is a bank of version {metadata.get('version', '?')[:20]}, and this program reads version "
                        f"{VERSION}.", "Build it again from the exported folders.")
    text = metadata["bank"]
    if hashlib.sha256(text.encode()).hexdigest() != metadata.get("sha256"):
        raise UserError(f"The bank {path} is damaged: its list of characters was changed since it was written.", AGAIN)
    words: dict[str, Any] = json.loads(text)
    if len(words["shape"]) != 3 or len(words["characters"]) > _LIMIT:
        raise ValueError("shape")
    return words
