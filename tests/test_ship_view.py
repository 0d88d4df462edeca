"""The view What to ship: its figure, its budget, and the measurement that it starts."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_job import run_job, work_of
from store_samples import card
from test_frontier import point
from tiny import make_tiny

from engine.base.errors import UserError
from engine.base.files import write_json
from engine.base.frontier import RESULT, Budget, pick
from studio.figures.frontier import tradeoff
from studio.figures.theme import caption_of
from studio.services import Services
from studio.store import characters, runs
from studio.tabs.export import shipping, view
from studio.workers.commands import export_spec, prepare
from studio.workers.ending import Ending, settle

POINTS = [point("dense", 269, 0.0, tokens_per_second=30.0, first_token_seconds=1.5, memory=300_000_000, rounds=3),
          point("dense", 98, 0.02, tokens_per_second=50.0, first_token_seconds=1.2, memory=130_000_000, rounds=3),
          point("cut", 79, 0.16, tokens_per_second=60.0, first_token_seconds=1.0, memory=110_000_000, rounds=3),
          point("cut", 120, 0.2, tokens_per_second=55.0, first_token_seconds=0.9, memory=150_000_000, rounds=3)]


def look(person: str, **more: str) -> dict[str, str]:
    return {"character": person, **{f"ship_{name}": "" for name in ("axis", *shipping.FIELDS)}, **more}


def keep(services: Services, person: str, points: list[Any]) -> None:
    folder = services.shipping.folder(person)
    folder.mkdir(parents=True, exist_ok=True)
    plain = [{name: value for name, value in vars(one).items() if name != "time"} for one in points]
    write_json(folder / RESULT, {"points": plain})


def test_the_figure_joins_what_no_other_beats_and_says_who_wins() -> None:
    figure = tradeoff(POINTS, "size", POINTS[2])
    line = figure.data[0]
    assert line.mode == "lines" and list(line.x) == [79, 98, 269] and list(line.y) == [0.16, 0.02, 0.0]
    assert {trace.name for trace in figure.data if trace.name} == {"dense model", "pruned"}
    assert "Up to 79" in caption_of(figure) and figure.layout.title.text.startswith("<b>cut at T79</b>")
    assert list(tradeoff(POINTS, "speed").data[0].x) == [30, 50, 60]
    assert "Nothing was measured yet" in caption_of(tradeoff([]))
    assert "What to ship" not in tradeoff([]).layout.title.text  # the heading above it says so
    untimed = [point("dense", 98, 0.02)]
    assert "No speed was measured" in caption_of(tradeoff(untimed, "first"))
    assert "wins here at every size" in caption_of(tradeoff([*POINTS[:2], POINTS[3]]))


def test_a_budget_picks_one_and_a_budget_that_nothing_fits_is_a_sentence(services: Services, person: str) -> None:
    keep(services, person, POINTS)
    parts = shipping.contents(services, look(person))
    assert "Without a limit: <b>dense at T269</b>" in parts["ship-pick"] and "It is the dense model, quant" in parts["ship-pick"]
    assert parts["ship-export"] is True
    parts = shipping.contents(services, look(person, ship_size="90"))
    assert "Within these limits: <b>cut at T79</b>" in parts["ship-pick"] and "dense model" not in parts["ship-pick"]
    parts = shipping.contents(services, look(person, ship_size="10", ship_speed="900"))
    assert "No model of this character fits the budget. The smallest file has 79.0 MB; the fastest" in parts["ship-pick"]
    parts = shipping.contents(services, look(person, ship_size="nonsense", ship_axis="<b>"))
    assert "Without a limit" in parts["ship-pick"]
    assert shipping.contents(services, look("")) == {}
    other = characters.create(services.store, card("Ann")).id
    assert "Measure takes some minutes" in shipping.contents(services, look(other))["ship-table"]
    (services.shipping.folder(person) / RESULT).write_text("{")
    assert "Measure takes some minutes" in shipping.contents(services, look(person))["ship-table"]


@pytest.mark.slow
def test_a_character_is_measured_and_what_is_picked_is_exported(services: Services, person: str, tmp_path: Path) -> None:
    dense = make_tiny(tmp_path / "dense", intermediate_size=128)
    run_job(dense, tmp_path / "out", sparsity=0.5, multiple=32)
    run = runs.add(services.store, person, 1, "prune", "Half", {"model": str(dense), "sparsity": 0.5})
    runs.update(services.store, run.id, state="done")
    with pytest.raises(UserError, match="no finished model"):
        shipping.begin(services, person)
    folder = services.settings.run_folder(run.id)
    folder.mkdir(parents=True)
    shutil.copytree(tmp_path / "out", folder / "model")
    (folder / "work").mkdir()
    shutil.copy(work_of(tmp_path / "out") / "lines.jsonl", folder / "work" / "lines.jsonl")
    shipping.begin(services, person)
    assert services.shipping.character() == person
    with pytest.raises(UserError, match="under way already"):
        shipping.begin(services, person)
    assert services.shipping.wait(400), (services.shipping.folder(person) / "log.txt").read_text()
    assert services.shipping.endings[person] == ""
    points = services.shipping.points(person)
    assert {one.name for one in points} == {"Dense", "50% removed"} and all(one.rounds == 3 for one in points)
    parts = shipping.contents(services, look(person))
    assert "50% removed" in parts["ship-table"] and json.loads(parts["ship-figure"])
    smallest = min(points, key=lambda one: one.bytes)
    said = shipping.export_pick(services, person, shipping.budget_of(smallest.bytes / 1e6))
    [job] = runs.list_runs(services.store, person, kinds=["export"])
    assert "under way" in said and job.spec["run"] == run.id and job.spec["gguf"] == [smallest.type]
    assert export_spec(services.settings, services.store, run.id, "again", False, {"gguf": ["Q4_0"]})

    closest = pick(points, Budget())
    assert not closest.sparsity
    shipping.export_pick(services, person, Budget())
    job = next(one for one in runs.list_runs(services.store, person, kinds=["export"]) if one.spec.get("dense"))
    arguments = prepare(services.settings, services.store, job)
    with subprocess.Popen([sys.executable, "-m", "engine", *arguments], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
        assert child.wait() == 0
    out = Path(job.spec["folder"])
    assert sorted(str(file.relative_to(out)) for file in out.rglob("*.*")) == [
        "character.json", f"gguf/zoe-of-the-mill-{closest.type}.gguf"]
    done = settle(services.settings, services.store, job, Ending())
    assert done.state == "done" and done.summary["proof"]["files"][0]["type"] == closest.type
    [made] = runs.list_exports(services.store, run=run.id)
    text = view.export_html(made, "")
    assert f"GGUF {closest.type}" in text and "from_pretrained" not in text
