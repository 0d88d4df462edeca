"""Scenes in the studio: what is played, a word put in while it is played and after it, and how the characters are graded."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from test_judged_measures import Deciding

from engine.base import event_file
from engine.base.acting import CRITERIA
from engine.base.errors import UserError
from engine.base.evaluation_events import Acted, Spoken
from engine.base.events import Event
from engine.base.job import SceneJob
from engine.cards.card import find_bundled
from engine.cards.prompt import PLAYER
from engine.evaluation.acting import assess_scene
from engine.scene import WORDS, perform
from studio.services import Services
from studio.store import characters
from studio.store.chats import Message, Swipe
from studio.tabs import judges
from studio.tabs.preview import scenes
from studio.tabs.preview.view import Scene, drift_html
from studio.workers.single import Resumable
from tests.store_samples import card

PIM, BODO = find_bundled("pim-tuckett"), find_bundled("bodo-grumm")
SAID = [("", "Rain."), (PIM.char, "Halt, who goes there, and why so late at night?"), (BODO.char, "A poor tinker."),
        (PIM.char, "Halt, who goes there, and why so late at night?"), (PIM.char, "How can I assist you today?"), (BODO.char, "")]


def acted(judge: Any = None) -> list[Acted]:
    stream = assess_scene([PIM, BODO, find_bundled("whitlow-ashe")], SAID, judge, "Judge: it.")
    return [event for event in stream if isinstance(event, Acted)]


def test_rules_count_what_everybody_said() -> None:
    pim, bodo = acted()  # who said nothing is not there
    assert (pim.turns, pim.loops, pim.assistant, pim.grades) == (3, 1, 1, {})
    assert (bodo.speaker, bodo.turns, bodo.loops, bodo.assistant) == (BODO.char, 1, 0, 0)


def test_a_judge_gives_each_character_seven_grades_and_reads_the_scene_first() -> None:
    def decide(text: str, options: Sequence[str]) -> tuple[float, ...] | None:
        if CRITERIA["emotion"].about in text:
            return None
        return (0, 0, 0, 0.5, 0.5) if f"of {PIM.char} alone" in text else (1, 0, 0, 0, 0)

    judge = Deciding(decide)
    judge.name = "it"  # type: ignore[attr-defined]
    pim, bodo = acted(judge)
    assert list(pim.grades) == list(CRITERIA) and pim.grades["knowledge"] == 4.5 and bodo.grades["knowledge"] == 1
    assert pim.grades["emotion"] is None and pim.judge == "Judge: it." and len(judge.asked) == 14
    beginnings = {text.partition("What is graded")[0] for text in judge.asked}
    assert len(beginnings) == 2 and all("(Rain.)" in text and "A poor tinker." in text for text in beginnings)


def job_of(folder: Path, speaking: Path, **more: Any) -> SceneJob:
    cards = []
    for name in ("Ann", "Bert"):
        cards.append(folder / f"{name}.json")
        cards[-1].write_text(json.dumps(card(name)))
    return SceneJob(characters=list(map(str, cards)), model=str(speaking), workdir=str(folder), sampling={"max_tokens": 4},
                    **{"turns": 2, **more})


def test_lines_are_put_in_while_it_is_played_and_a_scene_goes_on(speaking: Path, tmp_path: Path) -> None:
    words = [json.dumps([PLAYER, "Bert, hello."]), "nonsense", json.dumps(["Bert", "Not I."]), json.dumps(["", "It rains."])]
    (tmp_path / WORDS).write_text("\n".join(words) + '\n["", "half of a li')
    found: list[Event] = list(perform(job_of(tmp_path, speaking, narrator="Dusk.")))
    spoken = [one for one in found if isinstance(one, Spoken)]
    assert [(one.speaker, one.turn) for one in spoken] == [("", 0), (PLAYER, 1), ("", 1), ("Ann", 1), ("Bert", 2)]
    assert [one.text for one in spoken][:3] == ["Dusk.", "Bert, hello.", "It rains."]
    (tmp_path / WORDS).unlink()
    said = [[one.speaker, one.text] for one in spoken]
    again = [one for one in perform(job_of(tmp_path, speaking, said=said, turns=1)) if isinstance(one, Spoken)]
    assert [one.turn for one in again] == [0, 0, 0, 0, 0, 1] and again[-1].speaker == "Ann"
    graded = list(perform(job_of(tmp_path, speaking, said=said, turns=0)))
    assert [one.speaker for one in graded if isinstance(one, Acted)] == [name for name in ("Ann", "Bert")
                                                                         if any(who == name for who, _ in said)]


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The jobs that would be started; their job files are written."""
    found: list[dict[str, Any]] = []

    def begin(self: Resumable, character: str, job: dict[str, Any], files: dict[str, Any] | None = None) -> None:
        self.folder(character).mkdir(parents=True, exist_ok=True)
        (self.folder(character) / "job.json").write_text(json.dumps(job))
        found.append({**job, **(files or {})})

    monkeypatch.setattr(Resumable, "_begin", begin)
    return found


def test_a_scene_of_the_library_is_begun_goes_on_and_takes_a_word(services: Services, person: str,
                                                                  begun: list[dict[str, Any]]) -> None:
    other, third = (characters.create(services.store, card(name)).id for name in ("Ann", "Bert"))
    with pytest.raises(UserError, match="Nobody else"):
        scenes.begin(services, person, "starter", [], "", 6)
    with pytest.raises(UserError, match="cannot be in this scene"):
        scenes.begin(services, person, "starter", [person], "", 6)
    with pytest.raises(UserError, match="no scene yet"):
        scenes.put_in(services, person, PLAYER, "Hello.")
    double = characters.create(services.store, characters.head(services.store, person).card).id
    with pytest.raises(UserError, match="have the same name"):
        scenes.begin(services, person, "starter", [double], "", 6)
    assert not begun
    judges.choose(services, "small", "")
    scenes.begin(services, person, "starter", [other, third], " Dusk. ", 6)
    job = begun[0]
    assert job["actor-1.json"]["data"]["name"] == "Ann" and len(job["characters"]) == 3 and job["model"] == "starter"
    assert (job["narrator"], job["turns"], job["judge"]) == ("Dusk.", 6, "small")
    SceneJob(**{name: value for name, value in job.items() if not name.startswith("actor-")})
    file = services.scenes.folder(person) / "events.jsonl"
    for one in (Spoken("", "Dusk.", 0), Spoken("Ann", "<b>Hm?</b>", 1), Spoken("Bert", "", 2)):
        event_file.append(file, one)
    scenes.put_in(services, person, PLAYER, "Hello.")  # it is not under way, so it goes on: everybody can answer
    assert begun[1]["said"][-1] == [PLAYER, "Hello."] and begun[1]["turns"] == 2 and begun[1]["characters"] == job["characters"]
    slug = characters.get(services.store, person).slug  # type: ignore[union-attr]
    page = scenes.contents(services, {"character": slug})  # as the page's address has it
    assert "&lt;b&gt;Hm?" in page["scene-said"] and "Says nothing" in page["scene-said"] and "Hello." in page["scene-said"]
    assert page["scene-go-on"] and page["scene-begin"] and page["scene-grade"] and not page["scene-stop"]
    assert not any(scenes.contents(services, {"character": ""}).values())


def test_a_scene_under_way_hears_a_word_without_being_stopped(services: Services, person: str,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services.scenes, "_worker", object())
    monkeypatch.setattr(services.scenes, "_character", person)
    services.scenes.folder(person).mkdir(parents=True)
    scenes.put_in(services, person, "", "A door slams.")
    assert json.loads((services.scenes.folder(person) / WORDS).read_text()) == ["", "A door slams."]
    page = scenes.contents(services, {"character": person})
    assert page["scene-stop"] and not page["scene-begin"]
    monkeypatch.setattr(services.scenes, "_worker", None)


def test_no_word_is_lost_where_a_process_dies_or_hears_no_more(services: Services, person: str,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    kept = services.scenes
    monkeypatch.setattr(kept, "_start", lambda *_: None)  # killed before its first event
    scenes.begin(services, person, "starter", [characters.create(services.store, card("Ann")).id], "", 6)
    events, said = kept.folder(person) / "events.jsonl", [("", "Dusk."), ("Ann", "Hm?"), (PLAYER, "Who?")]
    for one in said:
        event_file.append(events, Spoken(*one, 0))
    kept.go_on(person, 2)
    assert not events.exists() and [(one.speaker, one.text) for one in kept.said(person)] == said
    kept.go_on(person, 2)
    event_file.append(events, Spoken("", "Dusk.", 0))  # killed while it repeated what was there
    assert [(one.speaker, one.text) for one in kept.said(person)] == said
    put = [(PLAYER, "Hello."), ("", "It rains."), (PLAYER, "Hello.")]
    (kept.folder(person) / WORDS).write_text("".join(json.dumps(one) + "\n" for one in put))
    for one in said[1:]:
        event_file.append(events, Spoken(*one, 0))
    event_file.append(events, Spoken(PLAYER, "Hello.", 1))  # it heard the first, and then only graded
    for _ in range(2):
        kept._end(person, None)
        assert [(one.speaker, one.text) for one in kept.said(person)] == [*said, put[0], *put[1:]]


def test_grades_are_shown_with_the_judge_and_escaped() -> None:
    graded = Acted("<i>Ann</i>", 3, 1, None, {"knowledge": 4.5, "emotion": None}, "Judge: small.")
    page = scenes.grades_html([graded, Acted("Bert", 1, 0, 0, {})])
    assert "<i>" not in page and "Knowledge" in page and "4.5" in page and "Judge: small." in page and "1 of 3" in page
    assert "Immersion" not in page and scenes.grades_html([]) == ""


def test_a_chat_shows_which_answers_drift_by_their_words() -> None:
    def chat(*texts: str) -> Scene:
        said = [Message(str(place), "c", place, "assistant", [Swipe(text, 0, {}, "ended")], 0) for place, text in enumerate(texts)]
        return Scene("p", None, "Ann", None, "", PLAYER, said, None, 0, [])

    circles = "and on and on and on and on and on and on and on and on"
    found = drift_html(chat("A greeting.", "No.", "How can I assist you today?", circles))
    assert [kind in found for kind in ('class="own"', 'class="assistant"', 'class="loops"')] == [True, True, True]
    assert found.count("<i ") == 3 and "Of 3 answers 1 have an assistant's phrases" in found and "1 run in circles" in found
    assert drift_html(chat("A greeting.", "No.", "Yes.")) == ""


@pytest.mark.slow
def test_a_real_process_plays_in_the_studio(services: Services, person: str, speaking: Path) -> None:
    other = characters.create(services.store, card("Ann")).id
    scenes.begin(services, person, str(speaking), [other], "Dusk.", 2)
    with pytest.raises(UserError, match="A scene is under way already"):
        services.scenes.go_on(person, 1)
    assert services.scenes.wait(120) and services.scenes.endings[person] == ""
    said = services.scenes.said(person)
    assert [one.turn for one in said] == [0, 1, 2] and said[0].text == "Dusk."
    assert services.scenes.acted(person)
    services.scenes.go_on(person, 9)
    services.scenes.stop()  # while it starts
    assert services.scenes.wait(120)
    assert [one.text for one in services.scenes.said(person)][:3] == [one.text for one in said]

