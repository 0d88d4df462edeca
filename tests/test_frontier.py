"""What to ship: every model of a character at every type; what no other beats; what a budget picks, and its export."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_job import run_job, work_of, write_card
from test_gguf_export import ask_here, greet_here
from tiny import make_tiny

from engine.__main__ import main
from engine.base import event_file, events
from engine.base.errors import UserError
from engine.base.events import Stage, Started, Step
from engine.base.files import check_manifest, read_json, write_json, write_manifest
from engine.base.frontier import AXES, RESULT, Budget, front, pick, read_points, verdict
from engine.base.job import FrontierJob
from engine.base.pruning_events import Placed
from engine.cards.baked import bake
from engine.cards.card import parse_card
from engine.export import copying, gguf_proof
from engine.frontier import timing
from engine.frontier.measuring import measure
from engine.serving.files import gguf_file

TYPES = ["F16", "Q8_0", "Q4_1", "Q4_0"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dense model and two finished runs, "half" and "quarter", as they left their work folders."""
    folder = tmp_path_factory.mktemp("made")
    dense = make_tiny(folder / "dense", intermediate_size=128)
    for name, sparsity in (("half", 0.5), ("quarter", 0.25)):
        run_job(dense, folder / name, sparsity=sparsity, multiple=32)
    return folder


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """No fresh processes, few prompts; the files that were timed."""
    timed: list[str] = []

    def asked(program: str, request: dict[str, Any], *rest: Any) -> Any:
        timed.append(request.get("file", ""))
        return ask_here(program, request, *rest)

    for module in (gguf_proof, timing):
        monkeypatch.setattr(module, "ask", asked)
    monkeypatch.setattr(gguf_proof, "QUESTIONS", gguf_proof.QUESTIONS[:2])
    monkeypatch.setattr(copying, "greet", greet_here)
    return timed


def arguments(made: Path, work: Path, *more: str) -> list[str]:
    return ["frontier", str(made / "half"), str(made / "quarter"), "--lines", str(work_of(made / "half") / "lines.jsonl"),
            "--model", str(made / "dense"), "--workdir", str(work), "--rounds", "1",
            *(word for type in TYPES for word in ("--type", type)), *more]


def job_of(made: Path, work: Path, **more: Any) -> FrontierJob:
    return FrontierJob(**{"runs": [str(made / "half"), str(made / "quarter")], "types": TYPES, "workdir": str(work), "rounds": 1,
                          "lines": str(work_of(made / "half") / "lines.jsonl"), "model": str(made / "dense"), **more})


def placed(seen: list[Any]) -> dict[tuple[str, str], Placed]:
    return {(event.name, event.type): event for event in seen if isinstance(event, Placed)}


def test_all_models_are_measured_alike_and_one_is_exported(made: Path, tmp_path: Path, here: list[str], capsys: Any) -> None:
    out = tmp_path / "out"
    assert main(arguments(made, tmp_path / "work", "--json", "--size", "0.09", "--out", str(out))) == 0
    said = [event_file.decode(line) for line in capsys.readouterr().out.splitlines()]
    assert isinstance(said[0], Started) and isinstance(said[-1], events.Finished) and said[-1].out == str(out)
    points = placed(said)
    names = ["Dense", "25% removed", "50% removed"]
    assert set(points) == {(name, type) for name in names for type in TYPES}
    assert points["Dense", "F16"].kl < 1e-4 < points["25% removed", "F16"].kl < points["50% removed", "F16"].kl
    for name in names:
        by_type = [points[name, type] for type in TYPES]
        assert [one.bytes for one in by_type] == sorted((one.bytes for one in by_type), reverse=True)
        assert points[name, "Q4_1"].matrix and not points[name, "Q8_0"].matrix
        assert all(one.tokens_per_second > 0 and one.first_token_seconds > 0 for one in by_type)
        assert {(one.rounds, one.lines) for one in by_type} == {(1, 6)}
    # A run's own reading at 16 bit is the one in its report.
    report = read_json(made / "half" / "report.json")["readings"]["mask_tuned"]
    assert points["50% removed", "F16"].kl == pytest.approx(report["kl"], rel=0.02)
    kept = read_points(tmp_path / "work" / RESULT)
    assert [dataclasses.replace(one, time=0.0) for one in kept] == [dataclasses.replace(one, time=0.0) for one in points.values()]
    chosen = pick(list(points.values()), Budget(size=0.09))
    file = next((out / "gguf").iterdir())
    assert file.stem.endswith(chosen.type) and (not chosen.sparsity or check_manifest(out) == [])
    assert not list((tmp_path / "work" / "files").glob("*"))


def test_the_dense_model_can_be_what_is_picked(made: Path, tmp_path: Path, here: list[str]) -> None:
    out = tmp_path / "out"
    seen = list(measure(job_of(made, tmp_path / "work", types=["Q8_0"], rounds=0, dense=True, out=str(out))))
    assert set(placed(seen)) == {("Dense", "Q8_0")}
    assert gguf_file(str(out)) == out / "gguf" / "zoe-of-the-mill-Q8_0.gguf" and (out / "character.json").is_file()


def test_a_stopped_job_goes_on_where_it_was(made: Path, tmp_path: Path, here: list[str]) -> None:
    job = job_of(made, tmp_path / "work", rounds=2)
    stream = measure(job)
    for event in stream:
        if isinstance(event, Step) and event.stage == "time_for_shipping" and event.done == 5:
            break
    stream.close()  # type: ignore[attr-defined]
    timed = len(here)
    seen = list(measure(job))
    assert [event.reused for event in seen if isinstance(event, Stage) and event.stage == "read_for_shipping"] == [True] * 3
    assert timed == 5 and len(here) == 2 * 12
    assert {point.rounds for point in placed(seen).values()} == {2}
    again = list(measure(job))
    assert len(here) == 24 and placed(again).keys() == placed(seen).keys()


def test_a_baked_run_reads_its_short_prompt(made: Path, tmp_path: Path, here: list[str]) -> None:
    """Not trained: what is compared is the prompt, which is the run's own, with the dense model under the whole one."""
    baked = Path(shutil.copytree(made / "quarter", tmp_path / "baked"))
    write_json(baked / "character.json", bake(parse_card((baked / "character.json").read_bytes(), "card")).raw)
    write_manifest(baked)
    job = FrontierJob(runs=[str(made / "quarter"), str(baked)], types=["F16"], rounds=1, workdir=str(tmp_path / "work"),
                      lines=str(work_of(made / "quarter") / "lines.jsonl"), model=str(made / "dense"))
    points = placed(list(measure(job)))
    short, whole = points["25% removed, baked", "F16"], points["25% removed", "F16"]
    assert short.baked and not whole.baked and short.prompt_tokens < whole.prompt_tokens
    assert short.kl > whole.kl and short.tokens == whole.tokens


def refusal(job: FrontierJob) -> str:
    with pytest.raises(UserError) as error:
        list(measure(job))
    return str(error.value)


def test_what_cannot_be_compared_is_said_in_a_sentence(made: Path, tmp_path: Path, here: list[str],
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONA_STUDIO_HOME", str(tmp_path / "home"))
    quarter, work = str(made / "quarter"), str(tmp_path / "work")
    lines = str(work_of(made / "quarter") / "lines.jsonl")
    other = Path(shutil.copytree(made / "quarter", tmp_path / "other"))
    card = read_json(other / "character.json")
    write_json(other / "character.json", {**card, "name": "Ann"})
    write_manifest(other)
    narrow = make_tiny(tmp_path / "narrow")
    (tmp_path / "empty").mkdir()
    (tmp_path / "train.jsonl").write_text(next(one for one in Path(lines).read_text().splitlines() if '"train"' in one))
    cases: list[tuple[str, dict[str, Any]]] = [
            ("several characters (Ann, Zoë", {"runs": [quarter, str(other)], "lines": lines}),
            ("No finished run of Zoë", {"runs": [str(write_card(tmp_path))]}),
            ("neither a finished folder nor", {"runs": [str(tmp_path / "empty")]}),
            ("are not on this machine", {"runs": [quarter]}),
            ("There is no file", {"runs": [quarter], "lines": lines + "x"}),
            ("has no test lines", {"runs": [quarter], "lines": str(tmp_path / "train.jsonl"), "model": str(made / "dense")}),
            ("is not the dense model of these runs", {"runs": [quarter], "lines": lines, "model": str(narrow)}),
            ("There is no GGUF type", {"runs": [quarter], "lines": lines, "model": str(made / "dense"), "types": ["Q9"]}),
            ("fits the budget. The smallest file has", {"runs": [quarter], "lines": lines, "model": str(made / "dense"),
                                                        "types": ["Q8_0"], "size": 0.001, "out": str(tmp_path / "out")})]
    for words, values in cases:
        assert words in refusal(FrontierJob(**{"rounds": 0, "workdir": work, **values}))
    assert not (tmp_path / "out").exists()


def test_a_card_finds_its_runs_on_this_machine(made: Path, tmp_path: Path, here: list[str],
                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONA_STUDIO_HOME", str(tmp_path))
    (tmp_path / "jobs").mkdir()
    shutil.copytree(work_of(made / "half"), tmp_path / "jobs" / "zoe")
    event_file.append(tmp_path / "jobs" / "zoe" / "events.jsonl", events.Saved("pruned_model", str(made / "half"), 1))  # type: ignore[arg-type]
    seen = list(measure(FrontierJob(runs=[str(write_card(tmp_path))], types=["F16"], rounds=0)))
    assert set(placed(seen)) == {("Dense", "F16"), ("50% removed", "F16")}
    assert (tmp_path / "frontier" / "zoe-of-the-mill-dense" / RESULT).is_file()


def point(name: str, megabytes: float, kl: float, **more: Any) -> Placed:
    sparsity = 0.25 if name == "cut" else 0.0
    return Placed(name, name, sparsity, False, f"T{megabytes:g}", int(megabytes * 1e6), kl, 0.9, 6, 60, **more)


def test_what_no_other_beats_by_hand() -> None:
    points = [point("dense", 100, 0.0), point("dense", 50, 0.05), point("cut", 40, 0.04), point("cut", 80, 0.06),
              point("dense", 30, 0.2)]
    assert [one.type for one in front(points, AXES["size"])] == ["T30", "T40", "T100"]
    assert front(points, AXES["speed"]) == []  # nothing was timed
    timed = [dataclasses.replace(one, tokens_per_second=speed) for one, speed in zip(points, (10, 20, 30, 5, 25), strict=True)]
    assert [one.tokens_per_second for one in front(timed, AXES["speed"])] == [10, 30]
    assert pick(points, Budget(size=60)).type == "T40" and pick(points, Budget()).type == "T100"
    assert pick(timed, Budget(speed=25)).type == "T40"
    with pytest.raises(UserError, match=r"The smallest file has 30\.0 MB\."):
        pick(points, Budget(size=10))
    with pytest.raises(UserError, match="No speed was measured"):
        pick(points, Budget(first=1))


def test_the_sentence_says_who_wins() -> None:
    dense = [point("dense", 100, 0.0), point("dense", 30, 0.1)]
    assert verdict([*dense, point("cut", 60, 0.2)])[0].startswith("Quantising the dense model wins here at every size")
    assert verdict([*dense, point("cut", 20, 0.2)])[0].startswith("Up to 20 MB a pruned model is the closest")
    assert "share the line" in verdict([*dense, point("cut", 60, 0.05)])[0]
    assert verdict(dense) == ["Only the dense model was measured."] and verdict([]) == []
    assert "the file that the dense model came from" in verdict([point("dense", 100, 0.0, exact=True)])[-1]
