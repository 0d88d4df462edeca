"""The draft room without a browser: what is typed is kept whoever else writes, and a card's text is only ever text."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny import find, make_tiny

from engine.base.errors import UserError
from engine.cards.book import shown_book
from engine.cards.card import unfinished
from engine.cards.fields import as_v3, blank_card, with_fields
from engine.cards.files import read_file
from engine.cards.macros import expand_macros
from engine.cards.npc import compile_npc, npc_object
from engine.cards.prompt import PLAYER, fired_in
from engine.models.chat_format import render_chat
from engine.models.loading import load_tokenizer
from engine.serving.requests import parse
from studio.services import Services
from studio.settings import Settings
from studio.store import characters, records
from studio.tabs import draft
from studio.tabs.draft import card_views, sections, versions

EVIL = "<img src=x onerror=alert(1)> {{7*7}} ${7*7} `x`"


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    opened = Services.open(Settings(tmp_path))
    yield opened
    opened.speech.close()


@pytest.fixture
def mara(services: Services) -> str:
    card = with_fields(blank_card("Mara"), description="Keeps the lighthouse.", scenario="A storm.")
    return characters.create(services.store, card).id


def test_what_is_typed_as_a_model_may_be_no_path_at_all(services: Services) -> None:
    for name in ("x" * 5000, "a/" + "x" * 5000, "no\0body", "../" * 2000):
        assert services.tokens.count(name, "Three sentences are enough.") == 6 and not services.tokens.exact(name)


def seen(services: Services, character: str) -> str:
    return versions.print_of(characters.head(services.store, character))


def test_only_what_was_typed_is_changed(services: Services, mara: str) -> None:
    raw = characters.head(services.store, mara).card
    raw["data"]["extensions"] = {"other": {"deep": 1}}
    raw["data"]["scenario"] = "Line one\r\nline two"  # a text field of a browser would turn its line ends
    characters.save(services.store, mara, raw)
    answer = versions.save_typed(services.store, mara, seen(services, mara), {"description": "Keeps two lamps."})
    card = characters.head(services.store, mara).card["data"]
    assert card["description"] == "Keeps two lamps."
    assert card["extensions"] == {"other": {"deep": 1}} and card["scenario"] == "Line one\r\nline two"
    assert answer["elsewhere"] is None and answer["words"] == f"Saved · version {answer['version']}"
    assert answer["print"] == seen(services, mara)


def test_two_windows_keep_both_versions(services: Services, mara: str) -> None:
    both_saw = seen(services, mara)
    theirs = versions.save_typed(services.store, mara, both_saw, {"description": "Theirs."})
    ours = versions.save_typed(services.store, mara, both_saw, {"description": "Ours."})
    assert ours["elsewhere"] == theirs["version"] and ours["version"] == theirs["version"] + 1
    texts = {one.number: one.card["data"]["description"] for one in characters.versions(services.store, mara)}
    assert texts[theirs["version"]] == "Theirs." and texts[ours["version"]] == "Ours."


def test_what_another_window_wrote_in_other_fields_stays(services: Services, mara: str) -> None:
    both_saw = seen(services, mara)
    versions.save_typed(services.store, mara, both_saw, {"scenario": "Fog."})
    versions.save_typed(services.store, mara, both_saw, {"description": "Ours."})
    card = characters.head(services.store, mara).card["data"]
    assert (card["scenario"], card["description"]) == ("Fog.", "Ours.")


def test_long_writing_is_one_version_until_half_a_minute_has_passed(services: Services, mara: str,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    first = versions.save_typed(services.store, mara, seen(services, mara), {"description": "A"})
    second = versions.save_typed(services.store, mara, first["print"], {"description": "A b"})
    assert second["version"] == first["version"] and second["stamp"] > first["stamp"]
    present = records.now()
    monkeypatch.setattr(characters, "now", lambda: present + 31)
    third = versions.save_typed(services.store, mara, second["print"], {"description": "A b c"})
    assert third["version"] == first["version"] + 1 and third["elsewhere"] is None


def test_the_same_text_again_makes_no_version(services: Services, mara: str) -> None:
    """A closed page's last words are sent once more when the page opens: they may have arrived the first time."""
    before = seen(services, mara)
    first = versions.save_typed(services.store, mara, before, {"description": "Once."})
    again = versions.save_typed(services.store, mara, before, {"description": "Once."})
    assert again["version"] == first["version"] and again["elsewhere"] is None


def test_lists_are_cleaned_and_unknown_fields_refused(services: Services, mara: str) -> None:
    typed = {"alternate_greetings": ["Hello.", "  ", EVIL], "tags": "sea,  lamp ,,sea"}
    versions.save_typed(services.store, mara, "", typed)
    card = characters.head(services.store, mara).card["data"]
    assert card["alternate_greetings"] == ["Hello.", EVIL] and card["tags"] == ["sea", "lamp"]
    for wrong in ({"extensions": "x"}, {"description": ["x"]}, {"alternate_greetings": [1]}):
        with pytest.raises(ValueError, match="typed"):
            versions.save_typed(services.store, mara, "", wrong)


def test_answers_to_the_page_say_what_is_wrong(services: Services, mara: str) -> None:
    controller = draft.Controller(services)
    save, newest = controller.save, controller.newest
    answers = save([{"character": mara, "print": "", "fields": {"description": "x" * 1_100_000}},
                    {"character": "nobody", "print": "", "fields": {"description": "x"}}])
    assert "too large" in answers[mara]["problem"] and answers[mara]["gone"] is False
    assert answers["nobody"]["gone"] is True
    assert newest("nobody") == {} and newest(mara)["version"] == 1


def test_a_bundled_character_keeps_its_first_version(services: Services) -> None:
    bundled = next(one for one in characters.list_characters(services.store) if one.bundled_as)
    versions.save_typed(services.store, bundled.id, seen(services, bundled.id), {"description": "Changed."})
    assert characters.head(services.store, bundled.id).number == 2
    back = versions.restore(services.store, bundled.id, 1)
    assert back.number == 3 and back.card == characters.version(services.store, bundled.id, 1).card


def test_counts_say_about_without_the_models_own_words(services: Services, mara: str) -> None:
    size = card_views.size_of(services, "starter", characters.head(services.store, mara).card)
    assert not size.exact and set(size.fields) == {"name", "description", "scenario"}
    beside = re.search(r"#draft-description [^{]*::after \{ content: \"(.*?)\"; \}", card_views.meter_html(size))
    assert beside and beside[1] == f"about {size.fields['description']} tokens"
    assert size.total > sum(size.fields.values()) and f"about {size.total}" in card_views.meter_html(size)


def test_the_budget_follows_the_model(services: Services, mara: str, tmp_path: Path) -> None:
    raw = characters.head(services.store, mara).card
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("damaged")
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 100}))
    size = card_views.size_of(services, str(folder), raw)
    assert size.budget == 50
    assert 'class="draft-meter over"' in card_views.meter_html(card_views.Size({}, 51, 50, True))
    assert 'class="draft-meter over"' not in card_views.meter_html(card_views.Size({}, 50, 50, True))


def test_a_new_card_gets_guidance_and_a_written_one_advice(services: Services, mara: str) -> None:
    assert "three sentences" in card_views.advice_html(services, "starter", blank_card("New"))
    shown = card_views.advice_html(services, "starter", with_fields(blank_card("New"), description=f"{EVIL} {{{{usr}}}}"))
    assert "Problem" in shown and "{{usr}}" in shown and "<img" not in shown


def test_differences_are_marked_without_colour_and_escaped(services: Services, mara: str) -> None:
    versions.save_typed(services.store, mara, "", {"description": f"Keeps the {EVIL} lighthouse.", "alternate_greetings": [EVIL]})
    for pair in ((1, 2), (2, 1)):
        shown = versions.changes_html(services.store, mara, *pair)
        assert "From version 1 to version 2" in shown and "<img" not in shown and "&lt;img src=x" in shown
        assert shown.count("[added: ") == shown.count("<ins>") == 2 and "+ &lt;img" in shown and "<h4>Other greetings</h4>" in shown
    assert "Nothing differs" in versions.changes_html(services.store, mara, 2, 2)


def test_long_unchanged_text_is_shortened_between_words() -> None:
    long = "word " * 200
    shown = versions.piece_html((long, "same"))
    assert len(shown) < 280 and re.fullmatch(r"<span>(word )+… (word )+</span>", shown)


def test_versions_have_times_and_remarks(services: Services, mara: str) -> None:
    versions.save_typed(services.store, mara, "", {"description": "Two."})
    versions.restore(services.store, mara, 1)
    choices = versions.version_choices(services.store, mara)
    assert [number for _, number in choices] == [3, 2, 1]
    assert [versions.partner([3, 2, 1], chosen) for chosen in (3, 2, 1)] == [2, 3, 3] and versions.partner([1], 1) == 1
    assert "newest" in choices[0][0] and "Version 1 restored" in choices[0][0] and "today, " in choices[0][0]
    assert "today" not in versions.when(0.0) and "1970" in versions.when(86400.0)


def test_portraits_come_and_go_as_versions(services: Services, mara: str, tmp_path: Path) -> None:
    picture = tmp_path / "photo.jpg"
    Image.new("RGB", (1400, 700), (200, 60, 20)).save(picture)
    added = versions.save_portrait(services.store, mara, card_views.read_picture(picture))
    shown = card_views.shown_portrait(services.store, added.portrait)
    assert shown is not None and max(shown.size) == 512
    removed = versions.save_portrait(services.store, mara, None)
    assert (added.number, removed.number, removed.portrait) == (2, 3, None)
    assert "The portrait was removed" in versions.changes_html(services.store, mara, 2, 3)
    picture.write_bytes(b"<svg onload=alert(1)>")
    with pytest.raises(UserError):
        card_views.read_picture(picture)


def test_exported_cards_read_back(services: Services, mara: str) -> None:
    versions.save_typed(services.store, mara, "", {"description": EVIL, "name": "Mara Väli/../x"})
    wanted = characters.head(services.store, mara).card["data"]
    for form, ending in (("json", "json"), ("v2", "v2.json"), ("png", "png"), ("charx", "charx")):
        file = card_views.card_file(services.store, mara, form)
        assert file.name == f"mara-vali-x.{ending}" and as_v3(read_file(file).card.raw)["data"] == wanted
    old = file.parent.stat().st_mtime - 3600
    os.utime(file.parent, (old, old))
    newer = card_views.card_file(services.store, mara, "json")
    assert newer.is_file() and not file.exists()


class _Speech:
    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.turns: Any = None

    def close(self) -> None:
        pass

    def prompt(self, model: str, card: dict[str, Any], turns: Any, player: str) -> tuple[str, int]:
        self.turns = turns
        if self.fault:
            raise UserError(self.fault)
        return "<|system|> exact", 42


def test_the_prompt_comes_at_once_and_then_exactly(services: Services, mara: str) -> None:
    versions.save_typed(services.store, mara, "", {"first_mes": "I am {{char}}."})
    speech = _Speech()
    services.speech = speech  # type: ignore[assignment]
    first, last = draft.Controller(services).prompt(mara, "starter")
    assert first[0].startswith("You are Mara.") and "about" in first[1]
    assert last[0] == "<|system|> exact" and "exact text" in last[1] and "42 tokens" in last[1]
    services.speech.close()
    services.speech = _Speech("No <b>model</b>.")  # type: ignore[assignment]
    _, last = draft.Controller(services).prompt(mara, "starter")
    assert last[0].startswith("You are Mara.") and "No &lt;b&gt;model" in last[1]


@pytest.mark.slow
def test_the_real_worker_gives_the_exact_text(services: Services, mara: str, tmp_path: Path) -> None:
    fields = {"post_history_instructions": "Be brief."}
    for family in ("llama", "gemma2"):  # gemma2's template knows no system and no assistant who begins
        model = str(make_tiny(tmp_path / family, family))
        tokenizer = load_tokenizer(find(Path(model)))
        for greeting in ("I am {{char}}.", ""):
            versions.save_typed(services.store, mara, "", {**fields, "first_mes": greeting})
            *_, (text, note) = draft.Controller(services).prompt(mara, model)
            turns = [*([["assistant", greeting]] if greeting else []), ["user", draft.FIRST_LINE]]
            asked = parse(json.dumps({"do": "speak", "id": 1, "model": model, "turns": turns, "player": PLAYER,
                                      "card": characters.head(services.store, mara).card}))
            assert text == render_chat(tokenizer, asked.fitted(tokenizer=tokenizer).messages), (family, greeting, note)
            assert "exact text" in note and f" {len(tokenizer.encode(text, add_special_tokens=False)):,} tokens" in note
            assert ("I am Mara." in text) == bool(greeting)
            assert all(part in text for part in ("Keeps the lighthouse.", "Be brief.", draft.FIRST_LINE))


def test_the_panel_of_versions_compares_with_what_makes_sense(services: Services, mara: str) -> None:
    for text in ("Two.", "Three."):
        versions.save_typed(services.store, mara, "", {"description": text})
        versions.save_portrait(services.store, mara, None)  # a save by hand: the next autosave makes a version
    panel, other, changes, button = draft.Controller(services).versions(mara)
    assert (panel.value, other.value, button.interactive) == (3, 2, False) and "Three" in changes
    panel, other, changes, button = draft.Controller(services).versions(mara, chosen=1)
    assert (panel.value, other.value, button.value) == (1, 3, "Restore version 1") and button.interactive
    assert "Nothing differs" in draft.Controller(services).versions(mara, chosen=2, other=2)[2]


def npc_of(services: Services, character: str) -> Any:
    return npc_object(characters.head(services.store, character).card)


def test_npc_fields_are_saved_as_typed_and_two_windows_change_different_ones(services: Services, mara: str) -> None:
    both_saw = seen(services, mara)
    first = versions.save_typed(services.store, mara, both_saw, {"npc-goals": [{"text": "To rest"}, {"text": ""}]})
    second = versions.save_typed(services.store, mara, both_saw, {"npc-mood": {"valence": 80, "arousal": None}, "scenario": "Fog."})
    assert npc_of(services, mara) == {"goals": ["To rest"], "mood": {"valence": 80}}
    assert first["elsewhere"] is None and second["elsewhere"] == first["version"]
    again = versions.save_typed(services.store, mara, second["print"], {"npc-goals": [{"text": "To rest"}]})
    assert again["version"] == second["version"]
    shown = versions.changes_html(services.store, mara, second["version"], first["version"])
    assert "</span>80<span" in shown
    with pytest.raises(ValueError, match="NPC field"):
        versions.save_typed(services.store, mara, "", {"npc-nonsense": []})


def test_what_a_setting_writes_is_what_the_prompt_will_hold(services: Services, mara: str) -> None:
    fields = {"secrets": [{"text": "She lit it", "words": ["i lit"], "may_learn": "{{user}}"}], "big_five": {"openness": 90}}
    shown = sections.preview(fields, "Mara")
    versions.save_typed(services.store, mara, "", {f"npc-{name}": value for name, value in fields.items()})
    card = unfinished(characters.head(services.store, mara).card)
    assert "\n\n".join(text for text in shown["written"].values() if text) == expand_macros(compile_npc(card), card, "Player")
    assert "Only Player may learn this." in shown["written"]["secrets"]
    assert shown["words"] == {"openness": "very curious about new things"}
    assert sections.preview({"goals": 7}, "Mara") == {}


def test_an_action_is_shown_as_a_game_gets_it_or_with_what_is_wrong() -> None:
    shown = sections.preview({"actions": [{"name": "wave", "when": "{{user}} leaves"}, {"name": "give coins"}]}, "Mara")
    assert shown["written"]["actions"].endswith("Actions:\n- wave(): Player leaves")
    assert len(shown["problems"]["actions"]) == 1 and "give coins" in shown["problems"]["actions"][0]
    assert sections.preview({"actions": [{"name": "give coins"}]}, "Mara")["written"]["actions"] == ""


def test_the_section_shows_what_can_be_read_and_tells_the_rest(services: Services, mara: str) -> None:
    raw = characters.head(services.store, mara).card
    own = {"goals": ["Rest", {"text": "Sleep", "weight": 2}, 7], "mood": "gloomy"}
    raw["data"]["extensions"] = {"persona_studio/npc": own}
    characters.save(services.store, mara, raw)
    value = sections.npc_value(raw)
    assert value["fields"]["goals"] == [{"text": "Rest"}, {"text": "Sleep", "weight": 2}] and len(value["faults"]) == 2
    versions.save_typed(services.store, mara, "", {"npc-goals": value["fields"]["goals"]})  # as a page sends it back
    assert npc_of(services, mara) == {**own, "goals": ["Rest", {"text": "Sleep", "weight": 2}, 7]}
    assert "goals is not readable at entry 3" in card_views.advice_html(services, "starter", raw)


def test_the_script_is_edited_from_what_is_generated_and_comes_back_from_it(services: Services, mara: str) -> None:
    value = sections.script_value(characters.head(services.store, mara).card)
    first, second = value["questions"][0], value["questions"][1]
    assert {one["origin"] for one in value["questions"]} == {"generated"}
    changed = {name: part for name, part in {**first, "lines": ["Name?"]}.items() if name != "origin"}
    typed = {"added": [{**changed, "id": "own-1", "kind": "own"}], "changed": {first["id"]: changed}, "removed": [second["id"]]}
    versions.save_typed(services.store, mara, "", {"npc-script": typed})
    value = sections.script_value(characters.head(services.store, mara).card)
    assert [one["origin"] for one in value["questions"]][:1] == ["changed"] and value["questions"][-1]["origin"] == "added"
    assert [one["id"] for one in value["removed"]] == [second["id"]] and value["originals"][first["id"]]["lines"] == first["lines"]
    versions.save_typed(services.store, mara, "", {"npc-script": {"added": [], "changed": {}, "removed": []}})
    assert npc_of(services, mara) is None


def test_a_list_of_the_dossier_is_edited_from_what_is_derived_and_comes_back_from_it(services: Services, mara: str) -> None:
    value = sections.dossier_value(characters.head(services.store, mara).card)
    assert value["lists"] == value["derived"] and value["written"] == []
    assert {one["task"] for one in value["lists"]["questions"]} <= set(value["choices"]["task"])
    questions = [{**value["lists"]["questions"][0], "text": "A wave comes. What now?"}]
    versions.save_typed(services.store, mara, "", {"npc-dossier": {"questions": questions}})
    changed = sections.dossier_value(characters.head(services.store, mara).card)
    assert changed["lists"]["questions"] == questions and changed["written"] == ["questions"]
    assert changed["lists"]["statements"] == value["lists"]["statements"]
    versions.save_typed(services.store, mara, "", {"npc-dossier": {"questions": []}})
    assert npc_of(services, mara) is None


def book_of(services: Services, character: str) -> Any:
    return characters.head(services.store, character).card["data"].get("character_book")


def test_a_lorebook_is_written_entry_by_entry_and_what_was_deleted_comes_back_whole(services: Services, mara: str) -> None:
    def type_entries(*entries: dict[str, Any]) -> int:
        typed = {**shown_book(characters.head(services.store, mara).card), "entries": list(entries)}
        return int(versions.save_typed(services.store, mara, "", {"character_book": typed})["version"])

    shown = lambda: shown_book(characters.head(services.store, mara).card)["entries"]
    entry = {"name": "", "keys": ["lamp"], "secondary": [], "content": "It burns oil.", "order": 100, "constant": False,
             "enabled": True, "kept": ""}
    world = {"entries": {"4": {"key": ["reef"], "content": "It is sharp.", "sticky": 3, "unheard": 9}}}
    (brought,) = sections.read_world({"text": json.dumps(world), "name": "world.json"})["entries"]
    type_entries(entry)
    type_entries({**entry, "content": "It burns whale oil."}, brought)
    both = book_of(services, mara)
    assert [one["content"] for one in both["entries"]] == ["It burns whale oil.", "It is sharp."]
    assert both["entries"][1]["extensions"] == {"sticky": 3, "unheard": 9}
    lamp, reef = shown()
    full = characters.save(services.store, mara, characters.head(services.store, mara).card, note="Full", autosave=False).number
    emptier = type_entries(lamp)
    assert [one["keys"] for one in book_of(services, mara)["entries"]] == [["lamp"]] and emptier > full
    assert "It is sharp." in versions.changes_html(services.store, mara, emptier, full)
    type_entries(lamp, reef)  # Undo: the page still has the entry
    assert book_of(services, mara) == both
    fired = fired_in(unfinished(characters.head(services.store, mara).card), [("user", "Who lit the lamp on the reef?")])
    assert sorted(one.text for one in fired.kept) == ["It burns whale oil.", "It is sharp."]
