"""The studio's measurements run, and count what they say they count. Speed itself is asserted nowhere."""

from pathlib import Path

import pytest
from tiny import add_files, make_tiny

from benchmarks.__main__ import main
from benchmarks.studio import costs
from benchmarks.studio.polling import measure_polling
from benchmarks.studio.tabs import measure_tabs
from benchmarks.studio.watching import summarise, watching_words
from engine.base.files import read_json


def test_polling_reads_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                        capsys: pytest.CaptureFixture[str]) -> None:
    found = measure_polling(few=10, many=200, samples=3)
    for key in ("after_few", "after_many"):
        assert found[key]["nothing"]["bytes"] == 0 and 100 < found[key]["one"]["bytes"] < 200  # one event
    monkeypatch.setitem(costs.PARTS, "polling", (lambda: found, costs._polling_words))
    assert main(["studio", "--only", "polling", "--json", str(tmp_path / "found.json")]) == 0
    said = capsys.readouterr().out
    assert "after 10 events" in said and "after 200 events" in said and "3 polls each" in said
    assert read_json(tmp_path / "found.json")["polling"] == found


@pytest.mark.slow
def test_a_job_is_watched_and_left_alone() -> None:
    found = measure_tabs(tabs=2, pairs=1, window=1.2, step_seconds=0.02)
    pair = found["pairs"][0]
    assert pair["alone"]["messages"] == 0 and pair["alone"]["steps"] > 1
    assert pair["watched"]["messages"] > 0  # how many depends on what else runs
    assert "2 tabs in the Prune room" in costs._tabs_words(found)


@pytest.mark.slow
def test_the_second_turn_reads_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    model = add_files(make_tiny(tmp_path / "tiny", max_position_embeddings=8192))
    found = costs.measure_speech(pairs=1, limit=4, model=str(model))
    first, second = found["pairs"][0]["first"], found["pairs"][0]["second"]
    assert first["reused"] == 0 and second["reused"] >= first["prompt"] - 1 > 1000  # the card was not read again
    assert "tiny (a random model)" in costs._speech_words(found)


def test_a_wait_ends_when_a_word_or_a_picture_is_new() -> None:
    looks = [(0.0, "", "", ""), (2.0, "Lines", "of", ""), (4.0, "Lines", "of", ""), (6.0, "Lines", "of", "p"),
             (8.0, "Tuning", "of", "p"), (18.0, "Tuning", "of", "p"), (20.0, "Tuning", "of", "q"), (21.0, "", "of", "q")]
    found = summarise(looks)
    assert found["longest"] == [{"seconds": 2.0, "stage": ""}, {"seconds": 4.0, "stage": "Lines"},
                                {"seconds": 14.0, "stage": "Tuning"}]
    assert found["changes"] == 3 and found["looks"] == 8 and found["longer_than_wanted"] == 1
    assert "14 s (Tuning)" in watching_words({**found, "model": "starter"})
