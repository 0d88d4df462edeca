"""Tests by a script in the studio: what is kept, what a process brings, what its end says, and how results are shown."""

import html
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.base.errors import UserError
from studio.services import Services
from studio.settings import Settings
from studio.store import characters, script_runs
from studio.store.script_runs import ScriptAnswer
from studio.tabs.compare import script
from studio.tabs.compare.script import Column, script_html
from studio.tabs.judges import Chosen
from studio.workers.scripts import CLOSED
from tests.store_samples import card

OWN = {"script": {"added": [{"id": "two", "lines": ["Hm?", "<b>And?</b>"], "must_not_mention": ["zebra"]}]}}
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    opened = Services.open(Settings(tmp_path))
    yield opened
    opened.scripts.close()
    opened.speech.close()


def smith(services: Services) -> str:
    return characters.create(services.store, card(extensions={"persona_studio/npc": OWN})).id


def answer(question: str = "q", verdict: str = "fail", text: str = EVIL, **fields: Any) -> ScriptAnswer:
    checks = [{"rule": "must not mention", "outcome": "fail", "detail": f"Mentioned: {EVIL}"}]
    return ScriptAnswer(question, "own", [EVIL], [text], verdict, checks, **{"score": None, "preferred": None, **fields})


def test_a_test_is_kept_with_version_seed_and_model_and_its_version_is_not_overwritten(services: Services) -> None:
    who, store = smith(services), services.store
    characters.save(store, who, {**card(), "x": 1})  # an autosave
    one, two = script_runs.begin(store, who, 2, [(None, "starter"), (None, "big")], 5, {"temperature": 0.7}, "http://j m")
    assert (one.version, one.seed, one.model, one.judge, one.state) == (2, 5, "starter", "http://j m", "running")
    script_runs.add_answer(store, one.id, answer("b"))
    script_runs.add_answer(store, one.id, answer("a", score=80.0))
    script_runs.prefer(store, one.id, "a", 61.5)
    assert [(kept.question, kept.score, kept.preferred) for kept in script_runs.answers(store, one.id)] == [
        ("b", None, None), ("a", 80.0, 61.5)]
    characters.save(store, who, {**card(), "x": 2})
    assert characters.head(store, who).number == 3  # what was tested stays
    script_runs.end(store, [one.id], "done")
    script_runs.end(store, [one.id, two.id], "failed", "Late.")
    assert {kept.model: kept.state for kept in script_runs.newest(store, who)} == {"starter": "done", "big": "failed"}
    (again,) = script_runs.begin(store, who, 3, [(None, "starter")], 6, {})
    assert [kept.id for kept in script_runs.newest(store, who)] == [two.id, again.id]
    services.scripts.start()  # as after a crash
    assert [(kept.state, kept.sentence) for kept in script_runs.newest(store, who) if kept.id == again.id] == [("stopped", CLOSED)]


@pytest.mark.slow
def test_a_real_process_answers_every_question_of_the_head(services: Services, llama: Path) -> None:
    who = smith(services)
    script.begin(services, who, str(llama), [f"dense:{llama}"], 3, Chosen())
    with pytest.raises(UserError, match="under way already"):
        script.begin(services, who, str(llama), [f"dense:{llama}"], 3, Chosen())
    assert services.scripts.character() == who and services.scripts.wait(240)
    (run,) = script_runs.newest(services.store, who)
    kept = script_runs.answers(services.store, run.id)
    assert (run.state, run.sentence, run.seed, run.version) == ("done", "", 3, 1)
    assert len(kept) == 5 and kept[-1].lines == ["Hm?", "<b>And?</b>"] and len(kept[-1].answers) == 2
    page = script.contents(services, who)["compare-script-results"]
    assert "n = 5 · card version 1 · seed 3 · no judge" in page and "<b>And?" not in page


@pytest.mark.slow
def test_a_test_is_over_with_its_last_word_or_with_the_studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = ["import pathlib, sys, time; place = pathlib.Path(sys.argv[sys.argv.index('--job') + 1]).with_name('work'); "
            "place.mkdir(); "
            "(place / 'events.jsonl').write_text('{\"event\": \"Stopped\", \"time\": 0, \"sentence\": \"\"}\\n'); time.sleep(60)",
            "import time; time.sleep(60)"]
    for program, wanted in zip(said, [("stopped", ""), ("stopped", CLOSED)], strict=True):
        services = Services.open(Settings(tmp_path / str(len(program)), command=(sys.executable, "-c", program)))
        who = smith(services)
        services.scripts.begin(who, [(None, "m")], {"temperature": 0.7, "limit": 4}, 0)
        worker = services.scripts._worker
        assert worker and (services.scripts.wait(20) if wanted[1] == "" else services.scripts.character() == who)
        services.scripts.close()
        (run,) = script_runs.newest(services.store, who)
        assert (run.state, run.sentence) == wanted
        worker.process.kill()
        services.speech.close()


@pytest.mark.slow
def test_a_process_that_fails_says_why(services: Services, tmp_path: Path) -> None:
    who = smith(services)
    services.scripts.begin(who, [(None, str(tmp_path / "none"))], {"temperature": 0.7, "limit": 4}, 0)
    assert services.scripts.wait(120)
    (run,) = script_runs.newest(services.store, who)
    assert run.state == "failed" and "none" in run.sentence
    assert html.escape(run.sentence) in script.contents(services, who)["compare-script-results"]


@pytest.mark.parametrize(("chosen", "judge", "model", "says"), [
    ([], "", "", "No model is chosen"), (["dense:m"], "http://x", "", "an address and the name"),
    (["dense:m"], "no/such/folder", "", "no/such/folder")])
def test_what_is_missing_is_said_before_anything_runs(services: Services, chosen: list[str], judge: str, model: str,
                                                      says: str) -> None:
    who = smith(services)
    with pytest.raises(UserError, match=says):
        script.begin(services, who, "m", chosen, 0, Chosen(judge, model))
    assert not script_runs.newest(services.store, who)


def test_results_stand_side_by_side_counted_and_escaped(services: Services) -> None:
    one, two = script_runs.begin(services.store, smith(services), 1, [(None, "a"), (None, "b")], 0, {})
    columns = [Column("Dense", one, [answer("q1", "pass"), answer("q2", "not judged")]),
               Column(EVIL, two, [answer("q1", "fail", preferred=30.0)])]
    page = script_html(columns, 2, "", [EVIL])
    assert "<img" not in page and page.count("script-question") == 2
    assert "<b>1</b> pass" in page and "<b>0</b> fail" in page and "<b>1</b> not judged" in page and "n = 2" in page
    assert "30 of 100 against the first model (50: alike; n = 1, both orders)" in page and "not asked" in page
    assert "has 14\xa0questions" in script_html([], 14, "", [])
