"""Runs of the command line, taken into the library: `persona prune` leaves a folder with the model, and a work folder.

The model stays where it is and is not copied. What is small is: the history, the lines and the mask.
"""

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from engine.base import migrate
from engine.base.errors import UserError
from engine.base.events import Finished
from engine.base.files import MANIFEST, check_manifest, explain_write_errors, is_folder, named_path, read_json, read_untrusted_json
from engine.base.job import PRESETS, Recipe, make_recipe
from engine.base.known_models import KNOWN
from engine.cards.fields import as_v3, fields_of
from engine.cards.files import read_file
from studio.settings import Settings
from studio.store import characters, lines, runs
from studio.store.database import Store
from studio.store.runs import Run
from studio.workers.commands import result_folder
from studio.workers.ending import Ending, import_lines, last_word, settle

KEPT = ("events.jsonl", "lines.jsonl", "rejected.json", "mask.safetensors")  # of the work folder
ASKED = ("sparsity", "multiple", "seed", "load_in", "recover", "bake")  # of the recipe, as runs of the studio keep them
MOST_BYTES = 16_000_000  # of a report or a job file
_ONE_AT_A_TIME = threading.Lock()  # two clicks, or two pages
_CHOOSE = "Choose the folder that --out named, or the run's work folder."


@dataclass(frozen=True)
class Found:
    """A finished run. `work`: its work folder, None where that is not known; `model`: the dense model's name or folder."""

    folder: Path
    work: Path | None
    card: dict[str, Any]
    model: str
    recipe: dict[str, Any]
    made: float | None  # Unix seconds, where that is known

    @property
    def name(self) -> str:
        """What the run is called."""
        return self.folder.name


def find(settings: Settings, place: str) -> Found:
    """The run in a folder: that of its model, or its work folder. Raises UserError where there is no whole run of one character."""
    folder = named_path(place.strip())
    if not place.strip() or not is_folder(folder):
        raise UserError(f"There is no folder {place.strip()[:200]}." if place.strip() else "No folder is named.", _CHOOSE)
    work: Path | None
    folder = work = folder.resolve()
    if record := _record(work):
        folder = _result_of(work)
    elif work := next((one for one in _work_folders(settings) if _out_of(one) == folder), None):
        record = _record(work)
    if not (folder / MANIFEST).is_file() or not (folder / "report.json").is_file():
        raise UserError(f"{folder} holds no finished run of `persona prune`.", _CHOOSE)
    report = migrate.report(read_untrusted_json(folder / "report.json", MOST_BYTES))
    if "characters" in report:
        raise UserError(f"{folder} is the model of a cast; only a run of one character can be added.",
                        "A cast can be chosen as the base model, and talks in Play.")
    if faults := check_manifest(folder, contents=False):
        raise UserError(f"The model in {folder} is damaged: {faults[0]}.", "Copy it again, or prune again.")
    base, recipe = report.get("base"), report.get("recipe")
    if not isinstance(base, dict) or not isinstance(recipe, dict):
        raise UserError(f"The report in {folder} is damaged.", "Prune again.")
    return Found(folder, work, read_file(folder / "character.json").card.raw, str(record.get("model") or _named(base)), recipe,
                 _moment(report.get("made")))


def found_here(settings: Settings, store: Store) -> list[Found]:
    """Finished runs whose work folder is in the data folder, where `persona prune` puts it, and that are not in the library."""
    found = []
    for work in _work_folders(settings):
        try:
            one = find(settings, str(work))
        except UserError:
            continue  # not finished, or its model is gone
        if _known(settings, store, one.folder) is None:
            found.append(one)
    return found


def adopt(settings: Settings, store: Store, found: Found) -> Run:
    """Take a run into the library, by the character and version with the same card, else by a new character.

    Raises UserError for one that is there already, and where its files cannot be used; nothing is left of it then.
    """
    with _ONE_AT_A_TIME:
        return _adopt(settings, store, found)


def _adopt(settings: Settings, store: Store, found: Found) -> Run:
    if known := _known(settings, store, found.folder):
        raise UserError(f"This run is in the library already, as “{known.name}”.")
    character, version = _character(store, found.card) or ("", 1)
    is_new = not character
    character = character or characters.create(store, as_v3(found.card)).id
    asked = {name: found.recipe[name] for name in ASKED if name in found.recipe}
    if preset := _preset(found.recipe):
        asked["preset"] = preset
    run = runs.add(store, character, version, "prune", found.name, {"model": found.model, "folder": str(found.folder), **asked},
                   state="stopped", made=found.made)
    try:
        work = settings.run_folder(run.id) / "work"
        with explain_write_errors(work):
            work.mkdir(parents=True)
            for name in KEPT if found.work else ():
                if found.work and (found.work / name).is_file():
                    shutil.copyfile(found.work / name, work / name)
        run = settle(settings, store, run, Ending())
        if run.state != "done":
            raise UserError(f"The run in {found.folder} cannot be added. {run.sentence}")
        return _with_lines(store, run, work)
    except Exception:
        runs.remove(store, run.id)
        if is_new:
            characters.delete(store, character)
        raise


def _with_lines(store: Store, run: Run, work: Path) -> Run:
    """The run with the lines that it has learned from, where they can be read."""
    if not (work / "lines.jsonl").is_file():
        return run
    try:
        made = import_lines(store, run, work)
    except (OSError, ValueError):
        return run
    lines.approve(store, made)
    return runs.update(store, run.id, line_set=made)


def _character(store: Store, card: dict[str, Any]) -> tuple[str, int] | None:
    """The character and the version with this card: the newest of the first that has one; None where there is none."""
    wanted = fields_of(card)
    for one in characters.list_characters(store):
        for version in sorted(characters.versions(store, one.id), key=lambda version: version.number, reverse=True):
            if fields_of(version.card) == wanted:
                return one.id, version.number
    return None


def _known(settings: Settings, store: Store, folder: Path) -> Run | None:
    """The run of the library whose model is in a folder."""
    found = runs.list_runs(store, kinds=["prune"])
    return next((run for run in found if (known := result_folder(settings, run)) and known.resolve() == folder), None)


def _work_folders(settings: Settings) -> Iterator[Path]:
    """Those in the data folder; a run of the studio has its own one level below."""
    return (file.parent for file in sorted(settings.jobs.glob("*/job.json")) if _record(file.parent))


def _record(folder: Path) -> dict[str, Any]:
    """What a work folder says of its job; {} for any other folder."""
    try:
        found = read_json(folder / "job.json") if (folder / "job.json").is_file() else None
    except UserError:
        return {}
    return found if isinstance(found, dict) and "fingerprint" in found else {}


def _out_of(work: Path) -> Path | None:
    """Where the model of a work folder's run went; None while it has not finished."""
    last = last_word(work / "events.jsonl")
    return Path(last.out).resolve() if isinstance(last, Finished) and last.out else None


def _result_of(work: Path) -> Path:
    out = _out_of(work)
    if out is None:
        raise UserError(f"The run in {work} has not finished.", "Give its command again, with --resume.")
    if not out.is_dir():
        raise UserError(f"The model of this run is no longer in {out}.", "Give the folder where it is now.")
    return out


def _preset(recipe: dict[str, Any]) -> str:
    """The preset whose knobs a recipe has, but for those that are asked for beside it; "" for none."""
    try:
        made = Recipe(**recipe)
        asked = {name: getattr(made, name) for name in ASKED}
        return next((name for name in PRESETS if make_recipe(name, **asked) == made), "")
    except UserError:
        return ""


def _moment(made: Any) -> float | None:
    try:
        return datetime.fromisoformat(made).timestamp()
    except (OverflowError, TypeError, ValueError):
        return None


def _named(base: dict[str, Any]) -> str:
    """The dense model of a report, by the name under which it can be had."""
    name = str(base.get("name") or "")
    known = next((one.name for one in KNOWN.values() if name in (one.name, one.folder_name)), "")
    return known or str(base.get("hub") or "") or name
