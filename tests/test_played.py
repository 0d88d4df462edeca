"""Long conversations in which a model plays the player: what each side hears, what is kept, and what the measures read."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from small_job import run_job
from store_samples import card
from tiny import add_files, make_tiny

from engine.base.errors import UserError
from engine.base.evaluation_events import Replied
from engine.base.events import Event, Stage
from engine.base.evidence import ANSWERS, DENSE, RESULT, read_evaluation
from engine.base.job import EvaluateJob
from engine.base.sampling import SamplingParams
from engine.cards.card import Card, bundled_cards, parse_card
from engine.cards.dossier import read_dossier
from engine.cards.macros import expand_macros
from engine.cards.prompt import PLAYER, render_system_prompt
from engine.evaluation.measure import Item, ItemKind, Reply, Speaker
from engine.evidence import playing, running
from engine.evidence.asking import ask_all
from engine.evidence.items import Size
from engine.evidence.playing import Player, people, person, played_items, played_note
from engine.evidence.running import evaluate
from engine.serving.interview import Interview

SHORT = SamplingParams(max_tokens=4)
SMITH = parse_card(json.dumps(card(first_mes="Hm?")).encode(), "card")


@pytest.fixture
def tiny_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """Players whose cards a tiny model reads, and who say little."""
    monkeypatch.setattr(playing, "SAMPLING", SHORT)
    monkeypatch.setattr(playing, "person", lambda card, name: parse_card(json.dumps(
        {"name": PLAYER, "description": f"A {name}."}).encode(), "card"))


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[tuple[str, str]]]]:
    """Who was asked, and the turns that it saw."""
    found: list[tuple[str, list[tuple[str, str]]]] = []
    ask: Callable[..., Any] = Interview.answer

    def answer(self: Interview, turns: Sequence[tuple[str, str]], *more: Any, **other: Any) -> Any:
        assert self._request.card
        found.append((self._request.card.name, list(turns)))
        return ask(self, turns, *more, **other)

    monkeypatch.setattr(Interview, "answer", answer)
    return found


def talk_with(folder: Path, speaking: Path, until: int = 100) -> tuple[list[Event], list[Reply]]:
    """A conversation of three turns; it is broken off after so many events."""
    player, seen = Player(str(speaking), SMITH), list[Event]()
    speaker = Speaker(DENSE, "Dense", str(speaking), SMITH)
    stream: Iterator[Event] = ask_all([speaker], played_items(SMITH, 3)[:1], [0], folder, SHORT, player=player)
    try:
        while len(seen) < until:
            seen.append(next(stream))
    except StopIteration as end:
        return seen, end.value[DENSE]
    finally:
        player.close()
    stream.close()  # type: ignore[attr-defined]
    return seen, []


@pytest.mark.parametrize("card", bundled_cards(), ids=lambda card: card.char)
def test_people_meet_the_character_and_each_wants_to_hear_something_else(card: Card) -> None:
    prompts = [render_system_prompt(person(card, name)) for name in people()]
    assert all(text.startswith(f"You are {PLAYER}.") and card.char in text and "{{" not in text for text in prompts)
    wishes = [expand_macros(one.text, card, PLAYER) for one in read_dossier(card).of_task("knowledge", "persona_consistency")]
    found = [{wish for wish in wishes if wish in text} for text in prompts]
    assert all(found) and len(set.union(*found)) == sum(map(len, found))
    items = played_items(card, 20)
    assert len(items) == len(people())
    assert all(one.turns == 20 and len(one.lines) == 1 and "{{" not in one.lines[0] for one in items)


def test_each_side_hears_the_other_as_the_user(speaking: Path, tmp_path: Path, tiny_people: None, heard: list[Any]) -> None:
    _, (said,) = talk_with(tmp_path, speaking)
    assert len(said.lines) == len(said.answers) == 3 and said.lines[0] == people()["traveller"]["opening"]
    assert [name for name, _ in heard] == [SMITH.name, PLAYER, SMITH.name, PLAYER, SMITH.name]
    lines, answers = ([text or "..." for text in part] for part in (said.lines, said.answers))
    assert heard[3][1] == [("user", "Hm?"), ("assistant", lines[0]), ("user", answers[0]), ("assistant", lines[1]),
                           ("user", answers[1])]
    assert heard[4][1] == [("assistant", "Hm?"), ("user", lines[0]), ("assistant", answers[0]), ("user", lines[1]),
                           ("assistant", answers[1]), ("user", lines[2])]


def test_a_conversation_that_was_broken_off_goes_on_with_the_same_lines(speaking: Path, tmp_path: Path, tiny_people: None,
                                                                        heard: list[Any]) -> None:
    talk_with(tmp_path, speaking, until=2)  # the stage, and the step of the first answer
    assert len((tmp_path / ANSWERS).read_bytes().splitlines()) == 1
    seen, (said,) = talk_with(tmp_path, speaking)
    assert [event.total for event in seen if isinstance(event, Stage)] == [2] and len(heard) == 5
    seen, (again,) = talk_with(tmp_path, speaking)
    assert again == said and len(heard) == 5 and not [event for event in seen if isinstance(event, Replied)]


def test_its_lines_are_told_from_what_it_says_for_the_character(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(self: Interview, *_: Any) -> Any:
        yield from ()
        return f"{PLAYER}: And then?\n{SMITH.char}: Nothing.", "ended"

    monkeypatch.setattr(Interview, "answer", answer)
    player, item = Player("starter", SMITH), played_items(SMITH, 3)[0]
    stream = player.next_line(item, ["Hello."], ["Hm?"], 0, Stage("interview"), True)  # type: ignore[arg-type]
    with pytest.raises(StopIteration) as end:
        next(stream)
    player.close()
    assert end.value.value == "And then?"


def test_a_player_that_there_is_not_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nobody-here"):
        Player(str(tmp_path / "nobody-here"), SMITH)


def test_a_player_whose_model_cannot_be_used_is_named_and_not_the_character(speaking: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    stream = ask_all([Speaker(DENSE, "Dense", str(speaking), SMITH)], played_items(SMITH, 3)[:1], [0], tmp_path, SHORT,
                     player=Player(str(tmp_path / "empty"), SMITH))
    with pytest.raises(UserError, match=r"empty cannot play the player: .* holds no model"):
        list(stream)


def test_what_the_player_repeats_is_said() -> None:
    item = Item("played-x", ItemKind.LONG, ("Hello.",), "x", turns=4)
    said = Reply(DENSE, item, 0, ("Hello.", "Who are you, then?", "who are you then", "I do keep a hen, too!"),
                 ("Nobody.", "I keep a brown hen.", "I do keep a hen.", "Hm."), ("ended",) * 4)
    written = Reply(DENSE, Item("long-x", ItemKind.LONG, ("A", "A")), 0, ("A", "A"), ("a", "b"), ("ended",) * 2)
    assert list(played_note("small", [said, written])) == [
        "The player of 1 long conversation was played by small: of its 3 lines 2 mostly repeat what was said before."]
    assert not list(played_note("", [written]))


@pytest.mark.slow
def test_measures_read_played_turns_dense_beside_pruned(tmp_path: Path, tiny_people: None, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = add_files(make_tiny(tmp_path / "dense", intermediate_size=128))
    run_job(dense, tmp_path / "half", sparsity=0.5, multiple=32)
    monkeypatch.setattr(running, "QUICK", Size({kind: int(kind is ItemKind.LONG) for kind in ItemKind}, 2, 2, 2))
    job = EvaluateJob(card=str(tmp_path / "card.json"), models=[str(tmp_path / "half")], dense=str(dense), quick=True,
                      workdir=str(tmp_path / "work"), sampling={"max_tokens": 4}, measures=["loops"], player=str(dense))
    list(evaluate(job))
    result = read_evaluation(tmp_path / "work" / RESULT)
    figures = [result.figure("loops", one.id) for one in result.speakers]
    assert all(one and one.items == 3 and one.samples + one.missing == 3 * 2 * 2 for one in figures)  # items, turns, seeds
    assert any(note.startswith("The player of 8 long conversations was played by") for note in result.notes)
