"""The chat worker's handle, against a worker that speaks the same protocol and says what it is told."""

import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from engine.base.errors import UserError
from studio.settings import Settings
from studio.workers import speech as speech_module
from studio.workers.speech import CLOSED, DIED, KILLED, Reply, Speech

# Says the last turn word by word; "slow" words come at 20 a second until it is told to stop.
WORKER = '''
import json, os, queue, sys, threading, time
said = queue.Queue()
def read():
    for line in sys.stdin:
        said.put(json.loads(line))
    said.put(None)
threading.Thread(target=read, daemon=True).start()
def say(request, **event):
    print(json.dumps({"id": request["id"], **event}), flush=True)
stopped = set()
print("a library greets the world", flush=True)
while (request := said.get()) is not None:
    if request["do"] == "models":
        say(request, event="Models", models=[{"name": "starter", "pid": os.getpid()}])
    elif request["do"] == "prompt":
        if request["model"] == "none":
            say(request, event="Failed", sentence="There is no model none.")
        else:
            say(request, event="Prompt", text="system: é", tokens=7)
    elif request["do"] == "speak":
        word = request["turns"][-1][1]
        if word == "die":
            os._exit(3)
        say(request, event="Loading", model=request["model"])
        say(request, event="Loaded", model=request["model"], seconds=0.1, bytes=5)
        text, reason = "", "ended"
        for number in range(1, 4 if word != "slow" else 10_000):
            try:
                while word == "slow":
                    other = said.get_nowait()
                    if other is None:
                        sys.exit(0)
                    stopped.add(other["id"])
            except queue.Empty:
                pass
            if request["id"] in stopped:
                reason = "stopped"
                break
            text += word + " "
            say(request, event="Said", text=word + " ", tokens=number, seconds=0.1 * number, first_token=0.1)
            time.sleep(0.05)
        say(request, event="Ended", reason=reason, text=text.strip(), tokens=number, seconds=0.3, seed=4)
'''
CARD = {"name": "Zoë"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "worker.py").write_text(WORKER)
    home = tmp_path / "home"
    home.mkdir()
    return Settings(home, command=(sys.executable, str(tmp_path / "worker.py")))


@pytest.fixture
def speech(settings: Settings) -> Iterator[Speech]:
    speech = Speech(settings)
    yield speech
    speech.close()


def ask(speech: Speech, word: str, **more: Any) -> Reply:
    return speech.ask("starter", CARD, [("user", word)], {"seed": 4}, "Player", **more)


def pid_of(speech: Speech) -> int:
    return int(speech.models(refresh=True)[0]["pid"])


def eventually(true: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_an_answer_comes_piece_by_piece_and_ends_with_its_measures(speech: Speech) -> None:
    reply = ask(speech, "Grüße")
    seen = []
    eventually(lambda: bool(seen.append(reply.text) or reply.done))
    assert reply.text == "Grüße Grüße Grüße" and reply.reason == "ended" and reply.sentence == ""
    assert any(0 < len(text) < len(reply.text) for text in seen)
    assert reply.measures == {"tokens": 3, "seconds": 0.3, "seed": 4}
    assert [event["event"] for event in reply.events] == ["Loading", "Loaded", "Ended"]


def test_first_words_are_shown_at_once_what_follows_at_a_pace_and_the_end_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(speech_module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    told: list[tuple[float, bool]] = []
    reply = Reply({"do": "speak", "id": "1"}, on_news=lambda: told.append((clock[0], reply.done)))
    for number in range(20):
        reply.take({"event": "Said", "text": "!", "tokens": number + 1})
        clock[0] += 0.05
    reply.take({"event": "Ended", "reason": "ended"})
    assert told[0] == (100.0, False) and told[-1] == (clock[0], True)
    waits = [second[0] - first[0] for first, second in itertools.pairwise(told[:-1])]
    assert len(waits) >= 3 and min(waits) >= speech_module.PACE - 1e-9


def test_the_room_of_an_answer_hears_of_it(settings: Settings) -> None:
    touched: list[str] = []
    speech = Speech(settings, touched.append)
    assert ask(speech, "salt", key="preview:1").wait(10) and ask(speech, "salt").wait(10)
    eventually(lambda: len(touched) > 3)
    assert set(touched) == {"preview"}
    speech.close()


def test_on_end_is_called_once_although_nobody_reads(speech: Speech) -> None:
    kept: list[tuple[str, bool]] = []
    ask(speech, "salt", on_end=lambda reply: kept.append((reply.text, reply.done)))
    eventually(lambda: bool(kept))
    time.sleep(0.1)
    assert kept == [("salt salt salt", False)]  # a page that sees `done` finds the answer in the library


def test_nothing_follows_the_last_event() -> None:
    kept: list[str] = []
    reply = Reply({"do": "speak", "id": "1"}, on_end=lambda one: kept.append(one.text))
    for event in ({"event": "Ended", "reason": "stopped", "text": "Salt"}, {"event": "Said", "text": "!"},
                  {"event": "Ended", "reason": "ended", "text": "Thread"}):
        reply.take(event)
    reply.fail(DIED)
    assert (kept, reply.text, reply.reason, reply.sentence) == (["Salt"], "Salt", "stopped", "")


def test_an_error_at_the_end_of_one_answer_spoils_no_other(speech: Speech) -> None:
    def fail(_: Reply) -> None:
        raise RuntimeError("the library is busy")

    first = ask(speech, "salt", on_end=fail)
    second = ask(speech, "thread")
    assert first.wait(10) and second.wait(10) and second.text == "thread thread thread"


def test_stop_in_the_middle_keeps_what_was_said(speech: Speech) -> None:
    reply = ask(speech, "slow", key="chat-1")
    eventually(lambda: len(reply.text) > 10)
    assert speech.pending("chat-1") is reply and speech.pending("chat-2") is None and speech.pending("") is None
    speech.stop(reply)
    assert reply.wait(5) and reply.reason == "stopped" and reply.text.startswith("slow slow")
    assert speech.pending("chat-1") is None


@pytest.mark.parametrize(("how", "sentence"), [(signal.SIGKILL, KILLED), (signal.SIGTERM, DIED)])
def test_a_worker_that_dies_ends_the_answer_with_a_sentence_and_the_next_question_works(
        how: int, sentence: str, speech: Speech) -> None:
    pid = pid_of(speech)
    ended = []
    reply = ask(speech, "slow", on_end=lambda one: ended.append(one.sentence))
    eventually(lambda: bool(reply.text))
    os.kill(pid, how)
    assert reply.wait(5) and reply.reason == "failed" and reply.sentence == sentence and reply.text.startswith("slow")
    assert ended == [sentence]
    after = ask(speech, "salt")
    assert after.wait(10) and after.text == "salt salt salt" and pid_of(speech) != pid
    assert not psutil.pid_exists(pid)  # reaped


def test_a_worker_that_dies_of_the_question(speech: Speech) -> None:
    reply = ask(speech, "die")
    assert reply.wait(10) and reply.sentence == DIED


def test_a_worker_that_cannot_be_started(settings: Settings) -> None:
    speech = Speech(Settings(settings.home, command=("/nowhere/python",)))
    reply = ask(speech, "salt")
    assert reply.done and reply.reason == "failed" and "cannot be started" in reply.sentence
    with pytest.raises(UserError, match="cannot be started"):
        speech.models()
    speech.close()


def test_many_threads_share_one_worker(speech: Speech) -> None:
    replies: list[Reply] = []
    threads = [threading.Thread(target=lambda: replies.append(ask(speech, "salt"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(reply.wait(20) and reply.text == "salt salt salt" for reply in replies)
    with_it = [one for one in psutil.Process().children(recursive=True) if "worker.py" in " ".join(one.cmdline())]
    assert len(with_it) == 1


def test_a_worker_that_reads_late_does_not_hold_up_the_one_who_asks(speech: Speech) -> None:
    pid = pid_of(speech)
    os.kill(pid, signal.SIGSTOP)
    replies: list[Any] = []
    asker = threading.Thread(daemon=True, target=lambda: replies.append(
        speech.ask("starter", {"name": "x" * 1_000_000}, [("user", "salt")], {}, "Player")))  # more than a pipe holds
    asker.start()
    asker.join(20)
    assert replies, "the asker waits for the worker"
    os.kill(pid, signal.SIGCONT)
    assert replies[0].wait(20) and replies[0].text == "salt salt salt"


def test_the_stamp_rests_while_nobody_is_answered(speech: Speech) -> None:
    before = speech.stamp()
    reply = ask(speech, "slow")
    eventually(lambda: bool(reply.text))
    assert len({before, speech.stamp(), speech.stamp()}) == 3
    speech.stop(reply)
    assert reply.wait(5)
    eventually(lambda: speech.stamp() == speech.stamp())
    assert speech.stamp() != before


def test_prompt_and_models(speech: Speech) -> None:
    assert speech.prompt("starter", CARD, [("user", "hi")], "Player") == ("system: é", 7)
    with pytest.raises(UserError, match="There is no model none"):
        speech.prompt("none", CARD, [], "Player")
    assert speech.models(wait=False) == []
    eventually(lambda: bool(speech.models(wait=False)))
    assert speech.models()[0]["name"] == "starter"


def test_closing_ends_the_worker_and_every_answer(settings: Settings) -> None:
    speech = Speech(settings)
    pid = pid_of(speech)
    reply = ask(speech, "slow")
    eventually(lambda: bool(reply.text))
    speech.close()
    assert reply.wait(5) and reply.sentence in (CLOSED, "")
    eventually(lambda: not psutil.pid_exists(pid))
    late = ask(speech, "salt")
    assert late.done and late.reason == "failed"


@pytest.mark.slow
def test_the_real_worker_on_a_tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiny import add_files, make_tiny

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    model = str(add_files(make_tiny(tmp_path / "llama")))
    home = tmp_path / "home"
    home.mkdir()
    speech = Speech(Settings(home))
    card = {"spec": "chara_card_v3", "spec_version": "3.0", "data": {"name": "Zoë", "description": "A miller."}}
    turns = [("assistant", "Flour?"), ("user", "Yes, {{char}}.")]
    warm = speech.warm(model, card, "Ann")
    kept: list[str] = []
    replies = [speech.ask(model, card, turns, {"temperature": 0.8, "limit": 12, "seed": 5}, "Ann",
                          on_end=lambda reply: kept.append(reply.text)) for _ in range(2)]
    assert warm.wait(120) and warm.reason == "ended" and warm.sentence == ""
    assert all(reply.wait(60) for reply in replies) and sorted(kept) == sorted(reply.text for reply in replies)
    first = replies[0]
    assert first.reason in ("ended", "limit") and first.measures["seed"] == 5 and 0 < first.measures["tokens"] <= 12
    text, tokens = speech.prompt(model, card, turns, "Ann")
    assert "Yes, Zoë." in text and tokens == first.measures["prompt_tokens"]
    long = speech.ask(model, card, turns, {"temperature": 1.5, "limit": 400, "seed": 6}, "Ann")
    eventually(lambda: long.tokens > 2 or long.done, 60)
    speech.stop(long)
    assert long.wait(60) and long.reason in ("stopped", "ended") and long.sentence == ""
    refused = speech.ask(str(tmp_path / "none"), card, turns, {}, "Ann")
    assert refused.wait(60) and refused.reason == "failed" and refused.sentence
    assert speech.models()[0]["name"] == "starter"
    speech.close()
