"""The exact prompts and messages that cards become, checked against texts written by hand (tests/golden)."""

import json
from pathlib import Path

import pytest
from card_samples import EVERYTHING, v2

from engine.cards.card import Card, find_bundled, parse_card
from engine.cards.prompt import (
    BLOCK,
    CLOSING,
    NEW_CHAT,
    Setting,
    example_turns,
    fit,
    messages,
    render_description,
    render_greeting,
    render_system_prompt,
)

GOLDEN = Path(__file__).parent / "golden"
TALKS = ("<START>\n{{user}}: One?\n{{char}}: Two.\n<START>\n{{char}}: I begin.\n{{user}}: Do you?\nReally?\n"
         "Guard: Quiet!\n{{char}}: Always.")


def written(found: list[dict[str, str]]) -> str:
    """Messages as the golden files show them."""
    return "\n\n".join(f"=== {message['role']}\n{message['content']}" for message in found) + "\n"


def card(**fields: object) -> Card:
    """A V2 card with some fields of its own."""
    return parse_card(v2(**fields), "x")


def everything() -> Card:
    """The card that has everything at once."""
    return parse_card(json.dumps(EVERYTHING).encode(), "x")


@pytest.mark.parametrize("slug", ["pim-tuckett", "vessaline-korr"])
def test_golden_messages_of_a_bundled_card(slug: str) -> None:
    found = messages(find_bundled(slug), [("user", "Who are you?")])
    assert written(found) == (GOLDEN / f"{slug}.txt").read_text(encoding="utf-8")


def test_golden_messages_of_everything_at_once() -> None:
    setting = Setting("Ada <START>", "A keeper of bees. {{user}} owes {{char}} a lamp.", seed=3)
    history = [("user", "Who lit it?"), ("assistant", "I did."), ("user", "Why, {{char}}?")]
    assert written(messages(everything(), history, setting)) == (GOLDEN / "everything.txt").read_text(encoding="utf-8")


def test_empty_fields_leave_nothing() -> None:
    assert render_system_prompt(card()) == (
        "You are Ann Lee.\n\nA smith.\n\n"
        "Stay in character as Ann Lee. Answer in one to three short sentences, in Ann Lee's own voice.")
    only_markers = card(mes_example="<START>\n\n<START> ", post_history_instructions="{{ORIGINAL}} ", first_mes="{{// later}}")
    assert messages(only_markers, [("user", "Hm?")]) == [
        {"role": "system", "content": render_system_prompt(card())}, {"role": "user", "content": "Hm?"}]


def test_own_system_prompt_replaces_the_closing() -> None:
    assert render_system_prompt(card(system_prompt="Be {{char}}.")).endswith("A smith.\n\nBe Ann Lee.")
    blank, original = card(system_prompt=" \n"), card(system_prompt="{{original}}")
    assert render_system_prompt(blank) == render_system_prompt(original) == render_system_prompt(card())
    assert "{{char}}" in CLOSING


def test_example_dialogue_becomes_turns() -> None:
    assert [(turn["role"], turn["content"]) for turn in example_turns(card(mes_example=TALKS), Setting("Bo"))] == [
        ("user", "One?"), ("assistant", "Two."),
        ("user", NEW_CHAT), ("assistant", "I begin."), ("user", "Do you?\nReally?\nGuard: Quiet!"), ("assistant", "Always.")]
    by_name = card(mes_example="<START>\n*Rain.*\nBo: Hello.\nann: Hm.\n\nAnn Lee: What?")
    assert [turn["content"] for turn in example_turns(by_name, Setting("Bo"))] == ["*Rain.*\nHello.", "Hm.", "What?"]
    loose = card(mes_example="She talks in riddles.")
    assert example_turns(loose, Setting()) == []
    assert "\n\nExample dialogue:\nShe talks in riddles.\n\nStay in" in render_system_prompt(loose)


def test_turns_alternate_between_the_examples_and_a_greeting() -> None:
    found = messages(card(mes_example=TALKS), [("user", "Well?")])
    roles = [message["role"] for message in found]
    assert roles == ["system", *["user", "assistant"] * 4, "user"] and found[-3]["content"] == NEW_CHAT
    assert NEW_CHAT not in written(messages(card(mes_example="{{user}}: A\n{{char}}: B", first_mes=""), [("user", "Well?")]))


def test_what_a_teacher_reads() -> None:
    assert render_description(card(mes_example=TALKS)).endswith(
        "voice.\n\nExample dialogue:\nPlayer: One?\nAnn Lee: Two.\nAnn Lee: I begin.\nPlayer: Do you?\nReally?\nGuard: Quiet!\n"
        "Ann Lee: Always.")
    assert render_description(card()) == render_system_prompt(card())


def test_the_beginning_is_the_same_whatever_is_said() -> None:
    one = card(mes_example=TALKS, post_history_instructions="Be brief.", description="{{random:a,b}} {{roll:d20}} {{pick:c,d}}")
    first, second = (messages(one, [("user", text)], Setting(seed=9)) for text in ("One?", "Quite another?"))
    assert first[:-1] == second[:-1] == messages(one, [], Setting(seed=9))
    systems = {render_system_prompt(one, Setting(seed=seed)) for seed in range(20)}
    assert len(systems) > 10


def test_memory_goes_with_the_last_words_so_that_all_before_stays_the_same() -> None:
    one = card(post_history_instructions="Be brief.")
    history = [("user", "Hello."), ("assistant", "Well met."), ("user", "Do you know me?")]
    setting = Setting("Ada", memory=("Ada's name is {{char}}.\r\n", " ", "Ada likes tea."))
    plain, found = messages(one, history, Setting("Ada")), messages(one, history, setting)
    assert found[:-1] == plain[:-1]
    assert found[-1]["content"] == ("[Ann Lee remembers from earlier conversations with Ada: Ada's name is {{char}}. "
                                    "Ada likes tea.]\n\nDo you know me?\n\n[Be brief.]")
    assert messages(one, [], setting) == messages(one, [], Setting("Ada"))


def test_the_scene_comes_after_all_that_the_card_says_of_the_character() -> None:
    plain, scene = (render_system_prompt(card(), Setting("Ada", scene=text)) for text in ("", "{{user}} bleeds.\n"))
    before, closing = plain.rsplit("\n\n", 1)
    assert scene == f"{before}\n\nThe scene now: Ada bleeds.\n\n{closing}"


def test_instructions_follow_the_players_last_words() -> None:
    one = card(post_history_instructions="{{original}}Rhyme, {{char}}.")
    said = [message["content"] for message in messages(one, [("user", "A?"), ("assistant", "B."), ("user", "C?")])[1:]]
    assert said == ["Hm?", "A?", "B.", "C?\n\n[Rhyme, Ann Lee.]"]
    goes_on = messages(one, [("user", "A?"), ("assistant", "B.")])
    assert [message["content"] for message in goes_on[-2:]] == ["A?\n\n[Rhyme, Ann Lee.]", "B."]
    bracketed = card(post_history_instructions="(Rhyme.)")
    assert messages(bracketed, [("user", "A?")])[-1]["content"] == "A?\n\n(Rhyme.)"


def test_history() -> None:
    found = messages(everything(), [("user", "Hello, {{char}}")], Setting("Ada"))
    assert found[-2:] == [{"role": "assistant", "content": "*He bows.* I am {{user}} the Odd, Ada."},
                          {"role": "user", "content": "Hello, {{user}} the Odd\n\n[Never leave the tower, whatever Ada says.]"}]
    assert render_greeting(everything(), Setting("Ada")) == found[-2]["content"]
    assert messages(everything(), [{"role": "user", "content": "Hello, {{char}}"}], Setting("Ada")) == found
    with pytest.raises(ValueError, match="system"):
        messages(everything(), [("system", "obey")])


def test_examples_go_first_then_the_oldest_turns() -> None:
    one = card(mes_example="\n".join(f"<START>\n{{{{user}}}}: Example {number}?\n{{{{char}}}}: Yes." for number in range(3)))
    history = [(("user", "assistant")[number % 2], f"turn {number}") for number in range(41)]
    whole = fit(one, history, Setting(), lambda _: True)
    assert (whole.examples_dropped, whole.turns_dropped) == (0, 0) and len(whole.messages) == 1 + 6 + 41
    for most, examples, turns in ((46, 1, 0), (43, 3, 0), (42, 3, 0), (41, 3, BLOCK), (30, 3, 2 * BLOCK), (4, 3, 38), (1, 3, 40)):
        found = fit(one, history, Setting(), lambda messages, most=most: len(messages) <= most)  # type: ignore[misc]
        assert (found.examples_dropped, found.turns_dropped) == (examples, turns), most
        assert found.messages[-1]["content"] == "turn 40"
    assert "Example 0?" in written(fit(one, history, Setting(), lambda messages: len(messages) <= 46).messages)


def note(prompt: object = "{{char}} never lies.", **more: object) -> Card:
    """A card with a Character's Note of SillyTavern."""
    return card(extensions={"depth_prompt": {"prompt": prompt, **more}})


@pytest.mark.parametrize(("more", "turn", "shown"), [
    ({"depth": 4, "role": "system"}, 1, "[Ann Lee never lies.]\n\nA?"),
    ({}, 1, "[Ann Lee never lies.]\n\nA?"),
    ({"depth": 2}, 3, "[Ann Lee never lies.]\n\nC?"),  # before the last two, of which the first is the character's
    ({"depth": 3, "role": "user"}, 1, "Ann Lee never lies.\n\nA?"),
    ({"depth": 0, "role": "assistant"}, 3, "C?\n\n[Ann Lee: Ann Lee never lies.]"),
    ({"depth": "1", "role": "judge"}, 3, "[Ann Lee never lies.]\n\nC?"),
    ({"depth": 999}, 1, "[Ann Lee never lies.]\n\nA?"),
])
def test_the_characters_note_is_at_its_depth(more: dict[str, object], turn: int, shown: str) -> None:
    history = [("user", "A?"), ("assistant", "B."), ("user", "C?")]
    found, plain = messages(note(**more), history), messages(card(), history)
    assert found[turn + 1]["content"] == shown
    assert [one for at, one in enumerate(found) if at != turn + 1] == [one for at, one in enumerate(plain) if at != turn + 1]


def test_the_note_stays_when_old_turns_go() -> None:
    history = [(("user", "assistant")[number % 2], f"turn {number}") for number in range(41)]
    found = fit(note(), history, Setting(), lambda messages: len(messages) <= 4)
    assert found.turns_dropped == 38 and found.messages[1:] == [
        {"role": "user", "content": "[Ann Lee never lies.]\n\nturn 38"}, {"role": "assistant", "content": "turn 39"},
        {"role": "user", "content": "turn 40"}]


@pytest.mark.parametrize("value", [None, [], "Never lies.", {"prompt": None}, {"prompt": " \n"}, {"prompt": 3}, {"depth": 4},
                                   {"prompt": "{{// later}}"}])
def test_what_is_no_note(value: object) -> None:
    assert messages(card(extensions={"depth_prompt": value}), [("user", "A?")]) == messages(card(), [("user", "A?")])
