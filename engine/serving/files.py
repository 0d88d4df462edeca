"""Which GGUF file speaks for a model, and making it where there is none. Imports neither torch nor transformers.

A folder that Persona Studio wrote may have files of its own, gguf/NAME-TYPE.gguf, named in its manifest: a known model's folder has
its original, those of runs and exports have what was written there. For any other model a file is made once and kept in the data
folder:

  models/gguf/KEY/model-TYPE.gguf     KEY is of the model's folder, and of the sizes and times of its files
  models/gguf/KEY/source.json         the model's folder; a KEY that does not fit it any more is swept
  models/gguf/KEY/refused.json        why llama.cpp cannot take the model
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from engine.base.cast_folder import GGUF_ADAPTERS, CastPlace, check_place, is_cast, place_of
from engine.base.errors import UserError
from engine.base.events import Event, Saved
from engine.base.families import FAMILIES
from engine.base.files import MANIFEST, data_folder, is_file, read_json, read_untrusted_json
from engine.base.ids import ArtifactId
from engine.base.known_models import KNOWN
from engine.base.model_config import check_config
from engine.base.model_folder import model_folder
from engine.base.sizes import WRITTEN, odd_rows
from engine.base.weights import known_shapes, weight_files
from engine.serving.child import run_engine

OWN = "gguf"  # a folder's own files
COMPARED = "Q8_0"  # the type at which models are compared, where they can have it
REFUSED = "refused.json"
SOURCE = "source.json"
_VERSION = 1  # of the files that are made; part of every key
_LARGEST_MANIFEST = 10_000_000  # bytes
_BESIDE_WEIGHTS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
                   "persona/imatrix.gguf")
_LIKED = ("Q8_0", "F16", "BF16", *WRITTEN)  # the first one at hand speaks


def gguf_file(name: str, type: str = "") -> Path | None:
    """The file that speaks for a model (its name or folder), of one type or the best at hand; None: it has to be made.

    Raises UserError where there is no such model.
    """
    folder = folder_of(name)
    if folder is None:
        return None
    own, made = _own_files(folder), cache_folder(folder)
    originals = [known.type for known in KNOWN.values() if (folder / known.file).is_file()]  # its weights hold nothing more
    for one in [type] if type else [*originals, *_LIKED]:
        for file in (own.get(one), made and made / f"model-{one}.gguf"):
            if file and file.is_file():
                return file
    return None


def speaks_by_llama(name: str) -> bool:
    """Whether llama.cpp can speak for a model, as far as is known before its file is made. Raises UserError for no model."""
    folder = folder_of(name)
    if folder is None or gguf_file(name):
        return True
    if (made := cache_folder(folder)) and (made / REFUSED).is_file():
        return False
    return FAMILIES[check_config(folder / "config.json")["model_type"]].gguf is not None


def common_type(*names: str) -> str:
    """The type at which these models are compared: COMPARED, or F16 where the rows of one do not fill its blocks."""
    folders = [folder for name in names if (folder := folder_of(name))]
    return "F16" if any(odd_rows(known_shapes(folder), COMPARED) for folder in folders) else COMPARED


def character_of(name: str) -> CastPlace | None:
    """The character in the folder of a cast that a model's name means, with its adapter looked at; None for any other model.

    Raises UserError where there is no such model, or the adapter is damaged, or another model's.
    """
    folder = model_folder(name)
    if (place := place_of(folder) if folder else None) is not None:
        check_place(place)
    return place


def gguf_adapters(folder: Path) -> dict[str, Path]:
    """The adapters of a cast's folder as llama.cpp reads them, by the characters' ids."""
    return {file.stem: file for file in sorted((folder / GGUF_ADAPTERS).glob("*.gguf"))} if is_cast(folder) else {}


async def make_gguf(name: str, type: str = "", tell: Callable[[Event], None] = lambda event: None) -> Path:
    """The file of a model, made by `python -m engine gguf` where it is not there; stages and steps (in MB) go to `tell`.

    `type` "": Q8_0 where the model's rows allow it, else 16 bit. Raises UserError, with ErrorCode.NO_GGUF where llama.cpp
    cannot take the model. A cancelled call ends the process and leaves no file.
    """
    if found := gguf_file(name, type):
        return found
    made: list[str] = []

    def seen(event: Event) -> None:
        if isinstance(event, Saved) and event.what == ArtifactId.GGUF:
            made.append(event.path)
        tell(event)

    await run_engine(["gguf", str(folder_of(name) or name), *(["--type", type] if type else [])], seen)
    if not made:
        raise UserError(f"The GGUF file of {name} was not made.", "Try again.")
    return Path(made[0])


def folder_of(name: str) -> Path | None:
    """The folder of a model on this machine, for a character of a cast that of the cast; None for a known model, or one of the
    hub, that is not here yet.

    Raises UserError where there is no such model.
    """
    if folder := model_folder(name):
        place = character_of(name)
        return place.folder if place else folder
    if known := KNOWN.get(name.strip()):
        folder = known.folder
        return folder.resolve() if (folder / "config.json").is_file() else None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name.strip(), "config.json")
    return Path(found).parent if isinstance(found, str) else None


def made_folder() -> Path:
    """Where files that were made lie."""
    return data_folder() / "models" / "gguf"


def cache_folder(folder: Path) -> Path | None:
    """Where the files made for a model's folder lie; None for a folder without weights."""
    weights = weight_files(folder)
    if not weights:
        return None
    identity = [str(_VERSION), str(folder)]
    for file in (*weights, *(folder / name for name in _BESIDE_WEIGHTS)):
        with suppress(OSError):
            found = file.stat()
            identity.append(f"{file.name} {found.st_size} {found.st_mtime_ns}")
    digest = hashlib.sha256("\n".join(identity).encode(errors="surrogateescape")).hexdigest()
    return made_folder() / digest[:20]


def _own_files(folder: Path) -> dict[str, Path]:
    """The GGUF files of a folder, by type: those that its manifest names where it has other weights, which must be those of the
    manifest too; else all, for they are the model."""
    if not any(folder.glob("*.safetensors")):
        return {file.stem.rpartition("-")[2]: file for file in sorted((folder / OWN).glob("*.gguf"))}
    if not is_file(folder / MANIFEST) or not (folder / OWN).is_dir():
        return {}
    try:
        listed: Any = read_untrusted_json(folder / MANIFEST, _LARGEST_MANIFEST)["files"]
        if not all(file.stat().st_size == listed[file.name]["bytes"] for file in weight_files(folder)):
            return {}
        files = {file.stem.rpartition("-")[2]: file for file in sorted((folder / OWN).glob("*.gguf"))}
        return {type: file for type, file in files.items()
                if f"{OWN}/{file.name}" in listed and file.stat().st_size == listed[f"{OWN}/{file.name}"]["bytes"]}
    except (UserError, OSError, KeyError, TypeError):
        return {}


def lock_of(cache: Path) -> FileLock:
    """The lock under which one process at a time makes, or sweeps, the files of one model."""
    return FileLock(cache.with_name(f".{cache.name}.lock"))


def sweep() -> None:
    """Remove the files of models whose folders are gone or changed; those of a model at work stay."""
    for cache in made_folder().glob("[0-9a-f]*"):
        try:
            folder = Path(read_json(cache / SOURCE)["folder"])
        except (UserError, KeyError, TypeError):
            continue
        if os.path.isdir(folder) and cache_folder(folder) == cache:
            continue
        with suppress(Timeout, OSError), lock_of(cache).acquire(timeout=0):
            shutil.rmtree(cache, ignore_errors=True)
