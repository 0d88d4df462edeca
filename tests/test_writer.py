"""Writing with a model, from the worker to the room: asked for, followed, stopped, proposed as a difference, or said why not."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from store_samples import card
from teacher_server import teacher_server
from test_chat_worker import Bench

from engine.base.errors import UserError
from engine.base.files import write_json
from engine.base.known_models import SMALL
from engine.serving.requests import parse
from studio.services import Services
from studio.settings import Settings
from studio.store import characters, values
from studio.tabs.draft import versions
from studio.tabs.draft.writer import Writer
from studio.workers.speech import Reply

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Write of a lamp."}]
OLD = "She keeps the lamp of a harbour where no ship has called for years."


@pytest.fixture
def bench(speaking: Path) -> Iterator[Bench]:
    bench = Bench(speaking)
    yield bench
    bench.close()


def test_a_text_is_written_by_the_model_from_the_messages_alone(bench: Bench) -> None:
    ended = bench.answer("write", messages=ASKED)
    said = "".join(one["text"] for one in bench.said if one["event"] == "Said")
    assert ended["event"] == "Ended" and ended["text"] and said.startswith(ended["text"]) and ended["tokens"] == 12
    longer = bench.answer("write", messages=[*ASKED[:1], {"role": "user", "content": "Write of a lamp. " * 20}])
    assert longer["prompt_tokens"] > ended["prompt_tokens"] + 60


def test_a_text_can_be_stopped(bench: Bench) -> None:
    endless = {"max_tokens": 400, "temperature": 1.5, "min_p": 0, "seed": 1}

    async def stop_soon() -> None:
        bench.worker.take(bench.line("write", "one", messages=ASKED, sampling=endless))
        await bench.until("one", "Said")
        bench.worker.take(bench.line("stop", "one"))
        await bench.take()

    bench.run(stop_soon())
    ended = bench.of("one")[-1]
    assert ended["event"] == "Ended" and ended["reason"] in ("stopped", "ended", "loop") and ended["tokens"] < 400


def test_a_server_writes_in_the_models_place_and_no_model_is_loaded(bench: Bench) -> None:
    with teacher_server(reply=lambda _: "The lamp turns.") as server:
        ended = bench.answer("write", messages=ASKED, server=[server.url, "big"])
        assert (ended["event"], ended["text"], ended["reason"]) == ("Ended", "The lamp turns.", "ended")
        assert server.bodies[0]["messages"] == ASKED and server.bodies[0]["model"] == "big"
    assert not any(one["event"] == "Loading" for one in bench.said)
    with teacher_server(faults=lambda _: "401") as server:
        failed = bench.answer("write", messages=ASKED, server=[server.url, "big"])
    assert failed["event"] == "Failed" and "refuses the API key" in failed["sentence"]


@pytest.mark.parametrize("fields", [{"messages": []}, {"messages": [{"role": "pope", "content": "x"}]}, {"messages": ASKED[:1]},
                                    {"messages": ASKED, "server": ["http://x"]}, {"messages": "x"}])
def test_a_faulty_request_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        parse(json.dumps({"do": "write", "id": 1, "model": "m", **fields}))


# The room

@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    opened = Services.open(Settings(tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def mara(services: Services) -> str:
    return characters.create(services.store, card("Mara", description=OLD)).id


@pytest.fixture
def replies(services: Services, monkeypatch: pytest.MonkeyPatch) -> list[Reply]:
    """What was asked of the worker; a test says what came."""
    found: list[Reply] = []

    def write(model: str, messages: Any, sampling: Any, server: Any = None) -> Reply:
        found.append(Reply({"do": "write", "id": str(len(found)), "model": model, "messages": messages, "server": server}))
        return found[-1]

    monkeypatch.setattr(services.speech, "write", write)
    return found


def test_a_text_is_followed_and_proposed_as_a_difference(services: Services, mara: str, replies: list[Reply]) -> None:
    write, look, _, _ = Writer(services).functions()
    asked = {"character": mara, "task": "tighten", "key": "description", "label": "Description", "text": OLD}
    id = write(asked)["id"]
    reply = replies[0]
    assert look(id) == {"done": False, "text": "", "words": "Writing…"}
    reply.take({"event": "Loading"})
    assert look(id)["words"] == "Loading the model…"
    reply.take({"event": "Said", "text": "She keeps ", "tokens": 2})
    assert look(id) == {"done": False, "text": "She keeps ", "words": "Writing…"}
    reply.take({"event": "Ended", "text": "She keeps the <b>lamp.", "reason": "ended", "tokens": 5, "seconds": 2.0})
    found = look(id)
    assert found["proposal"] == "She keeps the <b>lamp." and "<del>" in found["html"] and "&lt;b&gt;" in found["html"]
    assert "5 tokens" in found["words"] and characters.head(services.store, mara).card["data"]["description"] == OLD


def test_what_went_wrong_is_a_sentence_and_what_was_said_is_shown(services: Services, mara: str, replies: list[Reply]) -> None:
    write, look, _, _ = Writer(services).functions()
    asked = {"character": mara, "task": "tighten", "key": "description", "text": OLD}
    first, second = write(asked)["id"], write(asked)["id"]
    replies[0].fail("The model is gone.")
    assert look(first)["problem"] == "The model is gone."
    replies[1].take({"event": "Ended", "text": f"{OLD} And it rains, as it always does.", "reason": "ended", "tokens": 40})
    found = look(second)
    assert "not make it shorter" in found["problem"] and found["text"].startswith(OLD) and "proposal" not in found
    assert "not there any more" in look("nonsense")["problem"]
    assert "not in the library" in write({**asked, "character": "x"})["problem"]


def test_a_server_that_is_set_writes_and_is_taken_back(services: Services, mara: str, replies: list[Reply]) -> None:
    writer = Writer(services)
    writer.use("server", " http://127.0.0.1:9/v1 ", "big")
    writer.write({"character": mara, "task": "draft", "key": "scenario"})
    assert replies[-1].request["server"] == ("http://127.0.0.1:9/v1", "big") and "big on your server" in writer.who()["note"]
    with pytest.raises(UserError, match="http"):
        writer.use("server", "nowhere", "big")
    writer.use("self", "", "")
    writer.write({"character": mara, "task": "draft", "key": "scenario"})
    assert replies[-1].request["server"] is None and writer.server() is None


def test_a_very_small_model_says_that_it_is(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services.speech, "models", lambda wait=True: [{"name": "some/tiny", "parameters": 90_000_000}])
    writer = Writer(services)
    assert "SmolLM2 135M writes" in writer.who()["note"] and "very small" in writer.who()["note"]
    values.set_value(services.store, "model", "some/tiny")
    assert writer.who()["note"].startswith("tiny writes. It is very small")
    values.set_value(services.store, "model", "small")
    assert "very small" not in writer.who()["note"] and "larger model writes better" in writer.who()["note"]


def test_small_writes_instead_of_the_starter_where_it_is_on_disk(services: Services) -> None:
    writer = Writer(services)
    values.set_value(services.store, "model", "starter")
    assert writer.model() == "starter"
    folder = SMALL.folder_in(services.settings.home)
    folder.mkdir(parents=True)
    write_json(folder / "config.json", {})
    assert writer.model() == "small" and services.base_model() == "starter"
    values.set_value(services.store, "model", "some/other")
    assert writer.model() == "some/other"


def test_an_accepted_text_is_a_version_of_its_own(services: Services, mara: str) -> None:
    versions.save_typed(services.store, mara, "", {"description": "Typed by hand."})  # an autosave, seconds before
    versions.save_typed(services.store, mara, "", {"description": "Short."}, "Tightened with a model: Description")
    versions.save_typed(services.store, mara, "", {"description": "Short, and more."})
    found = characters.versions(services.store, mara)
    assert [one.card["data"]["description"] for one in found] == ["Short, and more.", "Short.", "Typed by hand.", OLD]
    assert found[1].note == "Tightened with a model: Description"
