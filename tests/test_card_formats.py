"""Files of other programs: each becomes the card or the lorebook that it is, whole, or one sentence names it."""

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from card_samples import FLAT, one_sentence, v2
from format_samples import (
    AGNAI,
    AGNAI_BOOK,
    CHUB,
    FARADAY,
    JANITOR,
    KOBOLD,
    KOBOLD_UNITED,
    NOVELAI,
    RISU,
    RISU_BOOK,
    RISU_ENTRY,
    RISU_MODULE,
    TEXTGEN,
    WORLD,
    backyard_archive,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_samples import with_chunks
from PIL import Image

from engine.base.errors import UserError
from engine.cards import pictures
from engine.cards.book import parse_book
from engine.cards.card import Card, parse_card, read_book, read_lorebook
from engine.cards.fields import as_v3
from engine.cards.files import FORMS, parse_file, write_file
from engine.cards.prompt import messages, render_system_prompt


def card(raw: Any) -> Card:
    return parse_card((raw if isinstance(raw, str) else json.dumps(raw)).encode(), "x")


def book(raw: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    return read_lorebook(json.dumps(raw).encode(), "x")


def said(raw: Any, reader: Any = parse_card) -> str:
    with pytest.raises(UserError) as caught:
        reader((raw if isinstance(raw, bytes) else json.dumps(raw).encode()), "x")
    return one_sentence(caught.value, "x ")


# Characters.

def test_a_character_of_agnai() -> None:
    found = card(AGNAI)
    assert (found.name, found.description, found.greeting, found.scenario) == ("Ada", "Ada counts sacks.", "Hello.", "A mill.")
    assert (found.system_prompt, found.post_history_instructions) == ("Be brief.", "No lists.")
    assert (found.alternate_greetings, found.example_dialogue) == (("You again.",), AGNAI["sampleChat"])
    assert found.raw["data"]["tags"] == ["mill"]
    data = found.raw["data"]
    assert (data["creator_notes"], data["creator"], data["character_version"]) == ("For readers.", "Me", "2")
    assert data["extensions"]["depth_prompt"] == {"prompt": "Ada never lies.", "depth": 3, "role": "system"}
    assert data["extensions"]["agnai"] == {"voice": {"service": "x"}, "appearance": "tall"}
    entries = read_book(found).entries
    assert [(one.name, one.keys, one.content, one.enabled) for one in entries] == [
        ("Mill", ("mill", "dam"), "The mill is old.", True), ("Secret", ("fire",), "It burned.", False)]
    assert found.notes == ("It was a character of Agnai.",)


@pytest.mark.parametrize("raw", [
    {"char_name": "Ada", "char_persona": "A clerk.", "char_greeting": "Hello.", "world_scenario": "A mill.",
     "example_dialogue": "Ada: Hm."},
    {"name": "Ada", "description": "A clerk.", "firstMessage": "Hello.", "scenario": "A mill.", "exampleDialogue": "Ada: Hm."},
    {"name": "Ada", "persona": "A clerk.", "greeting": "Hello.", "scenario": "A mill.", "example_dialogs": "Ada: Hm.",
     "personality": ""},
    {"name": "Ada", "description": "A clerk.", "first_mes": "", "first_message": "Hello.", "scenario": "A mill.",
     "mesExample": "Ada: Hm."}])
def test_flat_cards_under_other_names(raw: dict[str, Any]) -> None:
    found = card(raw)
    assert (found.name, found.description, found.greeting, found.scenario, found.example_dialogue) == (
        "Ada", "A clerk.", "Hello.", "A mill.", "Ada: Hm.")
    assert found.raw == raw and found.notes[0].startswith("Read under other names: ")
    assert card(as_v3(raw)).notes == () and card(as_v3(raw)).greeting == "Hello."


def test_a_field_of_the_specification_wins_over_another_name() -> None:
    raw = {**FLAT, "greeting": "Other.", "persona": {"kind": "text"}, "example_dialogs": [{"user": "Hi"}],
           "alternateGreetings": ["You."]}
    found = card(raw)
    assert (found.greeting, found.example_dialogue, found.alternate_greetings) == ("Hm?", "", ("You.",))
    assert as_v3(raw)["data"]["greeting"] == "Other." and as_v3(raw)["data"]["example_dialogs"] == [{"user": "Hi"}]
    assert found.notes == ("Read under other names: alternateGreetings.",)


def test_a_file_of_something_else_is_not_taken_for_a_card_in_silence() -> None:
    found = card({"name": "Template", "description": "For all.", "sections": [1], "fields": {"a": 1}, "empty": ""})
    assert found.notes == ("Of its fields only name and description are a card's; 2 others are kept and not used.",)
    assert card({"name": "Ada", "description": "A clerk.", "own": 1}).notes == ()
    assert card({**FLAT, "avatar": "none", "chat": "x", "create_date": "y"}).notes == ()


@pytest.mark.parametrize("kind", ["wpp", "sbf", "attributes", "boostyle"])
def test_attributes_of_agnai_become_lines(kind: str) -> None:
    attributes = {"species": ["robot"], "traits": ["kind", "slow"], "nothing": []}
    found = card({**AGNAI, "persona": {"kind": kind, "attributes": attributes}})
    assert found.description == "species: robot\ntraits: kind, slow"
    assert found.raw["data"]["extensions"]["agnai"]["persona"]["attributes"] == attributes


def test_a_character_of_risu_in_camel_case() -> None:
    found = card({"type": "character", "data": RISU})
    assert (found.name, found.char, found.description, found.greeting) == ("Ada", "Addy", "A clerk.", "Hello.")
    assert (found.system_prompt, found.post_history_instructions, found.alternate_greetings) == ("Be brief.", "No lists.",
        ("You again.",))
    assert found.example_dialogue == RISU["exampleMessage"]
    assert found.raw["data"]["extensions"]["depth_prompt"] == {"depth": 2, "prompt": "Ada never lies."}
    assert found.raw["data"]["extensions"]["risuai"]["additionalText"] == "kept"
    lore = read_book(found)
    assert (lore.scan_depth, lore.token_budget, lore.entries[0].keys, lore.entries[0].whole_words) == (9, 800, ("mill", "dam"),
        True)
    assert found.notes == ("It was a character of RisuAI.", "Left out, since a card has no place for it: 1 chat.")


@pytest.mark.parametrize(("raw", "personality"), [(JANITOR, ""), (CHUB, "Dry.")])
def test_characters_of_sites_say_personality_and_mean_the_description(raw: dict[str, Any], personality: str) -> None:
    found = card(raw)
    assert (found.description, found.personality, found.greeting, found.scenario) == ("A clerk.", personality, "Hello.", "A mill.")
    assert found.example_dialogue == JANITOR["example_dialogs"]
    assert found.raw["data"]["creator_notes"] == "<p>For readers.</p>" and "<p>" not in render_system_prompt(found)
    assert len(read_book(found).entries) == (raw is CHUB)


def test_a_character_of_text_generation_webui() -> None:
    found = card(TEXTGEN)
    assert (found.name, found.greeting) == ("Ada", "Hello: there.")
    assert found.description == "{{char}} is a clerk.\n\nScenario: a mill."
    assert found.example_dialogue == "{{user}}: Hi\n{{char}}: Hm.\n"
    assert found.raw["data"]["extensions"]["text-generation-webui"] == {"your_name": "No"}
    assert card({"name": "Ada", "context": "A clerk.", "greeting": "Hello."}).description == "A clerk."
    assert card("bot: Ada\nuser: Me\ncontext: A clerk.\n").name == "Ada"
    assert card("name: No\ncontext: 'null'\ngreeting: null\n").name == "No"


def test_yaml_can_do_no_harm() -> None:
    laughs = "name: A\ncontext: b\n" + "".join(f"x{n}: &x{n} [{', '.join([f'*x{n - 1}' if n else 'ha'] * 9)}]\n" for n in range(30))
    for text, words in ((laughs, "aliases"), ("name: A\ncontext: " + "[" * 5000, "nested too deeply"), ("name: A\nname: B\n",
        "'name' twice"),
                        ("name: A\n---\nname: B\n", "several documents"), ("name: 'A", "in YAML (line 1"),
                        ("name: A\ncontext: " + "x" * 200_000, "too large for a character in YAML")):
        start = time.process_time()
        assert words in said(text.encode())
        assert time.process_time() - start < 3
    assert card("name: !!int A\ndescription: y\n").name == "A"  # tags mean nothing
    assert 'a list as "name"' in said(b"name: !!python/object/apply:os.abort []\ndescription: y\n")


@pytest.mark.parametrize("text", ["name: " + "{a: " * 31 + "b" + "}" * 31, "a:\n" * 10_000, "name: A\n" + "- \n" * 30_000,
                                  "a: '" * 20_000,
                                  "name: \"" + "\\" * 90_001, "k: " + "? " * 40_000, "name: |\n" + " " * 90_000,
                                  "a: " + "&a " * 30_000,
                                  "a: " + "!" * 99_000, "a: " + "#" * 99_000, "x: " + "[" * 30 + "a," * 15_000])
def test_odd_yaml_ends_soon(text: str) -> None:
    start = time.process_time()
    try:
        card(text)
    except UserError as error:
        one_sentence(error, "x ")
    assert time.process_time() - start < 20


def test_an_archive_of_backyard() -> None:
    read = parse_file(backyard_archive(), "x")
    found = read.card
    assert (found.name, found.char, found.description, found.scenario) == ("Ada Vale", "Ada", "{{char}} is a clerk.", "A mill.")
    assert (found.greeting, found.alternate_greetings) == ("Hello {{user}}.", ("You again.",))
    assert (found.system_prompt, found.example_dialogue) == ("Be brief, {{char}}.", "{{user}}: Hi\n{{char}}: Hm.")
    assert [(one.keys, one.content) for one in read_book(found).entries] == [(("mill", "dam"), "{{char}} knows the mill.")]
    assert read.portrait is not None and Image.open(io.BytesIO(read.portrait)).size == (7, 5)
    assert list(read.files) == ["characters/ada/images/a.png"]
    kept = found.raw["data"]["extensions"]["backyard"]["scenarios"]
    assert kept[1]["narrative"] == "A dam." and "messages" not in kept[0]
    assert "1 chat." in found.notes[1] and "It has 2 scenarios" in found.notes[2]
    again = parse_file(write_file("charx", found.raw, read.portrait, read.files), "x")
    assert (again.card.raw, again.files) == (found.raw, read.files)


@pytest.mark.parametrize(("changes", "words"), [
    ({"characters/ada/character.json": None}, "without its character"), ({"manifest.json": []}, "holds no object"),
    ({"manifest.json": b"{"}, "JSON"), ({"manifest.json": {"characters": [5]}}, "without its character"),
    ({"characters/ada/character.json": {"id": "ada"}}, "has no name"), ({"characters/ada/character.json": 5}, "holds no object"),
    ({"scenarios/1.json": b"x" * 1_000_001}, "too large"),
])
def test_a_broken_archive_of_backyard(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_file(backyard_archive(**changes), "x")
    assert words in one_sentence(caught.value, "x ")


def test_an_older_picture_of_backyard() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0" + json.dumps(FARADAY).encode()
    read = parse_file(with_chunks((b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))), "x")
    found = read.card
    assert (found.name, found.char, found.greeting) == ("Ada Vale", "Ada", "Hello {{user}}.")
    assert (found.description, found.system_prompt) == ("{{char}} is a clerk, {{kept}}.", "Be brief, {{char}}.")
    assert found.example_dialogue == "{{user}}: Hi\n{{char}}: Hm."
    assert [one.content for one in read_book(found).entries] == ["{{char}} knows the mill."]
    assert found.raw["data"]["extensions"]["backyard"]["temperature"] == 0.8
    for junk in (b"", b"II*\0junk", b"MM\0*" + b"\xff" * 60, exif.tobytes()[:40]):
        with pytest.raises(UserError, match="plain picture"):
            parse_file(with_chunks((b"eXIf", junk)), "x")


FOREIGN = {"agnai": AGNAI, "risu": RISU, "janitor": JANITOR, "chub": CHUB, "faraday": FARADAY,
           "textgen": {"name": "Ada", "context": "A clerk.", "greeting": "Hello.", "own": [1]}}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_character_speaks_and_comes_home_in_every_form(name: str) -> None:
    found = card(FOREIGN[name])
    assert "clerk" in render_system_prompt(found) or "sacks" in render_system_prompt(found)
    assert any("Hello" in one["content"] for one in messages(found, []))
    for form in FORMS:
        assert as_v3(parse_file(write_file(form, found.raw), "x").card.raw) == as_v3(found.raw)


# Lorebooks.

def test_a_memory_book_of_agnai() -> None:
    found, told = book(AGNAI_BOOK)
    lore = parse_book(found)
    assert (found["name"], found["description"], lore.scan_depth, lore.token_budget) == ("Mill lore", "Of the mill.", 7, 300)
    first = lore.entries[0]
    assert (first.keys, first.content, first.order, first.priority, first.enabled) == (("mill", "dam"), "The mill is old.", 8, 3,
        True)
    assert told == ("It was a memory book of Agnai.",)
    loose = {"entries": [{"name": "M", "entry": "Old.", "keywords": ["mill"]}]}  # without its "kind"
    assert parse_book(book(loose)[0]).entries[0].content == "Old."


def test_a_lorebook_of_novelai() -> None:
    found, told = book(NOVELAI)
    mill, always, hut, king, mixed = parse_book(found).entries
    assert (mill.name, mill.keys, mill.content, mill.order, mill.priority) == ("Mill", ("mill", "/d[ae]m/i"), "The mill is old.",
        400, 400)
    assert always.constant and not mill.constant and mill.enabled and not hut.enabled  # its category is switched off
    assert (king.keys, king.secondary, king.selective, king.logic) == (("king",), ("castle",), True, "all")
    assert mixed.keys == ("a & b", "c")
    assert found["extensions"]["novelai"]["categories"][0]["name"] == "Places"
    assert found["entries"][0]["extensions"]["novelai"]["searchRange"] == 1000
    assert told == ("It was a lorebook of NovelAI.", "1 of its entries join keys by “&”, which are read here as they are written.",
                    "1 entry without text was left out.")


@pytest.mark.parametrize("raw", [
    {"scenarioVersion": 3, "prompt": "Once", "context": [{"text": "Long ago."}, {"text": ""}], "lorebook": NOVELAI},
    {"storyContainerVersion": 1, "content": {"story": {"text": "Once"}, "context": [{"text": "Long ago."}], "lorebook": NOVELAI}}])
def test_the_lorebook_within_a_story_of_novelai(raw: dict[str, Any]) -> None:
    found, told = book(raw)
    assert [one["content"] for one in found["entries"]][:2] == ["Long ago.", "The mill is old."]
    assert parse_book(found).entries[0].steady and "1 story" in " ".join(told)


@pytest.mark.parametrize("raw", [RISU_BOOK, RISU_MODULE, {"type": "risuModule", "module": RISU_MODULE}])
def test_a_lorebook_of_risu(raw: dict[str, Any]) -> None:
    found, told = book(raw)
    mill, dam = parse_book(found).entries  # the folder is none
    assert (mill.keys, mill.secondary, mill.selective, mill.order) == (("mill", "dam"), ("fire", "war"), True, 70)
    assert (mill.probability, mill.case_sensitive, mill.whole_words, mill.constant) == (50, True, False, False)
    assert (dam.keys, dam.use_regex, dam.constant) == (("/d[ae]m,?/i",), True, True)
    assert ("2 regex scripts, 1 trigger, 1 file" in " ".join(told)) == (raw is not RISU_BOOK)


def test_a_world_of_kobold() -> None:
    found, told = book(KOBOLD)
    memory, note, mill = parse_book(found).entries
    assert memory.steady and memory.content == "Ada is a clerk." and note.content == "Be dry."
    assert (mill.keys, mill.content, mill.whole_words, mill.selective) == (("mill", "dam"), "The mill is old.", False, False)
    assert told[1:] == ("Left out, since a card has no place for it: 1 story.", "1 entry without text was left out.")
    lite = {"gamestarted": True, "actions": [], "prompt": "", "worldinfo": [
        {"key": "mill", "keyanti": "wind, water", "content": "Old.", "widisabled": True, "probability": "100"}]}
    one = parse_book(book(lite)[0]).entries[0]
    assert (one.keys, one.excluded, one.content, one.enabled) == (("mill",), ("wind", "water"), "Old.", False)
    united = parse_book(book(KOBOLD_UNITED)[0]).entries
    assert [(one.name, one.keys, one.content) for one in united] == [("Mill", ("mill",), "The mill is old.")]


@pytest.mark.parametrize("raw", [
    [{"key": ["mill"], "content": "Old."}], [{"keys": "mill", "value": "Old.", "title": "Mill", "type": "class"}],
    [{"keys": ["mill"], "entry": "Old."}]])
def test_a_list_of_entries(raw: Any) -> None:
    found, told = book(raw)
    assert [(one.keys, one.content) for one in parse_book(found).entries] == [(("mill",), "Old.")]
    assert told == ("It was a list of lorebook entries.",)


def test_a_hybrid_world_says_what_both_spellings_say() -> None:
    entry = {"key": ["mill"], "keys": ["mill", "dam"], "content": "Off.", "disable": True, "order": 7, "excludeRecursion": True,
             "keysecondary": ["fire"], "secondary_keys": [], "own": 1}
    found, _ = book({"entries": {"0": entry}})
    one = parse_book(found).entries[0]
    assert (one.keys, one.secondary, one.enabled, one.order, one.from_recursion) == (("mill", "dam"), ("fire",), False, 7, False)
    assert found["entries"][0]["own"] == 1
    assert not parse_book({"entries": [{**entry, "disable": False, "enabled": False}]}).entries[0].enabled
    assert parse_book({"entries": [{**entry, "disable": False, "enabled": True}]}).entries[0].enabled
    again = {**entry, "uid": 3, "disable": False, "enabled": False}  # SillyTavern wrote it last
    assert parse_book({"entries": [again]}).entries[0].enabled


@pytest.mark.parametrize(("role", "expected"), [(0, "system"), (1, "user"), (2, "assistant"), (None, "system"),
                                                (9, "system"),
                                                ([], "system")])
def test_the_role_of_an_entry_at_a_depth(role: Any, expected: str) -> None:
    world = {"entries": {"0": {"uid": 0, "key": ["mill"], "content": "Old.", "position": 4, "depth": 3, "role": role}}}
    found, _ = book(world)
    read = parse_book(found).entries[0]
    assert (read.depth, read.role) == (3, expected)
    for form in FORMS:  # and it leaves with the card
        raw = json.loads(v2(character_book=found))
        assert read_book(parse_file(write_file(form, raw), "x").card).entries == parse_book(found).entries


def test_entries_without_text_never_count() -> None:
    assert "whose entries have no text" in said({"entries": [{"keys": ["mill"], "content": " "}]}, read_lorebook)
    assert "is a lorebook without entries" in said({"entries": []}, read_lorebook)
    found, told = book({"entries": [{"keys": ["a"], "content": ""}, {"keys": ["b"], "content": "B."}, {"keys": ["c"]}]})
    assert [one["content"] for one in found["entries"]] == ["B."] and told == ("2 entries without text were left out.",)


# What is offered as something else.

@pytest.mark.parametrize(("raw", "words"), [
    (AGNAI_BOOK, "a memory book of Agnai"), (NOVELAI, "a lorebook of NovelAI"), (RISU_BOOK, "a lorebook of RisuAI"),
    (RISU_MODULE, "a module of RisuAI"), (KOBOLD, "a saved story of KoboldAI"), ([RISU_ENTRY], "a list of lorebook entries"),
    (WORLD, "a lorebook"), ({"spec": "lorebook_v3", "data": WORLD}, "a lorebook"),
    ({"name": "Mill", "description": "Of the mill.", "entries": [{"keys": ["a"], "content": "b"}]}, "a lorebook")])
def test_a_lorebook_offered_as_a_card_hears_where_to_go(raw: Any, words: str) -> None:
    assert f"x is {words}, not a character (open a character in Draft" in said(raw)
    assert book(raw)[0]["entries"]


@pytest.mark.parametrize(("raw", "words"), [
    ({"user_name": "Me", "character_name": "Ada", "create_date": "x"}, "a chat of SillyTavern"),
    (b'{"user_name": "Me", "character_name": "Ada"}\n{"name": "Ada", "mes": "Hi"}\n', "a chat of SillyTavern"),
    ({"name": "Ada", "messages": [{"msg": "Hi"}]}, "a chat"),
    ({"name": "cards", "description": "Tools.", "version": "1.0", "license": "MIT"}, "a manifest of a program"),
                                            ({"name": "X", "input_sequence": "<s>"}, "a preset"),
    (b"user: U\nbot: B\nturn_template: x\n", "an instruction template of text-generation-webui"),
    (b"o\0\x10\0\0\0packed", "a packed module of RisuAI"), ({"type": "regex", "data": []}, "a list of regex scripts of RisuAI")])
def test_what_is_neither_is_named(raw: Any, words: str) -> None:
    for reader in (parse_card, read_lorebook):
        assert f"x is {words}" in said(raw, reader)


def test_a_lorebook_in_a_picture_of_novelai() -> None:
    with pytest.raises(UserError, match="a picture with a lorebook of NovelAI"):
        parse_file(with_chunks(pictures.text_chunk("naidata", b"e30=")), "x")


def test_a_card_offered_as_a_lorebook() -> None:
    assert book(AGNAI)[0]["entries"][0]["content"] == "The mill is old."
    for raw in (FLAT, json.loads(v2()), {**AGNAI, "characterBook": None}):
        assert "is a character without a lorebook" in said(raw, read_lorebook)
    for raw in ({}, [], 5, {"a": 1}):
        assert 'is not a lorebook (it has no "entries")' in said(raw, read_lorebook)


SAMPLES = [AGNAI, AGNAI_BOOK, NOVELAI, RISU, RISU_BOOK, RISU_MODULE, JANITOR, CHUB, KOBOLD, KOBOLD_UNITED, FARADAY, WORLD]
JUNK = st.sampled_from(["null", "0", "true", "-1.5", '""', '"x"', "[]", "[null]", '["a"]', "{}", '{"a": [1]}', "[{}]", "[[]]",
                        "1" * 30])


@settings(max_examples=200)
@given(st.data())
def test_damaged_samples_are_read_or_refused_in_one_sentence(data: st.DataObject) -> None:
    raw = json.loads(json.dumps(data.draw(st.sampled_from(SAMPLES))))
    for _ in range(data.draw(st.integers(1, 3))):
        place: Any = raw
        while isinstance(place, dict | list) and place:
            key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
                place = place[key]
                continue
            place[key] = json.loads(data.draw(JUNK))
            break
    text = json.dumps(raw).encode()
    for reader in (parse_card, read_lorebook):
        try:
            found = reader(text, "x")
        except UserError as error:
            one_sentence(error, "x ")
            continue
        if isinstance(found, Card):
            messages(found, [("user", "The mill?")])
            again = parse_file(write_file("v2", found.raw), "x").card
            assert as_v3(again.raw) == as_v3(found.raw) and again.names == found.names
        else:
            parse_book(found[0])


def test_every_format_is_read_from_files(tmp_path: Path) -> None:
    for name, data in (("a.yaml", TEXTGEN.encode()), ("a.byaf", backyard_archive()), ("a.json", json.dumps(AGNAI).encode())):
        assert parse_file(data, name).card.name.startswith("Ada")
