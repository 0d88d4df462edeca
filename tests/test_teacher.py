"""The teacher: retries, resuming, the key, and every way in which a server goes wrong."""

import json
import logging
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from teacher_server import TeacherServer, teacher_server

from engine.base.errors import UserError
from engine.base.events import Event, Step
from engine.calibration import server_teacher
from engine.calibration.server_teacher import Request, ServerTeacher, rewrite, rewriting_messages

KEY = "sk-very-secret-0123456789"
SOON = 20.0  # seconds; what it must not wait for lasts 30 and more
PERSONA = "Bodo is a kind troll under a bridge."


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("PERSONA_STUDIO_TEACHER_KEY", raising=False)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_teacher, "_FIRST_PAUSE", 0.05)


def some_requests(count: int) -> list[Request]:
    return [Request(f"k{number}", f"question {number}?", f"plain answer {number}") for number in range(count)]


def run(server: TeacherServer | str, count: int, answered: Path, **settings: Any) -> tuple[list[Step], dict[str, str]]:
    """All events, and the generator's value."""
    url = server if isinstance(server, str) else server.url
    steps: list[Step] = []

    def whole() -> Iterator[Event]:
        result.update((yield from rewrite(ServerTeacher(url, "m", **settings), PERSONA, some_requests(count), answered)))

    result: dict[str, str] = {}
    for event in whole():
        assert isinstance(event, Step)
        steps.append(event)
    return steps, result


def fails(server: TeacherServer | str, answered: Path, count: int = 8, **settings: Any) -> str:
    """The sentence of the UserError that ends the job; the key is nowhere in it, nor in its whole traceback."""
    with pytest.raises(UserError) as caught:
        run(server, count, answered, **settings)
    chain: list[str] = []
    error: BaseException | None = caught.value
    while error is not None:
        chain.append(repr(error) + repr(vars(error)) + str(getattr(error, "body", "")))
        error = error.__cause__ or error.__context__
    whole = "".join([*chain, *traceback.format_exception(caught.value)])
    assert KEY not in whole
    assert "openai" not in "".join(chain)  # its exceptions carry the request with all headers
    return str(caught.value)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Fails where something was waited for that nobody should wait for; no measure of speed."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def test_answers_come_back_by_key_and_lie_in_the_file(tmp_path: Path) -> None:
    answered = tmp_path / "new" / "answered.jsonl"
    with teacher_server(slow=0.05) as server:
        steps, answers = run(server, 12, answered, concurrency=3)
    assert answers == {f"k{number}": f"QUESTION {number}?" for number in range(12)}
    assert list(answers) == [f"k{number}" for number in range(12)]
    records = [json.loads(line) for line in answered.read_text().splitlines()]
    assert sorted(record["key"] for record in records) == sorted(answers)
    assert {record["key"]: record["answer"] for record in records} == answers
    assert [step.done for step in steps] == list(range(1, 13))
    assert {(step.stage, step.total, step.values["retries"]) for step in steps} == {("write_answers", 12, 0)}
    assert 2 <= server.most_at_once <= 3


def test_an_answer_is_on_the_disk_before_its_step(tmp_path: Path) -> None:
    answered = tmp_path / "answered.jsonl"
    with teacher_server() as server:
        for step in rewrite(ServerTeacher(server.url, "m"), PERSONA, some_requests(5), answered):
            assert isinstance(step, Step)
            assert answered.read_bytes().count(b"\n") == step.done


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/"])
def test_the_address_may_end_in_v1_or_not(tmp_path: Path, ending: str) -> None:
    with teacher_server() as server:
        run(server.url + ending, 1, tmp_path / "answered.jsonl")
    assert server.bodies[0]["path"] == "/v1/chat/completions"
    assert server.bodies[0]["max_tokens"] == 160
    assert server.bodies[0]["temperature"] == 0.8
    assert server.bodies[0]["model"] == "m"


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://host/v1", "file:///etc/passwd", "http://", "http://h:99999",
                                 "http://a b",
                                 f"http://me:{KEY}@host", f"https://host/v1?key={KEY}"])
def test_an_address_that_cannot_be_one_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(UserError) as caught:
        ServerTeacher(url, "m")
    assert KEY not in str(caught.value)


def test_the_prompt_has_persona_question_and_neutral_answer() -> None:
    system, user = rewriting_messages(PERSONA, Request("k", "Who are you?", "I am the person in charge here."))
    assert (system["role"], user["role"]) == ("system", "user")
    for part in (PERSONA, "Who are you?", "I am the person in charge here."):
        assert part in user["content"]
    direct = rewriting_messages(PERSONA, Request("k", "Who are you?"))[1]["content"]
    assert "answer the player directly" in direct
    assert "answer the player directly" not in user["content"]


def test_resuming_asks_no_key_twice(tmp_path: Path) -> None:
    answered = tmp_path / "answered.jsonl"
    with teacher_server(slow=0.02) as server:
        job = rewrite(ServerTeacher(server.url, "m", concurrency=2), PERSONA, some_requests(20), answered)
        for step in job:
            assert isinstance(step, Step)
            if step.done == 5:
                break
        job.close()
        kept = [json.loads(line)["key"] for line in answered.read_text().splitlines()]
        assert 5 <= len(kept) < 20
        time.sleep(0.2)  # those under way end, unread
        asked_before = len(server.asked)
        with answered.open("ab") as file:
            file.write(b'{"key": "k19", "answer": "torn')
        steps, answers = run(server, 20, answered, concurrency=2)
    assert len(answers) == 20
    assert steps[0].done == len(kept)
    assert steps[-1].done == 20
    asked_after = server.asked[asked_before:]
    assert sorted(asked_after) == sorted(f"question {n}?" for n in range(20) if f"k{n}" not in kept)
    records = [json.loads(line) for line in answered.read_text().splitlines()]
    assert sorted(record["key"] for record in records) == sorted(answers)


def test_what_has_arrived_is_kept_when_the_job_is_closed(tmp_path: Path) -> None:
    answered = tmp_path / "answered.jsonl"
    with teacher_server() as server:
        job = rewrite(ServerTeacher(server.url, "m"), PERSONA, some_requests(8), answered)
        next(job)
        deadline = time.monotonic() + SOON
        while len(server.answered) < 8 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        assert answered.read_bytes().count(b"\n") == 1
        job.close()
    assert answered.read_bytes().count(b"\n") == 8


def test_a_finished_job_asks_nothing(tmp_path: Path) -> None:
    answered = tmp_path / "answered.jsonl"
    with teacher_server() as server:
        run(server, 3, answered)
        before = answered.read_bytes()
        assert len(run(server, 3, answered)[1]) == 3
    assert len(server.asked) == 3
    assert answered.read_bytes() == before
    assert len(run("http://127.0.0.1:9", 3, answered)[1]) == 3  # not even a server is needed


def test_closing_is_quick_and_starts_no_new_request(tmp_path: Path) -> None:
    with teacher_server(lambda number: None if number < 2 else "hang") as server:
        job = rewrite(ServerTeacher(server.url, "m", concurrency=2), PERSONA, some_requests(50), tmp_path / "answered.jsonl")
        next(job)
        with within(SOON):
            job.close()
        time.sleep(0.3)
        asked = len(server.asked)
        assert asked <= 4
        time.sleep(0.2)
        assert len(server.asked) == asked


def test_closing_ends_a_waiting_thread(tmp_path: Path) -> None:
    with teacher_server(lambda number: "429 after 60") as server:
        job = rewrite(ServerTeacher(server.url, "m"), PERSONA, some_requests(9), tmp_path / "answered.jsonl")
        next(job)
        own = [thread for thread in threading.enumerate() if thread.name == "teacher"]
        assert own
        job.close()
        for thread in own:
            thread.join(SOON)  # the server asks for 60 seconds
            assert not thread.is_alive()


@pytest.mark.parametrize("fault", ["500", "503", "429", "408", "drop", "html", "no choices"])
def test_faults_that_pass_are_waited_out(tmp_path: Path, fault: str) -> None:
    with teacher_server(lambda number: fault if number in (1, 3) else None) as server:
        steps, answers = run(server, 6, tmp_path / "answered.jsonl", concurrency=1)
    assert len(answers) == 6
    assert all(answers.values())
    assert len(server.asked) == 8
    assert steps[-1].values == {"retries": 2}


def test_too_many_requests_for_the_first_second(tmp_path: Path) -> None:
    with teacher_server(lambda number: "429" if time.monotonic() < server.times[0] + 1 else None) as server:
        steps, answers = run(server, 8, tmp_path / "answered.jsonl")
    assert len(answers) == 8
    assert steps[-1].values["retries"] >= 1
    assert len(server.asked) < 50  # it backs off instead of hammering


def test_retry_after_is_honoured_by_all_requests(tmp_path: Path) -> None:
    # The second request is under way when the first is turned away; it must wait as well.
    under_way, turned_away = threading.Event(), threading.Event()

    def script(number: int) -> str | None:
        if number == 0:
            assert under_way.wait(SOON)
            server.times[0] = time.monotonic()  # the pause begins when it is turned away
            turned_away.set()
            return "429 after 1"
        if number == 1:
            under_way.set()
            assert turned_away.wait(SOON)
            time.sleep(0.3)  # the refusal is there first
        return None

    with teacher_server(script) as server:
        run(server, 4, tmp_path / "answered.jsonl", concurrency=2)
    assert len(server.asked) == 5
    assert server.times[2] - server.times[0] >= 0.99


def test_a_retry_after_beyond_the_patience_ends_the_job_at_once(tmp_path: Path) -> None:
    with teacher_server(lambda number: "429 after 3600" if number > 2 else None) as server, within(SOON):
        sentence = fails(server, tmp_path / "answered.jsonl", concurrency=1)
    assert "3600 seconds" in sentence
    assert "--resume" in sentence
    assert (tmp_path / "answered.jsonl").read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("fault", ["500", "429"])
def test_the_patience_ends_and_what_was_answered_is_kept(tmp_path: Path, fault: str) -> None:
    with teacher_server(lambda number: fault if number > 3 else None) as server, within(SOON):
        sentence = fails(server, tmp_path / "answered.jsonl", concurrency=2, patience=0.8)
    assert "--resume" in sentence
    assert "kept" in sentence
    assert (tmp_path / "answered.jsonl").read_bytes().count(b"\n") == 4


def test_requests_that_hang_time_out(tmp_path: Path) -> None:
    with teacher_server(lambda number: "hang" if number == 0 else None) as server, within(SOON):
        _, answers = run(server, 2, tmp_path / "answered.jsonl", timeout=0.4, concurrency=1)
        assert len(answers) == 2
    with teacher_server(lambda number: "hang") as server, within(SOON):
        assert "--resume" in fails(server, tmp_path / "none.jsonl", timeout=0.3, patience=0.5)


def test_nobody_there_is_said_within_seconds(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with within(SOON):
        sentence = fails(f"http://127.0.0.1:{port}", tmp_path / "answered.jsonl")
    assert "cannot be reached" in sentence
    assert str(port) in sentence


def test_a_server_that_drops_every_connection_is_not_waited_for(tmp_path: Path) -> None:
    with teacher_server(lambda number: "drop") as server, within(SOON):
        assert "cannot be reached" in fails(server, tmp_path / "answered.jsonl")


def test_a_server_that_vanishes_later_is_waited_for(tmp_path: Path) -> None:
    with teacher_server(lambda number: "drop" if 2 <= number < 7 else None) as server:
        assert len(run(server, 4, tmp_path / "answered.jsonl", concurrency=1, patience=20)[1]) == 4


@pytest.mark.parametrize(("fault", "said"), [("401", "refuses the API key"), ("403", "refuses the API key"),
                                             ("404", "no model named m"), ("400", "status 400"), ("no quota", "quota")])
def test_what_no_retry_can_mend_ends_the_job_at_once(tmp_path: Path, fault: str, said: str) -> None:
    with teacher_server(lambda number: fault) as server, within(SOON):
        assert said in fails(server, tmp_path / "answered.jsonl", concurrency=2)
    assert len(server.asked) <= 2


@pytest.mark.parametrize("fault", ["html", "broken json", "no choices", "list"])
def test_nonsense_ends_the_job_after_three_replies(tmp_path: Path, fault: str) -> None:
    with teacher_server(lambda number: fault) as server, within(SOON):
        assert "does not answer like" in fails(server, tmp_path / "answered.jsonl", concurrency=1)
    assert len(server.asked) == 3


def test_one_rejected_line_counts_as_empty_and_three_in_a_row_end_the_job(tmp_path: Path) -> None:
    with teacher_server(lambda number: "400" if number == 2 else None) as server:
        _, answers = run(server, 5, tmp_path / "one.jsonl", concurrency=1)
    assert [key for key, answer in answers.items() if not answer] == ["k2"]
    with teacher_server(lambda number: "400" if number >= 2 else None) as server:
        assert "status 400" in fails(server, tmp_path / "all.jsonl", concurrency=1)


def test_an_answer_in_between_makes_up_for_failures(tmp_path: Path) -> None:
    with teacher_server(lambda number: "400" if number % 2 else None) as server:
        assert len(run(server, 9, tmp_path / "rejected.jsonl", concurrency=1)[1]) == 9
    with teacher_server(lambda number: "500" if number % 2 else None, slow=0.05) as server:
        assert all(run(server, 7, tmp_path / "failing.jsonl", concurrency=1, patience=0.4)[1].values())


@pytest.mark.parametrize(("content", "answer"), [
    (None, ""), ("", ""), ("  Bodo not know. \n", "Bodo not know."),
    ("<think>The player asks. I must be short.</think>\n\nBodo not know.", "Bodo not know."),
    ("The player asks.</think>Bodo not know.", "Bodo not know."),
    ("<think>I never come to an end", ""),
    ("Zug\ud800e \u2028 \u00fcber", "Zug?e \u2028 \u00fcber"),
    (f"Your key is {KEY}.", "Your key is ***."),
])
def test_contents_are_cleaned(tmp_path: Path, content: str | None, answer: str) -> None:
    with teacher_server(reply=lambda question: content) as server:
        assert run(server, 1, tmp_path / "answered.jsonl")[1] == {"k0": answer}
        assert run(server, 1, tmp_path / "answered.jsonl")[1] == {"k0": answer}  # read back
    assert len(server.asked) == 1


def test_the_key_is_sent_and_never_written_or_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.DEBUG)
    with teacher_server(lambda number: "500" if number == 1 else None) as server:
        steps, _ = run(server, 4, tmp_path / "answered.jsonl")
    assert server.keys == {KEY}
    assert caplog.records  # the client does log at this level
    assert KEY not in caplog.text + repr(steps) + (tmp_path / "answered.jsonl").read_text()
    monkeypatch.setenv("PERSONA_STUDIO_TEACHER_KEY", " first-key-counts\n")
    with teacher_server() as server:
        run(server, 1, tmp_path / "first.jsonl")
    assert server.keys == {"first-key-counts"}
    monkeypatch.delenv("PERSONA_STUDIO_TEACHER_KEY")
    monkeypatch.delenv("OPENAI_API_KEY")
    with teacher_server() as server:
        run(server, 1, tmp_path / "none.jsonl")
    assert server.keys == {"none"}


@pytest.mark.parametrize("bad", ["sk two words", "sk-\u00fcber-geheim", "sk-line\nbreak"])
def test_a_key_that_no_header_can_carry_is_refused_unseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                          bad: str) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", bad)
    with pytest.raises(UserError) as caught:
        run("http://127.0.0.1:9", 1, tmp_path / "answered.jsonl")
    assert bad not in "".join(traceback.format_exception(caught.value))


@pytest.mark.slow
def test_a_real_server_rewrites_four_lines(tmp_path: Path, starter_gguf: Path) -> None:
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.n_ctx, settings.n_parallel = str(starter_gguf), 2048, 1
    settings.port, settings.warmup, settings.verbosity = 0, False, 0
    # One thread: llama.cpp's threads spin while they wait for each other, which on shared cores takes minutes.
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(settings)
    steps, answers = run(server.listening_address, 4, tmp_path / "answered.jsonl", concurrency=2, answer_tokens=24)
    assert sorted(answers) == ["k0", "k1", "k2", "k3"]
    assert all(len(answer) > 3 for answer in answers.values())
    assert steps[-1].done == 4
