"""Macros carried out: names, chance by a seed, comments, and what stays as it stands."""

import time
from datetime import date

import pytest
from card_samples import v2
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.cards.card import Card, parse_card
from engine.cards.macros import MOMENT, expand_macros, find_macros


@pytest.fixture(scope="module")
def ann() -> Card:
    """A card with a name."""
    return parse_card(v2(), "x")


def test_name_macros_in_any_case_and_once_only() -> None:
    odd = parse_card(v2(name="<USER>{{user}}"), "x")
    text = "{{char}} {{CHAR}} <BOT> <bot> | {{user}} {{User}} <USER> <user> | {{ char}} {user} <users>"
    assert expand_macros(text, odd, "{{char}}") == (
        "<USER>{{user}} <USER>{{user}} <USER>{{user}} <USER>{{user}} | "
        "{{char}} {{char}} {{char}} {{char}} | {{ char}} {user} <users>")
    assert expand_macros("{{user}}", odd, r"\1 \g<0>") == r"\1 \g<0>"


def test_chance_comes_from_the_seed(ann: Card) -> None:
    text = "{{random:a,b,c}}{{Random:a,b,c}}{{random:a,b,c}}"
    drawn = {expand_macros(text, ann, "Bo", seed) for seed in range(200)}
    assert len(drawn) == 27 and expand_macros(text, ann, "Bo", 7) == expand_macros(text, ann, "Bo", 7)
    assert {expand_macros("{{random: one\\, two , {{user}}'s ,}}", ann, "Bo", seed) for seed in range(60)} == {
        "one, two", "Bo's", ""}
    assert {expand_macros("{{random::x, y::z}}", ann, "Bo", seed) for seed in range(40)} == {"x, y", "z"}
    assert {expand_macros("{{random:{{random:a,b}},c}}", ann, "Bo", seed) for seed in range(60)} == {"a", "b", "c"}


def test_a_pick_is_the_same_throughout_a_chat(ann: Card) -> None:
    for seed in range(20):
        eyes = expand_macros("{{pick:blue,green,grey}}", ann, "Bo", seed)
        assert expand_macros("Her eyes are {{PICK:blue,green,grey}}, so {{pick:blue,green,grey}}.", ann, "Bo", seed) == (
            f"Her eyes are {eyes}, so {eyes}.")
    assert len({expand_macros("{{pick:blue,green,grey}}", ann, "Bo", seed) for seed in range(40)}) == 3


@pytest.mark.parametrize(("dice", "lowest", "highest"), [
    ("6", 1, 6), ("d6", 1, 6), ("2d3", 2, 6), ("2D3+10", 12, 16), (" d4 - 1 ", 0, 3), ("1", 1, 1), ("0", 1, 1)])
def test_dice(dice: str, lowest: int, highest: int, ann: Card) -> None:
    rolled = {int(expand_macros(f"{{{{roll:{dice}}}}}", ann, "Bo", seed)) for seed in range(300)}
    assert rolled == set(range(lowest, highest + 1))


def test_comments_leave_nothing(ann: Card) -> None:
    assert expand_macros("One {{// not {{char}} }}two.", ann, "Bo") == "One two."
    assert expand_macros("One\n {{// a line of its own}}\n{{Comment: too}}\nTwo{{hidden_key:tower}}", ann, "Bo") == "One\nTwo"
    assert expand_macros("{{reverse:abc}}", ann, "Bo") == "cba"


@pytest.mark.parametrize(("text", "expanded"), [
    ("One{{newline}}two{{NOOP}}.", "One\ntwo."), ("One\n\n{{trim}}\n\ntwo", "Onetwo"),
    ("One{{newline}}{{Trim}}\n{{trim}}\ntwo", "Onetwo"),
    ("{{time}} {{isotime}}", "12:00 PM 12:00"), ("{{Date}}, {{isodate}}", "July 26, 2024, 2024-07-26"), ("{{weekday}}", "Friday"),
    ("{{reverse:abc}} {{roll 1}} {{Roll d1+4}} {{roll: 1d1 }}", "cba 1 5 1"),
    ("{{roll many}} {{persona}}", "{{roll many}} {{persona}}"),
])
def test_macros_of_sillytavern(text: str, expanded: str, ann: Card) -> None:
    assert expand_macros(text, ann, "Bo") == expanded
    assert expand_macros("{{user}}", ann, "\n{{trim}}\n") == "\n{{trim}}\n"


def test_time_does_not_pass_and_dice_with_a_space_are_drawn_like_others(ann: Card) -> None:
    days = date(2024, 7, 26)
    assert expand_macros("{{weekday}}, {{date}}, {{time}}", ann, "Bo") == MOMENT == f"{days:%A, %B %d, %Y}, 12:00 PM"
    rolls = {expand_macros("{{roll 1d6}}", ann, "Bo", seed) for seed in range(100)}
    assert rolls == set("123456") and expand_macros("{{roll 1d6}}", ann, "Bo", 3) == expand_macros("{{roll 1d6}}", ann, "Bo", 3)


def test_macros_that_only_sillytavern_knows() -> None:
    foreign = "{{persona}} {{time_UTC+2}} {{datetimeformat HH:mm}} {{setvar::a::b}} {{lastMessage}}"
    assert [finding.kind for finding in find_macros(foreign)] == ["foreign"] * 5
    assert [finding.kind for finding in find_macros("{{iffy}} {{trimmed}}")] == ["unknown"] * 2
    assert find_macros("{{roll 1d6}} {{time}} {{newline}}{{trim}} {{noop}} {{Weekday}}") == []


def test_what_is_unknown_stays(ann: Card) -> None:
    text = "{{weather}} {{roll:many}} {{}} {{{curly}}} {{bot}}"
    assert expand_macros(text, ann, "Bo") == text
    assert expand_macros("{{wild {{char}}}}", ann, "Bo") == "{{wild Ann Lee}}"
    assert [finding.text for finding in find_macros(text)] == ["{{weather}}", "{{roll:many}}", "{{}}", "{{curly}}", "{{bot}}"]
    assert find_macros("{{random:a,b}} {{PICK:a}} {{roll:2d6}} {{// x}} {{comment:x}} {{hidden_key:x}} {{reverse:x}}") == []


@pytest.mark.parametrize("text", ["{{" * 100_000, "{{a" * 100_000, "{{random:" + "a," * 100_000 + "}}", "{{// " * 50_000,
                                  "{{random:" * 50_000 + "}}" * 50_000, "\\," * 100_000, "{{a{{b}}" * 50_000,
                                  "\n" * 200_000 + "{{trim", ("\n" * 50 + "{{trim}") * 4_000 + "{{trim}}"])
def test_hostile_texts_take_no_time(text: str, ann: Card) -> None:
    start = time.perf_counter()
    expand_macros(text, ann, "Bo")
    assert time.perf_counter() - start < 5  # a tenth of a second, where nothing is tried again and again


PIECES = ["{{", "}}", "random:", "pick:", "roll:", "//", "a", ",", "\\", "char", "user", "<bot>", "\n", ":"]


@settings(max_examples=200)
@given(st.lists(st.sampled_from(PIECES)))
def test_any_mixture_is_carried_out_alike_twice(pieces: list[str]) -> None:
    card, text = parse_card(v2(), "x"), "".join(pieces)
    assert expand_macros(text, card, "Bo", 5) == expand_macros(text, card, "Bo", 5)
