"""The main job on the real starter model, as a user runs it: one quick prune at 25 %, then a chat with what it made.

Everything here is about meaning: the learned mask must beat what costs nothing,
on lines that it never saw.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.base.files import check_manifest, data_folder

pytestmark = pytest.mark.starter
ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """A verb of the command line in a process of its own, with the data folder `home`."""
    return subprocess.run([sys.executable, "-m", "engine", *arguments], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "PERSONA_STUDIO_HOME": str(home)}, check=False)


@pytest.fixture(scope="module")
def pruned(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The exported folder of one quick prune, and the data folder that holds the starter."""
    home = starter.parents[1]
    place = tmp_path_factory.mktemp("main-job")
    result = run("prune", "pim-tuckett", "--preset", "quick", "--sparsity", "0.25", "--out", str(place / "pim"),
                 "--workdir", str(place / "work"), "--json", home=home)
    assert result.returncode == 0, result.stderr
    return place / "pim", home


@pytest.fixture(scope="module")
def report(pruned: tuple[Path, Path]) -> dict:
    """The exported report."""
    return json.loads((pruned[0] / "report.json").read_text())


def test_the_learned_mask_beats_every_mask_that_costs_nothing(report: dict) -> None:
    kl = {name: reading["kl"] for name, reading in report["readings"].items()}
    assert kl["mask"] < 0.5 * kl["random"]
    assert kl["mask"] < 0.5 * kl["magnitude"]
    assert kl["mask"] < kl["wanda"]


def test_least_squares_brings_the_mask_closer_still(report: dict) -> None:
    kl = {name: reading["kl"] for name, reading in report["readings"].items()}
    assert kl["mask + least squares"] < kl["mask"]
    assert kl["mask + least squares"] < 0.85 * kl["wanda"]
    assert report["readings"]["mask + least squares"]["top1"] > report["readings"]["wanda"]["top1"]


def test_every_reading_rests_on_the_same_held_out_lines(report: dict) -> None:
    counts = {(reading["lines"], reading["tokens"]) for reading in report["readings"].values()}
    assert len(counts) == 1
    assert counts.pop()[0] >= 30


def test_a_quarter_of_the_channels_is_gone_and_the_folder_is_whole(pruned: tuple[Path, Path], report: dict) -> None:
    folder, _ = pruned
    assert json.loads((folder / "config.json").read_text())["intermediate_size"] == 1152
    assert report["after"]["parameters"] == report["before"]["parameters"] - 30 * 3 * 576 * 384
    assert report["proof"]["agrees"] and report["proof"]["kl"] < report["proof"]["tolerance"]
    assert check_manifest(folder) == []


def test_the_pruned_character_talks(pruned: tuple[Path, Path]) -> None:
    folder, home = pruned
    result = run("chat", str(folder), "--message", "Hello! Who are you?", "--temperature", "0", "--limit", "40", "--json",
                 home=home)
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["character"] == "Pim"
    assert len(answer["reply"].split()) >= 2 and answer["tokens_per_second"] > 0


def test_inspect_tells_what_the_folder_is(pruned: tuple[Path, Path]) -> None:
    folder, home = pruned
    result = run("inspect", str(folder), home=home)
    assert result.returncode == 0, result.stderr
    assert "Pim Tuckett" in result.stdout and "Whole" in result.stdout and str(data_folder()) not in result.stdout
