"""The Play room without a browser, over the real chat worker on a tiny random model. What it says means nothing."""

import re
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr
import pytest
from tiny import add_files, make_tiny

from engine.base.errors import UserError
from engine.base.files import write_json
from engine.base.ids import StageId
from engine.base.known_models import KNOWN
from engine.base.sampling import DEFAULTS, KNOBS, MAX_SEED
from engine.cards.fields import blank_card, with_fields
from engine.cards.prompt import Setting, render_greeting
from studio.services import Services
from studio.settings import Settings
from studio.store import characters, chats, runs, values
from studio.tabs.answers import about_of, card_of, measures_words, player_of, sampling_of, text_html, waiting_words, warming_words
from studio.tabs.models import WHOLE
from studio.tabs.preview import Controls, paint
from studio.tabs.preview.controller import Controller
from studio.tabs.preview.looks import Draft, ViewState, chosen_sampling
from studio.tabs.preview.view import NO_GREETING, SHOWN
from studio.workers.speech import Reply

SHORT = {"temperature": 0.7, "top_p": 0.95, "limit": 6, "seed": 4}  # as older chats keep it
LONG = {**SHORT, "limit": 4000}
EVIL = '<img src="http://192.0.2.1/x.png" onerror=alert(1)> ![x](http://192.0.2.1/y.png) [z](http://192.0.2.1) {{char}} *nods*'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(add_files(make_tiny(tmp_path_factory.mktemp("model") / "tiny", endless=True, max_position_embeddings=8192)))


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    opened = Services.open(Settings(tmp_path_factory.mktemp("home")))
    yield opened
    opened.speech.close()


@pytest.fixture
def room(services: Services) -> Controller:
    return Controller(services)


@pytest.fixture
def mara(services: Services) -> str:
    card = with_fields(blank_card("Mara"), description="Keeps the lighthouse.", first_mes="*Nods.* Who is it, {{user}}?",
                       alternate_greetings=["{{char}} is busy.", EVIL])
    return characters.create(services.store, card).id


def finished(room: Controller, chat: str) -> None:
    under = room.speaking.under_way(chat)
    assert under is None or under.reply.wait(60)


def speaking(room: Controller, chat: str) -> Reply:
    """A long answer that has begun."""
    under = room.speaking.under_way(chat)
    assert under is not None
    eventually(lambda: under.reply.tokens > 3)
    return under.reply


def eventually(true: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def view(character: str, model: str, chat: str = "", **more: Any) -> ViewState:
    return ViewState(character, model, chat, **more)


def talk(room: Controller, mara: str, model: str, sampling: dict[str, Any] = SHORT, opening: int = 0, **draft: Any) -> str:
    """A chat with one question asked."""
    chat = room.send(view(mara, model, opening=opening), "Is it open?", Draft(sampling=sampling, **draft)).chat
    if sampling is SHORT:
        finished(room, chat)
    return chat


def act(room: Controller, state: ViewState, action: str, message: str = "", text: str = "") -> ViewState:
    return room.act(state, Draft(), action, message, text)


def shown(room: Controller, state: ViewState) -> str:
    """All HTML that the live channel brings for what a page looks at."""
    return "".join(text for text in room.contents(state.look()).values() if isinstance(text, str))


def settings_of(room: Controller, state: ViewState) -> dict[str, Any]:
    return room.settings(room.scene(state), state.opening)


def test_an_answer_is_kept_with_its_measures(room: Controller, mara: str, model: str) -> None:
    chat = talk(room, mara, model, player="Ann")
    said = chats.messages(room.store, chat)
    assert [one.role for one in said] == ["assistant", "user", "assistant"] and said[1].text == "Is it open?"
    swipe = said[-1].swipes[0]
    assert swipe.text and swipe.seed == 4 and swipe.reason in ("limit", "ended") and swipe.measures["model"] == model
    line = measures_words(swipe.measures)
    assert f"{swipe.measures['tokens']} tokens" in line and "prompt tokens reused" in line and "seed 4" in line
    assert line.split(" · ")[0] in shown(room, view(mara, "starter", chat)) and "Ann" in shown(room, view(mara, "starter", chat))


def test_nothing_is_kept_before_something_is_said(room: Controller, mara: str, model: str) -> None:
    look = act(room, view(mara, model), "swipe", text="1")
    assert "Mara is busy." in shown(room, look) and "2 of 3" in shown(room, look)
    assert f"Who is it, {player_of(room.store)}?" in shown(room, view(mara, "starter")) and room.latest(mara) == ""
    with pytest.raises(UserError, match="nothing to send"):
        room.send(view(mara, model), "  ", Draft())
    assert chats.chats(room.store, mara) == []


def test_the_chosen_greeting_begins_the_chat_and_the_others_stay_its_swipes(room: Controller, mara: str, model: str) -> None:
    chat = talk(room, mara, model, opening=1)
    first = chats.messages(room.store, chat)[0]
    assert first.text == "{{char}} is busy." and first.chosen == 1 and len(first.swipes) == 3
    without = talk(room, mara, model, opening=NO_GREETING)
    assert chats.turns(room.store, without)[0] == ("user", "Is it open?")


def test_what_a_card_a_player_or_a_model_says_is_only_text(room: Controller, mara: str, model: str) -> None:
    chat = room.send(view(mara, model, opening=2), EVIL, Draft(player=EVIL, sampling=SHORT)).chat
    finished(room, chat)
    message = chats.messages(room.store, chat)[-1]
    chats.edit(room.store, message.id, EVIL)
    chats.rename(room.store, chat, EVIL)
    for look in (view(mara, model, chat), view(mara, model, chat, editing=message.id)):
        page = shown(room, look)
        assert "<img" not in page and "<a " not in page and "onerror=alert(1)&gt;" in page and "<em>nods</em>" in page


def test_stop_ends_before_the_limit_and_keeps_what_was_said(room: Controller, mara: str, model: str) -> None:
    chat = talk(room, mara, model, LONG)
    reply = speaking(room, chat)
    room.speaking.stop(chat)
    assert reply.wait(10) and reply.reason == "stopped" and reply.tokens < LONG["limit"]
    last = chats.messages(room.store, chat)[-1]
    assert last.text == reply.text.strip() and last.swipes[0].reason == "stopped"
    assert "Stopped by you." in shown(room, view(mara, "starter", chat))


def test_while_the_character_speaks_nothing_else_changes_the_chat(room: Controller, services: Services, mara: str,
                                                                 model: str) -> None:
    chat = talk(room, mara, model, LONG)
    reply = speaking(room, chat)
    first = chats.messages(room.store, chat)[0].id
    with pytest.raises(UserError, match="still speaking"):
        room.send(view(mara, model, chat), "Hello?", Draft())
    for what in ("regenerate", "continue", "edit", "cut", "newest"):
        with pytest.raises(UserError, match="still speaking"):
            act(room, view(mara, model, chat), what, first)
    assert len(chats.messages(room.store, chat)) == 2
    services.speech.stop(reply)
    assert reply.wait(10)


def test_regenerate_adds_a_swipe_and_one_can_go_back(room: Controller, mara: str, model: str) -> None:
    chat = talk(room, mara, model)
    act(room, view(mara, model, chat), "regenerate")
    finished(room, chat)
    last = chats.messages(room.store, chat)[-1]
    assert len(last.swipes) == 2 and last.chosen == 1 and [one.seed for one in last.swipes] == [4, 5]
    assert "2 of 2" in shown(room, view(mara, "starter", chat))
    act(room, view(mara, model, chat), "swipe", last.id, "0")
    assert chats.messages(room.store, chat)[-1].text == last.swipes[0].text and "1 of 2" in shown(room, view(mara, "starter", chat))


def test_a_fixed_seed_says_the_same_again_in_a_new_chat(room: Controller, mara: str, model: str) -> None:
    first, second = (chats.messages(room.store, talk(room, mara, model))[-1].text for _ in range(2))
    assert first == second


def test_an_answer_that_is_missing_can_be_asked_for(room: Controller, mara: str, model: str) -> None:
    chat = talk(room, mara, model)
    chats.cut_from(room.store, chat, 2)
    assert "Ask for the answer" in shown(room, view(mara, "starter", chat))
    act(room, view(mara, model, chat), "regenerate")
    finished(room, chat)
    assert [role for role, _ in chats.turns(room.store, chat)] == ["assistant", "user", "assistant"]


def test_continue_puts_more_after_the_chosen_swipe(room: Controller, mara: str, model: str) -> None:
    chat = talk(room, mara, model)
    before = chats.messages(room.store, chat)[-1]
    act(room, view(mara, model, chat), "continue")
    finished(room, chat)
    after = chats.messages(room.store, chat)[-1]
    assert len(after.swipes) == 1 and after.text.startswith(before.text.rstrip()) and len(after.text) > len(before.text)


def test_an_edit_counts_for_what_the_model_reads(room: Controller, mara: str, model: str) -> None:
    chat = talk(room, mara, model)
    question = chats.messages(room.store, chat)[1].id
    look = act(room, view(mara, model, chat), "edit", question)
    assert look.editing == question and "Is it open?</textarea>" in shown(room, look)
    assert act(room, look, "save", question, " Is it shut? ").editing == ""
    act(room, view(mara, model, chat), "regenerate")
    under = room.speaking.under_way(chat)
    assert under is None or under.reply.request["turns"][-1] == ["user", "Is it shut?"]
    finished(room, chat)
    assert chats.turns(room.store, chat)[1] == ("user", "Is it shut?")
    with pytest.raises(UserError, match="cannot be empty"):
        act(room, look, "save", question, " ")


def test_editing_the_greeting_begins_the_chat(room: Controller, mara: str, model: str) -> None:
    look = act(room, view(mara, model, opening=1), "edit")
    assert chats.messages(room.store, look.chat)[0].id == look.editing and "is busy.</textarea>" in shown(room, look)


def test_deleted_messages_come_back_from_any_page_until_something_is_said(room: Controller, mara: str, model: str) -> None:
    chat = talk(room, mara, model)
    whole = chats.turns(room.store, chat)
    act(room, view(mara, model, chat), "cut", chats.messages(room.store, chat)[1].id)
    assert len(chats.turns(room.store, chat)) == 1
    other = Controller(room.services)
    assert "2 messages were deleted." in shown(other, view(mara, "starter", chat))
    act(other, view(mara, model, chat), "undo")
    assert chats.turns(room.store, chat) == whole and "deleted." not in shown(room, view(mara, "starter", chat))
    act(room, view(mara, model, chat), "cut", chats.messages(room.store, chat)[1].id)
    room.send(view(mara, model, chat), "And now?", Draft())
    finished(room, chat)
    assert "deleted." not in shown(room, view(mara, "starter", chat))


def test_a_message_of_another_chat_is_not_touched(room: Controller, mara: str, model: str) -> None:
    first, second = talk(room, mara, model), talk(room, mara, model)
    foreign = chats.messages(room.store, first)[0].id
    for what in ("edit", "save", "cut", "swipe"):
        with pytest.raises(UserError, match="no longer in the chat"):
            act(room, view(mara, model, second), what, foreign, "0")
    assert len(chats.messages(room.store, first)) == 3


def test_an_older_card_is_kept_or_left_by_choice(room: Controller, mara: str, model: str) -> None:
    chat = talk(room, mara, model)
    for text in ("Keeps two lamps.", "Keeps three lamps."):
        newest = characters.save(room.store, mara, with_fields(characters.head(room.store, mara).card, description=text),
                                 autosave=False).number
        assert f"the newest is {newest}." in shown(room, view(mara, "starter", chat))
        act(room, view(mara, model, chat), "keep")
        assert "the newest is" not in shown(room, view(mara, "starter", chat))
        assert chats.chat(room.store, chat).version == 1  # type: ignore[union-attr]
    characters.save(room.store, mara, with_fields(characters.head(room.store, mara).card, description="Left."), autosave=False)
    act(room, view(mara, model, chat), "newest")
    assert chats.chat(room.store, chat).version == newest + 1  # type: ignore[union-attr]
    assert "the newest is" not in shown(room, view(mara, "starter", chat))


def test_a_failure_is_said_and_the_question_stays(room: Controller, mara: str, model: str) -> None:
    chat = talk(room, mara, "/nowhere/model")
    assert chats.turns(room.store, chat)[-1] == ("user", "Is it open?")
    page = shown(Controller(room.services), view(mara, "starter", chat))
    assert "Ask for the answer" in page
    own = shown(room, view(mara, "starter", chat))
    assert 'role="alert"' in own and "Traceback" not in own
    act(room, view(mara, model, chat), "regenerate")
    finished(room, chat)
    assert 'role="alert"' not in shown(room, view(mara, "starter", chat)) and len(chats.turns(room.store, chat)) == 3


def test_a_card_that_cannot_speak_says_why_and_keeps_nothing(room: Controller, model: str) -> None:
    empty = characters.create(room.store, blank_card("Nobody")).id
    assert "says nothing about its character" in shown(room, view(empty, "starter"))
    with pytest.raises(UserError, match="says nothing about"):
        room.send(view(empty, model), "Hello?", Draft())
    assert chats.chats(room.store, empty) == []
    room.speaking.warm(empty, "", model)


def test_a_deleted_chat_stops_speaking_and_comes_back_whole(room: Controller, mara: str, model: str) -> None:
    kept = talk(room, mara, model)
    chat = talk(room, mara, model, LONG)
    reply = speaking(room, chat)
    assert room.delete(chat) == "Is it open?" and reply.wait(10) and reply.reason == "stopped"
    assert room.latest(mara, chat) == kept
    with pytest.raises(UserError, match="was deleted"):
        room.send(view(mara, model, chat), "Hello?", Draft())
    assert room.latest(mara, room.undelete(chat)) == chat and len(chats.turns(room.store, chat)) == 3


def test_lore_is_kept_with_each_answer_and_reported(room: Controller, services: Services, model: str) -> None:
    card = with_fields(blank_card("Mara"), description="Keeps the lighthouse.", first_mes="Hm?")
    entries = [{"name": "<b>Gate", "keys": ["open"], "content": "The gate is shut.", "extensions": {}, "insertion_order": 1}]
    card["data"]["character_book"] = {"entries": entries, "extensions": {}}
    someone = characters.create(services.store, card).id
    chat = talk(room, someone, model)
    kept = chats.messages(room.store, chat)[-1].swipes[0].measures["lore"]
    assert [(one["name"], one["outcome"]) for one in kept] == [("<b>Gate", "fired")]
    html = shown(room, view(someone, "starter", chat))
    assert "1 lorebook entry fired" in html and "&lt;b&gt;Gate" in html and "“open” is in the last message." in html
    room.send(view(someone, model, chat), "Fine weather.", Draft())
    finished(room, chat)
    room.send(view(someone, model, chat), "Hm.", Draft())
    finished(room, chat)
    assert "lore" not in chats.messages(room.store, chat)[-1].swipes[0].measures  # it is too long ago


def test_a_chat_has_its_own_chances_and_player(room: Controller, services: Services, model: str) -> None:
    greeting = "It is {{random:one,two,three,four,five,six,seven,eight}}, {{user}}."
    someone = characters.create(services.store, with_fields(blank_card("Mara"), description="A bell.", first_mes=greeting)).id
    openings = []
    for _ in range(6):
        before = shown(room, view(someone, "starter")).replace(player_of(room.store), "Ann")
        chat = talk(room, someone, model, player="Ann", about="Ann owes {{char}} a rope.")
        kept = chats.chat(room.store, chat)
        assert kept
        told = render_greeting(card_of(characters.head(services.store, someone)), Setting("Ann", seed=kept.seed))
        openings.append(told)
        assert told in shown(room, view(someone, "starter", chat)) and told in before
    under = room.regenerate(chats.chat(room.store, chat), model)  # type: ignore[arg-type]
    assert (under.reply.request["about_player"], under.reply.request["chat_seed"]) == ("Ann owes {{char}} a rope.", 5)
    finished(room, chat)
    assert len(set(openings)) > 2


def test_settings_belong_to_their_chat(room: Controller, mara: str, model: str) -> None:
    first, second = talk(room, mara, model), talk(room, mara, model)
    sliders = [{**DEFAULTS.as_dict(), "temperature": 1.2, "max_tokens": 24.0, "dry_multiplier": 0}[knob.name] for knob in KNOBS]
    changed = chosen_sampling(False, 77, *sliders)
    assert changed == {**DEFAULTS.as_dict(), "temperature": 1.2, "max_tokens": 24, "dry_multiplier": 0, "seed": 77}
    room.change_settings(mara, first, " Ann  Lee ", " A tinker. ", changed)
    kept = chats.chat(room.store, first)
    assert kept and kept.sampling == changed and (kept.player, kept.about) == ("Ann Lee", "A tinker.")
    assert (player_of(room.store), about_of(room.store, mara)) == ("Ann Lee", "A tinker.")
    other = chats.chat(room.store, second)
    assert other and other.sampling == sampling_of(SHORT) and other.player == "Player"
    act(room, view(mara, model, first), "regenerate")
    finished(room, first)
    assert chats.messages(room.store, first)[-1].swipes[1].seed == 78
    assert chosen_sampling(True, None, *sliders)["seed"] is None
    for seed in (None, -1, MAX_SEED + 1, 1.5):
        with pytest.raises(UserError, match="seed"):
            chosen_sampling(False, seed, *sliders)


def test_an_older_chat_opens_with_the_new_settings_at_their_defaults(room: Controller, services: Services, mara: str,
                                                                     model: str) -> None:
    head = characters.head(services.store, mara)
    expected = {**DEFAULTS.as_dict(), "temperature": 0.3, "max_tokens": 6, "seed": 4}
    old = {"temperature": 0.3, "top_p": 0.95, "limit": 6, "seed": 4}
    for kept, shown_settings in ((old, expected), ({}, DEFAULTS.as_dict()), ({"limit": "x"}, DEFAULTS.as_dict())):
        chat = chats.start(services.store, mara, head.number, model, sampling=kept).id
        assert settings_of(room, view(mara, model, chat))["sampling"] == shown_settings
    chat = chats.start(services.store, mara, head.number, model, sampling=old).id
    room.send(view(mara, model, chat), "Who?", Draft())
    finished(room, chat)
    answer = chats.messages(room.store, chat)[-1].swipes[0]
    assert answer.measures["tokens"] <= 6 and answer.seed == 4


def test_what_one_character_knows_of_the_player_no_other_does(room: Controller, services: Services, mara: str, model: str) -> None:
    other = characters.create(services.store, with_fields(blank_card("Ada"), description="A smith.")).id
    about = lambda who: settings_of(room, view(who, model))["about"]
    talk(room, mara, model, about="Ann owes {{char}} a rope.")
    assert (about(mara), about(other)) == ("Ann owes {{char}} a rope.", "")
    room.speaking.warm(other, "", model)
    warming = room.speaking.warming()
    assert warming and warming.request["about_player"] == ""
    room.change_settings(other, "", "Ann", "A thief.", DEFAULTS.as_dict())
    assert (about(mara), about(other)) == ("Ann owes {{char}} a rope.", "A thief.")
    room.change_settings(other, "", "Ann", "", DEFAULTS.as_dict())
    assert (about(mara), about(other)) == ("Ann owes {{char}} a rope.", "")
    assert player_of(room.store) == "Ann", "the name is the player's own"


def test_a_field_is_filled_again_when_the_character_changes(room: Controller, services: Services, mara: str, model: str) -> None:
    """What was typed for one and not yet kept would else still be there for the other."""
    other = characters.create(services.store, with_fields(blank_card("Ada"), description="A smith.")).id
    with gr.Blocks():
        controls = Controls()
    room.change_settings(mara, "", "Ann", "", DEFAULTS.as_dict())
    first = paint(room, controls, view(mara, model), {})
    second = paint(room, controls, view(other, model), first[controls.link.seen])
    assert first[controls.about] == second[controls.about] == ""


def test_what_was_known_before_it_was_kept_for_each_character_comes_from_its_own_chats(room: Controller, services: Services,
                                                                                      mara: str, model: str) -> None:
    values.set_value(services.store, "about_player", "Of whoever it was.")
    assert about_of(services.store, mara) == ""
    chats.start(services.store, mara, characters.head(services.store, mara).number, model, about="Owes me a rope.")
    assert about_of(services.store, mara) == "Owes me a rope."


def test_reading_in_advance_makes_the_first_prompt_known(room: Controller, mara: str, model: str) -> None:
    room.speaking.warm(mara, "", model)
    warming = room.speaking.warming()
    assert warming is not None and warming.wait(60) and warming.reason == "ended"
    room.speaking.warm(mara, "", model)
    assert room.speaking.warming() is warming  # once is enough
    chat = talk(room, mara, model)
    measures = chats.messages(room.store, chat)[-1].swipes[0].measures
    assert measures["reused_tokens"] > measures["prompt_tokens"] / 2


def test_an_answer_under_way_is_shown_apart_from_the_rest_and_open_pages_hear_of_it(room: Controller, mara: str, model: str,
                                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    touched: list[str] = []
    monkeypatch.setattr(room.services.speech, "_touch", touched.append)
    chat = talk(room, mara, model, LONG)
    speaking(room, chat)
    look = view(mara, model, chat).look()
    growing, before = room.contents(look), len(touched)
    assert "data-speaks" in growing["preview-growing"] and "data-speaks" not in growing["preview-said"]
    eventually(lambda: len(touched) > before)
    room.speaking.stop(chat)
    finished(room, chat)
    whole = room.contents(look)
    assert whole["preview-growing"] == "" and "tokens" in whole["preview-foot"] and set(touched) == {"preview"}
    assert room.contents({**look, "of": "", "character": mara}) == {}
    assert "Choose a character" in room.contents({**look, "of": "-"})["preview-said"]


def test_lists_and_fields_are_painted_where_they_differ_from_what_the_page_shows(room: Controller, mara: str, model: str) -> None:
    with gr.Blocks():
        controls = Controls()
    chat = talk(room, mara, model)
    fresh, old = (settings_of(room, view(mara, model, one)) for one in ("", chat))
    assert fresh["openings"][-1][1] == NO_GREETING and old["openings"] == [] and old["chats"] == [("Is it open?", chat)]
    empty = paint(room, controls, view(mara, model), {})
    painted = paint(room, controls, view(mara, model, chat), empty[controls.link.seen])
    assert painted[controls.samplers.sliders["max_tokens"]] == 6 and painted[controls.fresh] is False
    assert painted[controls.choice].value == chat
    again = paint(room, controls, view(mara, model, chat), painted[controls.link.seen])
    assert set(again) == {controls.state, controls.link.seen, controls.link.component}  # what one types in stays
    known = room.contents(view(mara, model, chat).look())["preview-controls"]
    assert f'data-painted="{known}"' in again[controls.link.component]
    room.rename(chat, "Storm")
    assert room.contents(view(mara, model, chat).look())["preview-controls"] != known


def test_a_list_that_changed_while_a_field_was_kept_is_still_painted(room: Controller, mara: str, model: str) -> None:
    with gr.Blocks():
        controls = Controls()
    state = view(mara, model)
    seen = paint(room, controls, state, {})[controls.link.seen]
    look = state.look()

    def painted() -> bool:
        kept = controls.link.keeps(look, seen, settings_of(room, state), "player", "about", "sampling", "openings")
        return f'data-painted="{room.contents(look)["preview-controls"]}"' in kept[controls.link.component]

    room.change_settings(mara, "", "Ann", "", DEFAULTS.as_dict())
    assert painted()
    room.begin(state, Draft())  # in another tab
    assert not painted()


def test_a_page_shows_what_another_one_does(room: Controller, mara: str, model: str) -> None:
    state = view(mara, model, talk(room, mara, model))
    chats.edit(room.store, chats.messages(room.store, state.chat)[1].id, "Hm?")
    assert "Hm?" in shown(room, state)
    run = runs.add(room.store, mara, 1, "prune", "first", {})
    runs.update(room.store, run.id, state="running")
    assert "A job is running" in shown(room, state)
    runs.update(room.store, run.id, state="done")
    assert "A job is running" not in shown(room, state)


def test_a_long_chat_shows_its_end_first(room: Controller, mara: str, model: str) -> None:
    chat = talk(room, mara, model)
    for number in range(SHOWN):
        chats.say(room.store, chat, "user" if number % 2 == 0 else "assistant", f"line {number}.")
    page = shown(room, view(mara, "starter", chat))
    assert "Show 3 earlier messages" in page and "Is it open?" not in page and f"line {SHOWN - 1}." in page
    assert "Is it open?" in shown(room, act(room, view(mara, model, chat), "earlier"))


def test_words_for_waiting_name_the_megabytes() -> None:
    reply = Reply({"do": "speak", "id": "1", "model": "m"})
    assert waiting_words(reply) == "Waiting for the chat engine…" and warming_words(reply) == ""
    reply.heard -= 2
    assert warming_words(reply) == "Starting the chat engine…"
    reply.engine_is_up = True  # by an earlier request
    assert waiting_words(reply) == "Reading the conversation…" and warming_words(reply) == ""
    reply.take({"event": "Loading", "id": "1", "stage": StageId.FETCH, "done": 12, "total": 93})
    assert waiting_words(reply) == warming_words(reply) == "Fetching the model: 12 of 93 MB. This happens only once."
    reply.take({"event": "Loaded", "id": "1", "seconds": 1.5})
    assert waiting_words(reply) == "Reading the conversation…"
    reply.take({"event": "Reading", "id": "1", "done": 256, "total": 1024})
    assert waiting_words(reply) == "Reading the conversation: 25\u00a0%"
    reply.take({"event": "Said", "id": "1", "text": "Hm", "tokens": 1})
    assert waiting_words(reply) == ""


@pytest.mark.parametrize(("text", "safe"), [
    ("*Nods.* Yes", "<em>Nods.</em> Yes"), ("**No**", "<em>No</em>"), ("2*3*4", "2*3*4"), ("* one\n* two", "* one<br>* two"),
    ("*still walk", "<em>still walk</em>"), ("<b>&", "&lt;b&gt;&amp;"), ("*<i>*", "<em>&lt;i&gt;</em>"), ("a\n\nb", "a<br><br>b")])
def test_text_is_escaped_and_actions_are_italic(text: str, safe: str) -> None:
    assert text_html(text) == safe


def test_an_answer_is_read_while_one_types_the_next_question(room: Controller, mara: str, model: str) -> None:
    chat = talk(room, mara, model, {**LONG, "limit": 200})
    finished(room, chat)
    warming = room.speaking.warming()
    assert warming is not None and warming.wait(60)
    room.send(view(mara, model, chat), "And then?", Draft())
    finished(room, chat)
    measures = chats.messages(room.store, chat)[-1].swipes[0].measures
    assert measures["prompt_tokens"] - measures["reused_tokens"] < 150  # of which the answer before had 200


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A maker of finished runs of a character, each with a tiny model of its own."""
    folder = add_files(make_tiny(tmp_path_factory.mktemp("pruned") / "tiny", max_position_embeddings=8192, intermediate_size=32))

    def make(services: Services, character: str, name: str) -> runs.Run:
        made = runs.add(services.store, character, 1, "prune", name, {"sparsity": 0.5})
        shutil.copytree(folder, services.settings.run_folder(made.id) / "model")
        return runs.update(services.store, made.id, state="done", summary={"after": {"bytes": 3_000_000}})

    return make


def marks(page: str) -> list[str]:
    return re.findall(r'<span class="chat-voice">(.*?)</span>', page)


def test_another_model_goes_on_with_the_same_conversation(room: Controller, services: Services, mara: str, model: str,
                                                          pruned: Any) -> None:
    run = pruned(services, mara, "Half of it")
    look = view(mara, model, talk(room, mara, model))
    now = settings_of(room, look)
    assert now["voices"] == [("Dense model · tiny", WHOLE), ("Half of it · 50\u00a0% removed · 3\u00a0MB", run.id)]
    assert now["voice"] == WHOLE
    assert marks(shown(room, look)) == []
    room.choose_voice(look, run.id)
    room.send(look, "And now?", Draft())
    finished(room, look.chat)
    said = chats.messages(room.store, look.chat)
    assert [one.swipes[0].measures.get("run") for one in said if one.role == "assistant"] == [None, None, run.id]
    assert said[-1].swipes[0].measures["model"] == str(services.settings.run_folder(run.id) / "model")
    assert marks(shown(room, look)) == ["Dense model · tiny", "Half of it · 50\u00a0% removed"]
    room.choose_voice(look, WHOLE)
    act(room, look, "continue")
    finished(room, look.chat)
    assert marks(shown(room, look))[-1] == "Half of it · 50\u00a0% removed, then Dense model · tiny"


def test_a_model_that_is_gone_gives_way_to_the_dense_one(room: Controller, services: Services, mara: str, model: str,
                                                        pruned: Any) -> None:
    run = pruned(services, mara, "Lost")
    look = view(mara, model)
    room.choose_voice(look, run.id)
    assert settings_of(room, look)["voice"] == run.id
    runs.remove(services.store, run.id)
    sentence = "The pruned model “Lost” is no longer there, so the dense model speaks."
    assert sentence in shown(room, look) and settings_of(room, look)["voice"] == WHOLE
    with pytest.raises(UserError, match="no longer there"):
        room.choose_voice(look, run.id)
    look = view(mara, model, talk(room, mara, model))
    assert chats.messages(room.store, look.chat)[-1].swipes[0].measures["model"] == model
    assert sentence not in shown(room, look)


def test_fetching_or_making_a_models_file_says_how_far_it_is_and_can_be_stopped(
        room: Controller, services: Services, mara: str, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[Reply] = []
    monkeypatch.setattr(services.speech, "stop", stopped.append)
    reply = Reply({"do": "warm", "id": "1", "model": "m"})
    monkeypatch.setattr(services.speech, "warm", lambda *given: reply)
    room.speaking.warm(mara, "", model)
    reply.take({"event": "Loading", "id": "1", "stage": StageId.FETCH, "done": 123, "total": 492})
    said = shown(room, view(mara, model))
    assert "123 of 492 MB" in said and 'aria-valuenow="25"' in said and 'data-do="unprepare"' in said
    reply.take({"event": "Loading", "id": "1", "stage": "convert", "done": 40, "total": 100})
    assert "Preparing the model: 40\u00a0%. This happens only once." in shown(room, view(mara, model))
    assert 'data-do="unprepare"' in shown(room, view(mara, model))
    act(room, view(mara, model), "unprepare")
    assert stopped == [reply]


def test_a_known_model_is_fetched_only_when_that_is_asked_for(room: Controller, services: Services, mara: str,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    warm = lambda model, *given: asked.append(model) or Reply({"do": "warm", "id": "1", "model": model})
    monkeypatch.setattr(services.speech, "warm", warm)
    room.speaking.warm(mara, "", "small")
    said = shown(room, view(mara, "small"))
    assert asked == [] and "Small · Qwen2.5 0.5B is not on this machine yet: 491\u00a0MB" in said and 'data-do="fetch"' in said
    act(room, view(mara, "small"), "fetch")
    assert asked == ["small"]
    folder = services.settings.home / "models" / KNOWN["small"].folder_name
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {})
    assert 'data-do="fetch"' not in shown(room, view(mara, "small"))
    shutil.rmtree(folder)


def test_after_the_starters_first_answer_a_larger_model_is_proposed(room: Controller, services: Services, mara: str, model: str,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    warm = lambda model, *given: asked.append(model) or Reply({"do": "warm", "id": "1", "model": model})
    monkeypatch.setattr(services.speech, "warm", warm)
    values.set_value(services.store, "model", "")
    assert services.base_model() == "starter" and 'data-do="larger"' not in shown(room, view(mara, "starter"))  # nothing said yet
    chat = room.begin(view(mara, "starter"), Draft())
    chats.say(services.store, chat.id, "user", "Who are you?")
    assert 'data-do="larger"' not in shown(room, view(mara, "starter", chat.id))
    chats.say(services.store, chat.id, "assistant", "Nobody.")
    said = shown(room, view(mara, "starter", chat.id))
    assert "Small · Qwen2.5 0.5B is nearly five times as large" in said and "491\u00a0MB, fetched once" in said
    assert 'data-do="larger"' in said
    assert 'data-do="larger"' not in shown(room, view(mara, model, chat.id))
    act(room, view(mara, "starter", chat.id), "larger")
    assert asked == ["small"]
    folder = services.settings.home / "models" / KNOWN["small"].folder_name
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {})
    assert services.base_model() == "small"  # where it is, it is the first choice
    assert "much better. <button" in shown(room, view(mara, "starter", chat.id))
    values.set_value(services.store, "model", "starter")
    assert services.base_model() == "starter"
    values.set_value(services.store, "model", "")
    shutil.rmtree(folder)
    act(room, view(mara, "starter", chat.id), "stay")
    assert 'data-do="larger"' not in shown(room, view(mara, "starter", chat.id))


def test_players_are_remembered_from_chat_to_chat_only_when_asked(room: Controller, mara: str, model: str) -> None:
    def says(text: str, player: str = "Kit") -> dict[str, Any]:
        chat = room.send(view(mara, model), text, Draft(player=player, sampling=SHORT)).chat
        finished(room, chat)
        reply = chats.messages(room.store, chat)[-1]
        return reply.swipes[0].measures

    slug = characters.get(room.store, mara).slug  # type: ignore[union-attr]
    memory = room.memories.memory
    known = lambda: [fact for player in memory.players() for fact in memory.facts(player.id, slug)]
    assert not room.memories.on
    says("My name is Kit. I like pears.")
    assert known() == []
    room.memories.switch(True)
    try:
        assert "memory" not in says("I have a dog called Bruno. I like pears.")
        assert says("How is my dog?")["memory"] == ["The player has a dog called Bruno."]
        assert "memory" not in says("How is my dog?", player="Tom")
        panel = room.memories.contents({"of": mara, "character": mara})["preview-memory"]
        assert "Kit" in panel and "The player likes pears." in panel and "Tom" not in panel
        dog, pears = known()
        corrected = {"do": "correct", "player": dog.player, "fact": str(dog.id), "text": "The player's dog is Rex. <b>"}
        room.memories.act(mara, corrected)
        assert "Rex. &lt;b&gt;" in room.memories.contents({"of": mara, "character": mara})["preview-memory"]
        gone = room.memories.act(mara, {"do": "delete", "player": pears.player, "fact": str(pears.id)})
        assert gone == pears and says("What do I like?")["memory"] == ["The player's dog is Rex. <b>"]
        room.memories.memory.put_back(pears)
        room.memories.act(mara, {"do": "forget", "player": pears.player})
        assert known() == [] and "Nothing yet" in room.memories.contents(
            {"of": mara, "character": mara})["preview-memory"]
    finally:
        room.memories.switch(False)


def test_a_damaged_memory_is_a_sentence_and_costs_no_chat(room: Controller, mara: str, model: str) -> None:
    path = room.memories.memory.path
    path.unlink(missing_ok=True)
    path.write_bytes(b"nonsense" * 1000)
    try:
        assert "damaged" in room.memories.contents({"of": mara, "character": mara})["preview-memory"]
        finished(room, chat := talk(room, mara, model))
        assert len(chats.messages(room.store, chat)) == 3
    finally:
        path.unlink()
