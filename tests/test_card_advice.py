"""Advice for writers: every rule speaks where it should, and is silent on good cards."""

from typing import Any

import pytest
from card_samples import EVERYTHING, FLAT
from card_strategies import raw_cards
from hypothesis import given

from engine.cards.advice import Advice, advice
from engine.cards.card import bundled_cards
from engine.cards.fields import LABELS
from engine.cards.macros import Finding, find_macros
from engine.cards.speaking import acts_for_player

GOOD: dict[str, Any] = {
    "name": "Ann Lee",
    "description": "{{char}} is a smith in a small town by the sea. " * 5,
    "first_mes": "*She puts the hammer down.* Morning, {{user}}. You say you need nails. What do you feel like paying?",
    "mes_example": "<START>\n{{user}}: I nod. You feel lucky?\n{{char}}: Always. *She grins.*",
    "creator_notes": "A plain smith.",
}


def words(text: str) -> int:
    return len(text.split())


def said(tokens: Any = None, context: int = 2048, **changes: Any) -> list[Advice]:
    return advice({**GOOD, **changes}, tokens, context)


def only(level: str, field: str, **changes: Any) -> str:
    """The sentence of the only advice on GOOD with some changes."""
    found = said(**changes)
    assert [(item.level, item.field) for item in found] == [(level, field)], found
    return found[0].sentence


def test_good_cards_get_none() -> None:
    assert said(tokens=words) == []


@pytest.mark.parametrize("card", bundled_cards(), ids=lambda card: card.char)
def test_bundled_cards_have_no_problem(card: Any) -> None:
    assert advice(card.raw, lambda text: len(text) // 3, 2048) == []


def test_name_and_description() -> None:
    only("problem", "name", name="  ")
    only("problem", "nickname", nickname="x" * 201)
    found = advice({"name": "Ann", "first_mes": "Hello."}, None)
    assert [(item.field, item.level) for item in found] == [("description", "problem")]
    assert "has 1 word." in only("hint", "description", description="Smith.")
    assert said(description="彼女は海辺の小さな町の鍛冶屋で、朝から晩まで釘を打ち、誰にも頭を下げない。" * 2) == []  # 66 signs


def test_whom_a_description_is_about() -> None:
    text = "is a smith in a small town by the sea, and proud of every nail that she makes there. " * 3
    assert "is about “Mira Vell”" in only("hint", "description", description=f"Mira Vell {text}")
    for good in (f"Ann {text}", f"Ann Lee {text}", f"The smith {text}", f"She {text}", f"{{{{char}}}} {text}"):
        assert said(description=good) == [], good
    assert "speaks to the character (“You are a smith" in only("hint", "description", description=f"You are a smith. Ann {text}")
    assert "“You speak" in only("hint", "personality", personality="Blunt. You speak little.")
    assert said(personality="Says “You are late” to everybody.") == []


def test_an_assistants_voice() -> None:
    assert "sounds like an assistant (“How can I help you today”)" in only(
        "hint", "first_mes", first_mes="Hello! How can I help you today?")
    assert "sounds like an assistant in the example" in only(
        "hint", "mes_example", mes_example="<START>\n{{user}}: Hi.\n{{char}}: As an AI language model, I make nails.")
    assert said(first_mes="Morning. Can I help you carry that?") == []


def test_entries_that_can_never_fire() -> None:
    def of(*entries: dict[str, Any]) -> list[str]:
        whole = [{"keys": ["nail"], "content": "Nails are iron.", "extensions": {}, "enabled": True, "insertion_order": 1, **one}
                 for one in entries]
        return [item.sentence for item in said(character_book={"extensions": {}, "entries": whole})]

    assert of({}) == []
    assert "has no keys" in of({"keys": []})[0]
    off = {"extensions": {"probability": 0, "useProbability": True}}
    assert "a probability of 0 %" in of(off)[0]
    only_others = {"keys": ["forge"], "extensions": {"delay_until_recursion": True}}
    assert "none does" in of(only_others, {})[0]
    assert of(only_others, {"content": "The forge is hot."}) == []


def test_greeting() -> None:
    assert "speak first" in only("hint", "first_mes", first_mes=" ")
    assert "speak for the player" in only("problem", "first_mes", first_mes="Hello.\n{{User}}: Hello, Ann.")
    assert "Other greeting 2" in only("problem", "alternate_greetings", alternate_greetings=["Hm.", "<USER>: Hi."])
    assert "has 150 words" in only("hint", "first_mes", first_mes="word " * 150)
    assert said(first_mes="word " * 150, system_prompt="Write long letters.") == []
    assert said(first_mes="word " * 150, system_prompt="{{ORIGINAL}} And rhyme.") != []


@pytest.mark.parametrize(("text", "act"), [
    ("*You feel a chill.* Who are you?", "You feel a chill"),
    ("*She waits, you nod and sit.*", "you nod and sit"),
    ('"Come in." You smile at her. "Sit."', "You smile at her"),
    ("“Come in.” {{user}} says nothing, and waits.", "{{user}} says nothing, and waits"),
    ("*{{user}} feels at home.*", "{{user}} feels at home"),
    ("You feel lucky? You say so.", ""),  # speech
    ("*He watches you smile.* What do you say?", ""),
    ('He laughs. "You feel that? You say no?"', ""),
    ("*He looks you up and down. You came alone.*", ""),
    ("*She asks {{user}} for help.*", ""),
    ("*Whatever you say, he nods.*", ""),
    ('They call me "the Guard". You feel lucky?', ""),
    ('"Come in," he says. *You blush.*', "You blush"),
])
def test_acting_for_the_player(text: str, act: str) -> None:
    assert acts_for_player(text) == act
    found = [item for item in said(first_mes=text) if item.field == "first_mes"]
    assert [item.level for item in found] == (["hint"] if act else [])
    assert ("seem to act" in str(said(mes_example=f"<START>\n{{{{user}}}}: Hi.\n{{{{char}}}}: {text}"))) == bool(act)
    assert said(mes_example=f"<START>\n{{{{user}}}}: {text}\n{{{{char}}}}: Hm.") == []


def test_example_dialogue() -> None:
    assert "no example dialogue" in only("hint", "mes_example", mes_example=" ")
    assert "<START>" in only("hint", "mes_example", mes_example="{{user}}: Hi.\n{{char}}: Hm.")
    assert "{{char}}:" in only("hint", "mes_example", mes_example="<START>\n{{user}}: Hi.\nHm, she says.")
    for label in ("{{Char}}", "<bot>", "Ann Lee", "Ann"):
        assert said(mes_example=f"<start>\n{{{{user}}}}: Hi.\n {label} : Hm.") == [], label


@pytest.mark.parametrize(("text", "meant"), [
    ("{char}", "{{char}}"), ("{User}", "{{user}}"), ("{{chr}}", "{{char}}"), ("{{char}", "{{char}}"), ("{user}}", "{{user}}"),
    ("{{ user }}", "{{user}}"), ("{{Character}}", "{{char}}"), ("{{player}}", "{{user}}"), ("<char>", "{{char}}"),
    ("<USR>", "{{user}}"), ("{{bot}}", "{{char}}"),
])
def test_misspelt_macros(text: str, meant: str) -> None:
    sentence = only("problem", "scenario", scenario=f"The sea. {text} waits.")
    assert f"“{text}”" in sentence and f"Write {meant} instead" in sentence


def test_macros_that_work_and_others() -> None:
    fine = "{{char}} {{CHAR}} <BOT> {{user}} <User> {curly} {} {{}}} {{{char}}} { a: 1 }"
    assert [finding for finding in find_macros(fine) if finding.kind == "misspelt"] == []
    assert said(scenario="{{char}}'s {box} and <user>.") == []
    assert said(system_prompt="{{original}} Rhyme.", post_history_instructions="{{Original}}") == []
    assert "works only in the fields" in str(only("hint", "personality", personality="{{original}}"))
    assert "not a known macro" in only("hint", "first_mes", first_mes="{{weather}} today. {{weather}} again.")
    assert find_macros("{{ original }}", original=True) == [Finding("{{ original }}", "misspelt", "{{original}}")]


@pytest.mark.parametrize("text", ["Lorem ipsum dolor.", "TODO: describe", "A smith. TODO", "[Insert a secret]", "<your name>",
                                  "TBD", "Description goes here.", "[fill in later]"])
def test_placeholders(text: str) -> None:
    assert "placeholder" in only("problem", "scenario", scenario=text)


@pytest.mark.parametrize("text", ["Todo: en orden.", "[INSERT COIN]", "(your enemy)", "He left the text here.", "An old todo list.",
                                  "[Your turn]", "TODO EL MUNDO lo sabe."])
def test_what_only_looks_like_a_placeholder(text: str) -> None:
    assert said(scenario=text) == []


def test_asterisks() -> None:
    assert "asterisks" in only("hint", "first_mes", first_mes="*She nods. Hello.")
    for text in ("*She nods.* **Never.**", "* one\n* two\n* three", "What the f*ck.", "2 * 3 is six.", "Hm.\n***\nLater."):
        assert said(first_mes=text) == [], text


def test_what_never_reaches_the_model() -> None:
    assert "“”" not in only("hint", "character_book", character_book={"entries": [{"keys": [], "content": "x"}]})
    assert "is not an entry" in only("hint", "character_book", character_book={"entries": [3]})
    fine = {"entries": [{"keys": ["sea"]}, {"keys": [], "constant": True}, {"keys": [], "enabled": False}]}
    assert said(character_book=None) == said(character_book={"entries": []}) == said(character_book=fine) == []
    assert "never reach the model" in only("hint", "creator_notes", creator_notes="{{char}} hates rain.")
    assert "never reach the model" in only("hint", "creator_notes", creator_notes="word " * 100)


def test_what_sillytavern_does_and_the_studio_does_not() -> None:
    assert "which SillyTavern replaces, but this studio does not" in only("hint", "scenario", scenario="{{persona}} waits.")
    assert "always Friday, July 26, 2024, 12:00 PM" in only("hint", "scenario", scenario="It is {{time}} on {{weekday}}.")
    assert said(scenario="{{roll 1d6}} {{newline}}{{trim}}") == []
    assert "names the lorebook “Mill & Sons”" in only("hint", "character_book", extensions={"world": " Mill &\nSons"})
    book = {"entries": [{"keys": ["sea"], "content": "x"}]}
    assert said(extensions={"world": "Mill"}, character_book=book) == said(extensions={"world": "", "regex_scripts": []}) == []
    assert "a regular expression that changes" in only("hint", "extensions", extensions={"regex_scripts": [{"id": 1}]})
    assert "2 regular expressions that change" in only("hint", "extensions", extensions={"regex_scripts": [{}, {}]})
    note = {"depth_prompt": {"prompt": "{{weather}}", "depth": 4}}
    assert "The Character's Note contains" in only("hint", "extensions", extensions=note)


def test_macros_and_patterns_in_a_lorebook() -> None:
    entry = lambda **fields: {"entries": [{"keys": ["sea"], "name": "The sea", "content": "Deep.", **fields}]}
    found = only("hint", "character_book", character_book=entry(content="{{weather}}"))
    assert "entry “The sea” contains “{{weather}}”" in found
    only("problem", "character_book", character_book=entry(content="{char} swims."))
    for key in ("a.*b", r"\bsea\b", "[sS]ea", "(sea|lake)", "sea|lake"):
        found = only("hint", "character_book", character_book=entry(keys=[key], use_regex=True))
        assert "A regular expression is written between slashes" in found
    for key in ("C++", "Mr. Lee", "what?", "/a.*b/", "(the sea)", "$5", "a * b"):
        assert said(character_book=entry(keys=[key], use_regex=True)) == [], key
    assert said(character_book={**entry(content="{{weather}}"), "entries": [{**entry(content="{{weather}}")["entries"][0],
                                                                              "enabled": False}]}) == []


def test_what_no_budget_lets_in() -> None:
    entry = {"keys": ["sea"], "name": "The sea", "content": "deep " * 30}
    sentence = only_counted(character_book={"entries": [entry], "token_budget": 29})
    assert sentence == ("The lorebook's entry “The sea” has 30 tokens, more than the lorebook's budget of 29, so the model "
                        "never reads it.")
    assert said(tokens=words, character_book={"entries": [entry], "token_budget": 30}) == []
    assert said(tokens=words, character_book={"entries": [{**entry, "enabled": False}], "token_budget": 3}) == []
    assert "counts as 32,768" in only_counted(character_book={"entries": [entry], "token_budget": 10**6})


def only_counted(**changes: Any) -> str:
    """The sentence of the only advice where tokens are counted as words."""
    (found,) = said(tokens=words, **changes)
    return found.sentence


def test_length_in_tokens() -> None:
    long = "word " * 601
    assert said(description=long, context=100) == []  # nobody counted
    assert "601 tokens" in only("hint", "description", description=long, tokens=words)
    assert said(description="word " * 600, tokens=words) == []
    found = said(description=long, tokens=words, context=1000)
    assert [(item.field, item.level) for item in found] == [("description", "problem"), ("description", "hint")]
    assert "of the 1,000 tokens" in found[0].sentence


def test_problems_come_first_then_the_order_of_the_page() -> None:
    found = advice({"name": "", "description": "TODO", "first_mes": "*Hm. {char}", "mes_example": "Hm."}, None)
    levels = [item.level for item in found]
    assert levels == sorted(levels, reverse=True) and {"problem", "hint"} == set(levels)
    for level in ("problem", "hint"):
        places = [list(LABELS).index(item.field) for item in found if item.level == level]
        assert places == sorted(places)


@given(raw_cards())
def test_any_card_gets_plain_sentences(raw: dict[str, Any]) -> None:
    for item in advice(raw, len, 500):
        assert item.level in ("problem", "hint") and (item.field in LABELS or item.field in ("character_book", "extensions"))
        assert item.sentence.endswith(".") and "\n" not in item.sentence and len(item.sentence) < 300


def test_odd_cards() -> None:
    assert advice(FLAT, None) and advice(EVERYTHING, None)
    assert advice({"spec": "chara_card_v2", "data": {"name": None, "tags": None}}, len)
