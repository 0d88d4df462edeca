"""A real cast: three bundled characters on one cut starter, each with its adapter, and the server answering as each of them."""

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from cast_job import join
from server_samples import Running, running
from small_job import prove_here, write_lines
from transformers import AutoTokenizer

from engine.base.cast_folder import check_place, places
from engine.base.events import Finished
from engine.base.files import read_json
from engine.base.ids import ReadingId
from engine.base.job import make_recipe
from engine.cards.card import find_bundled, parse_card
from engine.pipeline import prune
from engine.server.cast import read_cast
from engine.serving.llama import LlamaVoice
from engine.stages import finish
from engine.stages.context import Job

pytestmark = pytest.mark.slow
SECRETS = {"pim-tuckett": "marmalade", "bodo-grumm": "periscope", "zubaida-marr": "tambourine"}
FEW: dict[str, Any] = {"validation_lines": 2, "test_lines": 2, "answer_tokens": 12, "extra_samples": 0, "neutral_lines": 0,
                       "resampled_copies": 0, "tuning_epochs": 0.0, "bake_steps": 2, "bake_step_lines": 2, "bake_own_from": 1.0,
                       "validate_every": 5}


@pytest.fixture(scope="module")
def town(starter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cast's folder."""
    folder = tmp_path_factory.mktemp("town")
    jobs = []
    for name, secret in SECRETS.items():
        raw = copy.deepcopy(find_bundled(name).raw)
        raw["data"]["description"] += f" The password of {{{{char}}}}'s door is “{secret}”."
        card = parse_card(json.dumps(raw).encode(), name)
        (folder / name).mkdir()
        lines = write_lines(folder / name, 24, calling="Listen. ")
        jobs.append(Job(card, str(starter), Path(), make_recipe("quick", **FEW), lines=lines))
    with mock.patch.object(finish, "prove", prove_here):
        assert isinstance([*prune(join(jobs, folder), folder / "work" / "cast.model")][-1], Finished)
    return folder / "out"


@pytest.fixture(scope="module")
def server(town: Path) -> Iterator[Running]:
    with running(read_cast([str(town)])) as found:
        yield found


def test_each_character_has_an_adapter_of_its_own_and_was_measured_with_it(town: Path) -> None:
    assert [place.id for place in places(town)] == sorted(SECRETS)
    for place in places(town):
        report = read_json(place.own / "report.json")
        assert report["readings"][ReadingId.ADAPTED]["lines"] == report["lines"]["test"] == 2
        check_place(place)
    assert read_json(town / "config.json")["intermediate_size"] == 1152


def test_the_server_answers_as_each_by_its_own_adapter_and_prompt(server: Running, town: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Mapping[str, Any]] = []
    stream = LlamaVoice._stream
    monkeypatch.setattr(LlamaVoice, "_stream", lambda self, body: (asked.append(body), stream(self, body))[1])
    order = [place.id for place in places(town)]
    for name in [*SECRETS, *reversed(SECRETS)]:
        words: Any = [{"role": "user", "content": "What is the password of your door?"}]
        reply = server.client().chat.completions.create(model=name, messages=words, max_tokens=24, seed=1, temperature=0.2)
        text = reply.choices[0].message.content or ""
        assert text and reply.model_extra and reply.model_extra["persona"]["engine"] == "llama.cpp"
        assert not [secret for other, secret in SECRETS.items() if other != name and secret in text.lower()]
    tokenizer = AutoTokenizer.from_pretrained(town)
    for name, body in zip([*SECRETS, *reversed(SECRETS)], asked, strict=True):
        prompt = tokenizer.decode(body["prompt"])
        assert [one for one, secret in SECRETS.items() if secret in prompt] == [name]
        assert [order[one["id"]] for one in body["lora"] if one["scale"] == 1.0] == [name]
        assert sum(one["scale"] for one in body["lora"]) == 1.0
