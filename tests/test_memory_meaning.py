"""Memory on a real model: a fact that a player stated in one conversation changes what is answered in a later one."""

import asyncio
from pathlib import Path

import pytest
from server_samples import card_of

from engine.base.sampling import SamplingParams
from engine.cards.prompt import Setting
from engine.serving.memory import PlayerMemory, recall
from engine.serving.memory.rules import find_facts
from engine.serving.requests import Request
from engine.serving.speaking import answer
from engine.serving.voices import Voices

pytestmark = pytest.mark.slow
STATED = {"I have a dog called Bruno.": ("What is my dog called?", "bruno"),
          "I come from Redhill.": ("Where do I come from?", "redhill"),
          "I promise I'll bring you a silver spoon.": ("What did I promise to bring you?", "spoon"),
          "I'm looking for my sister Ada.": ("Whom am I looking for?", "ada")}


async def known(model: str, memory: PlayerMemory, player: str) -> list[str]:
    """The words that the character knows, of those which the player stated."""
    voices, found = Voices(), []
    try:
        voice = await voices.get(model)
        for question, word in STATED.values():
            sentences = recall(memory, player, "ann", question, count=voice.count, session="three").sentences
            request = Request("speak", 1, model, card_of("Ann"), (("user", question),), Setting("Kit", memory=sentences),
                              sampling=SamplingParams(temperature=0, max_tokens=40, seed=1))
            async for event in answer(request, voice):
                if event["event"] == "Ended" and word in event["text"].lower():
                    found.append(word)
    finally:
        voices.close()
    return found


def test_what_was_said_in_session_one_is_answered_in_session_three(starter: Path, tmp_path: Path) -> None:
    memory = PlayerMemory(tmp_path / "players.db")
    for session, lines in (("one", list(STATED)), ("two", ["Lovely weather today."])):
        memory.append("kit", "ann", session, [("user", line) for line in lines])
        memory.keep("kit", "ann", session, find_facts(memory.turns("kit", "ann", session)))
    knows, stranger = (asyncio.run(known(str(starter), memory, player)) for player in ("kit", "tom"))
    assert len(knows) >= 2 and stranger == []
