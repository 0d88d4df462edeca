"""Chats as SillyTavern's files, there and back, and a reply that becomes example dialogue."""

import json
from pathlib import Path
from typing import Any

import pytest
from store_samples import card

from engine.base.errors import UserError
from engine.cards.fields import fields_of
from studio.services import Services
from studio.settings import Settings
from studio.store import characters, chats
from studio.tabs.preview.controller import Controller
from studio.tabs.preview.looks import Draft, ViewState
from studio.tabs.preview.transcript import MOST_BYTES, read_jsonl


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Controller:
    services = Services.open(Settings(tmp_path))
    monkeypatch.setattr(services.speech, "warm", lambda *_, **__: None)
    return Controller(services)


@pytest.fixture
def chat(room: Controller) -> chats.Chat:
    """A chat with two swipes of its reply."""
    who = characters.create(room.store, card("Zoë", mes_example="<START>\n{{user}}: Hi.\n{{char}}: Là.")).id
    made = chats.start(room.store, who, 1, "starter", player="Ann", greeting="Who is it?")
    chats.say(room.store, made.id, "user", "Is it open?")
    reply = chats.say(room.store, made.id, "assistant", "No.")
    chats.add_swipe(room.store, reply.id, "Only for you.")
    return made


def test_a_chat_goes_to_a_file_and_comes_back_the_same(room: Controller, chat: chats.Chat, tmp_path: Path) -> None:
    name, text = room.save_chat(chat.id)
    header, greeting, asked, reply = (json.loads(line) for line in text.splitlines())
    assert name.endswith(".jsonl") and (header["user_name"], header["character_name"]) == ("Ann", "Zoë")
    assert greeting["mes"] == "Who is it?" and asked == {**asked, "name": "Ann", "is_user": True, "mes": "Is it open?"}
    assert (reply["mes"], reply["swipe_id"], reply["swipes"]) == ("Only for you.", 1, ["No.", "Only for you."])
    file = tmp_path / name
    file.write_text(text)
    again = room.load_chat(chat.character, "starter", file)
    assert again != chat.id
    texts = lambda id: [(one.role, [swipe.text for swipe in one.swipes], one.chosen) for one in chats.messages(room.store, id)]
    assert texts(again) == texts(chat.id)
    loaded = chats.chat(room.store, again)
    assert loaded and (loaded.player, loaded.title) == ("Ann", file.stem)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"[1]\n", b"{}\n", b'{"user_name": 1}\n{"mes": " "}\n', b"{" * 100_000,
                                  b" " * (MOST_BYTES + 1)])
def test_a_file_that_is_no_chat_is_refused_with_its_name(data: bytes) -> None:
    with pytest.raises(UserError, match=r"odd\.jsonl"):
        read_jsonl(data, "odd.jsonl")


def test_what_sillytavern_writes_beside_messages_is_left_out() -> None:
    lines: list[dict[str, Any]] = [{"user_name": "Ann", "chat_metadata": {"x": 1}}, {"mes": "Joined.", "is_system": True},
                                   {"mes": "Hello.", "is_user": False, "swipes": ["Hi.", 3, "Hello."], "extra": {}}]
    found = read_jsonl("\n".join(map(json.dumps, lines)).encode(), "a.jsonl")
    assert found.player == "Ann" and [(one.role, one.swipes, one.chosen) for one in found.said] == [
        ("assistant", ["Hi.", "Hello."], 1)]


def test_any_signs_go_there_and_back(room: Controller, chat: chats.Chat, tmp_path: Path) -> None:
    """Line breaks of Unicode, which no line of JSON ends with, and half of an emoji, which other programs may cut."""
    odd = "One\u2028two\x85three\x0bfour\nfive 🙂"
    chats.say(room.store, chat.id, "user", odd)
    name, text = room.save_chat(chat.id)
    half = {"mes": "Hm \ud83d", "is_user": False, "swipes": ["Hm \ud83d", "\udc00 No."]}
    (tmp_path / name).write_text(text + json.dumps(half) + "\n")
    again = chats.messages(room.store, room.load_chat(chat.character, "starter", tmp_path / name))
    assert again[-2].text == odd and [one.text for one in again[-1].swipes] == ["Hm ?", "? No."]


def test_a_file_is_read_whole_or_not_at_all(room: Controller, chat: chats.Chat, tmp_path: Path,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text("".join(json.dumps({"mes": f"Line {number}", "is_user": number % 2 == 0}) + "\n" for number in range(9)))
    say, said = chats._say, list[str]()

    def die(*asked: Any, **named: Any) -> Any:
        said.append(asked[2])
        if len(said) == 5:
            raise OSError("No space left on device")
        return say(*asked, **named)

    monkeypatch.setattr(chats, "_say", die)
    with pytest.raises(OSError, match="No space"):
        room.load_chat(chat.character, "starter", file)
    assert [one.id for one in room.chats_of(chat.character)] == [chat.id]


def test_a_reply_becomes_example_dialogue_once(room: Controller, chat: chats.Chat) -> None:
    greeting, asked, reply = chats.messages(room.store, chat.id)
    state = ViewState(chat.character, "starter", chat.id)
    room.act(state, Draft(), "example", reply.id, "")
    head = characters.head(room.store, chat.character)
    assert fields_of(head.card)["mes_example"] == ("<START>\n{{user}}: Hi.\n{{char}}: Là.\n"
                                                   "<START>\n{{user}}: Is it open?\n{{char}}: Only for you.")
    for message, sentence in ((reply, "already"), (greeting, "Only a reply"), (asked, "Only a reply")):
        with pytest.raises(UserError, match=sentence):
            room.act(state, Draft(), "example", message.id, "")
    assert characters.head(room.store, chat.character).number == head.number
