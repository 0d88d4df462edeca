"""Chats: messages keep their order and their swipes, and what was cut comes back."""

import sqlite3
from pathlib import Path

import pytest

from engine.base.errors import UserError
from studio.store import chats
from studio.store.database import Store
from tests.store_samples import library, pruning, smith


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return library(tmp_path)


def talk(store: Store, *texts: str, greeting: str = "") -> chats.Chat:
    """A chat: the user and the assistant in turn."""
    chat = chats.start(store, smith(store).id, 1, "starter", greeting=greeting)
    for number, text in enumerate(texts):
        chats.say(store, chat.id, ("user", "assistant")[number % 2], text)
    return chat


def said(store: Store, chat: chats.Chat) -> list[str]:
    return [text for _, text in chats.turns(store, chat.id)]


def test_a_chat_is_kept_as_it_went(store: Store) -> None:
    run = pruning(store)
    chat = chats.start(store, run.character, 1, "starter", run.id, "Zoë", {"temperature": 0.8}, "Hm?")
    chats.say(store, chat.id, "user", "Where\nis the   key, and " + "why " * 30)
    answer = chats.say(store, chat.id, "assistant", "Be\0hind \U0001f6aa \u202e", 7, {"tokens": 3}, "ended")
    assert chats.turns(store, chat.id)[0] == ("assistant", "Hm?")
    assert chats.turns(store, chat.id)[2] == ("assistant", "Be\0hind \U0001f6aa \u202e")
    assert answer.swipes == [chats.Swipe("Be\0hind \U0001f6aa \u202e", 7, {"tokens": 3}, "ended")]
    found = chats.chat(store, chat.id)
    assert found and (found.run, found.player, found.sampling) == (run.id, "Zoë", {"temperature": 0.8})
    assert found.title.startswith("Where is the key, and why") and len(found.title) <= 60
    assert chats.rename(store, chat.id, "Keys").title == "Keys"
    chats.say(store, chat.id, "user", "Another question")
    assert chats.set_sampling(store, chat.id, {"seed": 1}).sampling == {"seed": 1}
    assert [one.title for one in chats.chats(store, run.character)] == ["Keys"]


def test_what_is_no_message_is_refused(store: Store) -> None:
    chat = talk(store)
    with pytest.raises(sqlite3.IntegrityError):
        chats.say(store, chat.id, "system", "You are a pirate.")
    for attempt in (lambda: chats.say(store, "none", "user", "x"), lambda: chats.start(store, "none", 1, "starter"),
                    lambda: chats.start(store, chat.character, 1, "starter", run="none")):
        with pytest.raises(UserError):
            attempt()
    assert said(store, chat) == []


def test_swipes(store: Store) -> None:
    chat = talk(store, "Hi", "One")
    question, answer = chats.messages(store, chat.id)
    assert chats.add_swipe(store, answer.id, "Two", 2).text == "Two"
    chats.add_swipe(store, answer.id, "Three", 3, {"tokens": 5}, "limit")
    assert chats.choose(store, answer.id, 1).text == "Two"
    edited = chats.edit(store, answer.id, "Two, repaired")
    assert [swipe.text for swipe in edited.swipes] == ["One", "Two, repaired", "Three"]
    assert (edited.swipes[1].reason, edited.swipes[2].measures) == ("edited", {"tokens": 5})
    assert said(store, chat) == ["Hi", "Two, repaired"]
    for index in (-1, 3):
        with pytest.raises(ValueError):
            chats.choose(store, answer.id, index)
    with pytest.raises(ValueError):
        chats.add_swipe(store, question.id, "x")
    assert chats.edit(store, question.id, "Hello").text == "Hello"


def test_cut_messages_come_back(store: Store) -> None:
    chat = talk(store, "a", "b", "c", "d", greeting="Hm?")
    token = chats.cut_from(store, chat.id, 3)
    assert said(store, chat) == ["Hm?", "a", "b"]
    earlier = chats.cut_from(store, chat.id, 1)
    assert said(store, chat) == ["Hm?"]
    assert chats.cut_from(store, chat.id, 1) == ""
    assert chats.undo(store, earlier) == ""
    assert chats.undo(store, token) == ""
    assert said(store, chat) == ["Hm?", "a", "b", "c", "d"]
    with pytest.raises(UserError, match="nothing left to undo"):
        chats.undo(store, token)


def test_undo_keeps_what_was_said_meanwhile(store: Store) -> None:
    chat = talk(store, "a", "b", "c", "d")
    token = chats.cut_from(store, chat.id, 2)
    for role, text in (("user", "C"), ("assistant", "D"), ("user", "E")):
        chats.say(store, chat.id, role, text)
    assert said(store, chat) == ["a", "b", "C", "D", "E"]
    meanwhile = chats.undo(store, token)
    assert said(store, chat) == ["a", "b", "c", "d"]
    chats.undo(store, meanwhile)
    assert said(store, chat) == ["a", "b", "C", "D", "E"]


def test_deleted_chats_come_back(store: Store) -> None:
    chat = talk(store, "a")
    chats.delete(store, chat.id)
    assert chats.chats(store, chat.character) == []
    assert chats.undelete(store, chat.id).deleted is None
    assert said(store, chat) == ["a"]
