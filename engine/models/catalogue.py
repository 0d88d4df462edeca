"""Which models lie on this machine: the starter, the data folder's models, the hub's cache.

Reads configs and sizes only; imports neither torch nor transformers.
"""

from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.files import data_folder, folder_size
from engine.models import starter
from engine.models.checks import check_config, count_parameters, read_licence


def list_models() -> list[dict[str, Any]]:
    """The models that can be named, each with name, kind (starter, folder, hub), ready, bytes (on disk), family,
    parameters, licence, folder, layers, hidden_size, intermediate_size, ffn_parameters and weight_bytes.

    Parameters are counted from the headers of the weights; `weight_bytes` are those of all parameters in 16 bit.
    Folders and cached models of unsupported families are left out.
    """
    folder = starter.starter_folder()
    ready = starter.is_ready()
    models = [_entry("starter", "starter", folder, folder_size(folder) if ready else 0, ready)]
    models[0] |= {"family": "llama", "parameters": starter.PARAMETERS, "licence": "apache-2.0", **starter.SHAPE,
                  "weight_bytes": 2 * starter.PARAMETERS}
    for other in sorted((data_folder() / "models").glob("*")):
        if other.is_dir() and other != folder and not other.name.startswith(".") and _loadable(other):
            models.append(_entry(str(other), "folder", other, folder_size(other), True))
    return models + _cached_models()


def _entry(name: str, kind: str, folder: Path, size: int, ready: bool) -> dict[str, Any]:
    """One line of the list."""
    config = check_config(folder / "config.json") if ready else {}
    parameters = count_parameters(folder)
    return {"name": name, "kind": kind, "ready": ready, "bytes": size, "family": config.get("model_type", ""),
            "parameters": parameters, "licence": read_licence(folder), "folder": str(folder),
            "layers": config.get("num_hidden_layers", 0), "hidden_size": config.get("hidden_size", 0),
            "intermediate_size": config.get("intermediate_size", 0),
            "ffn_parameters": count_parameters(folder, ".mlp."), "weight_bytes": 2 * parameters}


def _loadable(folder: Path) -> bool:
    """Whether a folder has the config of a supported family and whole safetensors files."""
    try:
        check_config(folder / "config.json")
        return count_parameters(folder) > 0
    except UserError:
        return False


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
        if repository.repo_type == "model" and revisions and _loadable(revisions[0].snapshot_path):
            newest = revisions[0]
            models.append(_entry(repository.repo_id, "hub", newest.snapshot_path, newest.size_on_disk, True))
    return models
