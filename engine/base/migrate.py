"""What older versions wrote, in today's ids and names: events, reports, work folders, and the library's rows.

Up to 0.1 stages, readings and reasons were English phrases, and some knobs had other names. Everything here takes what is new
already as it is, so that it may be applied twice.
"""

import json
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.files import PROGRAM, is_file, read_json, write_json
from engine.base.ids import ArtifactId, ReadingId, Rejection, StageId

FORMAT = 2  # of work folders and reports
BACKUP = "before-format-2"  # a folder in a work folder
BANK_HINT = f"Make a cast from the same cards: {PROGRAM} prune-cast CARDS... --out DIR"
_LARGEST_LIST = 100_000_000  # bytes, of a bank's characters with their cards
KNOBS = {"further_answers": "extra_samples", "refit_within": "max_kl_ratio", "least_squares": "reconstruct",
         "layer_epochs": "tuning_epochs", "layer_rate": "tuning_rate", "recovery_answers": "recovery_samples"}
FORMER_KNOBS = {new: old for old, new in KNOBS.items()}
LATER_KNOBS = {"bake", "bake_steps", "bake_step_lines", "bake_rate", "bake_rank", "bake_own_from",
               "recovery_own_from"}  # since work folders have format 2
_STAGES = {
    "load the model": StageId.LOAD, "score questions": StageId.SCORE, "make up questions": StageId.ASK,
    "write answers": StageId.ANSWERS, "rewriting": StageId.ANSWERS, "write more answers": StageId.SAMPLES,
    "read the dense model": StageId.DENSE, "least squares on the start": StageId.RECONSTRUCT_START,
    "learn the mask": StageId.LEARN_MASK, "least squares": StageId.RECONSTRUCT, "tune the layers": StageId.TUNE,
    "tune the layers again": StageId.TUNE_AGAIN, "recover": StageId.RECOVER, "measure": StageId.MEASURE,
    "export": StageId.EXPORT, "prove": StageId.PROVE, "copy": StageId.COPY, "zip": StageId.ZIP,
    "decode with llama.cpp": StageId.GGUF_DECODE, "read with transformers": StageId.GGUF_REFERENCE,
    "make ready for engines": StageId.ENGINES, "measure the speed": StageId.SPEED,
    "compare the answers": StageId.COMPARE,
    "answer the script": StageId.SCRIPT}
_STAGES_OF = {"fetch": StageId.FETCH, "convert": StageId.CONVERT,
              "write": StageId.GGUF_WRITE, "prove": StageId.GGUF_PROVE,
              "answer the script,": StageId.SCRIPT}
_READINGS = {
    "mask + least squares": ReadingId.RECONSTRUCTED, "mask + least squares + tuned layers": ReadingId.TUNED,
    "mask + recovery": ReadingId.RECOVERED, "mask + least squares + recovery": ReadingId.RECONSTRUCTED_RECOVERED,
    "mask + least squares + tuned layers + recovery": ReadingId.TUNED_RECOVERED,
    "start, before least squares": ReadingId.START_BEFORE, "start, after least squares": ReadingId.START_AFTER,
    "mask, before least squares": ReadingId.MASK_BEFORE, "mask, after least squares": ReadingId.MASK_AFTER,
    "before tuning the layers": ReadingId.TUNING_BEFORE, "after tuning the layers": ReadingId.TUNING_AFTER,
    "before tuning the layers again": ReadingId.TUNING_AGAIN_BEFORE,
    "after tuning the layers again": ReadingId.TUNING_AGAIN_AFTER}
_STEPS = {"mask": ReadingId.MASK_STEP, "recovery": ReadingId.RECOVERY_STEP}
_REJECTIONS = {"assistant manners": Rejection.ASSISTANT, "third person": Rejection.THIRD_PERSON, "prompt leak": Rejection.LEAK,
               "asked in the test script": Rejection.IN_SCRIPT, "no question or answer": Rejection.NO_TEXT,
               "asked twice": Rejection.REPEATED, "too long": Rejection.TOO_LONG}
_ARTIFACTS = {"pruned model": ArtifactId.MODEL, "model": ArtifactId.MODEL, "GGUF file": ArtifactId.GGUF, "zip file": ArtifactId.ZIP,
              "starter model": ArtifactId.KNOWN_MODEL}
_CHOICES = {"least_squares_on_the_start": StageId.RECONSTRUCT_START, "least_squares": StageId.RECONSTRUCT,
            "layer_tuning": StageId.TUNE, "layer_tuning_again": StageId.TUNE_AGAIN}


def stage(name: str) -> tuple[str, str]:
    """The id and subject of a stage's former name; an unknown name as it is."""
    if name in _STAGES:
        return _STAGES[name], ""
    for verb, id in _STAGES_OF.items():
        if name.startswith(f"{verb} "):
            return id, name.removeprefix(verb).strip()
    return name, ""


def reading(name: str) -> tuple[str, int | None]:
    """The id and step of a reading's former name; an unknown name as it is."""
    found = re.fullmatch(r"(mask|recovery), step (\d+)", name)
    return (_STEPS[found[1]], int(found[2])) if found else (_READINGS.get(name, name), None)


def event(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of an event, as read from JSON."""
    found = dict(fields)
    if found.get("stage") == "fetch_starter":
        found |= {"stage": StageId.FETCH, "subject": "starter"}
    match found.get("event"):
        case "Started" if isinstance(found.get("stages"), list):
            found["stages"] = [stage(one) if isinstance(one, str) else one for one in found["stages"]]
        case "Stage" if isinstance(found.get("name"), str):
            found["stage"], found["subject"] = stage(found.pop("name"))
        case "Step" | "LayerTuned" if isinstance(found.get("stage"), str):
            found["stage"], subject = stage(found["stage"])
            found |= {"subject": subject} if subject else {}
        case "Lines" if isinstance(found.get("rejected"), dict):
            found["rejected"] = rejected(found["rejected"])
        case "Measured" if isinstance(found.get("what"), str):
            found["what"], found["step"] = reading(found["what"])
        case "Saved" if isinstance(found.get("what"), str):
            file_type = Path(str(found.get("path"))).stem.rpartition("-")[2] if found["what"] == "GGUF file" else ""
            found |= {"subject": file_type, "what": _ARTIFACTS.get(found["what"], found["what"])}
    return found


def refuse_bank(file: Path) -> None:
    """Raise UserError where a file is a bank of characters, as 0.1 wrote them: safetensors whose metadata say so."""
    header = b""
    if is_file(file):
        with suppress(OSError), file.open("rb") as data:
            start = data.read(9)  # the length of the header, and its first sign
            header = data.read(min(int.from_bytes(start[:8], "little"), _LARGEST_LIST)) if start[8:] == b"{" else b""
    if b'"persona-studio cast bank"' in header:
        raise UserError(f"{file} is a bank of characters, and banks are gone since version 0.2.", BANK_HINT)


def rejected(counts: Mapping[str, int]) -> dict[str, int]:
    """How many lines were left out, by reason."""
    return {_REJECTIONS.get(reason, reason): count for reason, count in counts.items()}


def knobs(values: Mapping[str, Any]) -> dict[str, Any]:
    """The knobs of a recipe, or of what was read, by today's names."""
    return {KNOBS.get(name, name): value for name, value in values.items()}


def readings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Readings by id."""
    return {reading(name)[0]: value for name, value in values.items()}


def stages(values: Mapping[str, Any]) -> dict[str, Any]:
    """What each stage took, by id."""
    return {stage(name)[0]: value for name, value in values.items()}


def report(values: Mapping[str, Any]) -> dict[str, Any]:
    """A report, or a run's summary in the library. What is none of either is left as it is."""
    found = dict(values)
    for name, translate in (("recipe", knobs), ("readings", readings), ("stages", stages), ("rejected", rejected)):
        if isinstance(found.get(name), dict):
            found[name] = translate(found[name])
    if isinstance(lines := found.get("lines"), dict) and isinstance(lines.get("rejected"), dict):
        found["lines"] = {**lines, "rejected": rejected(lines["rejected"])}
    if isinstance(choices := found.get("choices"), dict):
        found["choices"] = {_CHOICES.get(name, name): knobs(one) if isinstance(one, dict) else one for name, one in choices.items()}
    return found


def read_report(file: Path) -> dict[str, Any]:
    """The report of an exported folder. Raises UserError when it is damaged."""
    found = read_json(file)
    if not isinstance(found, dict):
        raise UserError(f"{file} is not a report.", "Prune the character again.")
    return report(found)


def work_folder(folder: Path) -> None:
    """Bring the JSON files of an older work folder up to date; what they held before is kept in BACKUP.

    A damaged file stays as it is. job.json comes last: without it, the next opening does all this again.
    """
    record = folder / "job.json"
    try:
        known = read_json(record)
    except UserError:
        return
    if not isinstance(known, dict) or known.get("format", 1) >= FORMAT:
        return
    translations = {"meter.json": stages, "readings.json": readings, "rejected.json": rejected, "start.json": knobs,
                    "columns.json": knobs, "tuned.json": knobs, "retuned.json": knobs,
                    "job.json": lambda values: {**values, "recipe": knobs(values.get("recipe") or {}), "format": FORMAT}}
    for name, translate in translations.items():
        file = folder / name
        if not file.is_file():
            continue
        try:
            former = read_json(file)
            changed = translate(former)
        except (AttributeError, UserError):
            continue
        if json.dumps(changed) != json.dumps(former):
            (folder / BACKUP).mkdir(exist_ok=True)
            if not (folder / BACKUP / name).exists():
                shutil.copy2(file, folder / BACKUP / name)
            write_json(file, changed)
