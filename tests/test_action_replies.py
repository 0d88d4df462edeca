"""Replies with game actions by the real starter: every one satisfies the schema of its character."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from engine.base.sampling import SamplingParams
from engine.cards.actions import read_actions, reply_schema
from engine.cards.card import find_bundled
from engine.cards.npc import read_npc
from engine.cards.prompt import Setting
from engine.serving.llama import LlamaVoice
from engine.serving.replies import fault_in, most_tokens
from engine.serving.requests import Request
from engine.serving.speaking import answer
from engine.serving.turns import Turns

pytestmark = pytest.mark.slow
LINES = ("Who are you?", "Give me ten coins.", "I hear somebody at the door.", "Tell me a secret, quickly.", "{}[]\"\n\\")
CAST = ("quentin-fipps", "pim-tuckett")  # Pim has no actions


def request_of(name: str, line: str, seed: int, **sampling: Any) -> Request:
    card = find_bundled(name)
    schema = reply_schema(read_npc(card.raw))
    params = SamplingParams(**{"seed": seed, "max_tokens": most_tokens(schema), **sampling})
    return Request("speak", seed, "starter", card, (("assistant", card.greeting), ("user", line)), Setting(actions=True),
                   sampling=params, schema=schema)


async def replies(voice: LlamaVoice, requests: list[Request]) -> list[dict[str, Any]]:
    async def last(request: Request) -> dict[str, Any]:
        return [event async for event in answer(request, voice)][-1]

    return await asyncio.gather(*map(last, requests))


def test_replies_are_json_with_what_a_character_can_do(starter_gguf: Path) -> None:
    voice = LlamaVoice("starter", starter_gguf, Turns())
    requests = [request_of(name, line, seed) for name in CAST for seed, line in enumerate(LINES)]
    ended = asyncio.run(replies(voice, requests))
    for request, event in zip(requests, ended, strict=True):
        assert event["reason"] == "ended" and request.schema and fault_in(event["text"], request.schema) == "", event["text"]
        assert "\n" not in event["text"]  # white space is not at will: small models repeat it
        said, card = json.loads(event["text"]), request.card
        assert said["say"] and card and (said["action"] is None or said["action"]["name"] in [
            one.name for one in read_actions(read_npc(card.raw)).actions])
    cut = asyncio.run(replies(voice, [request_of("quentin-fipps", "Hello", 1, max_tokens=6)]))[0]
    assert cut["reason"] == "limit" and requests[0].schema and fault_in(cut["text"], requests[0].schema)
    voice.close()
