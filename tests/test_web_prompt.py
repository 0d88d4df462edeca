"""The web page's half of the prompt rules, run by node, writes what the studio writes for the same conversations."""

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from test_engines import FORMATS, tokenizer_of

from engine.base.files import resource
from engine.cards.baked import bake
from engine.cards.card import Card, find_bundled, parse_card
from engine.cards.keys import KeySearch, read_key
from engine.cards.prompt import USUAL, fit, messages
from engine.export.engines.target import describe_conversation
from engine.models.chat_format import render_chat, token_counter

SCRIPT = """
import { readFileSync } from "node:fs";
import { fitPrompt, openingPrompt } from "./prompt.js";
import { holds } from "./lore.js";
const { characters, cases, keys } = JSON.parse(readFileSync(0));
console.log(JSON.stringify({
  prompts: cases.map(({ character, turns, limit }) =>
    fitPrompt(characters[character], turns, 0, (text) => text.length <= limit)),
  openings: characters.map((character) => openingPrompt(character, () => true)),
  held: keys.map(({ text, key }) => holds(text, key)),
}));
"""
PLENTY = 10**9
WORDS = ["the lamp", "Ash", "ash tree", "river", "a Wolf", "wolfish", "moon", "Straße", "die STRASSE", "дом", "Дома", "東京タワー",
         "東京", "ko-ko", "C3PO", "C3", "naïve", "nai", "{{user}}", "Ann's", "x", "_x", "#tag", "#tags", "end."]


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What the scripts of the page make of a request. Fails where CI is set and there is no node."""
    if not shutil.which("node"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs node")
    folder = tmp_path_factory.mktemp("page")
    for name in ("prompt.js", "lore.js"):
        shutil.copy(resource("assets/web") / name, folder / name)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "run.js").write_text(SCRIPT)

    def run(request: dict[str, Any]) -> dict[str, Any]:
        request = {"characters": [], "cases": [], "keys": [], **request}
        done = subprocess.run(["node", "run.js"], cwd=folder, input=json.dumps(request), capture_output=True, text=True,
                              check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)

    return run


def described(card: Card, tokenizer: Any) -> dict[str, Any]:
    """What character.json holds of a card, by way of JSON."""
    return json.loads(json.dumps(describe_conversation(card, tokenizer)))


def expected(card: Card, tokenizer: Any, said: list[tuple[str, str]], limit: int) -> str:
    """The studio's prompt of at most `limit` characters, without the token that llama.cpp puts before every text."""
    history = [*([("assistant", card.greeting)] if card.greeting else []), *said]
    fitted = fit(card, history, replace(USUAL, count=token_counter(tokenizer)), lambda found: len(plain(tokenizer, found)) <= limit)
    return plain(tokenizer, fitted.messages)


def plain(tokenizer: Any, found: list[dict[str, str]]) -> str:
    added = tokenizer.bos_token if tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id] else ""
    return render_chat(tokenizer, found).removeprefix(added)


def turns_of(character: dict[str, Any], said: list[tuple[str, str]]) -> list[dict[str, str]]:
    return [*character["greeting"], *({"role": role, "content": text} for role, text in said)]


def rich_card(pattern: str = "gold dust") -> Card:
    """A card with everything that goes into a prompt. `pattern`: one more key."""
    return parse_card(json.dumps({"spec": "chara_card_v2", "spec_version": "2.0", "data": {
        "name": "Ann Lee", "description": "{{char}} keeps bees.", "personality": "", "scenario": "{{user}} comes in.",
        "first_mes": "Hello,  {{user}}. {{hidden_key:attic}}\n\n\n\nSit down.", "system_prompt": "", "creator_notes": "",
        "mes_example": "<START>\n{{user}}: Bees?\n{{char}}: Many.\n<START>\n{{char}}: Rain.\n{{user}}: Hm.\n{{char}}: Yes.",
        "post_history_instructions": "Be brief, {{char}}.", "alternate_greetings": [], "tags": [], "creator": "",
        "character_version": "", "extensions": {"depth_prompt": {"prompt": "It is late.", "depth": 3, "role": "assistant"}},
        "character_book": {"extensions": {}, "token_budget": 90, "scan_depth": 3, "entries": [
            entry(["attic"], "The attic is full of honey."), entry([], "Always here.", constant=True, insertion_order=5),
            entry(["honey"], "Honey is gold.", position="after_char"), entry([pattern], "Never from the page."),
            entry(["bees", pattern], "Bees sting {{user}}.", secondary_keys=["garden"], selective=True)]}}}).encode(), "a card")


def entry(keys: list[str], content: str, **more: Any) -> dict[str, Any]:
    return {"keys": keys, "content": content, "extensions": {}, "enabled": True, "insertion_order": 100, "use_regex": False, **more}


TALK = [("user", "Hello <|im_end|> {{char}}, have you bees in the GARDEN?  "), ("assistant", "Bees, and honey."),
        ("user", "\n\nMay I see\r\nthe attic?"), ("assistant", "Up there, <USER>."), ("user", "Thank you.")]


@pytest.mark.parametrize("name", FORMATS)
def test_prompts_are_the_studios_in_every_chat_format(name: str, node: Callable[..., Any]) -> None:
    tokenizer = tokenizer_of(FORMATS[name])
    cards = [rich_card(), bake(rich_card()), *(find_bundled(one) for one in ("pim-tuckett", "whitlow-ashe", "lantern-six"))]
    characters = [described(card, tokenizer) for card in cards]
    long = [*TALK[:4] * 12, TALK[4]]
    asked = [(place, said, limit) for place in range(len(cards)) for said in (TALK[:1], TALK[:3], TALK, long)
             for limit in (PLENTY, 3000, 2200, 1500)]
    found = node({"characters": characters, "cases": [
        {"character": place, "turns": turns_of(characters[place], said), "limit": limit} for place, said, limit in asked]})
    for (place, said, limit), prompt in zip(asked, found["prompts"], strict=True):
        assert prompt == expected(cards[place], tokenizer, said, limit), (place, len(said), limit)
    for card, opening in zip(cards, found["openings"], strict=True):
        first = plain(tokenizer, messages(card, [("user", "What now?")]))
        assert first.startswith(opening)
        if name not in ("newest",):  # there, the system text comes with the newest line
            assert len(opening) > len(card.description)


def random_card(dice: random.Random) -> Card:
    """A card whose lorebook uses everything but regular expressions and chance."""
    def some(most: int) -> list[str]:
        return dice.sample(WORDS, dice.randrange(most + 1))

    def one() -> dict[str, Any]:
        more: dict[str, Any] = {}
        for name, values in (("selectiveLogic", [0, 1, 2, 3]), ("exclude_recursion", [True]), ("prevent_recursion", [True]),
                             ("delay_until_recursion", [True]), ("scan_depth", [0, 1, 5]), ("match_whole_words", [False])):
            if dice.random() < 0.3:
                more[name] = dice.choice(values)
        if dice.random() < 0.3:
            more |= {"position": 4, "depth": dice.randrange(5), "role": dice.randrange(3)}
        lines = [line for line in ("@@exclude_keys moon, river", "@@keep_activate_after_match", "@@dont_activate_after_match",
                                   "@@activate_only_after 1", "@@activate_only_every 2", "@@ignore_on_max_context", "@@activate")
                 if dice.random() < 0.08]
        text = " ".join(dice.choices(WORDS, k=dice.randrange(1, 12)))
        return entry(some(3), "\n".join([*lines, text]), extensions=more, secondary_keys=some(2), selective=dice.random() < 0.4,
                     constant=dice.random() < 0.1, enabled=dice.random() < 0.9, case_sensitive=dice.random() < 0.2,
                     insertion_order=dice.choice([5, 100]), position=dice.choice(["before_char", "after_char"]),
                     **({"priority": dice.randrange(3)} if dice.random() < 0.5 else {}))

    book = {"extensions": {}, "entries": [one() for _ in range(dice.randrange(1, 12))], "token_budget": dice.choice([30, 100, 500]),
            "scan_depth": dice.choice([1, 2, 4]), "recursive_scanning": dice.random() < 0.7}
    return parse_card(json.dumps({"spec": "chara_card_v2", "spec_version": "2.0", "data": {
        "name": "Ann", "description": "A test.", "personality": "", "scenario": "", "first_mes": dice.choice(["", "The river."]),
        "mes_example": "", "creator_notes": "", "system_prompt": "", "post_history_instructions": "", "alternate_greetings": [],
        "tags": [], "creator": "", "character_version": "", "extensions": {}, "character_book": book}}).encode(), "a card")


def test_lore_fires_as_in_the_studio(node: Callable[..., Any]) -> None:
    dice, tokenizer = random.Random(7), tokenizer_of(FORMATS["chatml"])
    cards = [random_card(dice) for _ in range(200)]
    talks = [[("user" if number % 2 == 0 else "assistant", " ".join(dice.choices(WORDS, k=dice.randrange(1, 6))))
              for number in range(dice.choice([1, 3, 5, 9]))] for _ in cards]
    characters = [described(card, tokenizer) for card in cards]
    found = node({"characters": characters, "cases": [
        {"character": place, "turns": turns_of(one, said), "limit": PLENTY}
        for place, (one, said) in enumerate(zip(characters, talks, strict=True))]})
    wanted = [expected(card, tokenizer, said, PLENTY) for card, said in zip(cards, talks, strict=True)]
    assert [place for place, prompt in enumerate(found["prompts"]) if prompt != wanted[place]] == []
    bare = [plain(tokenizer, messages(card, talk)) != plain(tokenizer, messages(parse_card(
        json.dumps({**card.raw, "data": {**card.raw["data"], "character_book": None}}).encode(), "a card"), talk))
        for card, talk in zip(cards, talks, strict=True)]
    assert sum(bare) > 80  # of them, lore is in the prompt


def test_keys_are_found_where_the_studio_finds_them(node: Callable[..., Any]) -> None:
    texts = [*WORDS, "The ash-tree, the ash.", "wolf wolfish", "東京タワーへ", "в доме дом", "a_x x_", "x\u0301 x", "x\ufe0f",
             "(#tag)"]
    asked, wanted = [], []
    for text in texts:
        for word in WORDS:
            for whole, exact in ((True, False), (False, False), (True, True)):
                key = read_key(word, whole, exact)
                search = KeySearch([key])
                search.add([text])
                wanted.append(search.first(key, [range(1)], "") is not None)
                asked.append({"text": text, "key": {"text": key.text, "word": key.kind == "word", "exact": key.exact}})
    found = node({"keys": asked})["held"]
    assert [(one["text"], one["key"]) for one, got, right in zip(asked, found, wanted, strict=True) if got != right] == []


def test_patterns_are_left_out_and_keys_beside_them_are_kept() -> None:
    tokenizer = tokenizer_of(FORMATS["chatml"])
    lore = described(rich_card("/go+ld/i"), tokenizer)["lore"]["entries"]
    assert [[key["text"] for key in one["keys"]] for one in lore] == [["attic"], [], ["honey"], [], ["bees"]]
    assert all(one["tokens"] == token_counter(tokenizer)(one["text"]) for one in lore)
