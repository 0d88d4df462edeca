"""What a model folder must be before anything is loaded from it.

A model folder is written by others. It is read here as plain data, by our own
code, with limits: no pickle, no code, no unknown family, no truncated weights.
This module imports neither torch nor transformers and knows no network.
"""

import json
import math
import re
import struct
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.files import MANIFEST, check_manifest, read_json

FAMILIES = frozenset(
    {"llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma2", "gemma3_text", "olmo2", "granite", "phi3"}
)
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_CONFIG_LIMIT = 1_000_000  # bytes
_INDEX_LIMIT = 20_000_000  # bytes; an index of a very large model has a few MB
_HEADER_LIMIT = 100_000_000  # bytes, the limit of the safetensors library
_TOLD = {"license": r"[\w.+-]{1,80}", "license_name": r"[\w.+-]{1,80}", "license_link": r"[^\s\"'<>]{1,300}",
         "base_model": r"[\w.-]{1,96}/[\w.-]{1,96}"}
_SIZES = {"vocab_size": 4_000_000, "hidden_size": 65_536, "intermediate_size": 1_000_000, "num_hidden_layers": 1_000,
          "num_attention_heads": 4_096}
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_ITEM_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
               "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1}
_AGAIN = "Download or copy the model again."


def check_folder(folder: Path) -> dict[str, Any]:
    """Check a model folder that others wrote and return its parsed config.json.

    Checks the config, the allow-list of families, code references, the weights' headers and sizes and, where the
    folder has a manifest of ours, every file's sha256. Raises UserError with what is wrong.
    """
    config = check_config(folder / "config.json")
    _refuse_code(folder / "tokenizer_config.json")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise no_safetensors(str(folder), any(any(folder.glob(pattern)) for pattern in _PICKLES))
    if (folder / INDEX).is_file():
        _check_index(folder)
    elif not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} has neither {WEIGHTS} nor {INDEX}.", "Rename the weights, or save the model again.")
    for file in files:
        _check_weights(file)
    _check_our_manifest(folder)
    return config


def check_config(path: Path) -> dict[str, Any]:
    """The parsed config.json of an allowed family. Raises UserError for anything else."""
    if not path.is_file():
        raise UserError(f"{path.parent} holds no model: there is no config.json.",
                        "Give a folder with config.json, *.safetensors and a tokenizer, or a hub name like owner/name.")
    config = read_untrusted_json(path, _CONFIG_LIMIT)
    _refuse_code(path)
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise UserError(f"Models of the kind {str(family)[:40]!r} are not supported.",
                        f"Supported are: {', '.join(sorted(FAMILIES))}.")
    if config.get("quantization_config"):
        raise UserError(f"The weights in {path.parent} are quantised already, and cannot be pruned.",
                        "Take the 16-bit original; it can be loaded in 8 or 4 bit here.")
    for name, largest in _SIZES.items():
        value = config.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= largest:
            raise UserError(f"{path} is damaged: {name} is {str(value)[:40]}.")
    return config


def read_untrusted_json(path: Path, limit: int) -> dict[str, Any]:
    """A JSON object from a file of at most `limit` bytes. Raises UserError for anything else."""
    try:
        if path.stat().st_size > limit:
            raise UserError(f"{path} is larger than {limit:,} bytes, and is not read.")
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: it is not valid JSON ({str(error)[:100]}).") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} cannot be read: it is no JSON object.")
    return value


def no_safetensors(where: str, pickles: bool) -> UserError:
    """The sentence for a model without safetensors files."""
    if pickles:
        return UserError(f"{where} has its weights only as pickle files, which can run code when they are read.",
                         "Only safetensors are loaded: choose a model that has *.safetensors files.")
    return UserError(f"{where} has no weights.", "Only safetensors are loaded: a *.safetensors file is missing.")


def read_licence(folder: Path) -> str | None:
    """The `license:` of the YAML front matter of README.md, as written there; None where there is none."""
    return read_front_matter(folder).get("license")


def read_front_matter(folder: Path) -> dict[str, str]:
    """What README.md says of a model's licence and ancestry: of _TOLD what stands in its front matter on a line, as text."""
    try:
        with (folder / "README.md").open(encoding="utf-8", errors="replace") as file:
            text = file.read(65_536)
    except OSError:
        return {}
    front = re.match(r"---\s*\n(.*?)\n---", text, re.DOTALL)
    found = {name: re.search(rf"^{name}:[ \t]*[\"']?({pattern})", front[1], re.MULTILINE) if front else None
             for name, pattern in _TOLD.items()}
    return {name: match[1] for name, match in found.items() if match}


def _refuse_code(path: Path) -> None:
    """Raise UserError where a JSON file names Python code to be run (`auto_map`), at any depth."""
    if not path.is_file():
        return
    limit = _CONFIG_LIMIT if path.name == "config.json" else _INDEX_LIMIT
    if _has_key(read_untrusted_json(path, limit), "auto_map"):
        raise UserError(f"{path.parent} asks to run Python code of its own (auto_map in {path.name}).",
                        "That is never done here: choose a model without custom code.")


def _has_key(value: Any, key: str) -> bool:
    """Whether a key occurs anywhere in a JSON value."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            if key in item:
                return True
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return False


def _check_index(folder: Path) -> None:
    """Raise UserError unless every shard that the index names is a plain file name and exists."""
    shards = read_untrusted_json(folder / INDEX, _INDEX_LIMIT).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise UserError(f"{folder / INDEX} is damaged: it names no files.")
    for name in sorted({str(value) for value in shards.values()}):
        if name != Path(name).name or "\\" in name or not name.endswith(".safetensors"):
            raise UserError(f"{folder / INDEX} names {name[:80]!r}, and that is no safetensors file beside it.")
        if not (folder / name).is_file():
            raise UserError(f"{folder} is incomplete: {name} is missing.", _AGAIN)


def _read_header(file: Path) -> tuple[int, dict[str, Any]]:
    """A safetensors file's header: its length in bytes, and the entries of its tensors. Raises UserError."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size - 8, _HEADER_LIMIT):
            raise UserError(f"{file} is truncated or no safetensors file.", _AGAIN)
        header = stream.read(length)
    try:
        tensors = json.loads(header)
        return length, {name: tensors[name] for name in tensors if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file} is damaged: its header cannot be read.", _AGAIN) from error


def _check_weights(file: Path) -> dict[str, Any]:
    """The tensors of a safetensors file whose header is sound and that is exactly as long as it says."""
    length, tensors = _read_header(file)
    try:
        expected = 8 + length + max((_end_of(entry) for entry in tensors.values()), default=0)
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise UserError(f"{file} is damaged: its header contradicts itself.", _AGAIN) from error
    if (size := file.stat().st_size) != expected:
        raise UserError(f"{file} is incomplete: it has {size:,} bytes instead of {expected:,}.", _AGAIN)
    return tensors


def count_parameters(folder: Path, part: str = "") -> int:
    """Parameters of a folder's safetensors files, by their headers; 0 where there are none. Raises UserError.

    `part`: of the tensors with this in their name only; ".mlp." is in those of the feed-forward networks.
    """
    files = [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else sorted(folder.glob("model-*.safetensors"))
    return sum(math.prod(entry["shape"]) for file in files for name, entry in _check_weights(file).items() if part in name)


def _end_of(entry: dict[str, Any]) -> int:
    """Where a tensor's data end, from its header entry. Raises ValueError when the entry contradicts itself."""
    begin, end = entry["data_offsets"]
    item = _ITEM_BYTES.get(entry["dtype"])
    if not (isinstance(begin, int) and isinstance(end, int) and 0 <= begin <= end):
        raise ValueError("offsets")
    if item is not None and math.prod(entry["shape"]) * item != end - begin:
        raise ValueError("shape")
    return end


def _check_our_manifest(folder: Path) -> None:
    """Raise UserError when the folder has a manifest that we wrote and a file differs from it."""
    if not (folder / MANIFEST).is_file():
        return
    files = read_json(folder / MANIFEST)
    files = files.get("files") if isinstance(files, dict) else None
    ours = isinstance(files, dict) and bool(files) and all(
        isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() for entry in files.values())
    if ours and (faults := check_manifest(folder)):
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise UserError(f"The model in {folder} is damaged: {faults[0]}{more}.",
                        "Delete the folder, then fetch or make it again.")
