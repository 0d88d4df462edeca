"""Model folders on this machine: which there are, and what one must be before anything is loaded from it.

A model folder is written by others. It is read here as plain data, with limits: no pickle, no code, no unknown family, no
truncated weights. Imports neither torch nor transformers and makes no connection.
"""

import logging
import re
import stat
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.files import MANIFEST, check_manifest, data_folder, folder_size, read_untrusted_json, require_plain
from engine.base.known_models import KNOWN
from engine.base.model_config import check_config, check_generation, check_shapes, refuse_code
from engine.base.model_folder import PICKLES, no_safetensors
from engine.base.sizes import count
from engine.base.weights import WEIGHTS, read_shapes, shapes_of
from engine.models.known import is_ready

INDEX = "model.safetensors.index.json"
_LARGEST_FILE = 100_000_000  # bytes of a JSON, template or tokenizer file; the largest tokenizers have a third of it
_LARGEST_TEMPLATE = 1_000_000  # bytes
_READ_WHOLE = {".json": _LARGEST_FILE, ".model": _LARGEST_FILE, ".txt": _LARGEST_FILE, ".jinja": _LARGEST_TEMPLATE}
_FRONT_MATTER = {"license": r"[\w.+-]{1,80}", "license_name": r"[\w.+-]{1,80}", "license_link": r"[^\s\"'<>]{1,300}",
         "base_model": r"[\w.-]{1,96}/[\w.-]{1,96}"}
_AGAIN = "Download or copy the model again."


def check_folder(folder: Path, whole: bool = True) -> dict[str, Any]:
    """Check a model folder that others wrote and return its parsed config.json.

    Checks the config, the allow-list of families, code references, the weights' headers and sizes and, where the
    folder has a manifest of ours and `whole` is set, every file's sha256. Raises UserError with what is wrong.
    """
    config = check_config(folder / "config.json")
    _check_files(folder)
    if (file := folder / "tokenizer_config.json").is_file():
        refuse_code(file, read_untrusted_json(file, _LARGEST_FILE))
    if (file := folder / "generation_config.json").is_file():
        check_generation(file)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise no_safetensors(str(folder), any(file.suffix in PICKLES for file in folder.iterdir()))
    if (folder / INDEX).is_file():
        _check_index(folder)
    elif not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} has neither {WEIGHTS} nor {INDEX}.", "Rename the weights, or save the model again.")
    for file in files:
        read_shapes(file)
    check_shapes(folder, config, shapes_of(folder))
    if (folder / "adapter_config.json").exists():  # transformers would load it on top, or the model that it names
        raise UserError(f"{folder} holds an adapter (adapter_config.json), not a whole model.",
                        "Merge the adapter into its model first, or remove adapter_config.json.")
    if whole:
        _check_our_manifest(folder)
    return config


def _check_files(folder: Path) -> None:
    """Raise UserError where a file is not a plain file, or too large to be read whole by any library."""
    try:
        files = sorted(file for place in (folder, folder / "additional_chat_templates") if place.is_dir()
                       for file in place.iterdir())
        for file in files:
            if file.suffix in _READ_WHOLE:
                require_plain(file, _READ_WHOLE[file.suffix])
            elif file.exists() and not (stat.S_ISDIR(mode := file.stat().st_mode) or stat.S_ISREG(mode)):
                raise UserError(f"{file} is not a regular file.", "Remove it, or copy the model again.")
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read ({error.strerror}).", _AGAIN) from error


def read_front_matter(folder: Path) -> dict[str, str]:
    """A model's licence and ancestry: the fields of _FRONT_MATTER, as written in the front matter of its README.md."""
    readme = folder / "README.md"
    try:
        if not readme.is_file():  # a pipe would never end
            return {}
        with readme.open(encoding="utf-8", errors="replace") as file:
            text = file.read(65_536)
    except OSError:
        return {}
    front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    found = {name: re.search(rf"^{name}:[ \t]*[\"']?({pattern})", front[1], re.MULTILINE) if front else None
             for name, pattern in _FRONT_MATTER.items()}
    return {name: match[1] for name, match in found.items() if match}


def _check_index(folder: Path) -> None:
    """Raise UserError unless every shard that the index names is a plain file name and exists."""
    shards = read_untrusted_json(folder / INDEX, _LARGEST_FILE).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UserError(f"{folder / INDEX} is damaged: it names no files.")
    for name in sorted({str(value) for value in shards.values()}):
        if name != Path(name).name or "\\" in name or not name.endswith(".safetensors"):
            raise UserError(f"{folder / INDEX} names {name[:80]!r}, and that is no safetensors file beside it.")
        if not (folder / name).is_file():
            raise UserError(f"{folder} is incomplete: {name} is missing.", _AGAIN)


def _check_our_manifest(folder: Path) -> None:
    """Raise UserError when the folder has a manifest that we wrote and a file differs from it."""
    if not (folder / MANIFEST).is_file():
        return
    files = read_untrusted_json(folder / MANIFEST, _LARGEST_FILE).get("files")
    ours = isinstance(files, dict) and bool(files) and all(
        isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() for entry in files.values())
    if ours and (faults := check_manifest(folder)):
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise UserError(f"The model in {folder} is damaged: {faults[0]}{more}.",
                        "Delete the folder, then fetch or make it again.")


def list_models() -> list[dict[str, Any]]:
    """The models that can be named, each with name, kind (known, folder, hub), ready, bytes (on disk), family,
    parameters, licence, folder, layers, hidden_size, intermediate_size, ffn_parameters, weight_bytes and fault.

    Parameters are counted from the headers of the weights; `weight_bytes` are those of all parameters in 16 bit.
    `fault`: why it cannot be used, as a sentence; "" for a sound one. Of the hub's cache, only sound ones are listed.
    """
    models = []
    for known in KNOWN.values():
        one = _entry(known.name, "known", known.folder) if is_ready(known) else _blank(known.name, "known", known.folder)
        models.append(one if one["fault"] else one | known.described)
    folders = {known.folder for known in KNOWN.values()}
    for other in sorted((data_folder() / "models").glob("*")):
        if other.is_dir() and other not in folders and not other.name.startswith(".") and _is_meant_as_model(other):
            models.append(_entry(str(other), "folder", other))
    return models + _cached_models()


def _blank(name: str, kind: str, folder: Path, fault: str = "") -> dict[str, Any]:
    """One line of the list, of a model whose sizes are not known."""
    return {"name": name, "kind": kind, "ready": False, "bytes": 0, "family": "", "parameters": 0, "licence": None,
            "folder": str(folder), "layers": 0, "hidden_size": 0, "intermediate_size": 0, "ffn_parameters": 0,
            "weight_bytes": 0, "fault": fault}


def _entry(name: str, kind: str, folder: Path) -> dict[str, Any]:
    """One line of the list, of a model on disk; whatever is wrong with it is its fault, and does not end the list."""
    try:
        config, shapes = check_folder(folder, whole=False), shapes_of(folder)
        parameters = count(shapes.values())
        return _blank(name, kind, folder) | {
            "ready": True, "bytes": folder_size(folder), "family": config["model_type"], "parameters": parameters,
            "licence": read_front_matter(folder).get("license"), "layers": config["num_hidden_layers"],
            "hidden_size": config["hidden_size"], "intermediate_size": config["intermediate_size"], "weight_bytes": 2 * parameters,
            "ffn_parameters": count(shape for tensor, shape in shapes.items() if ".mlp." in tensor)}
    except UserError as error:
        return _blank(name, kind, folder, str(error))
    except Exception as error:  # a folder that others made must not hide the other models
        logging.getLogger(__name__).exception("model folder %s", folder)
        return _blank(name, kind, folder, f"{folder} cannot be read ({type(error).__name__}: {str(error)[:100]}).")


def _is_meant_as_model(folder: Path) -> bool:
    """Whether a folder has files of a model, good or bad."""
    try:
        names = {file.name for file in folder.iterdir()}
    except OSError:
        return True  # an unreadable folder is listed with its fault
    return any(name == "config.json" or name.endswith((".safetensors", ".gguf")) for name in names)


def _cached_models() -> list[dict[str, Any]]:
    """The hub cache's models of supported families, each at its newest revision."""
    from huggingface_hub import constants, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError, ValueError):
        return []
    models = []
    for repository in sorted(repositories, key=lambda one: one.repo_id):
        revisions = sorted(repository.revisions, key=lambda one: one.last_modified, reverse=True)
        if repository.repo_type == "model" and revisions:
            models.append(_entry(repository.repo_id, "hub", revisions[0].snapshot_path))
    return [one for one in models if not one["fault"]]
