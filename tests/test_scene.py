"""Scenes: who speaks next, what each one sees, and a scene played by a random model."""

import json
from pathlib import Path

import pytest
from store_samples import card

from engine.__main__ import main
from engine.base.errors import UserError
from engine.base.evaluation_events import Spoken
from engine.base.events import Event
from engine.base.sampling import SamplingParams
from engine.cards.card import Card, bundled_cards, parse_card
from engine.cards.prompt import PLAYER, render_system_prompt
from engine.cards.speaking import own_words
from engine.scene import NARRATOR, Actor, Scene, find_actors, opening_of, play


def named(name: str) -> Card:
    return parse_card(json.dumps(card(name, scenario="{{char}} waits for {{user}} at the mill.")).encode(), "card")


def scene(*names: str, said: list[tuple[str, str]] | None = None) -> Scene:
    return Scene([Actor(named(name), "starter") for name in names], said or [])


def test_everyone_sees_the_scene_from_where_they_stand() -> None:
    one = scene("Ann", "Bert", said=[(NARRATOR, "It rains."), ("Ann", "Is it you?"), ("Bert", "It is."), (PLAYER, "Hello both."),
                                     ("Ann", "")])
    ann, bert = one.actors
    assert one.turns_of(ann) == [("user", "*It rains.*"), ("assistant", "Is it you?"),
                                 ("user", "Bert: It is.\nPlayer: Hello both."), ("assistant", "..."), ("user", "...")]
    assert one.turns_of(bert) == [("user", "*It rains.*\nAnn: Is it you?"), ("assistant", "It is."),
                                  ("user", "Player: Hello both.\nAnn: ...")]


def test_whoever_is_addressed_speaks_next_and_else_whoever_was_silent_longest() -> None:
    said = [(NARRATOR, "Bert and Ann are here.")]
    assert scene("Ann", "Bert", "Cleo", said=said).next_actor().name == "Ann"
    said.append(("Ann", "What do you say, Cleo?"))
    assert scene("Ann", "Bert", "Cleo", said=said).next_actor().name == "Cleo"
    said.append(("Cleo", "Ask Ann or Bert."))  # two at once are no address
    assert scene("Ann", "Bert", "Cleo", said=said).next_actor().name == "Bert"
    said.append((PLAYER, "And you, Ann?"))
    assert scene("Ann", "Bert", "Cleo", said=said).next_actor().name == "Ann"
    said.append(("Ann", "Annoying, Bertram."))  # names within words are no names
    assert scene("Ann", "Bert", "Cleo", said=said).next_actor().name == "Bert"


@pytest.mark.parametrize(("text", "kept"), [
    ("Ann: Good evening.", "Good evening."),
    ("Good evening.\nBert: Good evening, Ann.", "Good evening."),
    ("*nods*\n\nPlayer: What now?\nAnn: Nothing.", "*nods*"),
    ("Bert is here: look.", "Bert is here: look."),
    ("  ", ""),
])
def test_what_it_says_for_others_is_not_its_own(text: str, kept: str) -> None:
    one = scene("Ann", "Bert")
    assert own_words(text, one.actors[0].card.names, [*one.actors[1].card.names, PLAYER]) == kept


@pytest.mark.parametrize(("names", "fault"), [(["Ann"], "2 or 3 characters, not 1"), (["A", "B", "C", "D"], "not 4"),
                                              (["Ann", "ann"], "the same name")])
def test_what_is_no_scene_is_refused(names: list[str], fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        scene(*names)


def test_the_narrator_begins_and_every_prompt_says_who_is_there() -> None:
    one = scene("Ann", "Bert")
    assert opening_of(one.actors) == "Ann waits for Bert at the mill. Ann and Bert are here."
    prompt = render_system_prompt(one.actors[1].card, one.setting_of(one.actors[1]))
    assert "Bert waits for Ann at the mill." in prompt and "Bert is with Ann." in prompt


def test_a_scene_is_played_the_same_twice_and_a_word_can_be_put_in(speaking: Path) -> None:
    def played(put_in: str = "") -> list[Spoken]:
        one = Scene([Actor(named(name), str(speaking)) for name in ("Ann", "Bert")])
        found: list[Event] = []
        for event in play(one, 4, SamplingParams(max_tokens=4, seed=3)):
            found.append(event)
            if put_in and isinstance(event, Spoken) and event.turn == 2:
                one.said.append((PLAYER, put_in))
        assert [text for who, text in one.said if who != PLAYER] == [one.text for one in found if isinstance(one, Spoken)]
        return [event for event in found if isinstance(event, Spoken)]

    first = played()
    assert [event.speaker for event in first] == [NARRATOR, "Ann", "Bert", "Ann", "Bert"]
    words = lambda found: [(one.speaker, one.text) for one in found]
    assert words(first) == words(played())
    assert [event.speaker for event in played("Bert, you again.")] == [NARRATOR, "Ann", "Bert", "Bert", "Ann"]


def test_a_scene_on_the_command_line(speaking: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    cards = [tmp_path / f"{name}.json" for name in ("ann", "bert")]
    for file in cards:
        file.write_text(json.dumps(card(file.stem.title())))
    options = ["--model", str(speaking), "--turns", "2", "--max-tokens", "4"]
    assert main(["scene", *map(str, cards), *options, "--narrator", "Rain on the roof.", "--json"]) == 0
    spoken = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"Spoken"' in line]
    assert [one["speaker"] for one in spoken] == ["", "Ann", "Bert"] and spoken[0]["text"] == "Rain on the roof."
    assert main(["scene", "pim-tuckett", "--model", str(speaking)]) == 2
    assert "2 or 3 characters, not 1" in capsys.readouterr().err
    found = find_actors(["pim-tuckett"], "m")
    assert found[0].card.name in [one.name for one in bundled_cards()] and found[0].model == "m"
