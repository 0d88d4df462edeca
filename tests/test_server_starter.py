"""The cast server on the real starter: characters of one model stay apart, and replies keep the form of their actions."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from server_samples import Running, card_of, cast_of, running

from engine.cards.actions import reply_schema
from engine.cards.card import find_bundled
from engine.cards.npc import read_npc
from engine.serving.replies import fault_in

pytestmark = pytest.mark.slow
WORDS = {"ann": "marmalade", "bob": "periscope"}


@pytest.fixture(scope="module")
def server(starter: Path) -> Iterator[Running]:
    cards = [card_of(name.title(), description=f"{name.title()} guards a gate. The password of the gate is “{word}”.",
                     first_mes=f"The password is {word}. Do you know the password?") for name, word in WORDS.items()]
    with running(cast_of(starter, *cards, find_bundled("whitlow-ashe"))) as found:
        yield found


def test_two_characters_of_one_model_at_the_same_time_never_mix(server: Running) -> None:
    def ask(number: int) -> tuple[str, str]:
        model = ("ann", "bob")[number % 2]
        asked: Any = [{"role": "user", "content": "What is the password?"}]
        reply = server.client().chat.completions.create(model=model, messages=asked, max_tokens=24, seed=number, temperature=0.3,
                                                        extra_body={"repeat_penalty": 1.0, "dry_multiplier": 0.0})
        return model, (reply.choices[0].message.content or "").lower()

    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(ask, range(8)))
    for model, text in said:
        assert WORDS["bob" if model == "ann" else "ann"] not in text
    for model, word in WORDS.items():
        assert any(word in text for name, text in said if name == model)


def test_replies_have_the_form_of_the_characters_actions(server: Running) -> None:
    schema = reply_schema(read_npc(find_bundled("whitlow-ashe").raw))
    for seed in range(2):
        asked: Any = [{"role": "user", "content": "Can you help me?"}]
        reply = server.client().chat.completions.create(model="whitlow-ashe", messages=asked, seed=seed,
                                                        extra_body={"persona": {"actions": True}})
        assert fault_in(reply.choices[0].message.content or "", schema) == "" and reply.choices[0].finish_reason == "stop"
        assert json.loads(reply.choices[0].message.content or "")["say"]
