"""Memory of players in the cast server, by its API. What a tiny random model says means nothing; its prompts do."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from server_samples import Running, card_of, cast_of, running, until
from tiny import add_files, make_tiny

from engine.server import speakers


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_files(make_tiny(tmp_path_factory.mktemp("serving") / "tiny", max_position_embeddings=4096))


@pytest.fixture
def server(model: Path) -> Iterator[Running]:
    with running(cast_of(model, card_of("Ann"), card_of("Bob")), memory=True) as found:
        yield found


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The last message of each prompt that the engine is asked with."""
    seen: list[str] = []
    real = speakers.answer

    def answer(request: Any, voice: Any) -> Any:
        seen.append(request.fitted().messages[-1]["content"])
        return real(request, voice)

    monkeypatch.setattr(speakers, "answer", answer)
    return seen


def say(server: Running, text: str, user: str = "kit", session: str = "one", model: str = "ann", **persona: Any) -> Any:
    body = {"session": session, "player": "Kit", **persona}
    return server.client().chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}], max_tokens=8, seed=1, **({"user": user} if user else {}),
        extra_body={"persona": body})


def memory_of(reply: Any) -> Any:
    return reply.model_extra["persona"].get("memory")


def end(server: Running, session: str, user: str = "kit", model: str = "ann") -> httpx.Response:
    return httpx.post(f"{server.url}/v1/sessions/{session}/end", params={"model": model, "user": user})


def facts_of(server: Running, player: str = "kit", **where: str) -> list[str]:
    return [one["text"] for one in httpx.get(f"{server.url}/v1/players/{player}/memory", params=where).json()["facts"]]


def test_what_was_said_in_session_one_is_in_the_prompt_of_session_three(server: Running, model: Path, prompts: list[str]) -> None:
    say(server, "My name is Kit. I have a dog called Bruno.")
    said = end(server, "one").json()
    assert [fact["text"] for fact in said["facts"]] == ["The player's name is Kit.", "The player has a dog called Bruno."]
    assert said["facts"][0]["turn"] == 1 and said["facts"][0]["said"] == "My name is Kit."
    say(server, "Fine weather.", session="two")
    with running(cast_of(model, card_of("Ann"), card_of("Bob")), memory=True) as again:  # another process, the same file
        reply = say(again, "How is my dog?", session="three")
        used = memory_of(reply)
        assert [fact["text"] for fact in used["facts"]] == ["The player's name is Kit.", "The player has a dog called Bruno."]
        assert used["facts"][0]["id"] == said["facts"][0]["id"] and 0 < used["tokens"] <= 160
        assert "[Ann remembers from earlier conversations with Kit:" in prompts[-1] and prompts[-1].endswith("How is my dog?")
        assert "Bruno" in prompts[-1]
        for other in ({"user": "tom"}, {"model": "bob"}):
            assert memory_of(say(again, "How is the dog?", session="three", **other))["facts"] == []
            assert "Bruno" not in prompts[-1]


def test_a_conversation_goes_on_after_the_server_was_killed(server: Running, model: Path) -> None:
    before = say(server, "Hello.").choices[0].message.content
    with running(cast_of(model, card_of("Ann")), memory=True) as again:
        assert say(again, "Again.").usage.prompt_tokens > say(again, "Again.", session="new").usage.prompt_tokens
        kept = again.service.sessions.turns(("kit", "ann", "one"))
        assert kept[:2] == (("user", "Hello."), ("assistant", (before or "").strip()))
        assert end(again, "one").status_code == 200
        say(again, "Once more.")
        assert len(again.service.sessions.turns(("kit", "ann", "one"))) == 2  # it ended, and begins anew


def test_memory_is_asked_for(server: Running, model: Path) -> None:
    assert memory_of(say(server, "My name is Kit.", remember=False)) is None
    assert memory_of(say(server, "My name is Kit.", user="")) is None
    assert httpx.get(f"{server.url}/v1/players").json()["data"] == []
    with pytest.raises(openai.BadRequestError, match="the field user"):
        say(server, "Hm.", user="", remember=True)
    with pytest.raises(openai.BadRequestError, match="id of a player"):
        say(server, "Hm.", user="a/b")
    with running(cast_of(model, card_of("Ann"))) as without:
        assert memory_of(say(without, "My name is Kit.")) is None
        for answer in (httpx.get(f"{without.url}/v1/players"), end(without, "one")):
            assert answer.status_code == 400 and answer.json()["error"]["code"] == "no_memory"


def test_see_correct_delete_and_forget(server: Running) -> None:
    say(server, "I like apples. My name is Kit. I am a blacksmith.")
    end(server, "one")
    url = f"{server.url}/v1/players/kit/memory"
    players = httpx.get(f"{server.url}/v1/players", params={"model": "ann"}).json()["data"]
    assert [(one["id"], one["name"], one["facts"]) for one in players] == [("kit", "Kit", 3)]
    found = httpx.get(url).json()
    apples, name, smith = found["facts"]
    assert found["summaries"][0]["text"].startswith("The last time, the player said:") and apples["active"]
    changed = httpx.patch(f"{url}/{apples['id']}", json={"text": "The player likes pears."}).json()
    assert (changed["text"], changed["edited_by"]) == ("The player likes pears.", "person")
    assert httpx.delete(f"{url}/{smith['id']}").json()["deleted"]
    assert facts_of(server) == ["The player likes pears.", "The player's name is Kit."]
    put = httpx.put(f"{server.url}/v1/players/kit/summary", params={"model": "ann"}, json={"text": "Kit bought pears."})
    assert put.status_code == 200 and httpx.get(url).json()["summaries"][0]["text"] == "Kit bought pears."
    assert facts_of(server, model="bob") == [] and facts_of(server, "tom") == []
    gone = httpx.delete(url, params={"model": "bob"}).json()
    assert gone["facts"] == 0 and len(facts_of(server)) == 2
    assert httpx.delete(url).json()["facts"] == 2 and facts_of(server) == []
    assert memory_of(say(server, "Do you know me?", session="two"))["facts"] == []
    assert name["id"] not in [one["id"] for one in httpx.get(url, params={"former": "true"}).json()["facts"]]


def test_a_forgotten_conversation_does_not_come_back(server: Running) -> None:
    say(server, "I hid the zirconium.")
    assert httpx.delete(f"{server.url}/v1/sessions/one", params={"model": "ann", "user": "kit"}).json()["deleted"]
    assert server.service.sessions.turns(("kit", "ann", "one")) == ()
    say(server, "I hid the zirconium.", session="two")
    httpx.delete(f"{server.url}/v1/players/kit/memory")
    assert len(server.service.sessions) == 0
    file = server.service.remembering.memory.path
    assert b"zirconium" not in b"".join(one.read_bytes() for one in file.parent.glob("players.db*"))


def test_a_memory_that_cannot_be_read_costs_no_reply(server: Running) -> None:
    store = server.service.remembering.memory
    say(server, "Hello.")
    store.path.unlink()
    store.path.mkdir()
    reply = say(server, "Hello again.")
    assert reply.choices[0].finish_reason and "cannot be opened" in memory_of(reply)["fault"]
    answer = httpx.get(f"{server.url}/v1/players")
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "memory_unavailable"
    store.path.rmdir()
    until(lambda: "fault" not in memory_of(say(server, "Once more.")))


@pytest.mark.parametrize(("method", "path", "body", "status"), [
    ("GET", "/v1/players?model=zed", None, 404), ("PATCH", "/v1/players/kit/memory/1", {"text": "x"}, 404),
    ("PATCH", "/v1/players/kit/memory/1", {"text": "x" * 5000}, 400), ("PATCH", "/v1/players/kit/memory/1", {"word": "x"}, 400),
    ("PATCH", "/v1/players/kit/memory/1", {"text": "x" * 20_000}, 413), ("DELETE", "/v1/players/kit/memory/one", None, 400),
    ("DELETE", "/v1/players/kit/memory/99999999999999999999", None, 400), ("DELETE", "/v1/players/kit/memory/7", None, 404),
    ("POST", "/v1/sessions/none/end?model=ann&user=kit", None, 404), ("POST", "/v1/sessions/none/end", None, 400),
    ("PUT", "/v1/players/kit/summary?model=ann", {"text": "x"}, 404)])
def test_bad_requests(server: Running, method: str, path: str, body: Any, status: int) -> None:
    answer = httpx.request(method, f"{server.url}{path}", json=body)
    assert answer.status_code == status, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_a_session_is_not_forgotten_while_it_is_answered(server: Running) -> None:
    key, where = ("kit", "ann", "one"), f"{server.url}/v1/sessions/one"
    server.service.busy.claim(key)
    assert httpx.delete(where, params={"model": "ann", "user": "kit"}).json()["error"]["code"] == "session_busy"
    server.service.busy.release(key)
    say(server, "Hm?")
    typo = httpx.put(f"{server.url}/v1/players/kit/summary", params={"model": "an"}, json={"text": "A courier."})
    assert typo.status_code == 404 and typo.json()["error"]["code"] == "model_not_found"
    assert httpx.delete(where, params={"model": "ann", "user": "kit"}).json()["deleted"] is True


def test_ids_that_no_address_can_name_are_refused_at_once(server: Running) -> None:
    for id in ("..", ".", "a/b", "a\0b", " "):
        with pytest.raises(openai.BadRequestError, match="The id of a session must be") as error:
            say(server, "Hm?", session=id)
        assert error.value.param == "persona.session"
    for id in ("..", "a/b"):
        with pytest.raises(openai.BadRequestError, match="The id of a player must be"):
            say(server, "Hm?", user=id)
    assert say(server, "Hm?", user="...", session="v1.2").choices
