"""What is compared: the dense model and the finished runs of one character, and the lines that they are measured on."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.base import event_file, events, migrate
from engine.base.errors import UserError
from engine.base.events import Event
from engine.base.files import MANIFEST, data_folder, is_file, is_folder, named_path, read_json
from engine.base.ids import ArtifactId
from engine.base.known_models import KNOWN
from engine.base.model_config import check_config
from engine.calibration.lines import Line, held_out, read_lines
from engine.cards.baked import is_baked, unbake
from engine.cards.card import Card, parse_card
from engine.cards.files import read_card
from engine.export.gguf_tensors import architecture_of
from engine.models.loading import ModelSource, locate

LINES = "lines.jsonl"


@dataclass(frozen=True)
class Subject:
    """A model with the card as it reads it. `name`: what it is called; `sparsity`: 0 for the dense model."""

    source: ModelSource
    card: Card
    name: str
    sparsity: float = 0.0
    recipe: dict[str, Any] | None = None  # of a run

    @property
    def baked(self) -> bool:
        """Whether its prompt is short."""
        return is_baked(self.card)

    @property
    def id(self) -> str:
        """The folder of a run, the name of the dense model."""
        return str(self.source.folder) if self.recipe else self.source.name

    @property
    def identity(self) -> str:
        """What a measurement is of: another folder, or other weights in it, are measured again."""
        files = sorted(self.source.folder.glob("*.safetensors"))
        return f"{self.source.folder}:{':'.join(f'{file.stat().st_size}.{file.stat().st_mtime_ns}' for file in files)}"

    def original(self, type: str) -> Path | None:
        """The file that a known dense model came from, where it is of that type."""
        return self.originals.get(type)

    @property
    def originals(self) -> dict[str, Path]:
        """By its type, the file that a known dense model came from."""
        files = {known.type: self.source.folder / known.file for known in KNOWN.values()}
        return {} if self.recipe else {type: file for type, file in files.items() if file.is_file()}


@dataclass(frozen=True)
class Field:
    """The dense model, the runs, and their lines: those to learn from and those to report on."""

    dense: Subject
    runs: list[Subject]
    train: list[Line]
    test: list[Line]
    recipe: dict[str, Any]


def find(names: Sequence[str], model: str, lines: str) -> Generator[Event, None, Field]:
    """What to compare. `names`: finished folders, work folders of runs, or a card; `model`, `lines`: "" for the runs' own.

    Raises UserError where nothing is finished, the runs are of several characters or models, or there are no lines.
    """
    folders, works = finished(names)
    found = read_runs(folders)
    card, recipe = found[0].card, found[0].report["recipe"]
    works = works or _works_of(folders) or _works_of_character(card.name)
    if lines and not is_file(lines):
        raise UserError(f"There is no file {lines}.", "Name lines.jsonl of the run's work folder.")
    files = [Path(lines)] if lines else [work / LINES for work in works if (work / LINES).is_file()]
    if not files:
        raise UserError(f"The lines of {card.name}'s runs are not on this machine, so nothing can be measured.",
                        "Give them with --lines: lines.jsonl of the run's work folder.")
    dense = yield from locate_dense(found, works, model)
    whole = read_lines(files[0])
    _, test, _ = held_out(whole, int(recipe["validation_lines"]), int(recipe["test_lines"]))
    if not test:
        raise UserError(f"{files[0]} has no test lines, so nothing can be measured.",
                        "Name lines.jsonl as the run left it in its work folder.")
    runs = yield from subjects_of(found)
    return Field(dense, runs, [line for line in whole if line.split == "train"], test, recipe)


@dataclass(frozen=True)
class Finished:
    """A finished folder, with the card and the report in it."""

    folder: Path
    card: Card
    report: dict[str, Any]


def read_runs(folders: Sequence[Path]) -> list[Finished]:
    """Finished runs. Raises UserError where they are of several characters or dense models."""
    found = [_read(folder) for folder in folders]
    if len(characters := {one.card.name for one in found}) > 1:
        raise UserError(f"These runs are of several characters ({', '.join(sorted(characters))}).", "Name the runs of one.")
    bases = {(one.report["base"]["name"], one.report["before"]["parameters"]) for one in found}
    if len(bases) > 1:
        raise UserError(f"These runs are of several dense models ({', '.join(sorted(str(name) for name, _ in bases))}).",
                        "Name the runs of one.")
    return found


def locate_dense(found: Sequence[Finished], works: Sequence[Path], model: str = "") -> Generator[Event, None, Subject]:
    """The dense model of runs; `model`: its name, where it is known. Raises UserError where it is another's."""
    report = found[0].report
    works = works or _works_of([one.folder for one in found])
    dense = yield from locate(model or _model_of(works) or str(report["base"].get("hub") or report["base"]["name"]))
    architecture_of(dense.config["model_type"])  # refuses a family before any work
    if dense.config.get("intermediate_size") != report["before"]["intermediate_size"]:
        raise UserError(f"{dense.name} is not the dense model of these runs.", "Name the one that they were made from.")
    return Subject(dense, unbake(found[0].card), "Dense")


def subjects_of(found: Sequence[Finished]) -> Generator[Event, None, list[Subject]]:
    """The runs with names that tell them apart, the least pruned first."""
    runs: list[Subject] = []
    for one in sorted(found, key=lambda one: float(one.report["recipe"]["sparsity"])):
        source = yield from locate(str(one.folder))
        name = _called(one.folder, one.card, one.report, [run.name for run in runs])
        runs.append(Subject(source, one.card, name, float(one.report["recipe"]["sparsity"]), one.report["recipe"]))
    return runs


def finished(names: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """The finished folders that are meant, and the work folders that were named."""
    folders, works = [], []
    for name in names:
        place = named_path(name)
        if is_file(place / "report.json"):
            folders.append(place)
        elif is_file(place / "job.json"):
            if (made := _made_by(place)) is None:
                raise UserError(f"The run in {place} is not finished.", "Finish it, or name another.")
            folders.append(made)
            works.append(place)
        elif is_folder(place):
            raise UserError(f"{place} is neither a finished folder nor the work folder of a run (report.json is missing).")
        else:
            card = read_card(name)
            own = [(work, made) for work in _all_works() if _character_of(work) == card.name and (made := _made_by(work))]
            if not own:
                raise UserError(f"No finished run of {card.name} was found on this machine.", "Prune the character first, or name "
                                "the folder that was written.")
            works += [work for work, _ in own]
            folders += [made for _, made in own]
    if not folders:
        raise UserError("Nothing was named to compare.", "Name a card, or folders that prune wrote.")
    return list({folder.resolve(): folder for folder in folders}.values()), works


def _read(folder: Path) -> Finished:
    """The card and the report of a finished folder."""
    if not is_file(folder / MANIFEST) or not is_file(folder / "character.json"):
        raise UserError(f"{folder} is not a folder that Persona Studio exported (character.json or {MANIFEST} is missing).")
    check_config(folder / "config.json")
    card = parse_card((folder / "character.json").read_bytes(), str(folder / "character.json"))
    report = migrate.read_report(folder / "report.json")
    try:
        report["base"]["name"], report["before"]["parameters"], float(report["recipe"]["sparsity"])
        int(report["recipe"]["validation_lines"]), int(report["recipe"]["test_lines"]), int(report["recipe"]["row_tokens"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder} is damaged: its report cannot be read.", "Prune the character again.") from error
    return Finished(folder, card, report)


def _called(folder: Path, card: Card, report: dict[str, Any], taken: Sequence[str]) -> str:
    sparsity = float(report["recipe"]["sparsity"])
    name = (f"{sparsity:.0%} removed" if sparsity else "Dense") + (", baked" if is_baked(card) else "")
    name += ", recovered" if report["recipe"].get("recover") else ""
    return f"{name} ({folder.name})" if name in taken else name


def _all_works() -> list[Path]:
    """The work folders in the data folder: of the command line, and of the studio."""
    jobs = data_folder() / "jobs"
    return sorted((file.parent for pattern in ("*/job.json", "*/work/job.json") for file in jobs.glob(pattern)
                   if (file.parent / LINES).is_file()), key=lambda work: work.stat().st_mtime, reverse=True)


def _made_by(work: Path) -> Path | None:
    """The folder that a run wrote, where it is still there."""
    saved = [Path(event.path) for event in event_file.read(work / "events.jsonl")
             if isinstance(event, events.Saved) and event.what == ArtifactId.MODEL]
    return saved[-1] if saved and is_file(saved[-1] / "report.json") else None


def _works_of(folders: Sequence[Path]) -> list[Path]:
    wanted = {folder.resolve() for folder in folders}
    return [work for work in _all_works() if (made := _made_by(work)) and made.resolve() in wanted]


def _works_of_character(name: str) -> list[Path]:
    return [work for work in _all_works() if _character_of(work) == name]


def _character_of(work: Path) -> str:
    try:
        return str(read_json(work / "job.json")["character"])
    except (UserError, KeyError, TypeError):
        return ""


def _model_of(works: Sequence[Path]) -> str:
    """The dense model as the runs were given it; "" where no job says so."""
    for work in works:
        try:
            return str(read_json(work / "job.json")["model"])
        except (UserError, KeyError, TypeError):
            continue
    return ""
