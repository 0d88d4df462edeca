"""The chat worker: what is said and by whom, that requests do not disturb each other, and that it lives on."""

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from small_job import ROOT
from tiny import add_files, find, make_tiny

from engine.calibration.rewriting import Voice
from engine.cards.card import find_bundled, parse_card
from engine.cards.prompt import Setting, render_system_prompt
from engine.chat_worker import Worker
from engine.models.loading import load_tokenizer
from engine.models.templates import CHATML
from engine.serving.requests import parse
from engine.serving.voices import Voices

CARD = {"name": "Zoë", "description": "A miller who grinds flour for {{user}}.", "first_mes": "Flour, {{user}}?"}
OTHER = {"name": "Ada", "description": "A smith."}
TURNS = [["assistant", "Flour, Ann?"], ["user", "What do you sell?"]]
PLAIN = {"temperature": 1.0, "min_p": 0, "repeat_penalty": 1, "dry_multiplier": 0}  # by the distribution alone
SAMPLING = {**PLAIN, "max_tokens": 12, "seed": 5}


class Bench:
    """A worker in this process, and what it answered."""

    def __init__(self, model: Path, keep: int = 3) -> None:
        self.model = str(model)
        self.said: list[dict[str, Any]] = []
        self.runner = asyncio.Runner()
        self.worker = Worker(Voices(keep), self.said.append)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(work)

    def line(self, do: str, identity: str | int, **fields: Any) -> bytes:
        return json.dumps({"do": do, "id": identity, "model": self.model, "card": CARD, "turns": TURNS, "player": "Ann",
                           "sampling": SAMPLING, **fields}).encode()

    async def take(self, *lines: bytes) -> None:
        """Take these requests at once, and finish all that are under way."""
        for line in lines:
            self.worker.take(line)
        while self.worker.tasks:
            await asyncio.wait(self.worker.tasks)

    async def until(self, identity: str | int, event: str, tokens: int = 0) -> None:
        async with asyncio.timeout(60):
            while not any(one["event"] == event and one.get("tokens", 0) >= tokens for one in self.of(identity)):
                await asyncio.sleep(0.001)

    def answer(self, do: Any = "speak", **fields: Any) -> dict[str, Any]:
        """The last answer to a request that is made alone."""
        identity = f"request {len(self.said)}"
        self.run(self.take(self.line(do, identity, **fields)))
        return self.of(identity)[-1]

    def of(self, identity: str | int) -> list[dict[str, Any]]:
        return [one for one in self.said if one["id"] == identity]

    def close(self) -> None:
        self.worker.voices.close()
        self.runner.close()


@pytest.fixture
def bench(speaking: Path) -> Iterator[Bench]:
    bench = Bench(speaking)
    yield bench
    bench.close()


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return add_files(make_tiny(tmp_path_factory.mktemp("qwen") / "qwen", "qwen3"))


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that only a limit ends."""
    return add_files(make_tiny(tmp_path_factory.mktemp("endless") / "endless", endless=True))


def second_turn(answer: str) -> list[list[str]]:
    return [*TURNS, ["assistant", answer], ["user", "And what does the salt cost, miller?"]]


def test_an_answer_is_said_piece_by_piece(bench: Bench) -> None:
    ended = bench.answer()
    kinds = [one["event"] for one in bench.said]
    assert kinds[:2] == ["Loading", "Loaded"] and kinds[-1] == "Ended" and set(kinds[2:-1]) == {"Said"}
    said = bench.said[2:-1]
    assert ended["text"] == "".join(one["text"] for one in said) == ended["text"].strip() != ""
    assert all(one["text"] and not one["text"].endswith(" ") for one in said)
    assert ended["tokens"] == 12 and ended["reason"] == "limit"
    assert 0 < ended["first_token"] <= ended["seconds"] and ended["tokens_per_second"] > 0
    assert bench.said[1]["bytes"] > 0 and ended["dropped_turns"] == 0 and ended["seed"] == 5
    assert (ended["engine"], ended["type"]) == ("llama.cpp", "Q8_0") and ended["prompt_tokens"] > ended["reused_tokens"] == 0
    assert bench.answer(type="F16")["type"] == "F16"


def test_an_answer_that_ends_by_itself_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    greedy = {**SAMPLING, "temperature": 0}
    first = bench.answer(sampling=greedy)
    voice: Any = bench.run(bench.worker.voices.get(bench.model))
    monkeypatch.setattr(voice, "_endings", {load_tokenizer(find(bench.model)).encode(first["text"])[0]})
    again = bench.answer(sampling=greedy)
    assert (again["reason"], again["text"], again["tokens"]) == ("ended", "", 0)


def test_the_seed_decides_the_answer(bench: Bench) -> None:
    bench.answer()
    first = bench.answer()  # the last bits depend on what was in memory: now it is the same each time
    assert bench.answer()["text"] == first["text"] != bench.answer(sampling={**SAMPLING, "seed": 6})["text"]
    free = {**SAMPLING, "seed": None}
    one, two = bench.answer(sampling=free), bench.answer(sampling=free)
    assert one["seed"] != two["seed"] and one["text"] != two["text"]
    assert bench.answer(sampling={**free, "seed": one["seed"]})["text"] == one["text"]


def test_answers_of_one_model_are_made_side_by_side_and_those_of_two_one_after_the_other(
        bench: Bench, qwen: Path, endless: Path) -> None:
    long = {**SAMPLING, "max_tokens": 250, "temperature": 1.5}
    model = str(endless)
    bench.answer(model=model)
    bench.answer(model=str(qwen))
    bench.said.clear()
    bench.run(bench.take(bench.line("speak", "one", sampling=long, model=model),
                         bench.line("speak", "two", sampling=long, model=model, card=OTHER)))
    said = [one["id"] for one in bench.said if one["event"] == "Said"]
    last = lambda name: len(said) - 1 - said[::-1].index(name)
    assert said.index("two") < last("one") and said.index("one") < last("two"), "side by side"
    bench.said.clear()
    bench.run(bench.take(bench.line("speak", "one", sampling=long, model=model),
                         bench.line("speak", "qwen", sampling=long, model=str(qwen))))
    said = [one["id"] for one in bench.said if one["event"] == "Said"]
    assert sum(one != other for one, other in itertools.pairwise(said)) == 1, "one after the other"


def test_what_two_prompts_share_is_read_once(bench: Bench) -> None:
    first = bench.answer()
    assert first["reused_tokens"] == 0 and first["prompt_tokens"] > 60
    second = bench.answer(turns=second_turn(first["text"]))
    assert second["reused_tokens"] >= first["prompt_tokens"] - 1, "only what is new is read"
    assert bench.answer(card=OTHER)["reused_tokens"] < 20
    third = bench.answer(turns=[*second_turn(first["text"]), ["assistant", second["text"]], ["user", "Why is that?"]])
    assert third["reused_tokens"] >= second["prompt_tokens"] - 1, "the other chat did not take its place"


def test_a_warm_model_answers_sooner(bench: Bench) -> None:
    warmed = bench.answer("warm", turns=TURNS[:1])
    assert warmed["event"] == "Warmed" and warmed["tokens"] > 50 and warmed["reused_tokens"] == 0
    bench.said.clear()
    assert bench.answer()["reused_tokens"] == warmed["tokens"]
    assert "Loading" not in [one["event"] for one in bench.said]
    assert bench.answer("warm", turns=TURNS[:1])["reused_tokens"] >= warmed["tokens"] - 1


def test_warming_gives_way_to_an_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.serving.speaking.WARM_PIECE", 8)
    bench.answer(card=OTHER)
    card = {**CARD, "description": "A miller. " * 20}
    bench.run(bench.take(bench.line("warm", "warm", card=card, turns=[]), bench.line("speak", "speak", card=card)))
    assert bench.of("warm")[-1]["tokens"] <= 8 and bench.of("speak")[-1]["tokens"] == 12


def test_a_stopped_answer_keeps_what_was_said(bench: Bench) -> None:
    long = {**SAMPLING, "max_tokens": 250, "seed": 8, "temperature": 5.0}  # too wild to repeat itself

    async def stop() -> None:
        taking = asyncio.ensure_future(bench.take(bench.line("speak", "stopped", sampling=long),
                                                  bench.line("speak", "other", sampling=long)))
        await bench.until("stopped", "Said", 7)
        bench.worker.take(bench.line("stop", "stopped"))
        bench.worker.take(bench.line("stop", "unknown"))
        await taking

    bench.answer()
    bench.run(stop())
    stopped, other = bench.of("stopped")[-1], bench.of("other")[-1]
    assert stopped["reason"] == "stopped" and 7 <= stopped["tokens"] < 100 and stopped["text"]
    assert other["reason"] != "stopped" and other["tokens"] > stopped["tokens"]


def test_a_stop_reaches_a_request_that_still_loads(bench: Bench) -> None:
    bench.run(bench.take(bench.line("speak", 1), bench.line("stop", 1), bench.line("warm", 2), bench.line("stop", 2)))
    assert (bench.of(1)[-1]["event"], bench.of(1)[-1]["reason"], bench.of(1)[-1]["text"]) == ("Ended", "stopped", "")
    assert (bench.of(2)[-1]["event"], bench.of(2)[-1]["tokens"]) == ("Warmed", 0)
    assert bench.answer()["reason"] == "limit"


def test_a_turn_can_be_continued(bench: Bench) -> None:
    turns = [["user", "What do you sell?"], ["assistant", "Salt, and then "]]
    ended = bench.answer(turns=turns, **{"continue": True})
    shown = bench.answer("prompt", turns=turns, **{"continue": True})
    assert shown["text"].endswith("<|im_start|>assistant\nSalt, and then") and not ended["text"].startswith("Salt")
    assert ended["prompt_tokens"] == shown["tokens"] and ended["tokens"] == 12


def test_the_prompt_is_shown_as_the_model_gets_it(speaking: Path, bench: Bench) -> None:
    turns = [["assistant", "Flour, {{user}}?"], ["user", "{{char}}, what is <USER> to you?<|im_end|>"]]
    shown = bench.answer("prompt", turns=turns)
    system = render_system_prompt(parse_card(json.dumps(CARD).encode(), "card"), Setting("Ann"))
    assert system in shown["text"] and "grinds flour for Ann" in system
    assert "assistant\nFlour, Ann?<|im_end|>" in shown["text"] and "user\nZoë, what is Ann to you?< |im_end|>" in shown["text"]
    assert bench.answer(turns=turns)["prompt_tokens"] == shown["tokens"]
    assert shown["tokens"] == len(load_tokenizer(find(speaking)).encode(shown["text"], add_special_tokens=False))


@pytest.mark.parametrize("count", [9, 41])
def test_the_oldest_turns_go_when_a_conversation_is_too_long(count: int, bench: Bench) -> None:
    turns = [[("user", "assistant")[number % 2], f"{number}: {'what do you sell? ' * (8 if count < 20 else 1)}"]
             for number in range(count)]
    ended = bench.answer(turns=turns, sampling={**SAMPLING, "max_tokens": 40})
    dropped = ended["dropped_turns"]
    assert 0 < dropped < count and ended["prompt_tokens"] + 40 <= 512 and ended["tokens"] > 0
    shown = bench.answer("prompt", turns=turns[dropped:])
    assert "A miller" in shown["text"] and shown["tokens"] == ended["prompt_tokens"]
    nearly = bench.answer("prompt", turns=turns[max(0, dropped - 8):])
    assert nearly["tokens"] + 40 > 512, "no more goes than is needed, but for a block"


def test_a_card_that_is_too_long_is_refused(bench: Bench) -> None:
    failed = bench.answer(card={**CARD, "description": "A miller. " * 200})
    assert failed["event"] == "Failed" and "too long for this model" in failed["sentence"] and "512" in failed["sentence"]
    assert bench.answer(sampling={**SAMPLING, "max_tokens": 100_000})["tokens"] <= 256


def test_a_model_that_cannot_be_loaded_fails_alone(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    bench.run(bench.take(bench.line("speak", "good"), bench.line("speak", "bad", model="no-such-model"),
                         bench.line("speak", "worse", model=str(tmp_path))))
    assert bench.of("bad")[-1]["event"] == "Failed" and "no model 'no-such-model'" in bench.of("bad")[-1]["sentence"]
    assert bench.of("worse")[-1]["event"] == "Failed" and bench.of("good")[-1]["event"] == "Ended"


def test_a_defect_is_one_sentence_and_the_worker_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("engine.serving.speaking.Answer.take", lambda *_: 1 / 0)
        failed = bench.answer()
    assert failed["event"] == "Failed" and "ZeroDivisionError" in failed["sentence"] and "\n" not in failed["sentence"]
    with monkeypatch.context() as patch:
        patch.setattr("engine.serving.speaking.Answer.take", lambda *_: bytearray(1 << 62))
        assert "ran out of memory" in bench.answer()["sentence"]
    assert bench.answer()["event"] == "Ended"


BAD = [b"not json", b"[]", b'{"do": "speak"}', b'{"do": "sing", "id": 1}', b'{"do": "forget", "id": 1}',
       b'{"do": "speak", "id": true}', b'{"do": "prompt", "id": 1, "card": "x"}', b"[" * 100_000]


@pytest.mark.parametrize("line", BAD, ids=lambda line: str(line[:20]))
def test_what_is_no_request_is_refused(line: bytes, bench: Bench) -> None:
    bench.run(bench.take(line))
    assert [one["event"] for one in bench.said] == ["Failed"]


REFUSED = [{"card": {"name": "Zoë"}}, {"card": None}, {"turns": [["system", "x"]]}, {"turns": "x"}, {"turns": []},
           {"turns": [["user", 3]]}, {"turns": [["user", "a"]], "continue": True}, {"turns": TURNS[:1]}, {"model": " "},
           {"sampling": {"temperature": -1}}, {"sampling": {"top_p": 0}}, {"sampling": {"max_tokens": 0}},
           {"sampling": {"seed": 2**32}}, {"sampling": {"temperature": "hot"}}, {"sampling": [1]}, {"type": "../Q8_0"}]


@pytest.mark.parametrize("fields", REFUSED, ids=str)
def test_a_request_that_makes_no_sense_is_refused(fields: dict[str, Any], bench: Bench) -> None:
    failed = bench.answer(**fields)
    assert failed["event"] == "Failed" and failed["sentence"].endswith(".") and not bench.worker.voices.names


def test_an_id_serves_one_request_at_a_time(bench: Bench) -> None:
    bench.run(bench.take(bench.line("prompt", 1), bench.line("prompt", 1)))
    assert bench.said[0] == {"event": "Failed", "id": 1, "sentence": "A request with this id is under way."}
    assert bench.said[-1]["event"] == "Prompt"


def test_the_models_used_last_are_kept(speaking: Path, qwen: Path) -> None:
    bench = Bench(speaking, keep=1)
    bench.answer()
    bench.answer(model=str(qwen))
    assert bench.worker.voices.names == [str(qwen)]
    forgotten = bench.answer("forget", model=str(qwen))
    assert forgotten["event"] == "Forgotten" and forgotten["bytes"] > 0 and not bench.worker.voices.names
    assert bench.answer("forget", model="never loaded")["bytes"] == 0
    bench.close()


def test_models_are_listed_with_their_sizes(bench: Bench, own_home: Path) -> None:
    make_tiny(own_home / "models" / "mine")
    starter, small, mine = bench.answer("models")["models"]
    assert small["name"] == "small" and small["layers"] == 24 and not small["ready"]
    assert starter["name"] == "starter" and starter["layers"] == 30 and not starter["ready"]
    assert starter["weight_bytes"] == 2 * starter["parameters"] > 2 * starter["ffn_parameters"] > 0
    assert (mine["layers"], mine["hidden_size"], mine["intermediate_size"]) == (2, 32, 64)
    assert mine["ffn_parameters"] == 2 * 3 * 32 * 64 and mine["weight_bytes"] == 2 * mine["parameters"]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with (tmp_path / "log.txt").open("w") as log, subprocess.Popen(
            [sys.executable, "-m", "engine", "chat-worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=log, text=True, encoding="utf-8", cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}) as worker:
        yield worker
        worker.kill()


@pytest.mark.slow
def test_a_worker_process_answers_without_torch_until_its_input_ends(process: subprocess.Popen[str], speaking: Path) -> None:
    assert process.stdin and process.stdout

    def ask(do: str, identity: str, **fields: Any) -> None:
        assert process.stdin
        request = {"do": do, "id": identity, "model": str(speaking), "card": CARD, "turns": TURNS, **fields}
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()

    def until(identity: str, kind: str) -> dict[str, Any]:
        assert process.stdout
        return next(one for line in process.stdout if (one := json.loads(line))["id"] == identity and one["event"] == kind)

    wild = {**PLAIN, "temperature": 5.0, "seed": 1}
    ask("speak", "bad", model="no-such-model")
    assert "no model" in until("bad", "Failed")["sentence"]
    half = "half \ud83d"  # of a character: what was asked gets its answer all the same
    ask("speak", half, model="no-such-model")
    assert "no model" in until(half, "Failed")["sentence"]
    ask("models", "list")
    until("list", "Models")
    ask("speak", "long", sampling={**wild, "max_tokens": 250})
    until("long", "Said")
    ask("stop", "long")
    stopped = until("long", "Ended")
    assert stopped["reason"] in ("stopped", "limit") and 0 < stopped["tokens"] <= 250
    ask("speak", "short", sampling={**wild, "max_tokens": 3})
    assert until("short", "Ended")["tokens"] == 3
    if sys.platform.startswith("linux"):
        mapped = [one.path for one in psutil.Process(process.pid).memory_maps()]
        assert any("llama" in path for path in mapped) and not any("libtorch" in path for path in mapped)
    ask("speak", "never ended", sampling={**wild, "max_tokens": 250})
    process.stdin.close()
    assert process.wait(20) == 0
    assert all(json.loads(line)["id"] == "never ended" for line in process.stdout)


CHAT = """
import sys
from engine.__main__ import main
assert main(["chat", sys.argv[1], "--card", "pim-tuckett", "--message", "Hello", "--max-tokens", "3"]) == 2  # 512 tokens are few
assert main(["chat", sys.argv[1], "--card", sys.argv[2], "--message", "Hello", "--max-tokens", "3"]) == 0
print([name for name in ("torch", "transformers") if name in sys.modules])
"""


@pytest.mark.slow
def test_a_chat_in_the_terminal_needs_no_torch(speaking: Path, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text(json.dumps(CARD))
    command = [sys.executable, "-c", CHAT, str(speaking), str(tmp_path / "card.json")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]" and "too long for this model" in result.stderr


@pytest.mark.slow
def test_a_worker_outlives_hostile_templates(process: subprocess.Popen[str], tmp_path: Path) -> None:
    assert process.stdin and process.stdout
    templates = {"loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
                 "memory": "{% set n = namespace(a='ab') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}x",
                 "zero": "{{ 1 / 0 }}", "good": CHATML}
    for name, template in templates.items():
        folder = make_tiny(tmp_path / name)
        (folder / "chat_template.jinja").write_text(template)
        add_files(folder, "F16")
        for do in ("warm", "prompt", "speak"):
            process.stdin.write(json.dumps({"do": do, "id": f"{name} {do}", "model": str(folder), "card": CARD, "turns": TURNS,
                                            "sampling": {"limit": 3}}) + "\n")
    process.stdin.flush()
    ends: dict[str, dict[str, Any]] = {}
    while len(ends) < 3 * len(templates):
        one = json.loads(process.stdout.readline())
        if one["event"] in ("Failed", "Warmed", "Prompt", "Ended"):
            ends[one["id"]] = one
    for identity, one in ends.items():
        assert (one["event"] == "Failed") == (not identity.startswith("good")), one
        if one["event"] == "Failed":
            assert one["sentence"].startswith("The model's chat template ") and "\n" not in one["sentence"]
    process.stdin.close()
    assert process.wait(20) == 0
    assert "Traceback" not in (tmp_path / "log.txt").read_text()


def test_what_is_pruned_for_is_what_is_served() -> None:
    card = find_bundled("vessaline-korr")
    fields = {**card.raw["data"], "post_history_instructions": "Be {{char}}."}
    card = parse_card(json.dumps({**card.raw, "data": fields}).encode(), "x")
    question = {"do": "speak", "id": 1, "model": "m", "card": card.raw, "turns": [["assistant", card.greeting], ["user", "Who?"]]}
    assert parse(json.dumps(question)).fitted().messages == Voice(card).asked("Who?")
