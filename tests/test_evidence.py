"""Is it still the character? Asking, resuming, measuring and the verdict, on tiny random models."""

import json
import os
import re
import signal
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_job import Process, run_job
from store_samples import card
from teacher_server import teacher_server
from tiny import add_files, make_tiny

from engine.__main__ import main
from engine.base import event_file
from engine.base.errors import UserError
from engine.base.evaluation_events import Assessed, Compared, Replied, Untested
from engine.base.events import Event, Finished, Stage, Started, Stream, Warned
from engine.base.evidence import ANSWERS, DENSE, RESULT, headline, read_evaluation
from engine.base.ids import Outcome, StageId
from engine.base.job import EvaluateJob
from engine.base.questions import split_of
from engine.base.sampling import SamplingParams
from engine.calibration.lines import read_queries
from engine.cards.card import Card, bundled_cards, parse_card
from engine.evaluation.exam import read_exam
from engine.evaluation.measure import MEASURES, Evidence, Item, ItemKind, Need, Reply, Sample, Speaker, measure
from engine.evidence import running, scoring
from engine.evidence.asking import ask_all
from engine.evidence.items import FULL, QUICK, USUAL, Size, choose_items
from engine.evidence.keeping import Answers
from engine.evidence.running import evaluate
from engine.evidence.scoring import Scored
from engine.evidence.telling import most_telling
from engine.serving import voices

SMALL = Size({ItemKind.TALK: 6, ItemKind.LONG: 1}, 2, 1)
SHORT = {"max_tokens": 4}
ITEMS = [Item("one", ItemKind.TALK, ("Who are you?",)), Item("two", ItemKind.TALK, ("Hm?", "And?", "So?"))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dense model, a card and two finished runs, "half" and "quarter"."""
    folder = tmp_path_factory.mktemp("made")
    dense = add_files(make_tiny(folder / "dense", intermediate_size=128))
    for name, sparsity in (("half", 0.5), ("quarter", 0.25)):
        run_job(dense, folder / name, sparsity=sparsity, multiple=32)
    return folder


@pytest.fixture
def own_measures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """No measures but those that a test registers, and few questions."""
    monkeypatch.setattr(running, "QUICK", SMALL)
    monkeypatch.setattr(running, "USUAL", SMALL)
    kept = dict(MEASURES)
    MEASURES.clear()
    yield MEASURES
    MEASURES.clear()
    MEASURES.update(kept)


def measure_of(name: str, values: dict[str, float | None], needs: Sequence[Need] = (), margin: float = 0.1) -> list[Evidence]:
    """Register a measure that says the same of every answer of a speaker, here by its id; what it was given."""
    given: list[Evidence] = []

    @measure(name, name.capitalize(), "A test.", unit="share", margin=margin, kinds=(ItemKind.TALK,), quick=True, needs=needs)
    def score(evidence: Evidence) -> Stream[list[Sample]]:
        yield from ()
        given.append(evidence)
        value = values[evidence.speaker.id]
        return [Sample(one.item.id, one.seed, value, "" if value is not None else "It said nothing.") for one in evidence.replies]

    return given


def job_of(made: Path, work: Path, **more: Any) -> EvaluateJob:
    return EvaluateJob(**{"card": str(made / "card.json"), "models": [str(made / "quarter")], "dense": str(made / "dense"),
                          "workdir": str(work), "quick": True, "sampling": SHORT, **more})


def finish(stream: Iterator[Event]) -> tuple[list[Event], Any]:
    """A generator's events and value."""
    seen = []
    while True:
        try:
            seen.append(next(stream))
        except StopIteration as end:
            return seen, end.value


def smith(**fields: str) -> Card:
    """A card so short that a tiny model reads it."""
    return parse_card(json.dumps(card(first_mes="Hm?", **fields)).encode(), "card")


def ask(folder: Path, speaking: Path, items: Sequence[Item] = ITEMS, **more: Any) -> tuple[list[Event], dict[str, list[Reply]]]:
    speakers = more.pop("speakers", [Speaker(DENSE, "Dense", str(speaking), smith())])
    return finish(ask_all(speakers, items, more.pop("seeds", [0]), folder, SamplingParams(**SHORT)))


def test_the_same_answers_come_again_whatever_was_asked_before(speaking: Path, tmp_path: Path) -> None:
    _, first = ask(tmp_path / "a", speaking)
    _, again = ask(tmp_path / "b", speaking, ITEMS[::-1])
    assert {one.item.id: one.answers for one in first[DENSE]} == {one.item.id: one.answers for one in again[DENSE]}
    assert [len(one.answers) for one in first[DENSE]] == [1, 3] and all(one.reasons for one in first[DENSE])


def test_what_is_known_is_not_asked_again_and_what_changed_is(speaking: Path, tmp_path: Path) -> None:
    ask(tmp_path, speaking)
    longer = [ITEMS[0], Item("two", ItemKind.TALK, ("Hm?", "And?", "No?"))]
    seen, _ = ask(tmp_path, speaking, longer)
    assert [event.total for event in seen if isinstance(event, Stage)] == [1]  # the third line alone
    seen, _ = ask(tmp_path, speaking)
    assert [event.reused for event in seen if isinstance(event, Stage)] == [True]
    assert not [event for event in seen if isinstance(event, Replied)]
    seen, _ = ask(tmp_path, speaking, seeds=[1])
    assert [event.total for event in seen if isinstance(event, Stage)] == [4]
    other = [Speaker(DENSE, "Dense", str(speaking), smith(description="Another."))]
    seen, _ = ask(tmp_path, speaking, speakers=other)
    assert [event.total for event in seen if isinstance(event, Stage)] == [4]


def test_a_stop_and_a_torn_line_lose_one_answer_at_most(speaking: Path, tmp_path: Path) -> None:
    _, whole = ask(tmp_path / "whole", speaking)
    speakers = [Speaker(DENSE, "Dense", str(speaking), smith())]
    stream = ask_all(speakers, ITEMS, [0], tmp_path / "stopped", SamplingParams(**SHORT))
    for event in stream:
        if isinstance(event, Replied):
            break
    stream.close()
    file = tmp_path / "stopped" / ANSWERS
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 1
    file.write_bytes(lines[0] + b'{"key": "half of a li')
    seen, found = ask(tmp_path / "stopped", speaking)
    assert [event.total for event in seen if isinstance(event, Stage)] == [3]
    assert [one.answers for one in found[DENSE]] == [one.answers for one in whole[DENSE]]


def test_a_speaker_that_cannot_be_used_is_named_and_the_others_go_on(speaking: Path, tmp_path: Path) -> None:
    speakers = [Speaker("gone", "Gone", str(tmp_path / "none"), smith()), Speaker(DENSE, "Dense", str(speaking), smith())]
    seen, found = ask(tmp_path, speaking, speakers=speakers)
    assert [event.model for event in seen if isinstance(event, Untested)] == ["Gone"] and list(found) == [DENSE]
    with pytest.raises(UserError, match=r"dense model cannot be asked, so nothing can be compared with it: There is no model"):
        ask(tmp_path, speaking, speakers=[Speaker(DENSE, "Dense", str(tmp_path / "none"), smith()), speakers[0]])


def test_two_thousand_answers_take_little_memory(tmp_path: Path) -> None:
    answers = Answers(tmp_path / ANSWERS)
    text = "I keep the light, and the light keeps me. " * 12
    (tmp_path / ANSWERS).write_text("".join(json.dumps({"key": f"{n:024}", "answer": f"{n} {text}", "reason": "ended"}) + "\n"
                                            for n in range(2000)))
    tracemalloc.start()
    answers = Answers(tmp_path / ANSWERS)
    replies = [Reply("a", ITEMS[0], 0, ITEMS[0].lines, (answers.of(f"{n:024}")[0],), ("ended",)) for n in range(2000)]
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(replies) == 2000 and most < 20_000_000 and held < most


def test_a_run_is_compared_with_the_dense_model_and_the_result_is_kept(made: Path, tmp_path: Path,
                                                                       own_measures: dict[str, Any]) -> None:
    measure_of("alike", {DENSE: 0.5, "25% removed": 0.5})
    measure_of("worse", {DENSE: 0.9, "25% removed": 0.2})
    measure_of("silent", {DENSE: 0.9, "25% removed": None})
    seen = list(evaluate(job_of(made, tmp_path)))
    assert isinstance(seen[-1], Finished) and any(isinstance(event, Started) for event in seen)
    found = {event.measure: event for event in seen if isinstance(event, Compared)}
    assert [found[name].outcome for name in ("alike", "worse", "silent")] == [Outcome.HOLDS, Outcome.LOST, Outcome.UNMEASURED]
    assert found["worse"].items == 6 and found["worse"].difference == pytest.approx(-0.7)
    missing = next(event for event in seen if isinstance(event, Assessed) and event.measure == "silent"
                   and event.speaker != DENSE)
    assert (missing.mean, missing.missing, missing.note) == (None, 6, "It said nothing.")
    result = read_evaluation(tmp_path / RESULT)
    assert [one.id for one in result.speakers] == [DENSE, "25% removed"] and result.speakers[1].sparsity == 0.25
    assert {one.type for one in result.speakers} == {"Q8_0"} or {one.type for one in result.speakers} == {"F16"}
    assert result.speakers[1].bytes and result.quick and result.replies == 12  # no measure reads a long conversation
    assert len(result.telling) == 3 and {one.measure for one in result.telling} == {"worse"}
    assert len({one.item for one in result.telling}) == 3


@pytest.mark.parametrize(("names", "judged", "asked"), [
    (("loops", "facts"), False, {ItemKind.KNOWLEDGE}),  # loops is measured on what there is
    (("loops", "pressure", "facts"), False, {ItemKind.KNOWLEDGE}),
    (("loops", "pressure", "facts"), True, {ItemKind.KNOWLEDGE, ItemKind.PRESSURE}),
    (("loops",), False, set(ItemKind)),
    (("pressure",), False, set()),
])
def test_only_what_a_measure_is_about_is_asked(names: Sequence[str], judged: bool, asked: set[ItemKind]) -> None:
    assert running.kinds_to_ask([MEASURES[name] for name in names], judged) == asked


def test_the_same_job_says_the_same_and_measures_nothing_again(made: Path, tmp_path: Path, own_measures: dict[str, Any]) -> None:
    given = measure_of("length", {DENSE: 0.5, "25% removed": 0.5})
    first = [event for event in evaluate(job_of(made, tmp_path)) if isinstance(event, Assessed | Compared)]
    seen = list(evaluate(job_of(made, tmp_path)))
    assert [vars(one) | {"time": 0} for one in first] == [vars(one) | {"time": 0} for one in seen
                                                          if isinstance(one, Assessed | Compared)]
    assert len(given) == 2 and all(event.reused for event in seen if isinstance(event, Stage))


def test_a_measure_has_what_it_needs_or_says_why_not(made: Path, tmp_path: Path, own_measures: dict[str, Any]) -> None:
    both = {DENSE: 0.5, "25% removed": 0.5}
    judged, read = measure_of("judged", both, [Need.JUDGE]), measure_of("read", both, [Need.READER, Need.OTHERS])
    own = measure_of("own", both, [Need.MODEL])
    seen = list(evaluate(job_of(made, tmp_path)))
    notes = {event.measure: event.note for event in seen if isinstance(event, Assessed)}
    assert not judged and notes["judged"].startswith("not judged: no judge was named")
    assert len(read) == 2 and read[0].reader is read[1].reader and read[0].reader.source.folder == made / "dense"
    assert [one.reader.source.folder.name for one in own if one.reader] == ["dense", "quarter"]
    assert len(read[0].others) == 5 and "Zoë" not in read[0].others
    assert any(isinstance(event, Warned) and "is told from 5 bundled ones" in event.sentence for event in seen)
    named = list(evaluate(job_of(made, tmp_path, others=["bodo-grumm"], measures=["read"])))
    warned = [event.sentence for event in named if isinstance(event, Warned)]
    assert [one.name for one in read[-1].others.values()] == ["Bodo Grumm"] and not any("bundled" in one for one in warned)
    assert warned == ["Not yet proved to tell anything with dense: all of these measures (docs/evidence.md)."]


def test_a_measure_that_fails_keeps_nobody_else(made: Path, tmp_path: Path, own_measures: dict[str, Any]) -> None:
    @measure("fails", "Fails", "A test.", unit="share", margin=0.1, kinds=(ItemKind.TALK,), quick=True)
    def fails(evidence: Evidence) -> Stream[list[Sample]]:
        yield from ()
        raise UserError("The judge is down.", "Start it.")

    measure_of("alike", {DENSE: 0.5, "25% removed": 0.5})
    seen = list(evaluate(job_of(made, tmp_path)))
    outcomes = {event.measure: event.outcome for event in seen if isinstance(event, Compared)}
    assert outcomes == {"fails": Outcome.UNMEASURED, "alike": Outcome.HOLDS}
    assert {event.note for event in seen if isinstance(event, Assessed) and event.measure == "fails"} == {
        "not measured: The judge is down."}


def test_all_runs_of_a_card_are_found_and_any_model_can_stand_beside(made: Path, tmp_path: Path, speaking: Path,
                                                                     own_measures: dict[str, Any]) -> None:
    names = [DENSE, "25% removed", "50% removed", str(made / "quarter")]
    measure_of("alike", dict.fromkeys(names, 0.5))
    both = [str(made / "half"), DENSE, str(made / "quarter")]
    seen = list(evaluate(job_of(made, tmp_path, models=both)))
    assert [event.speaker for event in seen if isinstance(event, Assessed)] == names[:3]
    own_measures.clear()
    measure_of("alike", dict.fromkeys([DENSE, str(speaking)], 0.5))
    result = list(evaluate(job_of(made, tmp_path, models=[str(made / "dense"), str(speaking)], dense="")))[-1]
    assert isinstance(result, Finished)
    assert [one.model for one in read_evaluation(tmp_path / RESULT).speakers] == [str(made / "dense"), str(speaking)]


def arguments(made: Path, work: Path, *more: str) -> list[str]:
    return ["evaluate", str(made / "card.json"), "--model", str(made / "quarter"), "--dense", str(made / "dense"), "--quick",
            "--max-tokens", "4", "--workdir", str(work), *more]


@pytest.mark.parametrize(("gate", "code", "says"), [
    ({"alike": 0.1}, 0, ""), ({"worse": 0.1}, 3, "Refused: 25% removed: worse: lost."), ({"worse": 2}, 0, ""),
    ({"silent": {}}, 3, "silent: not measured"), ({"silent": {"may_be_unsure": True}, "alike": {"margin": 0}}, 3, "alike: "),
    ({"other": 0.1}, 2, "names a measure"), ({"alike": "x"}, 2, "must be a margin"), ({}, 0, ""),
])
def test_the_gate_refuses_what_was_lost(made: Path, tmp_path: Path, own_measures: dict[str, Any], capsys: Any,
                                        gate: dict[str, Any], code: int, says: str) -> None:
    for name, value in (("alike", 0.5), ("worse", 0.2), ("silent", None)):
        measure_of(name, {DENSE: 0.9 if name == "worse" else 0.5, "25% removed": value})
    (tmp_path / "gate.json").write_text(json.dumps(gate))
    assert main(arguments(made, tmp_path / "work", "--gate", str(tmp_path / "gate.json"))) == code
    said = capsys.readouterr().err
    assert says in said and ("Refused" in said) == (code == 3)


def test_the_command_line_prints_a_table_with_n_and_writes_the_page(made: Path, tmp_path: Path, own_measures: dict[str, Any],
                                                                     capsys: Any) -> None:
    measure_of("worse", {DENSE: 0.9, "25% removed": 0.2})
    assert main(arguments(made, tmp_path / "work", "--html", str(tmp_path / "v.html"), "--result", str(tmp_path / "v.json"))) == 0
    said = capsys.readouterr().out
    assert "lost at 0.1" in said and "n 6" in said and "lost in 1 of 1 measures (worse)" in said
    assert read_evaluation(tmp_path / "v.json").findings and "<!doctype html>" in (tmp_path / "v.html").read_text()
    assert main([*arguments(made, tmp_path / "work", "--json")]) == 0
    assert isinstance([event_file.decode(line) for line in capsys.readouterr().out.splitlines()][-1], Finished)


@pytest.mark.parametrize(("more", "says"), [
    (["--full"], "quick or full"), (["--measure", "none"], "There is no measure"), (["--margin", "alike"], "is none"),
    (["--margin", "other=1"], "not taken"), (["--margin", "alike=-1"], "is none"),
])
def test_wrong_options_get_one_sentence(made: Path, tmp_path: Path, own_measures: dict[str, Any], capsys: Any, more: list[str],
                                        says: str) -> None:
    measure_of("alike", {DENSE: 0.5})
    assert main(arguments(made, tmp_path / "work", *more)) == 2
    said = capsys.readouterr().err
    assert says in said and "Traceback" not in said


def test_another_characters_run_is_refused(made: Path, tmp_path: Path, own_measures: dict[str, Any], capsys: Any) -> None:
    measure_of("alike", {})
    assert main(["evaluate", "pim-tuckett", "--model", str(made / "quarter"), "--workdir", str(tmp_path)]) == 2
    assert "not of Pim Tuckett" in capsys.readouterr().err


def test_what_is_asked_was_never_learned_from_and_a_longer_evaluation_asks_all_of_a_shorter_one() -> None:
    pool = {one.question for one in read_queries()}
    for one in bundled_cards():
        quick, usual, full = (choose_items(one, size) for size in (QUICK, USUAL, FULL))
        assert len({one.id for one in full}) == len(full)
        short = lambda items: [one.id for one in items if one.kind is not ItemKind.LONG]
        assert set(short(quick)) <= set(short(usual)) <= set(short(full))
        talk = [line for one in full if one.kind is ItemKind.TALK for line in one.lines]
        assert len(talk) >= 50 and set(talk) <= pool and {split_of(line) for line in talk} == {"test"}
        assert "{{" not in "".join(line for one in full for line in one.lines)
        assert all("#" not in one.id for one in full)
        assert 20 <= len(short(quick)) <= 40
        assert [len(one.lines) for one in quick if one.kind is ItemKind.LONG] == [12]
        assert {len(one.lines) for one in full if one.kind is ItemKind.LONG} == {20}


def judged_by(name: str) -> list[tuple[float, ...] | None]:
    """Register a measure that asks the judge whether an answer is good; the probabilities it got."""
    found: list[tuple[float, ...] | None] = []

    @measure(name, "Good", "A test.", unit="share", margin=0.1, kinds=(ItemKind.TALK,), needs=(Need.JUDGE,))
    def score(evidence: Evidence) -> Stream[list[Sample]]:
        yield from ()
        assert evidence.judge
        said = [evidence.judge.choose("Judge.", f"{one.last} Is it good?", ("yes", "no"), True) for one in evidence.replies]
        found.extend(one.probabilities for one in said)
        return [Sample(one.item.id, one.seed, judged.probabilities[0] if judged.probabilities else None, judged.reason)
                for one, judged in zip(evidence.replies, said, strict=True)]

    return found


def exam_taker(good: bool) -> Any:
    """What a judge answers: the right letter in its exam, or always A; to anything else yes."""
    right = {}
    for line in read_exam():
        right[line.reply] = next(one.name for one in line.options if one.id == line.speaker)

    def answer(message: str) -> dict[str, float]:
        if "Is it good?" in message:
            return {"yes": 0.9, "no": 0.1}
        name = next((text for reply, text in right.items() if reply in message), "")
        letter = re.search(rf"([A-E])\) {re.escape(name)}", message) if good and name else None
        return {letter[1] if letter else "A": 0.9}

    return answer


def test_a_judge_that_passes_its_exam_judges_and_is_asked_nothing_twice(made: Path, tmp_path: Path,
                                                                       own_measures: dict[str, Any]) -> None:
    found = judged_by("good")
    with teacher_server(alternatives=exam_taker(True)) as server:
        job = job_of(made, tmp_path, judge=server.url, judge_model="m", measures=["good"])
        first = list(evaluate(job))
        asked = len(server.bodies)
        MEASURES["good"] = replace(MEASURES["good"], name="again")  # nothing is known of it
        MEASURES["again"] = MEASURES.pop("good")
        list(evaluate(job_of(made, tmp_path, judge=server.url, judge_model="m", measures=["again"])))
        assert len(server.bodies) == asked
    assert len(found) == 24 and found[0] == pytest.approx((0.9, 0.1))
    assert {event.outcome for event in first if isinstance(event, Compared)} == {Outcome.HOLDS}
    assert "names the right speaker in 100% of 132 lines" in read_evaluation(tmp_path / RESULT).judge


def test_a_judge_that_always_says_a_judges_nothing(made: Path, tmp_path: Path, own_measures: dict[str, Any]) -> None:
    found = judged_by("good")
    with teacher_server(alternatives=exam_taker(False)) as server:
        seen = list(evaluate(job_of(made, tmp_path, judge=server.url, judge_model="m", measures=["good"])))
    assert not found and {event.outcome for event in seen if isinstance(event, Compared)} == {Outcome.UNMEASURED}
    [note] = {event.note for event in seen if isinstance(event, Assessed)}
    assert note.startswith("not judged: this judge names the right speaker in") and "chance 20%" in note


def test_a_judge_that_is_down_keeps_nobody_else(made: Path, tmp_path: Path, own_measures: dict[str, Any]) -> None:
    judged_by("good")
    measure_of("alike", {DENSE: 0.5, "25% removed": 0.5})
    with teacher_server() as server:
        url = server.url
    seen = list(evaluate(job_of(made, tmp_path, judge=url, judge_model="m")))
    outcomes = {event.measure: event.outcome for event in seen if isinstance(event, Compared)}
    assert outcomes == {"good": Outcome.UNMEASURED, "alike": Outcome.HOLDS}
    assert any("cannot be reached" in event.sentence for event in seen if isinstance(event, Warned))


def test_a_measure_that_tells_nothing_on_this_model_is_no_number(made: Path, tmp_path: Path, own_measures: dict[str, Any],
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    given = measure_of("blind", {DENSE: 0.9, "25% removed": 0.1})
    for module in (running, scoring):  # one leaves out what only such measures read, the other gives no number
        monkeypatch.setattr(module, "doubt", lambda name, model: "cannot tell here: it is blind" if name == "blind" else "")
    seen = list(evaluate(job_of(made, tmp_path)))
    assert not given and {(event.mean, event.note) for event in seen if isinstance(event, Assessed)} == {
        (None, "cannot tell here: it is blind")}
    assert not [event for event in seen if isinstance(event, Replied)]  # nothing reads the answers


def test_a_measure_that_was_tried_on_too_little_has_its_number_and_says_so(
        made: Path, tmp_path: Path, own_measures: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    measure_of("thin", {DENSE: 0.75, "25% removed": 0.25})
    measure_of("silent", {DENSE: 0.9, "25% removed": None})
    monkeypatch.setattr(running, "caveat", lambda name, model: "not tried enough here: two answers")
    assert main(arguments(made, tmp_path / "work", "--html", str(tmp_path / "v.html"))) == 0
    result = read_evaluation(tmp_path / "work" / RESULT)
    assert {(one.measure, one.mean): one.note for one in result.figures} == {
        ("thin", 0.75): "not tried enough here: two answers", ("thin", 0.25): "not tried enough here: two answers",
        ("silent", 0.9): "not tried enough here: two answers", ("silent", None): "It said nothing."}
    assert result.finding("thin", "25% removed").outcome is Outcome.LOST  # type: ignore[union-attr]
    assert capsys.readouterr().out.count("\nThin: not tried enough here: two answers.\n") == 1
    assert "Not tried enough here: two answers." in (tmp_path / "v.html").read_text()


@pytest.mark.slow
def test_a_killed_job_loses_one_answer_at_most(made: Path, tmp_path: Path) -> None:
    process = Process(arguments(made, tmp_path / "work", "--measure", "loops", "--json"), tmp_path, forked=True)
    said = 0
    for event in process.events():
        said += len(event["answers"]) if event["event"] == "Replied" else 0
        if said >= 5:
            os.kill(process.pid, signal.SIGKILL)
            break
    assert process.end()[0] == -signal.SIGKILL
    kept = (tmp_path / "work" / ANSWERS).read_bytes().count(b"\n")
    assert kept >= said
    stages = [event for event in evaluate(job_of(made, tmp_path / "work", measures=["loops"])) if isinstance(event, Stage)]
    asked = [event.total for event in stages if event.stage == StageId.INTERVIEW]
    assert asked[0] == asked[1] - kept  # the dense model was killed; the run is asked everything


def test_a_run_that_cannot_be_asked_does_not_pass_the_gate(made: Path, tmp_path: Path, speaking: Path,
                                                           own_measures: dict[str, Any], capsys: Any,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    broken, real = str(speaking), voices.LlamaVoice

    def load(name: str, *rest: Any) -> Any:
        if name == broken:
            raise UserError("llama.cpp cannot load it.")
        return real(name, *rest)

    monkeypatch.setattr(voices, "LlamaVoice", load)
    measure_of("alike", dict.fromkeys([DENSE, "25% removed"], 0.5))
    (tmp_path / "gate.json").write_text('{"alike": 0.1}')
    assert main(arguments(made, tmp_path / "work", "--model", broken, "--gate", str(tmp_path / "gate.json"))) == 3
    said = capsys.readouterr().err
    assert f"Refused: {broken}: alike: not measured." in said and "25% removed: alike" not in said
    result = read_evaluation(tmp_path / "work" / RESULT)
    assert headline(result, broken).endswith("nothing could be measured.")


def test_of_a_conversation_the_telling_turn_is_shown() -> None:
    @measure("turns", "Turns", "A test.", unit="share", margin=0.1, kinds=(ItemKind.LONG,))
    def score(evidence: Evidence) -> Stream[list[Sample]]:
        yield from ()
        return []

    found = MEASURES.pop("turns")
    item = Item("long", ItemKind.LONG, ("One?", "Two?"))
    replies = {one: [Reply(one, item, 0, item.lines, (f"{one} 1", f"{one} 2"), ("ended", "ended"))] for one in (DENSE, "run")}
    scored = [Scored.of(found, one, [Sample("long#1", 0, 1.0), Sample("long#2", 0, value), Sample("gone", 0, value)])
              for one, value in ((DENSE, 1.0), ("run", 0.0))]
    [told] = most_telling([found], {"turns": 0.1}, scored, replies)
    assert (told.item, told.lines, told.dense, told.run) == ("long#2", ["Two?"], [f"{DENSE} 2"], ["run 2"])
    assert most_telling([found], {"turns": 0.1}, scored[:1] * 2, {DENSE: replies[DENSE]}) == []
