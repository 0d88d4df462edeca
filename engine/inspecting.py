"""The verb inspect: what an exported folder is, whether it is whole, and what was measured, by its report and its manifest."""

import json
from pathlib import Path
from typing import Any

from engine import labels
from engine.base import migrate
from engine.base.errors import UserError
from engine.base.files import MANIFEST, check_manifest, folder_size, is_file, read_json
from engine.base.ids import ReadingId
from engine.running import print_table


def inspect(folder: Path, as_json: bool) -> None:
    """Print what a folder is, or its report as JSON. Raises UserError where it is damaged, or no folder that was exported."""
    if not is_file(folder / "report.json") or not is_file(folder / MANIFEST):
        raise UserError(f"{folder} is not a folder that Persona Studio exported (report.json or {MANIFEST} is missing).")
    faults = check_manifest(folder)
    # A report that was changed is not shown: nothing in it can be relied on.
    report = None if any(fault.startswith("report.json ") for fault in faults) else migrate.read_report(folder / "report.json")
    if as_json:
        print(json.dumps({"folder": str(folder), "whole": not faults, "faults": faults, "bytes": folder_size(folder),
                          "report": report}, ensure_ascii=False, indent=2))
    elif report is not None:
        try:
            _print_report(folder, report)
        except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError) as error:
            raise UserError(f"{folder / 'report.json'} is not a report of this version of Persona Studio.") from error
    if faults:
        raise UserError(f"{folder} is damaged: {'; '.join(faults)}.", "Export it again.")
    if not as_json:
        print(f"Whole: all {len(read_json(folder / MANIFEST)['files'])} files match the manifest.")


def _print_report(folder: Path, report: dict[str, Any]) -> None:
    before, after, proof = report["before"], report["after"], report["proof"]
    cast = report.get("characters", {})
    print(f"{folder}: {report['character']} on {report['base']['name']}, "
          f"{report['recipe']['sparsity']:.0%} of FFN channels removed\n"
          f"  intermediate size {before['intermediate_size']:,} -> {after['intermediate_size']:,}; parameters "
          f"{before['parameters'] / 1e6:,.1f} M -> {after['parameters'] / 1e6:,.1f} M; weights {before['bytes'] / 1e6:,.1f} MB -> "
          f"{after['bytes'] / 1e6:,.1f} MB")
    rows = [[labels.reading(name),
             f"{one['kl']:.3f}", f"{one['top1']:.1%}", f"{one['nll']:.3f}"] for name, one in report["readings"].items()]
    first = next(iter(report["readings"].values()))
    print_table(f"On {first['lines']} held-out lines ({first['tokens']:,} tokens), nats a token",
                ["", "KL to dense", "same next token", "NLL"], rows)
    if cast:
        readings = {id: [one["readings"].get(name, {}).get("kl") for name in (ReadingId.SHARED, ReadingId.ADAPTED)]
                    for id, one in cast.items()}
        print_table("Each character on its own test lines", ["character", "KL to dense", "with its adapter", "lines", "adapter"],
                    [[id, *("-" if kl is None else f"{kl:.3f}" for kl in readings[id]), one["readings"][ReadingId.SHARED]["lines"],
                      f"{one['adapter']['bytes'] / 1e6:,.1f} MB" if "adapter" in one else "-"] for id, one in cast.items()])
    print_table("Work", ["stage", "seconds", "tokens"],
                [[labels.stage(name), f"{one['seconds']:.1f}", f"{one['tokens']:,}"] for name, one in report["stages"].items()])
    print(f"Proof: loaded by plain transformers in a fresh process; KL to the masked dense model {proof['kl']:.2g} "
          f"(allowed {proof['tolerance']:g}, {proof['positions']} positions); it said: {proof['reply']!r}")
