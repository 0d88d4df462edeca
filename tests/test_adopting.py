"""Runs of the command line in the library: found, taken in with their history, never copied; and folders that hold none."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from small_job import told_run, work_of

from engine.base.errors import UserError
from engine.base.files import read_json, write_json, write_manifest
from engine.base.job import make_recipe
from engine.cards.fields import with_fields
from engine.cards.files import read_card
from studio import panels
from studio.services import Services
from studio.store import characters, lines, runs
from studio.store.runs import Run
from studio.tabs.models import dense_of, finished
from studio.tabs.prune.runs_view import about, ending_html
from studio.workers import pace
from studio.workers.adopting import adopt, find, found_here


@pytest.fixture(scope="module")
def made(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of Zoë; its work folder is beside it."""
    return told_run(llama, tmp_path_factory.mktemp("elsewhere") / "zoe-half", sparsity=0.5)


@pytest.fixture
def here(services: Services, made: Path) -> Path:
    """Its work folder in the data folder, where the command line puts it."""
    work = services.settings.jobs / "zoe-1234567890"
    shutil.copytree(work_of(made), work)
    return work


def test_a_run_whose_work_folder_is_in_the_data_folder_is_found_and_added_with_all_that_it_did(
        services: Services, made: Path, here: Path, llama: Path) -> None:
    settings, store = services.settings, services.store
    [found] = found_here(settings, store)
    assert (found.folder, found.work, found.model) == (made, here, str(llama))
    assert 'data-place="' in panels.found_html(services) and "50\u00a0% removed" in panels.found_html(services)
    before = sum(file.stat().st_size for file in made.rglob("*") if file.is_file())
    run = adopt(settings, store, found)
    assert found_here(settings, store) == [] and panels.found_html(services) == ""
    who = characters.get(store, run.character)
    assert who and who.name == "Zoë *of* the [Mill]"
    assert (run.state, run.name, run.spec["sparsity"], dense_of(run).model) == ("done", "zoe-half", 0.5, str(llama))
    assert "preset" not in run.spec  # its knobs are those of none
    assert "mask" in run.summary["readings"] and run.summary["after"]["intermediate_size"] > 0
    assert finished(services, run.character) == [run] and runs.mask(store, run.id) is not None
    stages = services.watcher.view(run.id).stages
    assert len(stages) > 5 and run.line_set and len(lines.lines(store, run.line_set)) == 45
    kept = [file.name for file in settings.run_folder(run.id).rglob("*.safetensors")]
    assert kept == ["mask.safetensors"]  # the model was not copied
    assert sum(file.stat().st_size for file in made.rglob("*") if file.is_file()) == before
    with pytest.raises(UserError, match="in the library already, as “zoe-half”"):
        adopt(settings, store, find(settings, str(made)))


def test_two_clicks_add_a_run_once_and_one_that_cannot_be_used_leaves_nothing(services: Services, made: Path,
                                                                              tmp_path: Path) -> None:
    settings, store = services.settings, services.store
    broken = Path(shutil.copytree(made, tmp_path / "broken"))
    report = read_json(broken / "report.json")
    write_json(broken / "report.json", {**report, "stages": None})
    write_manifest(broken)
    before = len(characters.list_characters(store))
    with pytest.raises(UserError, match="cannot be added"):
        adopt(settings, store, find(settings, str(broken)))
    assert (len(runs.list_runs(store)), len(characters.list_characters(store))) == (0, before)

    def add(_: int) -> str:
        try:
            return adopt(settings, store, find(settings, str(made))).name
        except UserError as error:
            return error.sentence

    with ThreadPoolExecutor(3) as pool:
        said = sorted(pool.map(add, range(3)))
    assert said[2] == "zoe-half" and all("in the library already" in one for one in said[:2])
    assert (len(runs.list_runs(store)), len(characters.list_characters(store))) == (1, before + 1)


def test_it_goes_to_the_version_with_the_same_card_and_a_deleted_run_can_be_added_again(
        services: Services, made: Path, here: Path) -> None:
    store = services.store
    card = read_card(made / "character.json").raw
    who = characters.create(store, card)
    characters.save(store, who.id, with_fields(card, description="A baker."), autosave=False)
    run = adopt(services.settings, store, find(services.settings, str(here)))
    assert (run.character, run.version) == (who.id, 1)
    runs.remove(store, run.id)
    assert adopt(services.settings, store, find(services.settings, str(here))).character == who.id


def test_the_folder_alone_is_enough_and_its_model_may_be_gone_later(services: Services, made: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made, tmp_path / "copy"))
    run = adopt(services.settings, services.store, find(services.settings, f" {copy} "))
    assert run.state == "done" and run.line_set is None and finished(services, run.character) == [run]
    shutil.rmtree(copy)
    assert finished(services, run.character) == []


def test_its_preset_and_when_it_was_made_are_kept_where_they_are_known(services: Services, made: Path, tmp_path: Path) -> None:
    report = read_json(made / "report.json")

    def added(name: str, **changes: Any) -> Run:
        copy = Path(shutil.copytree(made, tmp_path / name))
        write_json(copy / "report.json", {**report, **changes})
        write_manifest(copy)
        return adopt(services.settings, services.store, find(services.settings, str(copy)))

    quick = make_recipe("quick", sparsity=0.5, bake=True).to_dict()
    known = added("known", recipe=quick, made="2026-01-02T03:04:05Z")
    assert known.spec["preset"] == "quick" and about(known, "").count("Quick · Bake the card") == 1
    assert known.made == 1_767_323_045 and "Done in" in ending_html(known, "done")
    later = runs.add(services.store, known.character, 1, "prune", "", known.spec)
    assert pace.like(later, [known]) is None  # it may be of another machine
    unknown = added("unknown", recipe={**quick, "steps": 13, "no_knob": 1}, made=5)
    assert "preset" not in unknown.spec and unknown.made > known.made


def damaged(made: Path, folder: Path, file: str, content: Any) -> Path:
    """A copy of the run with another file in it; None takes it away."""
    shutil.copytree(made, folder)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    return folder


@pytest.mark.parametrize(("file", "content", "sentence"), [
    ("manifest.json", None, "holds no finished run"), ("report.json", None, "holds no finished run"),
    ("report.json", "{", "cannot be read"), ("report.json", "{}", "damaged: report.json has 2 bytes"),
    ("config.json", "{}", "damaged: config.json has 2 bytes"),
    ("character.json", None, "damaged: character.json is missing")])
def test_a_damaged_folder_gets_one_sentence_and_leaves_nothing(services: Services, made: Path, tmp_path: Path, file: str,
                                                               content: str | None, sentence: str) -> None:
    folder = damaged(made, tmp_path / "copy", file, content)
    with pytest.raises(UserError, match=sentence):
        adopt(services.settings, services.store, find(services.settings, str(folder)))
    assert runs.list_runs(services.store) == []


def test_what_is_no_finished_run_says_what_to_choose(services: Services, made: Path, here: Path, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    for place, sentence in (("", "No folder is named"), (nowhere, "There is no folder"), ("\0", "There is no folder"),
                            (str(tmp_path), "holds no finished run")):
        with pytest.raises(UserError, match=sentence):
            find(services.settings, place)
    report = json.loads((made / "report.json").read_text())
    cast = Path(shutil.copytree(made, tmp_path / "cast"))
    write_json(cast / "report.json", {**report, "characters": {}})
    with pytest.raises(UserError, match="model of a cast"):
        find(services.settings, str(cast))
    log = (here / "events.jsonl").read_text().splitlines(keepends=True)
    (here / "events.jsonl").write_text("".join(log[:-1]))
    with pytest.raises(UserError, match=r"has not finished.*--resume"):
        find(services.settings, str(here))
    assert found_here(services.settings, services.store) == []
