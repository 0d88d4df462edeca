"""The GGUF files of an exported folder: gguf/NAME-TYPE.gguf, each proven, with what was found of them in report.json.

Works in a folder that is not visible yet, so that a file without its proof is never seen.
"""

import dataclasses
from collections.abc import Generator, Sequence
from pathlib import Path

from engine.base.errors import UserError
from engine.base.events import Event
from engine.base.files import read_json, slug, write_json, write_manifest
from engine.export.gguf import write_gguf
from engine.export.gguf_proof import prove_files, require_llama_cpp
from engine.export.gguf_tensors import ARCHITECTURES
from engine.export.gguf_types import BITS, parse_types
from engine.models.checks import check_config, count_parameters

FOLDER = "gguf"


def stages(types: Sequence[str]) -> list[str]:
    """The names of the stages of add_gguf, in order."""
    if not types:
        return []
    return [*(f"write {type}" for type in types), "decode with llama.cpp", "read with transformers",
            *(f"prove {type}" for type in types)]


def plan_gguf(source: Path, types: Sequence[str]) -> int:
    """About how many bytes the files will take. Raises UserError, before any work, for what cannot be written or proven."""
    if not types:
        return 0
    parse_types(list(types))
    require_llama_cpp()
    family = check_config(source / "config.json")["model_type"]
    if family not in ARCHITECTURES:
        raise UserError(f"Models of the kind {family!r} cannot be written as GGUF.",
                        f"These can: {', '.join(sorted(ARCHITECTURES))}.")
    return int(sum(count_parameters(source) * BITS[type] / 8 * 1.1 + 20_000_000 for type in types))


def add_gguf(folder: Path, types: Sequence[str]) -> Generator[Event, None, None]:
    """Write and prove the files of an exported folder, most precise first; report and manifest tell of them."""
    report = read_json(folder / "report.json")
    stem = slug(str(report.get("name") or report["character"]))
    files = {type: folder / FOLDER / f"{stem}-{type}.gguf" for type in types}
    written = {}
    for type, file in files.items():
        written[type] = yield from write_gguf(folder, file, type)
    proofs = yield from prove_files(folder, files)
    report["gguf"] = {**report.get("gguf", {}), **{type: {"file": f"{FOLDER}/{file.name}", **dataclasses.asdict(written[type]),
                             "proof": dataclasses.asdict(proofs[type])} for type, file in files.items()}}
    write_json(folder / "report.json", report)
    write_manifest(folder)
