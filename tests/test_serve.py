"""The chat worker: what is said, that it repeats, that requests do not disturb each other, and that it lives on."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_job import ROOT
from tiny import find, make_tiny

from engine.calibration.rewriting import Voice
from engine.cards.card import find_bundled, parse_card
from engine.cards.prompt import Setting, render_system_prompt
from engine.models.kv_cache import PIECE, CachedPrompt
from engine.models.loading import load_tokenizer
from engine.models.templates import CHATML
from engine.serve import Worker
from engine.serving import model_cache
from engine.serving.model_cache import CONVERSATIONS, ModelCache
from engine.serving.requests import parse

CARD = {"name": "Zoë", "description": "A miller who grinds flour for {{user}}.", "first_mes": "Flour, {{user}}?"}
OTHER = {"name": "Ada", "description": "A smith."}
TURNS = [["assistant", "Flour, Ann?"], ["user", "What do you sell?"]]
PLAIN = {"temperature": 1.0, "min_p": 0, "repeat_penalty": 1, "dry_multiplier": 0}  # by the distribution alone
SAMPLING = {**PLAIN, "max_tokens": 12, "seed": 5}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny(tmp_path_factory.mktemp("llama")))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny(tmp_path_factory.mktemp("qwen"), "qwen3"))


class Bench:
    """A worker in this process, and what it answered."""

    def __init__(self, model: str, keep: int = 3) -> None:
        self.model = model
        self.said: list[dict[str, Any]] = []
        self.worker = Worker(ModelCache("fp32", keep), self.said.append)

    def ask(self, do: str, identity: str | int, **fields: Any) -> None:
        request = {"do": do, "id": identity, "model": self.model, "card": CARD, "turns": TURNS, "player": "Ann",
                   "sampling": SAMPLING, **fields}
        self.worker.take(json.dumps(request).encode())

    def finish(self) -> None:
        for _ in range(10_000):
            if not self.worker.tasks:
                return
            self.worker.turn()
        raise AssertionError("a task does not end")

    def answer(self, do: str = "speak", **fields: Any) -> dict[str, Any]:
        """The last answer to a request that is made alone."""
        identity = f"request {len(self.said)}"
        self.ask(do, identity, **fields)
        self.finish()
        return self.of(identity)[-1]

    def of(self, identity: str | int) -> list[dict[str, Any]]:
        return [one for one in self.said if one["id"] == identity]


@pytest.fixture
def bench(llama: str) -> Bench:
    return Bench(llama)


def second_turn(answer: str) -> list[list[str]]:
    return [*TURNS, ["assistant", answer], ["user", "And what does the salt cost, miller?"]]


def test_an_answer_is_said_piece_by_piece(bench: Bench) -> None:
    bench.ask("speak", 1)
    bench.finish()
    kinds = [one["event"] for one in bench.of(1)]
    assert kinds[:2] == ["Loading", "Loaded"] and kinds[-1] == "Ended" and set(kinds[2:-1]) == {"Said"}
    ended, said = bench.of(1)[-1], bench.of(1)[2:-1]
    assert ended["text"] == "".join(one["text"] for one in said) == ended["text"].strip() != ""
    assert all(one["text"] and not one["text"].endswith(("\ufffd", " ")) for one in said[:-1]), "whole characters"
    assert ended["tokens"] == said[-1]["tokens"] == 12 and ended["reason"] == "limit"
    assert 0 < ended["first_token"] <= ended["seconds"] and ended["tokens_per_second"] > 0
    assert bench.of(1)[1]["bytes"] > 0 and ended["dropped_turns"] == 0 and ended["seed"] == 5


def test_an_answer_that_ends_by_itself_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bench.answer(sampling={**SAMPLING, "temperature": 0})
    tokenizer = load_tokenizer(find(bench.model))
    ending = tokenizer.encode(first["text"])[0]
    monkeypatch.setattr("engine.serving.speaking.endings", lambda tokenizer: frozenset({ending}))
    again = bench.answer(sampling={**SAMPLING, "temperature": 0})
    assert (again["reason"], again["text"], again["tokens"]) == ("ended", "", 0)


def test_the_seed_decides_the_answer_whatever_was_read_before(llama: str, bench: Bench) -> None:
    first = bench.answer()
    later = bench.answer(turns=second_turn(first["text"]))
    bench.answer(turns=second_turn("Salt."), card=OTHER)
    assert bench.answer()["text"] == first["text"] != bench.answer(sampling={**SAMPLING, "seed": 6})["text"]
    alone = Bench(llama).answer(turns=second_turn(first["text"]))
    assert (alone["reused_tokens"], later["reused_tokens"] > 0) == (0, True)
    assert alone["text"] == later["text"]


def test_a_missing_seed_is_drawn_and_reported(bench: Bench) -> None:
    free = {**SAMPLING, "seed": None}
    first, second = bench.answer(sampling=free), bench.answer(sampling=free)
    assert first["seed"] != second["seed"] and first["text"] != second["text"]
    assert bench.answer(sampling={**free, "seed": first["seed"]})["text"] == first["text"]


def test_answers_side_by_side_are_those_of_each_alone(llama: str, qwen: str, bench: Bench) -> None:
    asked = {"one": {}, "two": {"sampling": {**SAMPLING, "seed": 6}}, "three": {"turns": [["user", "Who?"]]},
             "four": {"model": qwen}}
    for identity, fields in asked.items():
        bench.ask("speak", identity, **fields)
    bench.finish()
    said = [one["id"] for one in bench.said if one["event"] == "Said"]
    assert said.index("three") < len(said) - 1 - said[::-1].index("one"), "they should take turns"
    for identity, fields in asked.items():
        assert bench.of(identity)[-1]["text"] == Bench(llama).answer(**fields)["text"], identity


def test_time_is_counted_only_while_a_request_has_its_turn(bench: Bench) -> None:
    bench.answer()
    bench.ask("speak", 1, sampling={**SAMPLING, "seed": 6})
    begin, turns = time.perf_counter(), 0
    while bench.worker.tasks:
        bench.worker.turn()
        time.sleep(0.02)
        turns += 1
    assert turns > 10 and bench.said[-1]["seconds"] <= time.perf_counter() - begin - 0.02 * turns


def test_what_two_prompts_share_is_read_once(bench: Bench) -> None:
    first = bench.answer()
    assert first["reused_tokens"] == 0 and first["prompt_tokens"] > 2 * PIECE
    whole_pieces = (first["prompt_tokens"] - 1) // PIECE * PIECE
    assert bench.answer(turns=second_turn(first["text"]))["reused_tokens"] == whole_pieces
    again = bench.answer(turns=second_turn(first["text"]), sampling={**SAMPLING, "seed": 9})
    assert again["reused_tokens"] == again["prompt_tokens"]
    assert 0 < bench.answer(turns=[["user", "Who are you?"]])["reused_tokens"] <= whole_pieces
    assert bench.answer(card=OTHER)["reused_tokens"] < PIECE
    later = bench.answer(turns=[*second_turn(first["text"]), ["assistant", "Much. " * 20], ["user", "Why is that?"]])
    assert later["reused_tokens"] >= again["prompt_tokens"] - PIECE, "the first chat is still known"
    assert len(bench.worker.cache.models[bench.model].talks) <= CONVERSATIONS


def test_few_conversations_are_kept(bench: Bench) -> None:
    for number in range(CONVERSATIONS + 3):
        bench.answer(card={"name": f"{number} Zoë", "description": "A miller. " * 10})
    loaded = bench.worker.cache.models[bench.model]
    assert len(loaded.talks) == CONVERSATIONS and not loaded.busy and not loaded.users


def test_a_warm_model_answers_sooner(bench: Bench) -> None:
    warmed = bench.answer("warm", turns=TURNS[:1])
    assert warmed["event"] == "Warmed" and warmed["tokens"] >= 2 * PIECE
    bench.said.clear()
    assert bench.answer()["reused_tokens"] == warmed["tokens"]
    assert "Loading" not in [one["event"] for one in bench.said]
    assert bench.answer("warm", turns=TURNS[:1])["reused_tokens"] == warmed["tokens"]


def test_warming_gives_way_to_an_answer(bench: Bench) -> None:
    bench.answer(card=OTHER)
    bench.ask("warm", "warm", card={**CARD, "description": "A miller. " * 20}, turns=[])
    bench.ask("speak", "speak", card={**CARD, "description": "A miller. " * 20})
    bench.finish()
    assert bench.of("warm")[-1]["tokens"] < 2 * PIECE and bench.of("speak")[-1]["tokens"] == 12


def test_a_stopped_answer_keeps_what_was_said(bench: Bench) -> None:
    bench.answer()
    for identity in ("stopped", "other"):
        bench.ask("speak", identity, sampling={**SAMPLING, "max_tokens": 100, "seed": 8})
    while not [one for one in bench.of("stopped") if one["event"] == "Said" and one["tokens"] >= 7]:
        bench.worker.turn()
    bench.ask("stop", "stopped")
    bench.finish()
    stopped, other = bench.of("stopped")[-1], bench.of("other")[-1]
    assert stopped["reason"] == "stopped" and 7 <= stopped["tokens"] <= 8
    assert other["tokens"] > 20 and other["text"].startswith(stopped["text"])
    assert bench.answer(sampling={**SAMPLING, "max_tokens": 100, "seed": 8})["text"] == other["text"]


def test_a_stop_reaches_a_request_that_still_loads(bench: Bench) -> None:
    bench.ask("speak", 1)
    bench.worker.turn()
    bench.ask("stop", 1)
    bench.ask("stop", "unknown")
    bench.finish()
    assert (bench.said[-1]["event"], bench.said[-1]["reason"], bench.said[-1]["text"]) == ("Ended", "stopped", "")
    assert bench.answer()["reason"] == "limit"


GUARD = "You are a guard. "
SAYS = [("I sell flour. " + GUARD * 9, 300, "loop", "I sell flour. You are a guard."),
        ("the doll, " * 30, 300, "loop", "the doll, the doll, the doll, the"),  # no sentence: all that is no loop yet
        ("I sell flour. Salt is in the back of the mill, where my mother keeps", 30, "limit", "I sell flour."),
        ("Salt is in the back of the mill, where my mother keeps", 30, "limit", None),  # no sentence: nothing is cut
        ("It is dear. " + "No. Yes. Well. Come. Go. Wait. Stay. Sit. Eat. Run.", 30, "limit", None)]


@pytest.mark.parametrize(("words", "most", "reason", "kept"), SAYS, ids=[words[:20] for words, *_ in SAYS])
def test_circles_and_half_sentences_are_not_kept(words: str, most: int, reason: str, kept: str | None, bench: Bench,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    ended, said = says(bench, monkeypatch, words, most)
    assert ended["reason"] == reason and said.startswith(ended["text"]) and ended["text"]
    assert ended["text"] == (said if kept is None else kept)
    assert ended["tokens"] < len(load_tokenizer(find(bench.model)).encode(words)), "it stops"


def test_near_the_limit_an_answer_stops_after_a_whole_sentence(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = load_tokenizer(find(bench.model))
    words = "".join(f"It costs {number} coins. " for number in ("two", "nine", "few", "more", "six", "ten"))
    most = len(tokenizer.encode(words)) + 3
    ended, said = says(bench, monkeypatch, words + "But the other sack of it", most)
    assert ended["text"] == said and words.startswith(said) and said.endswith("coins.") and most * 0.8 <= ended["tokens"] < most
    price = "It costs nearly 3."
    ended, said = says(bench, monkeypatch, price + "5 coins a sack", len(tokenizer.encode(price)) + 1)
    assert said != price, "a number is not over at its point"


def test_a_continued_turn_is_judged_with_its_beginning(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = [["user", "Who?"], ["assistant", "I say: salt. " + GUARD * 2]]
    ended, _ = says(bench, monkeypatch, " " + GUARD * 9, 300, turns=turns, **{"continue": True})
    assert (ended["reason"], ended["text"]) == ("loop", ""), "it was said twice already"
    turns = [["user", "Who?"], ["assistant", GUARD * 9]]  # of an older chat
    ended, _ = says(bench, monkeypatch, " I sell flour. It is", 12, turns=turns, **{"continue": True})
    assert ended["text"] == " I sell flour."


def says(bench: Bench, monkeypatch: pytest.MonkeyPatch, words: str, most: int, **fields: Any) -> tuple[dict[str, Any], str]:
    """The end of an answer, and all that was said, of a model that says these words."""
    tokens = iter([*load_tokenizer(find(bench.model)).encode(words, add_special_tokens=False), *[-1] * 3])
    monkeypatch.setattr("engine.serving.speaking.Sampler.choose", lambda *_: next(tokens))
    before = len(bench.said)
    ended = bench.answer(sampling={**SAMPLING, "max_tokens": most}, **fields)
    return ended, "".join(one["text"] for one in bench.said[before:] if one["event"] == "Said")


def test_a_turn_can_be_continued(bench: Bench) -> None:
    turns = [["user", "What do you sell?"], ["assistant", "Salt, and then "]]
    ended = bench.answer(turns=turns, **{"continue": True})
    shown = bench.answer("prompt", turns=turns, **{"continue": True})
    assert shown["text"].endswith("<|im_start|>assistant\nSalt, and then") and not ended["text"].startswith("Salt")
    assert ended["prompt_tokens"] == shown["tokens"] and ended["tokens"] == 12


def test_the_prompt_is_shown_as_the_model_gets_it(llama: str, bench: Bench) -> None:
    turns = [["assistant", "Flour, {{user}}?"], ["user", "{{char}}, what is <USER> to you?<|im_end|>"]]
    shown = bench.answer("prompt", turns=turns)
    system = render_system_prompt(parse_card(json.dumps(CARD).encode(), "card"), Setting("Ann"))
    assert system in shown["text"] and "grinds flour for Ann" in system
    assert "assistant\nFlour, Ann?<|im_end|>" in shown["text"] and "user\nZoë, what is Ann to you?< |im_end|>" in shown["text"]
    assert bench.answer(turns=turns)["prompt_tokens"] == shown["tokens"]
    assert shown["tokens"] == len(load_tokenizer(find(llama)).encode(shown["text"], add_special_tokens=False))


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
    bench.ask("speak", "good")
    bench.ask("speak", "bad", model="no-such-model")
    (tmp_path / "config.json").write_text("{}")
    bench.ask("speak", "worse", model=str(tmp_path))
    bench.finish()
    assert bench.of("bad")[-1]["event"] == "Failed" and "no model 'no-such-model'" in bench.of("bad")[-1]["sentence"]
    assert bench.of("worse")[-1]["event"] == "Failed" and bench.of("good")[-1]["event"] == "Ended"
    assert not bench.worker.cache.under_way


def test_a_lack_of_memory_is_tried_once_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = bench.answer()
    bench.answer("forget")
    compute = CachedPrompt._compute
    calls = iter(range(10_000))
    begun_at: list[int] = []

    def fail_at(*numbers: int) -> Any:
        def fail_or_compute(self: CachedPrompt, fresh: Any) -> Any:
            begun_at.append(len(self.tokens))
            if next(calls) in numbers:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
            return compute(self, fresh)
        return fail_or_compute

    for number in (1, 8):
        calls = iter(range(10_000))
        begun_at.clear()
        monkeypatch.setattr(CachedPrompt, "_compute", fail_at(number))
        found = bench.answer()
        assert (found["event"], found["text"]) == ("Ended", expected["text"]), number
        assert begun_at[number] > begun_at[number + 1] == 0, "its own cache is given up as well"
        bench.answer("forget")
    monkeypatch.setattr(CachedPrompt, "_compute", fail_at(*range(10_000)))
    calls = iter(range(10_000))
    failed = bench.answer()
    assert failed["event"] == "Failed" and "memory" in failed["sentence"] and "Traceback" not in failed["sentence"]
    monkeypatch.undo()
    assert bench.answer()["text"] == expected["text"]


def test_other_models_make_room_for_one_that_does_not_fit(llama: str, qwen: str, bench: Bench,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    bench.answer()
    load = model_cache.load_model

    def fail_beside_another(*arguments: Any) -> Any:
        if bench.worker.cache.models:
            raise model_cache.UserError("The model does not fit into memory.") from MemoryError()
        return load(*arguments)

    monkeypatch.setattr(model_cache, "load_model", fail_beside_another)
    assert bench.answer(model=qwen)["event"] == "Ended" and list(bench.worker.cache.models) == [qwen]


def test_a_defect_fails_one_request_and_goes_to_the_log(bench: Bench, monkeypatch: pytest.MonkeyPatch,
                                                        caplog: pytest.LogCaptureFixture) -> None:
    bench.answer()
    with monkeypatch.context() as patch:
        patch.setattr("engine.serving.speaking.Sampler.choose", lambda *_: 1 / 0)
        failed = bench.answer()
    assert failed["event"] == "Failed" and "ZeroDivisionError" in failed["sentence"] and "Traceback" in caplog.text
    assert bench.answer()["event"] == "Ended"


BAD = [b"{", b"[1]", b'{"do": "speak"}', b'{"id": true, "do": "models"}', b'{"id": 1, "do": "fly"}', b"[" * 100_000]


@pytest.mark.parametrize("line", BAD, ids=lambda line: str(line[:20]))
def test_what_is_no_request_is_refused(line: bytes, bench: Bench) -> None:
    bench.worker.take(line)
    assert [one["event"] for one in bench.said] == ["Failed"] and bench.worker.tasks == []


REFUSED = [{"card": {"name": "Zoë"}}, {"card": None}, {"turns": [["system", "x"]]}, {"turns": "x"}, {"turns": []},
           {"turns": [["user", 3]]}, {"turns": [["user", "a"]], "continue": True}, {"turns": TURNS[:1]}, {"model": " "},
           {"sampling": {"temperature": -1}}, {"sampling": {"top_p": 0}}, {"sampling": {"max_tokens": 0}},
           {"sampling": {"seed": 2**32}}, {"sampling": {"temperature": "hot"}}, {"sampling": [1]}]


@pytest.mark.parametrize("fields", REFUSED, ids=str)
def test_a_request_that_makes_no_sense_is_refused(fields: dict[str, Any], bench: Bench) -> None:
    failed = bench.answer(**fields)
    assert failed["event"] == "Failed" and failed["sentence"].endswith(".") and not bench.worker.cache.models


def test_an_id_serves_one_request_at_a_time(bench: Bench) -> None:
    bench.ask("speak", 1)
    bench.ask("speak", 1)
    assert bench.said == [{"event": "Failed", "id": 1, "sentence": "A request with this id is under way."}]


def test_the_models_used_last_are_kept(llama: str, qwen: str) -> None:
    bench = Bench(llama, keep=1)
    bench.answer()
    bench.answer(model=qwen)
    assert list(bench.worker.cache.models) == [qwen]
    forgotten = bench.answer("forget", model=qwen)
    assert forgotten["event"] == "Forgotten" and forgotten["bytes"] > 0 and not bench.worker.cache.models
    assert bench.answer("forget", model="never loaded")["bytes"] == 0


def test_models_are_listed_with_their_sizes(bench: Bench, own_home: Path) -> None:
    make_tiny(own_home / "models" / "mine")
    starter, mine = bench.answer("models")["models"]
    assert starter["name"] == "starter" and starter["layers"] == 30 and not starter["ready"]
    assert starter["weight_bytes"] == 2 * starter["parameters"] > 2 * starter["ffn_parameters"] > 0
    assert (mine["layers"], mine["hidden_size"], mine["intermediate_size"]) == (2, 32, 64)
    assert mine["ffn_parameters"] == 2 * 3 * 32 * 64 and mine["weight_bytes"] == 2 * mine["parameters"]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with (tmp_path / "log.txt").open("w") as log, subprocess.Popen(
            [sys.executable, "-m", "engine", "serve", "--dtype", "fp32"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=log, text=True, encoding="utf-8", cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}) as worker:
        yield worker
        worker.kill()


@pytest.mark.slow
def test_a_worker_process_answers_until_its_input_ends(process: subprocess.Popen[str], llama: str) -> None:
    assert process.stdin and process.stdout

    def ask(do: str, identity: str, **fields: Any) -> None:
        assert process.stdin
        request = {"do": do, "id": identity, "model": llama, "card": CARD, "turns": TURNS, **fields}
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()

    def until(identity: str, kind: str) -> dict[str, Any]:
        assert process.stdout
        return next(one for line in process.stdout if (one := json.loads(line))["id"] == identity and one["event"] == kind)

    ask("speak", "bad", model="no-such-model")
    assert "no model" in until("bad", "Failed")["sentence"]
    ask("speak", "long", sampling={"max_tokens": 250, "seed": 1})
    until("long", "Said")
    ask("speak", "short", sampling={"max_tokens": 3, "seed": 1})
    assert until("short", "Ended")["tokens"] == 3
    ask("stop", "long")
    stopped = until("long", "Ended")
    assert stopped["reason"] == "stopped" and 3 < stopped["tokens"] < 250
    ask("speak", "never ended", sampling={"max_tokens": 250})
    process.stdin.close()
    assert process.wait(20) == 0
    assert all(json.loads(line)["id"] == "never ended" for line in process.stdout)


@pytest.mark.slow
def test_a_worker_outlives_hostile_templates(process: subprocess.Popen[str], tmp_path: Path) -> None:
    assert process.stdin and process.stdout
    templates = {"loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
                 "memory": "{% set n = namespace(a='ab') %}{% for i in range(60) %}{% set n.a = n.a ~ n.a %}{% endfor %}x",
                 "zero": "{{ 1 / 0 }}", "good": CHATML}
    for name, template in templates.items():
        folder = make_tiny(tmp_path / name)
        (folder / "chat_template.jinja").write_text(template)
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
