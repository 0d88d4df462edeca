"""Which models lie on this machine: the starter, the data folder's models, the hub's cache.

Reads configs and sizes only; imports neither torch nor transformers.
"""

import logging
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.files import data_folder, folder_size
from engine.base.model_folder import shapes_of
from engine.base.sizes import count
from engine.models import starter
from engine.models.checks import check_folder, read_licence


def list_models() -> list[dict[str, Any]]:
    """The models that can be named, each with name, kind (starter, folder, hub), ready, bytes (on disk), family,
    parameters, licence, folder, layers, hidden_size, intermediate_size, ffn_parameters, weight_bytes and fault.

    Parameters are counted from the headers of the weights; `weight_bytes` are those of all parameters in 16 bit.
    `fault`: why it cannot be used, as a sentence; "" for a sound one. Of the hub's cache, only sound ones are listed.
    """
    folder = starter.starter_folder()
    ready = starter.is_ready()
    models = [_entry("starter", "starter", folder) if ready else _blank("starter", "starter", folder)]
    if not models[0]["fault"]:
        models[0] |= {"family": "llama", "parameters": starter.PARAMETERS, "licence": "apache-2.0", **starter.SHAPE,
                      "weight_bytes": 2 * starter.PARAMETERS}
    for other in sorted((data_folder() / "models").glob("*")):
        if other.is_dir() and other != folder and not other.name.startswith(".") and _is_meant_as_model(other):
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
            "licence": read_licence(folder), "layers": config["num_hidden_layers"], "hidden_size": config["hidden_size"],
            "intermediate_size": config["intermediate_size"], "weight_bytes": 2 * parameters,
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
        return True  # what cannot be looked into is told
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
