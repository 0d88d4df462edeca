"""The cast server by the real openai client, with characters on a tiny random model. What they say means nothing."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from server_samples import Running, card_of, cast_of, running, until
from tiny import add_files, make_tiny

from engine.server import answering, protocol

KEY = "a-long-random-text"
ACTIONS = {"actions": [{"name": "give_rope", "arguments": "metres: 1..20", "when": "{{char}} is asked for rope"}]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that reads long prompts."""
    return add_files(make_tiny(tmp_path_factory.mktemp("serving") / "tiny", max_position_embeddings=4096))


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that never ends a reply by itself."""
    return add_files(make_tiny(tmp_path_factory.mktemp("serving") / "endless", endless=True, max_position_embeddings=8192))


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Running]:
    ann = card_of("Ann", lore={"rope": "The rope hangs in the cellar.", "storm": "The storm took the bridge."}, npc=ACTIONS)
    with running(cast_of(model, ann, card_of("Bob"), card_of("Ann"))) as found:
        yield found


def say(server: Running, text: str = "Hello.", model: str = "ann", **options: Any) -> Any:
    """A short reply to one line, the likeliest words."""
    settings: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "seed": 1, **options}
    return server.client().chat.completions.create(model=model, messages=[{"role": "user", "content": text}], **settings)


def facts(reply: Any) -> dict[str, Any]:
    return reply.model_extra["persona"]


def refused(server: Running, status: int, **body: Any) -> dict[str, Any]:
    """The error of a body that is not answered."""
    given = {"model": "ann", "messages": [{"role": "user", "content": "Hm?"}], **body}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=given)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"].endswith((".", "?"))
    return error


def test_characters_are_the_models(server: Running) -> None:
    listed = server.client().models.list().data
    assert [one.id for one in listed] == ["ann", "bob", "ann-2"]
    one = server.client().models.retrieve("bob", extra_query={"player": "Kit"})
    assert facts(one) == {"name": "Bob", "greeting": "Good evening, Kit, says Bob.", "type": "", "actions": False, "fault": ""}
    with pytest.raises(openai.NotFoundError, match=r"There is no character 'bo'\. Did you mean bob\?"):
        server.client().models.retrieve("bo")


def test_a_streamed_reply_is_the_whole_one(server: Running) -> None:
    whole = say(server)
    said = whole.choices[0].message.content
    assert said and whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 12
    assert {"seed": 1, "type": "Q8_0", "engine": "llama.cpp", "reason": "limit"}.items() <= facts(whole).items()
    chunks = list(say(server, stream=True, stream_options={"include_usage": True}))
    text = "".join(one.choices[0].delta.content or "" for one in chunks if one.choices)
    assert facts(chunks[-2]).get("text", text.strip()) == said
    assert chunks[-2].choices[0].finish_reason == "length" and not chunks[-1].choices
    assert chunks[-1].usage.completion_tokens == 12 and {one.id for one in chunks} == {chunks[0].id}
    again = say(server)
    assert again.choices[0].message.content == said
    assert again.usage.prompt_tokens_details.cached_tokens > 0.8 * again.usage.prompt_tokens


def test_lore_comes_by_the_players_words(server: Running) -> None:
    named = lambda text: [one["name"] for one in facts(say(server, text)).get("lore", [])]
    assert (named("Where is the ROPE?"), named("Good day."), named("A storm, and a rope.")) == (["rope"], [], ["rope", "storm"])


def test_a_session_is_the_conversation_that_the_client_would_send(server: Running) -> None:
    session = {"persona": {"session": "one", "player": "Kit"}}
    first = say(server, "Who are you?", extra_body=session, user="kit").choices[0].message.content
    second = say(server, "And I?", extra_body=session, user="kit")
    whole = server.client().chat.completions.create(
        model="ann", max_tokens=12, temperature=0, seed=1, extra_body={"persona": {"player": "Kit"}}, messages=[
            {"role": "assistant", "content": "Good evening, {{user}}, says Ann."}, {"role": "user", "content": "Who are you?"},
            {"role": "assistant", "content": first}, {"role": "user", "content": "And I?"}])
    assert second.choices[0].message.content == whole.choices[0].message.content
    assert second.usage.prompt_tokens == whole.usage.prompt_tokens and facts(second)["session"] == "one"
    for other in ({"user": "eve"}, {"user": "kit", "model": "ann-2"}):
        assert say(server, "And I?", extra_body=session, **other).usage.prompt_tokens < whole.usage.prompt_tokens
    where = f"{server.url}/v1/sessions/one"
    assert httpx.delete(where, params={"model": "ann", "user": "kit"}).json()["deleted"] is True
    assert httpx.delete(where, params={"model": "ann", "user": "kit"}).json()["deleted"] is False
    assert say(server, "And I?", extra_body=session, user="kit").usage.prompt_tokens < whole.usage.prompt_tokens


def test_one_answer_at_a_time_in_a_session(server: Running) -> None:
    key = ("", "bob", "busy")
    server.service.busy.claim(key)
    error = refused(server, 409, model="bob", persona={"session": "busy"})
    assert error["code"] == "session_busy"
    server.service.busy.release(key)
    assert say(server, model="bob", extra_body={"persona": {"session": "busy"}}).choices


def test_the_next_thing_can_be_said_as_soon_as_the_end_is_seen(server: Running) -> None:
    body = {"model": "bob", "messages": [{"role": "user", "content": "Who are you?"}], "stream": True, "max_tokens": 4,
            "persona": {"session": "quick"}}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) as answer:
        for line in answer.iter_lines():
            if '"finish_reason": "' in line:
                server.service.busy.claim(("", "bob", "quick"))  # raises where the session is still taken
                break
    time.sleep(0.2)  # the first reply has ended in every way, and did not free the session for a third
    assert refused(server, 409, model="bob", persona={"session": "quick"})["code"] == "session_busy"
    server.service.busy.release(("", "bob", "quick"))


def test_a_reply_in_the_form_of_a_schema(server: Running) -> None:
    coins = {"type": "integer", "minimum": 1, "maximum": 9}
    schema = {"type": "object", "properties": {"open": {"type": "boolean"}, "coins": coins}, "required": ["open", "coins"],
              "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "door", "schema": schema, "strict": True}}
    reply = server.client().chat.completions.create(
        model="ann", messages=[{"role": "user", "content": "Open?"}], response_format=form, temperature=2, seed=5)  # type: ignore[call-overload]
    value = json.loads(reply.choices[0].message.content)
    assert set(value) == {"open", "coins"} and 1 <= value["coins"] <= 9 and reply.choices[0].finish_reason == "stop"


def test_a_characters_own_actions(server: Running) -> None:
    reply = server.client().chat.completions.create(
        model="ann", messages=[{"role": "user", "content": "Rope?"}], seed=5, max_tokens=2_000,  # of one byte each
        extra_body={"persona": {"actions": True, "session": "rope"}})
    value = json.loads(reply.choices[0].message.content or "")
    assert set(value) == {"say", "action", "mood"}
    assert server.service.sessions.turns(("", "ann", "rope"))[-1] == ("assistant", value["say"].strip())  # it goes on in words
    assert value["action"] is None or 1 <= value["action"]["arguments"]["metres"] <= 20
    assert server.service.sessions.turns(("", "ann", "rope")) == (("user", "Rope?"), ("assistant", value["say"]))
    assert refused(server, 400, model="bob", response_format={"type": "actions"})["code"] == "no_actions"


def test_what_is_not_supported_is_refused_or_named(server: Running) -> None:
    reply = say(server, presence_penalty=0.5, frequency_penalty=0, metadata={"a": "b"})
    assert facts(reply)["ignored"] == ["metadata", "presence_penalty"]
    for body, param in (({"n": 2}, "n"), ({"tools": [{"type": "function"}]}, "tools"), ({"logprobs": True}, "logprobs"),
                        ({"temperature": 9}, "temperature"), ({"max_tokens": 0}, "max_tokens"), ({"seed": 2**60}, "seed"),
                        ({"messages": []}, "messages"), ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
                        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
                        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
                        ({"messages": [{"role": "user", "content": " "}]}, "messages"), ({"stop": [""]}, "stop"),
                        ({"persona": {"plaier": "Kit"}}, "persona.plaier"), ({"persona": {"remember": True}}, "persona.remember"),
                        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema")):
        assert refused(server, 400, **body)["param"] == param


def test_a_text_can_end_the_reply(server: Running) -> None:
    said = say(server, max_tokens=40).choices[0].message.content
    stop = said[len(said) // 2:][:3]
    for stream in (False, True):
        reply = say(server, max_tokens=40, stop=stop, stream=stream)
        chunks = list(reply) if stream else []
        text = "".join(one.choices[0].delta.content or "" for one in chunks) if stream else reply.choices[0].message.content
        assert text.strip() == said[:said.index(stop)].strip()
        assert facts(chunks[-1] if stream else reply)["reason"] == "stop_text"


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', b'{"model": NaN}', b"\xff\xfe", b"[" * 100_000, b""], ids=repr)
def test_a_body_that_is_no_request(server: Running, body: bytes) -> None:
    answer = httpx.post(f"{server.url}/v1/chat/completions", content=body)
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_json"


def test_half_a_character_is_answered(server: Running) -> None:
    body = b'{"model": "bob", "max_tokens": 4, "messages": [{"role": "user", "content": "Hm \\ud83d"}], "user": "\\udc00"}'
    answer = httpx.post(f"{server.url}/v1/chat/completions", content=body)
    assert answer.status_code == 200, answer.text


def test_a_body_that_is_too_large_is_refused_as_soon_as_it_is(server: Running) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1_000):
            sent += 100_000
            yield b" " * 100_000

    for content in (b" " * 10_000_000, endless()):
        try:
            answer = httpx.post(f"{server.url}/v1/chat/completions", content=content)
        except (httpx.WriteError, httpx.ReadError):  # the server closed while more was being sent
            continue
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
    assert sent < 50_000_000
    assert say(server).choices


def test_ten_thousand_turns_are_cut_to_what_is_read(server: Running) -> None:
    turns = [{"role": ("user", "assistant")[number % 2], "content": f"Line {number}."} for number in range(10_001)]
    reply = server.client().chat.completions.create(model="ann", messages=turns, max_tokens=8)  # type: ignore[arg-type]
    assert facts(reply)["dropped_turns"] > 9_000 and reply.usage and reply.usage.prompt_tokens <= 4096


def test_a_schema_that_no_grammar_can_hold_or_that_explodes(server: Running) -> None:
    deep: dict[str, Any] = {"type": "string"}
    for _ in range(60):
        deep = {"type": "array", "items": deep, "minItems": 50}
    for schema in (deep, {"type": "string", "pattern": "(?=a)b"}, {"$ref": "https://example.org/x"}, {"type": "cheese"}):
        error = refused(server, 400, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
        assert error["code"] == "invalid_schema"
    assert say(server).choices


def test_what_is_too_long_for_the_model(server: Running) -> None:
    error = refused(server, 400, messages=[{"role": "user", "content": "word " * 20_000}])
    assert error["code"] == "cannot_answer" and "too long" in error["message"]


def test_pages_and_other_names_are_refused(server: Running, model: Path) -> None:
    get = lambda where, **headers: httpx.get(f"{where.url}/v1/models", headers=headers).status_code
    assert get(server, Host="evil.example") == get(server, Origin="https://evil.example") == get(server, Origin="null") == 403
    assert get(server, Host=f"localhost:{server.port}") == get(server, Host=f"[::1]:{server.port}") == 200
    with running(cast_of(model, card_of("Ann")), origins=("https://game.example",)) as other:
        assert get(other, Origin="https://game.example") == 200 and get(other, Origin="https://evil.example") == 403
        answer = httpx.options(f"{other.url}/v1/chat/completions", headers={
            "Origin": "https://game.example", "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization"})
        assert answer.headers["access-control-allow-origin"] == "https://game.example"


def test_a_key_is_needed_where_there_is_one(model: Path) -> None:
    with running(cast_of(model, card_of("Ann")), key=KEY) as server:
        assert server.client(KEY).models.list().data
        for key in ("wrong", KEY + "x", KEY[:-1], "ü"):
            answer = httpx.get(f"{server.url}/v1/models", headers={"Authorization": f"Bearer {key}".encode()})
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        with pytest.raises(openai.AuthenticationError):
            server.client("wrong").models.list()
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}


def test_too_many_requests(model: Path) -> None:
    with running(cast_of(model, card_of("Ann")), rate=3) as server:
        answers = [httpx.get(f"{server.url}/v1/models") for _ in range(4)]
        assert [one.status_code for one in answers] == [200, 200, 200, 429]
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 21
        assert httpx.get(f"{server.url}/health").status_code == 200


def test_the_line_is_full_or_too_slow(model: Path) -> None:
    with running(cast_of(model, card_of("Ann")), parallel=1, waiting=1, patience=1.0) as server:
        server.service.line.taken = 1  # someone is answered, for long
        late: list[Exception] = []

        def wait() -> None:
            try:
                say(server)
            except openai.APIStatusError as error:
                late.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        until(lambda: server.service.line.waiting == 1)
        with pytest.raises(openai.RateLimitError, match="waiting already") as full:
            say(server)
        assert int(full.value.response.headers["retry-after"]) > 0
        thread.join(20)
        assert isinstance(late[0], openai.InternalServerError) and late[0].status_code == 503 and "No place" in str(late[0])
        server.service.line.taken = 0
        assert say(server).choices and server.service.line.taken == 0


@pytest.mark.parametrize("stream", [True, False])
def test_who_breaks_off_frees_the_place_and_said_nothing(endless: Path, stream: bool) -> None:
    with running(cast_of(endless, card_of("Ann")), parallel=1) as server:
        body = {"model": "ann", "messages": [{"role": "user", "content": "Hm?"}], "max_tokens": 4_000, "stream": stream,
                "temperature": 1.5, "repeat_penalty": 1.5, "persona": {"session": "s"}}
        with httpx.Client() as client, client.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) if stream \
                else pytest.raises(httpx.ReadTimeout) as answer:
            if stream:
                next(answer.iter_bytes())
            else:
                client.post(f"{server.url}/v1/chat/completions", json=body, timeout=httpx.Timeout(20, read=0.1))
        until(lambda: server.service.line.taken == 0)
        assert server.service.metrics.broken_off.values == {(): 1}
        assert say(server, extra_body={"persona": {"session": "s"}}).usage.prompt_tokens == say(server).usage.prompt_tokens


def test_a_closing_server_says_so_in_the_stream(endless: Path) -> None:
    with running(cast_of(endless, card_of("Ann"))) as server:
        stream = say(server, max_tokens=4_000, stream=True, temperature=1.5, extra_body={"repeat_penalty": 1.5})
        next(stream)
        server.service.closed.set()
        with pytest.raises(openai.APIError, match="The server is closing"):
            list(stream)
        assert httpx.get(f"{server.url}/health").status_code == 503


def test_what_is_counted_and_logged_has_no_texts(server: Running, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        say(server, "A secret word: xylophone.", user="player-seven")
        lines = lambda: [one.getMessage() for one in caplog.records if one.name == "persona.server"]
        wanted = ("POST /v1/chat/completions 200", "model=ann", "reason=limit")
        until(lambda: any(all(word in line for word in wanted) for line in lines()))  # written when the client has its answer
    assert "xylophone" not in caplog.text and "player-seven" not in caplog.text
    text = httpx.get(f"{server.url}/metrics").text
    assert 'persona_requests_total{route="/v1/chat/completions",status="200"}' in text and "persona_models_loaded 1" in text
    assert 'persona_reply_seconds_bucket{le="+Inf"}' in text


def test_errors_of_routes_have_the_same_form(server: Running) -> None:
    assert httpx.get(f"{server.url}/v1/nothing").json()["error"]["code"] == "unknown_route"
    assert httpx.get(f"{server.url}/v1/chat/completions").json()["error"]["code"] == "method_not_allowed"


def test_a_host_that_is_none(model: Path) -> None:
    with running(cast_of(model, card_of("Ann")), host="0.0.0.0", key=KEY) as server:
        answer = httpx.get(f"{server.url}/v1/nothing", headers={"Authorization": f"Bearer {KEY}", "Host": "[::1"})
        assert answer.json()["error"]["code"] == "unknown_route"


def test_the_description_of_all_routes_is_whole(server: Running) -> None:
    described = httpx.get(f"{server.url}/openapi.json").json()
    assert "persona" in json.dumps(described["paths"]["/v1/chat/completions"]["post"]["requestBody"])
    for reference in re.findall(r'"\$ref": "#/(.*?)"', json.dumps(described)):
        part = described
        for step in reference.split("/"):
            part = part[step]
        assert part


def test_who_stops_reading_does_not_keep_the_place(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "_TAKING", 0.5)
    schema = {"type": "string", "minLength": 2000, "maxLength": 2100}  # in pieces, more than the buffers between the two hold
    body = json.dumps({"model": "ann", "messages": [{"role": "user", "content": "Hm?"}], "stream": True, "response_format": {
        "type": "json_schema", "json_schema": {"name": "long", "schema": schema}}}).encode()
    with running(cast_of(model, card_of("Ann")), parallel=1) as server, socket.socket() as client:
        server.server.servers[0].sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        until(lambda: server.service.metrics.broken_off.values == {(): 1}, 60)
        assert say(server).choices


def test_headers_without_end_are_not_read(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client, pytest.raises(OSError):
        client.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX: ")
        for _ in range(1_000):
            client.sendall(b"a" * 100_000)
    assert say(server).choices


@pytest.mark.parametrize("start", [b"", b"GET /v1/mod"], ids=repr)
def test_a_connection_without_a_request_is_closed(server: Running, monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    monkeypatch.setattr(protocol, "HEADERS_SECONDS", 0.3)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(start)
        assert client.recv(1) == b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:  # the same for its second request
        client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert client.recv(1_000).startswith(b"HTTP/1.1 200")
        client.sendall(b"GET /v1/mod")
        while client.recv(1_000):
            pass
    with httpx.Client() as client:  # a connection that has asked may rest, and its requests have all their time
        assert client.get(f"{server.url}/v1/models").status_code == 200
        time.sleep(0.5)
        body = {"model": "ann", "max_tokens": 4, "messages": [{"role": "user", "content": "Hm?"}]}
        assert client.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).status_code == 200
