"""What the docs list by name is all that there is: a new family, measure or verb is not forgotten there."""

import argparse
import re
from pathlib import Path

from engine import labels as terminal
from engine.__main__ import build_parser
from engine.base.families import FAMILIES
from engine.base.ids import StageId
from engine.evaluation import measures
from engine.evaluation.measure import MEASURES
from studio import labels as page

ROOT = Path(__file__).resolve().parents[1]
UNSEEN = {StageId.ADAPT, StageId.BENCHMARK}  # stages of jobs that the studio neither starts nor takes in
assert measures


def names_after(start: str, file: str) -> set[str]:
    """The names of a list after its first words, up to the first full stop or semicolon or to "are"."""
    text = (ROOT / file).read_text(encoding="utf-8")
    found = re.search(rf"{re.escape(start)}(.*?)(?:[.;]| are )", text, re.DOTALL)
    assert found, f"{file} no longer says {start!r}"
    return {name.strip().strip("()").replace("gemma3 (text", "gemma3_text") for name in found[1].split(",")}


def test_the_readme_names_every_family() -> None:
    assert names_after("Model families:", "README.md") == set(FAMILIES)


def test_the_docs_say_which_families_can_be_gguf_files() -> None:
    written = {name for name, family in FAMILIES.items() if family.gguf}
    assert names_after("**Families**:", "docs/export.md") == written
    assert names_after("The other families that Persona Studio prunes", "docs/export.md") == set(FAMILIES) - written


def test_the_docs_have_a_row_for_every_measure() -> None:
    rows = [line.split("|")[1] for line in (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8").splitlines()
            if line.count("|") == 5]
    assert set(MEASURES) == {name for cell in rows for name in re.findall(r"`(\w+)`", cell)}


def test_the_docs_list_every_verb() -> None:
    verbs = next(one for one in build_parser()._actions if isinstance(one, argparse._SubParsersAction))
    listed = re.findall(r"^([a-z][a-z-]+) .*  ", (ROOT / "docs" / "commands.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert {one.dest for one in verbs._choices_actions} == set(listed)


def test_every_stage_has_its_words() -> None:
    assert set(terminal.STAGES) == set(StageId)
    assert set(page.STAGES) == set(StageId) - UNSEEN
