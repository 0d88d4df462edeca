"""What of a conversation becomes memory: by rules, by a model's notes as far as they are true, and in a running server."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.base.errors import UserError
from engine.serving.memory import Fact, PlayerMemory
from engine.serving.memory.records import Turn
from engine.serving.memory.rules import find_facts, statements, supported
from engine.serving.memory.slots import slot_of
from engine.serving.memory.writing import notes_schema, remember
from engine.serving.remembering import Remembering


@pytest.fixture
def memory(tmp_path: Path) -> PlayerMemory:
    return PlayerMemory(tmp_path / "players.db")


STATED = {
    "Hello! My name is Mara and I live in the old mill.": ["The player's name is Mara.", "The player lives in the old mill."],
    "my name's tom": ["The player's name is Tom."],
    "I’m Mara. I have a dog called Bruno, and I like apples, pears and figs.": [
        "The player is Mara.", "The player has a dog called Bruno.", "The player likes apples, pears and figs."],
    "I don't like spiders, and I can't stand the rain.": ["The player doesn't like spiders.", "The player cannot stand the rain."],
    '"I\'m a blacksmith from Hollow," she says. *I draw my sword.*': ["The player is a blacksmith from Hollow."],
    "I promise I'll bring you my father's ring.": ["The player promised to bring you their father's ring."],
    "My brother's name is Jon. My brother is lost.": ["The player's brother is called Jon.", "The player's brother is lost."],
    "Well, I'm looking for my sister!": ["The player is looking for their sister."],
    "You can call me Ash. I am thirty years old.": ["The player's name is Ash.", "The player is thirty years old."],
    "I have no money. I don't have any children.": ["The player has no money.", "The player has no children."],
    "I want to find my brother. I've lost my way home.": [
        "The player wants to find their brother.", "The player lost their way home."],
}


@pytest.mark.parametrize("line", STATED)
def test_what_a_player_states(line: str) -> None:
    assert [fact.text for fact in find_facts([Turn(7, "user", line)])] == STATED[line]
    assert all(fact.turn == 7 and fact.said for fact in find_facts([Turn(7, "user", line)]))


@pytest.mark.parametrize("line", [
    "Do I like apples?", "If I were a king, I would live in a palace.", 'He told me, "I am a thief."', "*I am a thief.*",
    "He thinks I am a thief.", "Call me later.", "I have to go, I have a question.", "I love you. I like that. I like it here.",
    "My name is none of your business.", "My head is spinning.", "I want to know what happened.", "Maybe I am a prince.",
    "I'm tired and I will be fine.", "You are a baker.", "Suppose my name is Tom.", "(I am not really here.)", "", "?!", "I", "my"])
def test_what_is_no_fact(line: str) -> None:
    assert find_facts([Turn(1, "user", line)]) == []


def test_the_characters_words_are_no_facts_of_the_player() -> None:
    assert find_facts([Turn(1, "assistant", "My name is Pim. I like cheese."), Turn(2, "user", "Ah.")]) == []


def test_slots_tell_what_replaces_what() -> None:
    for one, other in (("The player's name is Mara.", "The player is Tom."),
                       ("The player likes apples.", "The player hates apples."),
                       ("The player lives in a mill.", "The player lives at the docks."),
                       ("The player is 30 years old.", "The player is thirty years old."),
                       ("The player's dog is called Rex.", "The player's dog is called Max.")):
        assert slot_of(one) == slot_of(other) != ""
    assert not any(map(slot_of, ("The player is a smith.", "The player lives with their aunt.", "The player is French.")))
    assert slot_of("The player's dog is called Rex.") != slot_of("The player's cat is called Rex.")


def test_a_fact_of_a_model_needs_a_statement_of_the_player() -> None:
    said = "I grew up in Redhill, and I don't eat meat. Do you think I am rich? If I had a boat I would sail."
    assert supported("The player grew up in Redhill.", said) == "I grew up in Redhill"
    for invented in ("The player eats meat.", "The player is rich.", "The player has a boat.", "The player grew up in Bluehill.",
                     "The player likes Pim.", "The player", ""):
        assert supported(invented, said) == "", invented
    assert statements('"Yes." *nods* "I am Tom." He smiles.') == ["Yes.", "I am Tom."]


TALK = [("assistant", "You are a blacksmith, are you not?"), ("user", "I grew up in Redhill, far from the sea. Nice stall!"),
        ("assistant", "I like the sea."), ("user", "I am saving up for a fiddle. My name is Mara.")]


async def noted(memory: PlayerMemory, notes: Any) -> list[Fact]:
    memory.append("mara", "pim", "one", TALK)
    asked = []

    async def ask(messages: list[dict[str, str]], schema: dict[str, Any], limit: int) -> str:
        asked.append((messages, schema, limit))
        if isinstance(notes, Exception):
            raise notes
        return notes if isinstance(notes, str) else json.dumps(notes)

    (session,) = memory.sessions()
    found = await remember(memory, session, ask, "Pim")
    assert "2. Player: I grew up in Redhill" in asked[0][0][1]["content"] and asked[0][1] == notes_schema([2, 4])
    assert await remember(memory, memory.sessions()[0], ask, "Pim") == [] and len(asked) == 1  # nothing is read twice
    return found


def test_notes_of_a_model_are_kept_as_far_as_they_are_true(memory: PlayerMemory) -> None:
    found = asyncio.run(noted(memory, {"facts": [
        {"line": 4, "fact": "The player grew up in Redhill."}, {"line": 2, "fact": "The player is a blacksmith."},
        {"line": 2, "fact": "The player likes the sea."}, {"line": 4, "fact": "I am saving up for a fiddle."},
        {"line": 4, "fact": "The player's name is Mara."}, {"line": 2, "fact": "Far from the sea."},
        {"line": 2, "fact": "I grew up in Redhill, far from the sea."}],
        "summary": "The player grew up in Redhill and is saving up for a fiddle. Mara is her name."}))
    assert [(fact.text, fact.turn, fact.edited_by) for fact in found] == [
        ("The player is saving up for a fiddle.", 4, "rules"), ("The player's name is Mara.", 4, "rules"),
        ("The player grew up in Redhill.", 2, "model"), ("The player said: “I grew up in Redhill, far from the sea.”", 2, "model")]
    assert "Redhill" in memory.summaries("mara")[0].text


@pytest.mark.parametrize("summary", [
    "The player is a blacksmith, the player is a blacksmith, the player is a blacksmith.", "Pim sold a blue horse to a king.",
    "I am saving up for a fiddle.", "The player grew up in Bluehill, far from Redhill.", "One. Two. Three.", "",
    "The player is saving up", "The player is a blacksmith."])
def test_a_summary_that_is_not_true_is_not_kept(memory: PlayerMemory, summary: str) -> None:
    asyncio.run(noted(memory, {"facts": [], "summary": summary}))
    assert [one.text for one in memory.summaries()] == [
        "The last time, the player said: “I am saving up for a fiddle. My name is Mara.”"]


@pytest.mark.parametrize("notes", ["", "{", "[]", "null", '{"facts": 3, "summary": ""}', '{"facts": [1], "summary": ""}',
                                   "[" * 100_000, UserError("Too long.")])
def test_a_model_that_fails_leaves_what_the_rules_found(memory: PlayerMemory, notes: Any) -> None:
    found = asyncio.run(noted(memory, notes))
    assert [fact.text for fact in found] == ["The player is saving up for a fiddle.", "The player's name is Mara."]


def test_a_server_remembers_when_a_conversation_ends_goes_on_long_or_was_cut_off(memory: PlayerMemory) -> None:
    async def play() -> None:
        server = Remembering(memory, every=4)
        await server.after("mara", "pim", "one", "My name is Mara.", "Hello!", "Mara")
        assert memory.facts("mara") == []
        assert [fact.text for fact in await server.end("mara", "pim", "one")] == ["The player's name is Mara."]
        with pytest.raises(UserError, match="no such session"):
            await server.end("tom", "pim", "one")
        for line in ("I like tea.", "I like figs.", "Well?"):
            await server.after("mara", "pim", "two", line, "Hm.")
        await asyncio.gather(*server._tasks)
        assert len(memory.facts("mara")) == 3
        await server.after("mara", "pim", "three", "I have a dog.", "Hm.")  # and then the server is killed
        again = Remembering(PlayerMemory(memory.path), idle=-1)
        running = asyncio.ensure_future(again.run())
        while len(memory.facts("mara")) < 4:
            await asyncio.sleep(0.01)
        running.cancel()
        found = await again.before("mara", "pim", "four", "How is my dog?")
        assert "The player has a dog." in found.sentences and found.facts[0].text == "The player's name is Mara."

    asyncio.run(asyncio.wait_for(play(), 60))


def test_a_voice_that_cannot_be_loaded_leaves_the_rules(memory: PlayerMemory) -> None:
    @asynccontextmanager
    async def broken(character: str) -> AsyncIterator[None]:
        raise UserError("No such model.")
        yield

    async def play() -> list[Fact]:
        server = Remembering(memory, broken)
        await server.after("mara", "pim", "one", "My name is Mara.", "Hello!")
        return await server.end("mara", "pim", "one")

    assert [fact.text for fact in asyncio.run(play())] == ["The player's name is Mara."]
