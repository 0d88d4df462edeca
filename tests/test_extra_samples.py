"""Further answers: to every train line and no other, different each time, and once written never written again."""

from pathlib import Path
from typing import Any

import pytest
from small_job import make_job
from tiny import make_tiny

from engine.base.events import Event, Stage, Step
from engine.calibration import rewriting
from engine.calibration.lines import read_lines, split_of
from engine.calibration.rewriting import Voice
from engine.stages.context import JobContext, load_dense, open_workdir
from engine.stages.lines import _sample_questions, extra_lines, make_lines, recovery_lines, unanswered, write_extra_samples
from engine.stages.reconstruction import written_rows


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("llama"), "llama")


def make_bench(llama: Path, folder: Path, **changes: Any) -> JobContext:
    """A bench on which the lines are made; a folder that is there goes on."""
    job = make_job(llama, folder / "out", **changes)
    if not (folder / "work" / "job.json").exists():
        open_workdir(job, folder / "work", False)
    bench = JobContext(job, folder / "work")
    list(load_dense(bench, "16bit"))
    list(make_lines(bench))
    return bench


def write(bench: JobContext) -> list[Event]:
    return list(write_extra_samples(bench))


def test_train_lines_are_answered_again_and_differently(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Voice, "fault", lambda *_: None)  # a random model talks nonsense
    bench = make_bench(llama, tmp_path, extra_samples=3)
    seen = write(bench)
    train = bench.split_lines()[0]
    found = extra_lines(bench)
    assert [line.question for line in found] == 3 * [line.question for line in train]
    assert len({(line.question, line.answer) for line in found}) == len(found)
    steps = [event for event in seen if isinstance(event, Step)]
    assert steps[-1].done == len(found) == 3 * len(train) and {step.total for step in steps} == {3 * len(train)}
    assert [step.done for step in steps] == sorted(step.done for step in steps)


def test_a_stop_loses_no_batch_and_changes_no_answer(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_bench(llama, tmp_path / "whole", extra_samples=2, batch_lines=16)
    write(whole)
    stopped = make_bench(llama, tmp_path / "stopped", extra_samples=2, batch_lines=16)
    for event in write_extra_samples(stopped):
        if isinstance(event, Step) and event.done > 30:
            break
    written = sum(len(file.read_text().splitlines()) for file in stopped.folder.glob("answers.further-*.jsonl"))
    sampled: list[int] = []
    sample = rewriting.begin_answers
    monkeypatch.setattr(rewriting, "begin_answers", lambda *given: sampled.append(1) or sample(*given))
    write(stopped)
    assert extra_lines(stopped) == extra_lines(whole)
    assert written >= 2 and len(sampled) == 2 * 3 - written  # 36 lines are three batches
    again = write(stopped)
    assert len(sampled) == 2 * 3 - written and [event.reused for event in again if isinstance(event, Stage)] == [True]


def test_more_rounds_begin_with_the_answers_of_fewer(llama: Path, tmp_path: Path) -> None:
    fewer = make_bench(llama, tmp_path, extra_samples=1)
    write(fewer)
    more = make_bench(llama, tmp_path, extra_samples=2)
    write(more)
    assert extra_lines(more)[: len(extra_lines(fewer))] == extra_lines(fewer)
    assert len(extra_lines(more)) > len(extra_lines(fewer))


def test_recovery_has_rounds_of_its_own_after_those_of_reconstruction(llama: Path, tmp_path: Path) -> None:
    plain = make_bench(llama, tmp_path, extra_samples=1, recovery_samples=2)
    write(plain)
    assert recovery_lines(plain) == ([], []) and not (plain.folder / "further-1.jsonl").exists()
    bench = make_bench(llama, tmp_path, extra_samples=1, recovery_samples=2, recover=True)
    write(bench)
    assert extra_lines(bench) == extra_lines(plain) != []
    rounds = [read_lines(bench.path(f"further-{number}.jsonl")) for number in (1, 2)]
    tuning, fine_tuning = recovery_lines(bench)
    assert [*tuning, *fine_tuning] == [*rounds[0], *rounds[1]] and rounds[0] != rounds[1]
    assert not {line.answer for line in extra_lines(bench)} & {line.answer for line in (*tuning, *fine_tuning)}


def test_recovery_asks_what_the_pool_has_beside_the_train_lines_and_then_all_of_it_again(llama: Path, tmp_path: Path) -> None:
    bench = make_bench(llama, tmp_path, extra_samples=1)
    known = [line.question for line in bench.split_lines()[0]]
    others = [query.question for query in unanswered(bench)]
    assert len(others) > 10 * len(known) and not set(others) & set(known)
    assert all(split_of(question) == "train" for question in others)
    rounds = [[query.question for query in queries] for queries in _sample_questions(bench, 40)]
    assert rounds[0] == known and {len(questions) for questions in rounds} == {len(known)}
    asked = [question for questions in rounds[1:] for question in questions]
    whole = [*others, *known]
    assert asked == (whole * 3)[: len(asked)] and len(asked) > len(whole)


def test_lines_of_another_world_are_answered_again_alone(llama: Path, tmp_path: Path) -> None:
    bench = make_bench(llama, tmp_path)
    own = [line.replace('"question": "', '"question": "Zoë! ') for line in bench.path("lines.jsonl").read_text().splitlines()]
    bench.path("lines.jsonl").write_text("\n".join(own))
    known = [line.question for line in bench.split_lines()[0]]
    assert unanswered(bench) == []
    assert known[0].startswith("Zoë! ")
    assert [[query.question for query in queries] for queries in _sample_questions(bench, 3)] == [known] * 3


@pytest.mark.parametrize(("steps", "expected"), [(1, 4), (3, 12), (1000, None)])
def test_the_fine_tune_has_answers_of_its_own(steps: int, expected: int | None, llama: Path, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Voice, "fault", lambda *_: None)
    bench = make_bench(llama, tmp_path, extra_samples=0, recovery_samples=2, recover=True, recovery_steps=steps)
    write(bench)
    tuning, fine_tuning = recovery_lines(bench)
    count = 2 * len(bench.split_lines()[0])
    assert len(fine_tuning) == (expected or count // 2) and len(tuning) + len(fine_tuning) == count


@pytest.mark.parametrize("changes", [{"reconstruct": False}, {"tuning_epochs": 0}, {"recovery_samples": 0}])
def test_no_answers_are_written_for_recovery_where_no_layer_is_tuned(changes: dict[str, Any], llama: Path, tmp_path: Path) -> None:
    assert write(make_bench(llama, tmp_path, extra_samples=0, recover=True, **changes)) == []


def test_no_answers_are_written_for_recovery_of_families_whose_layers_cannot_be_tuned(tmp_path: Path) -> None:
    gemma = make_tiny(tmp_path / "gemma", "gemma2")
    assert write(make_bench(gemma, tmp_path, extra_samples=0, recover=True)) == []


def test_what_the_filter_rejects_is_not_asked_for_again(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Voice, "fault", lambda _voice, answer, _complete: "nonsense" if len(answer) % 2 else None)
    bench = make_bench(llama, tmp_path, extra_samples=2)
    write(bench)
    assert 0 < len(extra_lines(bench)) < 2 * len(bench.split_lines()[0])
    assert all(len(line.answer) % 2 == 0 for line in extra_lines(bench))
    assert [len(file.read_text().splitlines()) for file in bench.folder.glob("answers.further-*.jsonl")] == [1, 1]


def test_reconstruction_reads_them_and_jobs_without_it_write_none(llama: Path, tmp_path: Path) -> None:
    bench = make_bench(llama, tmp_path, extra_samples=1)
    write(bench)
    with_them = sum(len(row.members) for row in written_rows(bench).rows)
    for changes in ({"extra_samples": 0}, {"reconstruct": False}):
        without = make_bench(llama, tmp_path, **changes)
        assert write(without) == [] and extra_lines(without) == []
    assert with_them == sum(len(row.members) for row in written_rows(without).rows) + len(extra_lines(bench))
