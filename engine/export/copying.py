"""The export: a copy of a finished folder to give away, checked file by file, proven to load, with what the user asked for.

That may be GGUF files, folders for engines, two measured speeds, and a zip. The copy gets its name only when all is done.
"""

import dataclasses
import functools
import hashlib
import os
import shutil
import time
import zipfile
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.base.cast_folder import is_cast, places
from engine.base.errors import UserError
from engine.base.events import Event, Finished, Saved, Stage, Started, Step
from engine.base.files import (
    MANIFEST,
    check_target,
    explain_write_errors,
    folder_size,
    is_file,
    megabytes,
    read_json,
    remove_leftovers,
    require_space,
    staged_folder,
    update_manifest,
    write_json,
)
from engine.base.ids import ArtifactId, StageId
from engine.base.job import ExportJob
from engine.base.migrate import read_report
from engine.base.model_config import check_config
from engine.base.pruning_events import Proved
from engine.base.sizes import COMMON_TYPES, expected_bytes
from engine.base.weights import known_shapes
from engine.cards.card import parse_card
from engine.cards.pictures import clean_portrait
from engine.cards.prompt import messages
from engine.export.engines import TARGETS, choose_file, needed_types, write_engine
from engine.export.engines.target import make_pack
from engine.export.folder import FORMER, GGUF
from engine.export.licence import LEGAL_FILES
from engine.export.model_card import write_readme
from engine.export.verify import greet, measure_speed

LONGEST_NAME = 120  # characters
_PIECE = 8 << 20  # bytes copied between two steps
QUESTION = "Hello. Who are you?"  # not from the example dialogue, which is in the prompt with its answers


@dataclass(frozen=True)
class Copy:
    """An export as it was asked for, and what follows from that."""

    asked: ExportJob

    @property
    def source(self) -> Path:
        """The folder that is copied."""
        return Path(self.asked.source)

    @property
    def out(self) -> Path:
        """The folder to write."""
        return Path(self.asked.out)

    @property
    def name(self) -> str:
        """The copy's own name, on one line; "" for none."""
        return " ".join(self.asked.name.split())

    @property
    def engines(self) -> list[str]:
        """The ids of export targets, each once. Raises UserError for an unknown one."""
        if unknown := [one for one in self.asked.engines if one not in TARGETS]:
            raise UserError(f"There is no export target {unknown[0]!r}.", f"Choose from: {', '.join(TARGETS)}.")
        return list(dict.fromkeys(self.asked.engines))

    @functools.cached_property
    def types(self) -> list[str]:
        """The types of GGUF files that the copy gets, most precise first. Raises UserError for what cannot be written here."""
        if not (names := needed_types(self.engines, self.asked.gguf)):
            return []
        from engine.export.gguf_tensors import parse_types

        return parse_types(names)

    @functools.cached_property
    def portrait(self) -> bytes:
        """The character's picture, as a PNG of pixels alone; b"" for none. Raises UserError for what is no picture."""
        if not self.asked.portrait:
            return b""
        try:
            return clean_portrait(Path(self.asked.portrait).read_bytes())
        except OSError as error:
            raise UserError(f"The picture {self.asked.portrait} cannot be read ({error.strerror}).") from error

    @property
    def archive(self) -> Path:
        """Where the zip file goes."""
        return self.out.with_name(f"{self.out.name}.zip")

    @property
    def stages(self) -> list[tuple[StageId, str]]:
        """The stages, in order."""
        fetched = [(StageId.FETCH, needed) for one in self.engines if (needed := TARGETS[one].needs)]
        ids = [StageId.GGUF_DECODE, StageId.GGUF_REFERENCE] if self.types else []
        gguf = [*((StageId.GGUF_WRITE, type) for type in self.types), *((id, "") for id in ids),
                *((StageId.GGUF_PROVE, type) for type in self.types)]
        return [*fetched, (StageId.COPY, ""), (StageId.PROVE, ""), *gguf, *([(StageId.ENGINES, "")] if self.engines else []),
                *([(StageId.SPEED, "")] if self.asked.measure else []), *([(StageId.ZIP, "")] if self.asked.zip else [])]


def copy_folder(asked: ExportJob) -> Generator[Event, None, None]:
    """Write the copy of a finished folder that was asked for. Raises UserError when the source is damaged or does not answer.

    Closing the generator stops within one step and leaves no files.
    """
    start, copy = time.perf_counter(), Copy(asked)
    listed, report = _read_source(copy)
    own = _files_of_run(listed, report)  # taken over where they are asked for, and otherwise left out; a cast keeps them
    again = {name for type, name in own.items() if type in copy.types} if report.get("characters") else set(own.values())
    files = {name: entry for name, entry in listed.items() if name not in again}
    copy.portrait  # noqa: B018 - refused before any work
    size = sum(entry["bytes"] for entry in files.values())
    if copy.types:
        from engine.export.gguf_tensors import architecture_of
        from engine.export.gguf_writer import Former, add_gguf

        architecture_of(check_config(copy.source / "config.json")["model_type"])  # refuses a family before any work
        shapes = known_shapes(copy.source)
        size += sum(expected_bytes(shapes, type) + 20_000_000 for type in copy.types)
        former = {type: Former(copy.source / name, listed[name]["sha256"]) for type, name in own.items()}
    yield Started(str(report["character"]), str(report["base"]["name"]), float(report["recipe"]["sparsity"]), copy.stages)
    dense = (yield from _find_dense(copy.asked.measure)) if copy.asked.measure else None
    for engine in copy.engines:
        if fetch := TARGETS[engine].fetch:
            yield from fetch()
    partial = copy.archive.with_name(f".{copy.archive.name}.partial")
    with explain_write_errors(copy.out, "try again"), ExitStack() as at_end:
        at_end.callback(partial.unlink, missing_ok=True)
        require_space(copy.out.parent, int(size * (2.1 if copy.asked.zip else 1.05)) + 10_000_000)
        remove_leftovers(copy.out)
        with staged_folder(copy.out) as staging:
            yield from _copy_files(copy.source, staging, files)
            if copy.name:
                update_report(staging, name=copy.name)
            yield from _prove(staging)
            if copy.types:
                yield from add_gguf(staging, copy.types, former)
            if copy.engines:
                yield from _add_engines(staging, copy)
            if dense:  # both models are measured, one after the other
                timed = yield from measure_speed(dense, staging, str(read_json(staging / "report.json").get("dtype", "float32")))
                update_report(staging, speed=[{name: value for name, value in dataclasses.asdict(one).items() if name != "time"}
                                              for one in timed])
            if copy.name or copy.types or dense:
                _rewrite_readme(staging)
            if copy.asked.gguf_only:
                _leave_python_out(staging, copy.engines)
            if copy.asked.zip:
                yield from _zip(staging, partial, copy.out.name)
        if copy.asked.zip:
            partial.rename(copy.archive)
    yield Saved(ArtifactId.MODEL, str(copy.out), folder_size(copy.out))
    for file in sorted((copy.out / GGUF).glob("*.gguf")) if copy.types else []:
        yield Saved(ArtifactId.GGUF, str(file), file.stat().st_size, file.stem.rpartition("-")[2])
    if copy.asked.zip:
        yield Saved(ArtifactId.ZIP, str(copy.archive), copy.archive.stat().st_size)
    yield Finished(str(copy.out), time.perf_counter() - start)


def _read_source(copy: Copy) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entries of the source's manifest, and its report."""
    source = copy.source
    if not is_file(source / "report.json") or not is_file(source / MANIFEST):
        raise UserError(f"{source} is not a folder that Persona Studio exported (report.json or {MANIFEST} is missing).")
    check_target(copy.out)
    if copy.asked.zip and (copy.archive.is_symlink() or copy.archive.exists()):
        raise UserError(f"{copy.archive} exists already.", "Choose another folder, or remove it first.")
    if len(copy.name) > LONGEST_NAME:
        raise UserError(f"The name is longer than {LONGEST_NAME} characters.", "Choose a shorter one.")
    if copy.source.resolve() in copy.out.absolute().parents:
        raise UserError(f"The copy {copy.out} must not be inside the folder that is copied.", "Choose another folder.")
    try:
        files = {name: {"bytes": int(entry["bytes"]), "sha256": str(entry["sha256"])}
                 for name, entry in read_json(source / MANIFEST)["files"].items()}
        report = read_report(source / "report.json")
        report["character"], report["base"]["name"], float(report["recipe"]["sparsity"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source} is damaged: its manifest or its report cannot be read.", "Prune the character again.") from error
    if not all(name and not Path(name).is_absolute() and ".." not in Path(name).parts and not {"\\", "\0"} & set(name)
               for name in files):
        raise UserError(f"{source / MANIFEST} is damaged: it names a file outside the folder.", "Prune the character again.")
    if report.get("gguf_only"):
        raise UserError(f"{source} holds GGUF files alone, and an export begins with the model.", "Export the run itself again.")
    if copy.asked.gguf_only and not needed_types(copy.engines, copy.asked.gguf):
        raise UserError("An export of GGUF files alone needs a GGUF file.", "Add --gguf TYPE, or --for with a program.")
    if copy.asked.gguf_only and report.get("characters"):
        raise UserError(f"{source} holds a cast, which is exported whole.", "Export it without --gguf-only.")
    if report.get("characters") and copy.engines:
        raise UserError(f"Folders for other programs are made for one character, and {source} holds a cast.",
                        "Export it without --for, and serve it, or load gguf/adapters with llama.cpp (docs/cast.md).")
    if lost := [name for name in files if not os.access(source / name, os.R_OK)]:
        raise UserError(f"{source} is damaged: {lost[0]} cannot be read.", "Prune the character again.")
    return files, report


def _files_of_run(files: dict[str, Any], report: dict[str, Any]) -> dict[str, str]:
    """The GGUF files with which a run ended, by type; those of an export are in its report, proven, and part of it."""
    proven = {one.get("file") for one in report.get("gguf", {}).values()}
    return {Path(name).stem.rpartition("-")[2]: name for name in files
            if name.startswith(f"{GGUF}/") and name.count("/") == 1 and name not in proven}  # not a cast's adapters


def _copy_files(source: Path, target: Path, files: dict[str, Any]) -> Generator[Event, None, None]:
    """Copy what the manifest names, and compare every file with it; files get the names that they have now."""
    total = sum(entry["bytes"] for entry in files.values())
    yield Stage(StageId.COPY, megabytes(total))
    done = 0
    for name, entry in files.items():
        digest, size = hashlib.sha256(), 0
        copied = target / FORMER.get(name, name)
        copied.parent.mkdir(parents=True, exist_ok=True)
        with (source / name).open("rb") as reading, copied.open("wb") as writing:
            while piece := reading.read(_PIECE):
                writing.write(piece)
                digest.update(piece)
                size += len(piece)
                yield Step(StageId.COPY, min(megabytes(done + size), megabytes(total)), megabytes(total))
        if (size, digest.hexdigest()) != (entry["bytes"], entry["sha256"]):
            raise UserError(f"{source} is damaged: {name} was changed since it was made.", "Prune the character again.")
        done += size
    write_json(target / MANIFEST, {"files": {FORMER.get(name, name): entry for name, entry in files.items()}})


def update_report(folder: Path, **more: object) -> None:
    """Add to a folder's report, and update the report's entry in the manifest."""
    write_json(folder / "report.json", {**read_json(folder / "report.json"), **more})
    update_manifest(folder, "report.json")


def _add_engines(folder: Path, copy: Copy) -> Generator[Event, None, None]:
    """Write the engines' folders; the GGUF files are there already."""
    from engine.models.loading import load_tokenizer, locate

    yield Stage(StageId.ENGINES, len(copy.engines))
    source = yield from locate(str(folder))
    best = choose_file([file.name for file in (folder / GGUF).glob("*.gguf")])
    pack = make_pack(folder, best, load_tokenizer(source), copy.portrait)
    written = {}
    for number, engine in enumerate(copy.engines, 1):
        writing = write_engine(folder, engine, pack)
        written[engine] = yield from _counted(writing, Step(StageId.ENGINES, number - 1, len(copy.engines)))
        yield Step(StageId.ENGINES, number, len(copy.engines))
    update_report(folder, engines=written)


def _counted(writing: Generator[None, None, list[str]], so_far: Step) -> Generator[Event, None, list[str]]:
    """The value of `writing`; yields `so_far` wherever it can be stopped."""
    try:
        while True:
            next(writing)
            yield so_far
    except StopIteration as end:
        return end.value


def _find_dense(model: str) -> Generator[Event, None, Path]:
    """The folder of the dense model. Raises UserError where it is gone."""
    from engine.models.loading import locate

    try:
        source = yield from locate(model)
    except UserError as error:
        raise UserError(f"The dense model {model} is not on this machine any more, so the two speeds cannot be compared.",
                        "Export without measuring, or put the model back.") from error
    return source.folder


def _rewrite_readme(folder: Path) -> None:
    """Write README.md for what the copy has and its source has not: a name, more files, sizes by format, speeds."""
    try:
        shapes = known_shapes(folder)
        update_report(folder, expected_bytes={name: expected_bytes(shapes, name) for name in COMMON_TYPES})
        card = None if is_cast(folder) else read_json(folder / "character.json")
        write_readme(folder, read_json(folder / "report.json"), card)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError("The folder's report was written by another version.", "Prune the character again.") from error


def _leave_python_out(folder: Path, engines: list[str]) -> None:
    """Remove the weights, configuration and tokenizer, which were needed until here; README.md and the manifest follow."""
    texts = {"character.json", "report.json", "README.md"}
    kept = {file.name for pattern in LEGAL_FILES for file in folder.glob(pattern)} | texts | {GGUF, *engines}
    for entry in [one for one in folder.iterdir() if one.name not in kept]:
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    write_json(folder / "report.json", {**read_json(folder / "report.json"), "gguf_only": True})
    write_readme(folder, read_json(folder / "report.json"), read_json(folder / "character.json"))


def _prove(folder: Path) -> Generator[Event, None, None]:
    """Let the copy answer one question, in a fresh process."""
    from engine.models.chat_format import render_chat
    from engine.models.loading import load_tokenizer, locate

    yield Stage(StageId.PROVE)
    source = yield from locate(str(folder))
    own = (places(folder)[0].own if is_cast(folder) else folder) / "character.json"
    card = parse_card(own.read_bytes(), str(own))
    prompt = render_chat(load_tokenizer(source), messages(card, [("user", QUESTION)]))
    found = greet(folder, prompt)
    yield Proved(found["text"], found["seconds"], found["tokens"])


def _zip(folder: Path, archive: Path, top: str) -> Generator[Event, None, None]:
    """Write a folder as a zip file in which it is called `top`; weights are stored, texts are compressed."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    total, done = megabytes(folder_size(folder)), 0
    yield Stage(StageId.ZIP, total)
    with zipfile.ZipFile(archive, "w") as whole:
        for file in files:
            entry = zipfile.ZipInfo.from_file(file, f"{top}/{file.relative_to(folder).as_posix()}")
            entry.compress_type = zipfile.ZIP_STORED if file.suffix in {".safetensors", ".gguf"} else zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16  # in the hidden folder only the owner can read them
            with file.open("rb") as reading, whole.open(entry, "w", force_zip64=True) as writing:
                while piece := reading.read(_PIECE):
                    writing.write(piece)
                    done += len(piece)
                    yield Step(StageId.ZIP, min(megabytes(done), total), total)
