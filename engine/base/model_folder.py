"""What the name of a model means: a known model, a folder, a name on the hub, or else what it is and what to give instead."""

import os
import re
from pathlib import Path

from engine.base.errors import UserError
from engine.base.files import is_folder, named_path
from engine.base.known_models import KNOWN
from engine.base.model_config import check_config, check_shapes, gguf_instead
from engine.base.sizes import ModelShape, count
from engine.base.weights import shapes_of

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_HUB_PAGE = re.compile(r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/([\w.-]+/[\w.-]+?)/?(?:[?#].*|/(?:tree|blob)/.*)?")
_OLLAMA = re.compile(r"(?:[\w.-]+/)*[\w.-]{2,}:[\w.-]+")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def model_folder(name: str) -> Path | None:
    """The folder that a text means, made absolute; None for a known model and for a name on the hub.

    Looks at names and at no folder's content. Raises UserError for anything else: what it is, and what to do.
    """
    name = name.strip()
    if name in KNOWN:
        return None
    path = named_path(name)
    if name and is_folder(path):
        return path.resolve()
    if name and os.path.exists(path):
        raise _no_folder(path)
    if HUB_NAME.fullmatch(name):
        return None
    if page := _HUB_PAGE.fullmatch(name):
        raise UserError(f"{name[:200]} is a page of the hub.", f"Give the model's name: {page[1]}.")
    if _is_of_ollama(name):
        raise gguf_instead(repr(name[:200]), "is a name in Ollama, whose models are GGUF files")
    if name.lower().endswith(".gguf"):
        raise UserError(f"There is no file {name[:200]}.", "GGUF files cannot be pruned: give a folder with the original.")
    names = " or ".join(f'"{known}"' for known in KNOWN)
    raise UserError(f"There is no model {name[:200]!r}.",
                    f'Give {names}, a folder that holds a model, or a name on the hub like owner/name.')


def folder_shape(folder: Path) -> ModelShape:
    """The sizes of the model in a folder, from its config and the headers of its weights; takes milliseconds.

    Raises UserError where the folder holds no model that can be pruned.
    """
    config, shapes = check_config(folder / "config.json"), shapes_of(folder)
    if not shapes:
        raise no_safetensors(str(folder), pickles=False)
    check_shapes(folder, config, shapes)
    return ModelShape(config["num_hidden_layers"], config["hidden_size"], config["intermediate_size"], count(shapes.values()))


def no_safetensors(where: str, pickles: bool) -> UserError:
    """The error for a model without safetensors files; `pickles`: it has weights of another kind."""
    if pickles:
        return UserError(f"{where} has its weights only as pickle files, which can run code when they are read.",
                         "Only safetensors are loaded: choose a model that has *.safetensors files.")
    return UserError(f"{where} has no weights.", "Only safetensors are loaded: a *.safetensors file is missing.")


def _no_folder(path: Path) -> UserError:
    """What to say of a file that was named as a model."""
    if path.suffix.lower() == ".gguf" or _is_gguf(path):
        return gguf_instead(path, "is a GGUF file")
    if path.suffix.lower() in PICKLES:
        return UserError(f"{path} is a pickle file, which can run code when it is read.",
                         "Only safetensors are loaded: choose a model that has *.safetensors files.")
    if path.suffix.lower() == ".safetensors" or path.name == "config.json":
        return UserError(f"{path} is one file of a model.", f"Give its folder: {path.resolve().parent}")
    return UserError(f"{path} is a file, not a folder that holds a model.",
                     "Give a folder with config.json, *.safetensors and a tokenizer.")


def _is_gguf(path: Path) -> bool:
    """Whether a plain file begins as a GGUF file does, whatever it is called; Ollama names its files by their hash."""
    try:
        if not path.is_file():  # never open a pipe or a device
            return False
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def _is_of_ollama(name: str) -> bool:
    """Whether a text is a name with a tag, as Ollama writes it, or that of a model that Ollama has on this machine."""
    if _OLLAMA.fullmatch(name):
        return True
    if not re.fullmatch(r"[\w.-]+", name):
        return False
    models = named_path(os.environ.get("OLLAMA_MODELS") or "~/.ollama/models")
    return is_folder(models / "manifests" / "registry.ollama.ai" / "library" / name.lower())
