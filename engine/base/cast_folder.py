"""The folder of a cast: one model, and the characters that share it. Imports no torch.

A character's place, FOLDER/characters/ID, is the name of a model as well: the shared one with the character's adapter.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.files import MANIFEST, is_file, read_json, read_untrusted_json, sha256
from engine.base.weights import weight_files

CHARACTERS, ADAPTER, CARD, REPORT = "characters", "adapter", "character.json", "report.json"
GGUF_ADAPTERS = "gguf/adapters"  # a cast's adapters as llama.cpp reads them, ID.gguf
MOST = 100  # characters of a cast
_LARGEST = 10_000_000  # bytes of a manifest
_DAMAGED = "Copy or make the folder again."


@dataclass(frozen=True)
class CastPlace:
    """A character in the folder of a cast."""

    folder: Path
    id: str

    @property
    def own(self) -> Path:
        """What is the character's alone."""
        return self.folder / CHARACTERS / self.id

    @property
    def peft(self) -> Path | None:
        """The adapter as peft loads it; None where it has none."""
        return self.own / ADAPTER if (self.own / ADAPTER).is_dir() else None


def is_cast(folder: Path) -> bool:
    """Whether a folder holds a cast."""
    return os.path.isdir(folder / CHARACTERS) and is_file(folder / "config.json")  # os.path: false for what cannot be a path


def place_of(folder: Path) -> CastPlace | None:
    """The character whose place in a cast's folder this is; None for any other folder."""
    inside = folder.parent.name == CHARACTERS and is_file(folder / CARD) and is_cast(folder.parent.parent)
    return CastPlace(folder.parent.parent, folder.name) if inside else None


def places(folder: Path) -> list[CastPlace]:
    """The characters of a cast's folder, by its manifest. Raises UserError where one is not there, or there are none."""
    files = _listed(folder)
    named = (name.split("/") for name in files)
    ids = sorted(parts[1] for parts in named if len(parts) == 3 and (parts[0], parts[2]) == (CHARACTERS, CARD))
    if not ids:
        raise UserError(f"{folder} is the folder of a cast, and its {MANIFEST} names no character.", _DAMAGED)
    for id in ids:
        if not is_file(folder / CHARACTERS / id / CARD):
            raise UserError(f"{folder} is damaged: {CHARACTERS}/{id}/{CARD} is missing.", _DAMAGED)
    return [CastPlace(folder, id) for id in ids]


def check_place(place: CastPlace) -> None:
    """Raise UserError unless the character's adapter is whole, and was made for the weights that are there."""
    files, inside = _listed(place.folder), f"{CHARACTERS}/{place.id}/"
    for name, entry in files.items():
        if not (name.startswith((inside, f"{GGUF_ADAPTERS}/{place.id}.")) or "/" not in name):
            continue
        file = place.folder / name
        if not is_file(file):
            raise UserError(f"{place.folder} is damaged: {name} is missing.", _DAMAGED)
        if file.stat().st_size != entry.get("bytes"):
            raise UserError(f"{place.folder} is damaged: {name} has {file.stat().st_size:,} bytes instead of {entry.get('bytes')}.",
                            _DAMAGED)
    if place.peft is None:
        return
    made_for = read_json(place.own / REPORT).get("model")
    if made_for != _joined(files.get(file.name, {}).get("sha256", "") for file in weight_files(place.folder)):
        raise UserError(f"The adapter of {place.id} was made for another model than the one in {place.folder}.",
                        "Take both from one cast's folder.")


def weights_digest(folder: Path) -> str:
    """What tells a folder's weights from all others."""
    return _joined(map(sha256, weight_files(folder)))


def _joined(digests: Any) -> str:
    found = list(digests)
    return str(found[0]) if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()


def _listed(folder: Path) -> Mapping[str, Any]:
    """The files of a manifest. Raises UserError."""
    if not is_file(folder / MANIFEST):
        raise UserError(f"{folder} is damaged: its {MANIFEST} is missing.", _DAMAGED)
    files = read_untrusted_json(folder / MANIFEST, _LARGEST).get("files")
    if not isinstance(files, dict) or not all(isinstance(one, dict) for one in files.values()):
        raise UserError(f"{folder / MANIFEST} is damaged: it is not a list of files.", _DAMAGED)
    return files
