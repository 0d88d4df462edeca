"""From a run in the library to the job file of its worker, with the other files that the worker reads. Starts nothing."""

from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.files import MANIFEST, explain_write_errors, slug, write_atomic, write_json
from engine.base.frontier import DENSE_MATRIX, RESULT
from engine.base.job import PruneJob
from studio.settings import Settings
from studio.store import characters, lines, runs
from studio.store.database import Store
from studio.store.runs import Run

EXPORT_OPTIONS = {"engines", "gguf", "gguf_only", "measure", "dense"}
LONGEST_NAME = 120  # characters, as in the engine's own check


def check_name(name: str) -> None:
    """Raise UserError for a name that no export can have."""
    if not name.strip():
        raise UserError("The exported model needs a name.")
    if len(name) > LONGEST_NAME:
        raise UserError(f"The name is longer than {LONGEST_NAME} characters.", "Choose a shorter one.")


def check_spec(spec: dict[str, Any]) -> None:
    """Raise UserError for settings that no lines or prune run has: the schema of the job says which those are."""
    PruneJob.of({**spec, "card": "-", "until": "lines"})


def result_folder(settings: Settings, run: Run) -> Path | None:
    """The folder that the run makes; None for a run that makes none. An export's is its own, and so is that of a run of the
    command line."""
    if folder := run.spec.get("folder"):
        return Path(folder)
    return settings.run_folder(run.id) / "model" if run.kind == "prune" else None


def is_whole(folder: Path | None) -> bool:
    """Whether a pruned model is there. It gets its name last of all, so what is there is whole."""
    return folder is not None and (folder / MANIFEST).is_file()


def is_complete(settings: Settings, run: Run) -> bool:
    """Whether the run has made all that it was asked for, even if it did not live to say so."""
    if run.kind == "lines":
        return (settings.run_folder(run.id) / "work" / "lines.jsonl").is_file()
    return run.kind == "prune" and is_whole(result_folder(settings, run))


def job_file(settings: Settings, run_id: str) -> Path:
    """The job of a run's process; its name on the command line identifies the process."""
    return settings.run_folder(run_id) / "job.json"


def prepare(settings: Settings, store: Store, run: Run) -> list[str]:
    """Make the run's folder and files where they are missing, and write its job file; the arguments for `python -m engine`.

    What is there stays, so that a resumed run works on what it began with. Raises UserError.
    """
    if "spec" in run.damaged:
        raise UserError(run.fault)
    folder, file = settings.run_folder(run.id), job_file(settings, run.id)
    job: dict[str, Any] = {"workdir": str(folder / "work"), "json_events": True, "leash": True}
    with explain_write_errors(folder):
        (folder / "work").mkdir(parents=True, exist_ok=True)
        if run.kind == "export" and (asked := run.spec.get("dense")):
            for known in (RESULT, DENSE_MATRIX):  # what was measured is not measured again
                if (file_of := Path(asked["known"]) / known).is_file() and not (folder / "work" / known).exists():
                    write_atomic(folder / "work" / known, file_of.read_bytes())
            write_json(file, {**job, **asked["job"], "dense": True, "rounds": 0, "out": run.spec["folder"]})
            return ["frontier", "--job", str(file)]
        if run.kind == "export":
            job |= _portrait(store, run, folder / "portrait.png")
            asked = {name: run.spec[name] for name in (*sorted(EXPORT_OPTIONS - {"dense"}), "zip") if run.spec.get(name)}
            write_json(file, {**job, "source": run.spec["source"], "out": run.spec["folder"], "name": run.name, **asked})
            return ["export", "--job", str(file)]
        card, given = folder / "card.json", folder / "lines.jsonl"
        if not card.exists():
            write_json(card, characters.version(store, run.character, run.version).card)
        if run.kind == "prune" and run.line_set and not given.exists():
            write_atomic(given, lines.as_jsonl(store, run.line_set))
        job |= {"card": str(card), "resume": (folder / "work" / "job.json").exists(),
                **{name: value for name, value in run.spec.items() if value is not None}}
        job |= {"until": "lines"} if run.kind == "lines" else {"out": str(result_folder(settings, run)), "lines": str(given)}
        write_json(file, job)
    return ["prune", "--job", str(file)]


def _portrait(store: Store, run: Run, file: Path) -> dict[str, str]:
    """The job's field for the picture of the character, which is written to `file`; none where it has none."""
    digest = characters.version(store, run.character, run.version).portrait
    if data := characters.portrait(store, digest) if digest else None:
        write_atomic(file, data)
        return {"portrait": str(file)}
    return {}


def export_spec(settings: Settings, store: Store, run_id: str, name: str, zipped: bool,
                more: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """The run to export, and the spec of its export to a folder whose name is free. Raises UserError.

    `more`: "engines" and "gguf" (lists of names), "gguf_only" and "measure", where they are asked for; or "dense": not the run's
    own model but the dense one, {"job": fields of FrontierJob, "known": the folder of what was measured}.
    """
    run = runs.get(store, run_id)
    if run is None or run.kind != "prune" or run.state != "done":
        raise UserError("Only a finished pruned model can be exported.")
    source = result_folder(settings, run)
    if not is_whole(source):
        raise UserError("The files of this pruned model are missing.", "Prune again.")
    if unknown := sorted(more.keys() - EXPORT_OPTIONS):
        raise ValueError(f"an export has no {', '.join(unknown)}")
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
