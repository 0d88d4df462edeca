"""Export targets: folders in an export for the programs that run a character. Each file here with a TARGET is one.

All read the same GGUF file, in the folder `gguf` of the export. The command line, the Export room and the table in
docs/export.md come from TARGETS.
"""

import importlib
import pkgutil
from collections.abc import Generator, Sequence
from pathlib import Path

from engine.base.files import write_atomic
from engine.export.engines.target import Pack, Target

DEFAULT_TYPE = "Q8_0"  # half of 16 bit, with hardly a difference; needs only rows that are multiples of 32
_PREFERRED = (DEFAULT_TYPE, "Q6_K", "Q5_K_M", "Q4_K_M", "F16", "BF16", "Q4_1", "Q4_0", "F32")


_FILES = [importlib.import_module(f"{__name__}.{one.name}") for one in pkgutil.iter_modules(__path__)]
_FOUND: list[Target] = [file.TARGET for file in _FILES if hasattr(file, "TARGET")]
TARGETS = {one.id: one for one in sorted(_FOUND, key=lambda one: one.label)}


def needed_types(engines: Sequence[str], types: Sequence[str]) -> list[str]:
    """The GGUF types to write: those asked for, or DEFAULT_TYPE where only engines were."""
    return list(types) or ([DEFAULT_TYPE] if engines else [])


def choose_file(files: Sequence[str]) -> str:
    """Of the names of GGUF files (NAME-TYPE.gguf) the one that the targets use. Raises ValueError for none."""
    kind = lambda name: name.removesuffix(".gguf").rpartition("-")[2]
    return min(files, key=lambda name: _PREFERRED.index(kind(name)) if kind(name) in _PREFERRED else len(_PREFERRED))


def write_engine(folder: Path, engine: str, pack: Pack) -> Generator[None, None, list[str]]:
    """Write the folder of one of TARGETS into an export; the generator's value: its files, relative to the export.

    Yields where it can be stopped.
    """
    target, own = TARGETS[engine], folder / engine
    for name, text in target.render(pack).items():
        write_atomic(own / name, text)
    if target.add:
        yield from target.add(own, pack)
    return sorted(file.relative_to(folder).as_posix() for file in own.rglob("*") if file.is_file())


def table() -> str:
    """The targets as a Markdown table, for docs/export.md."""
    rows = [f"| {one.label} | `--for {one.id}` | {one.contents} | {one.written_for} |" for one in TARGETS.values()]
    return "\n".join(["| program | option | its folder holds | written for |", "| --- | --- | --- | --- |", *rows])
