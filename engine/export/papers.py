"""What an exported folder has for readers: the licence's files, the model card, and the manifest over all."""

from pathlib import Path
from typing import Any

from engine.base.files import write_atomic, write_manifest
from engine.export.licence import write_legal
from engine.export.model_card import opening_of, render_model_card


def write_papers(folder: Path, report: dict[str, Any], card: dict[str, Any]) -> None:
    """Write them from the report and the card, anew where they are there; the same report gives the same files."""
    write_legal(folder, report["base"])
    write_atomic(folder / "README.md", render_model_card(report, opening_of(card), folder))
    write_manifest(folder)
