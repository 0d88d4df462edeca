"""From a run in the library to a worker's command line, with the files that the worker reads.

Starts nothing.
"""

from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.files import MANIFEST, explain_write_errors, slug, write_atomic, write_json
from studio.settings import Settings
from studio.store import characters, lines, runs
from studio.store.database import Store
from studio.store.runs import Run

# What a spec may hold for a lines or prune run, and the option that it becomes.
OPTIONS = {"model": "--model", "preset": "--preset", "sparsity": "--sparsity", "multiple": "--multiple", "seed": "--seed",
           "steps": "--steps", "load_in": "--load-in", "dtype": "--dtype", "teacher": "--teacher",
           "teacher_model": "--teacher-model", "queries": "--queries"}
EXPORT_OPTIONS = {"engines", "gguf", "measure"}
LONGEST_NAME = 120  # characters, as in the engine's own check
SWITCHES = {"recover": "--recover"}


def check_name(name: str) -> None:
    """Raise UserError for a name that no export can have."""
    if not name.strip():
        raise UserError("The exported model needs a name.")
    if len(name) > LONGEST_NAME:
        raise UserError(f"The name is longer than {LONGEST_NAME} characters.", "Choose a shorter one.")


def check_spec(spec: dict[str, Any]) -> None:
    """Raises ValueError for what no run understands: a defect of the page that made the spec."""
    unknown = sorted(spec.keys() - OPTIONS.keys() - SWITCHES.keys())
    if unknown:
        raise ValueError(f"a run knows no {', '.join(unknown)}")


def result_folder(settings: Settings, run: Run) -> Path | None:
    """The folder that the run makes; None for a run that makes none."""
    if run.kind == "prune":
        return settings.run_folder(run.id) / "model"
    return Path(run.spec["folder"]) if run.kind == "export" and run.spec.get("folder") else None


def is_whole(folder: Path | None) -> bool:
    """Whether a pruned model is there. It gets its name last of all, so what is there is whole."""
    return folder is not None and (folder / MANIFEST).is_file()


def is_complete(settings: Settings, run: Run) -> bool:
    """Whether the run has made all that it was asked for, even if it did not live to say so."""
    if run.kind == "lines":
        return (settings.run_folder(run.id) / "work" / "lines.jsonl").is_file()
    return run.kind == "prune" and is_whole(result_folder(settings, run))


def prepare(settings: Settings, store: Store, run: Run) -> list[str]:
    """Make the run's folder and files where they are missing; the arguments for `python -m engine`.

    What is there stays, so that a resumed run works on what it began with. Raises UserError.
    """
    if "spec" in run.damaged:
        raise UserError(run.fault)
    folder = settings.run_folder(run.id)
    with explain_write_errors(folder):
        (folder / "work").mkdir(parents=True, exist_ok=True)
        if run.kind == "export":
            return _export_arguments(run, folder / "work")
        card, given = folder / "card.json", folder / "lines.jsonl"
        if not card.exists():
            write_json(card, characters.version(store, run.character, run.version).card)
        if run.kind == "prune" and run.line_set and not given.exists():
            write_atomic(given, lines.as_jsonl(store, run.line_set))
    arguments = ["prune", str(card), "--workdir", str(folder / "work"), "--json", "--leash"]
    for name, option in OPTIONS.items():
        if run.spec.get(name) is not None:
            arguments += [option, str(run.spec[name])]
    arguments += [option for name, option in SWITCHES.items() if run.spec.get(name)]
    if run.kind == "lines":
        arguments += ["--until", "lines"]
    else:
        arguments += ["--out", str(result_folder(settings, run)), "--lines", str(given)]
    return [*arguments, "--resume"] if (folder / "work" / "job.json").exists() else arguments


def _export_arguments(run: Run, work: Path) -> list[str]:
    arguments = ["export", run.spec["source"], "--out", run.spec["folder"], "--name", run.name, "--workdir", str(work),
                 "--json", "--leash"]
    arguments += [word for engine in run.spec.get("engines", []) for word in ("--for", engine)]
    arguments += [word for kind in run.spec.get("gguf", []) for word in ("--gguf", kind)]
    if run.spec.get("measure"):
        arguments += ["--measure", run.spec["measure"]]
    return [*arguments, "--zip"] if run.spec.get("zip") else arguments


def export_spec(settings: Settings, store: Store, run_id: str, name: str, zipped: bool,
                more: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """The run to export, and the spec of its export to a folder whose name is free. Raises UserError.

    `more`: "engines" and "gguf" (lists of names) and "measure", where they are asked for.
    """
    run = runs.get(store, run_id)
    if run is None or run.kind != "prune" or run.state != "done":
        raise UserError("Only a finished pruned model can be exported.")
    source = result_folder(settings, run)
    if not is_whole(source):
        raise UserError("The files of this pruned model are gone.", "Prune again to make them anew.")
    if unknown := sorted(more.keys() - EXPORT_OPTIONS):
        raise ValueError(f"an export knows no {', '.join(unknown)}")
    check_name(name)
    taken = {one.spec.get("folder") for one in runs.list_runs(store, kinds=["export"])}
    plain, number = slug(name), 1
    while True:
        folder = settings.exports / (plain if number == 1 else f"{plain}-{number}")
        if not folder.exists() and not folder.with_name(f"{folder.name}.zip").exists() and str(folder) not in taken:
            more = {**more, "measure": run.spec.get("model", "") if more.get("measure") else ""}
            return run, {"run": run.id, "source": str(source), "folder": str(folder), "zip": zipped,
                         **{option: value for option, value in more.items() if value}}
        number += 1
