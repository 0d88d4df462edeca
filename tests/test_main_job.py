"""The main job on the real starter model, as a user runs it: a first try at 25 %, then a chat with what it made.

With Chromium it is made in the studio, by the whole way of a writer (browser/whole_way.py); without, by the command
line. Everything else here is about meaning: what is kept must beat what costs nothing, on lines that it never saw.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from engine.base.evaluation_events import Assessed
from engine.base.event_file import decode
from engine.base.evidence import DENSE, RESULT, headline, read_evaluation
from engine.base.files import check_manifest

pytestmark = pytest.mark.slow
TUNED = "mask_tuned"
ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """A verb of the command line in a process of its own, with the data folder `home`."""
    return subprocess.run([sys.executable, "-m", "engine", *arguments], capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, "PERSONA_STUDIO_HOME": str(home)}, check=False)


@pytest.fixture(scope="module")
def pruned(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The exported folder of one prune, and the data folder that holds the starter."""
    place = tmp_path_factory.mktemp("main-job")
    if shutil.which("chromium") or os.environ.get("CI"):
        return by_the_studio(starter, place / "home"), place / "home"
    home = starter.parents[1]
    result = run("prune", "pim-tuckett", "--preset", "try", "--sparsity", "0.25", "--out", str(place / "pim"),
                 "--workdir", str(place / "work"), "--json", home=home)
    assert result.returncode == 0, result.stderr
    return place / "pim", home


def by_the_studio(starter: Path, home: Path) -> Path:
    """What a writer exports who has never seen a command line."""
    from browser.conftest import FLAGS, Studio, chromium
    from browser.whole_way import walk
    from playwright.sync_api import sync_playwright

    (home / "models").mkdir(parents=True)
    (home / "models" / starter.name).symlink_to(starter)
    studio = Studio(home).start()
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            asked: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            walk(studio, page)
            browser.close()
            assert [url for url in asked if not url.startswith((studio.address, "data:", "blob:"))] == []
    finally:
        studio.end()
    assert "Warning" not in (home / "studio.txt").read_text()  # the terminal shows the address and nothing to puzzle over
    return home / "exports" / "pim-quarter"


@pytest.fixture(scope="module")
def report(pruned: tuple[Path, Path]) -> dict:
    """The exported report."""
    return json.loads((pruned[0] / "report.json").read_text())


def test_the_mask_is_far_better_than_chance_and_magnitude(report: dict) -> None:
    kl = {name: reading["kl"] for name, reading in report["readings"].items()}
    assert kl["mask"] < 0.5 * kl["random"]
    assert kl["mask"] < 0.5 * kl["magnitude"]


def test_what_is_exported_beats_every_mask_that_costs_nothing(report: dict) -> None:
    kl = {name: reading["kl"] for name, reading in report["readings"].items()}
    assert kl["mask_reconstructed"] < kl["mask"]
    assert kl["mask_reconstructed"] < 0.7 * kl["wanda"]
    assert kl[TUNED] < 0.95 * kl["mask_reconstructed"]
    assert report["readings"][TUNED]["top1"] > report["readings"]["wanda"]["top1"] + 0.05


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
    assert "Pim Tuckett" in result.stdout and "Whole" in result.stdout


def test_the_verdict_by_rules_and_vectors(pruned: tuple[Path, Path], starter: Path, starter_q8: Path, tmp_path: Path) -> None:
    folder, home = pruned  # the starter by its folder: what was proved of measures on "starter" is not asked here
    asked = ("evaluate", "pim-tuckett", "--dense", str(starter), "--model", str(folder), "--quick", "--measure", "script",
             "--measure", "adherence", "--max-tokens", "32", "--json", "--workdir", str(tmp_path / "work"))
    result = run(*asked, home=home)
    assert result.returncode == 0, result.stderr
    made = read_evaluation(tmp_path / "work" / RESULT)
    [of_run] = made.runs()
    assert of_run.sparsity == 0.25 and 0 < of_run.bytes < made.speakers[0].bytes
    figures = {(one.measure, one.speaker): one for one in made.figures}
    assert figures["script", DENSE].items + figures["script", DENSE].missing == 4
    for speaker in (DENSE, of_run.id):  # 12 everyday lines, 5 tasks, 12 turns of one conversation
        near = figures["adherence", speaker]
        assert near.items <= 18 and near.samples + near.missing == 29
        assert near.mean is not None and 0 < near.mean <= 1
    assert figures["adherence", DENSE].mean > 0.5  # nearer to its own card than to others'
    assert headline(made, of_run.id).startswith("Pim at 25%: ")
    again = run(*asked, home=home)
    said = [event for event in map(decode, again.stdout.splitlines()) if isinstance(event, Assessed)]
    assert {(one.measure, one.speaker): (one.mean, one.low, one.high) for one in said} == {
        key: (one.mean, one.low, one.high) for key, one in figures.items()}
