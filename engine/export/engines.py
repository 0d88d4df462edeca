"""Folders for the engines that run a character: which there are, and which files each gets.

Every one reads the same GGUF file, which lies in the folder `gguf` of the export.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from engine.base.files import write_atomic
from engine.export import godot, lm_studio, unity
from engine.export.game_code import class_name
from engine.export.modelfile import render_modelfile
from engine.export.pack import Pack

DEFAULT_TYPE = "Q8_0"  # half of 16 bit and hardly to be told from it; wants only multiples of 32
_LIKED = (DEFAULT_TYPE, "Q6_K", "Q5_K_M", "Q4_K_M", "F16", "BF16", "Q4_1", "Q4_0", "F32")

Files = dict[str, str]


def _ollama(pack: Pack) -> Files:
    return {"Modelfile": render_modelfile(pack)}


def _lm_studio(pack: Pack) -> Files:
    return {f"{pack.slug}.preset.json": lm_studio.render_preset(pack), "opening.json": lm_studio.render_opening(pack),
            "README.md": lm_studio.render_guide(pack)}


def _unity(pack: Pack) -> Files:
    return {f"{class_name(pack.slug)}.cs": unity.render_script(pack), "README.md": unity.render_guide(pack)}


def _godot(pack: Pack) -> Files:
    script = f"{pack.slug.replace('-', '_')}.gd"
    return {script: godot.render_script(pack), "README.md": godot.render_guide(pack, script)}


_MAKERS: dict[str, Callable[[Pack], Files]] = {"ollama": _ollama, "lmstudio": _lm_studio, "unity": _unity, "godot": _godot}
ENGINES = tuple(_MAKERS)


def needed_types(engines: Sequence[str], types: Sequence[str]) -> list[str]:
    """The GGUF types to write: those asked for, or DEFAULT_TYPE where only engines were."""
    return list(types) or ([DEFAULT_TYPE] if engines else [])


def choose_file(files: Sequence[str]) -> str:
    """Of the names of GGUF files (NAME-TYPE.gguf) the one that the engines' folders name. Raises ValueError for none."""
    kind = lambda name: name.removesuffix(".gguf").rpartition("-")[2]
    return min(files, key=lambda name: _LIKED.index(kind(name)) if kind(name) in _LIKED else len(_LIKED))


def write_engine(folder: Path, engine: str, pack: Pack) -> list[str]:
    """Write the folder of one of ENGINES into an export; the names of its files, from the export's folder on."""
    files = _MAKERS[engine](pack)
    for name, text in files.items():
        write_atomic(folder / engine / name, text)
    names = [f"{engine}/{name}" for name in files]
    if engine == "lmstudio":
        names.append(_lay_out(folder, pack))
    return names


def _lay_out(folder: Path, pack: Pack) -> str:
    """The GGUF file in LM Studio's layout: a second name of it, where the disk has such, else a copy."""
    name = f"lmstudio/{lm_studio.PUBLISHER}/{pack.slug}/{pack.gguf}"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):
        os.link(folder / "gguf" / pack.gguf, folder / name)
        return name
    shutil.copyfile(folder / "gguf" / pack.gguf, folder / name)
    return name
