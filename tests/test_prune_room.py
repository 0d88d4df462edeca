"""The Prune room without a browser: own files, the table of lines, sizes, the queue, and what is painted when."""

import dataclasses
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy
import pytest
from store_samples import card

from engine.base import event_file, events
from engine.base.errors import UserError
from engine.base.ids import Rejection, StageId
from engine.base.job import Recipe
from engine.base.known_models import KNOWN
from engine.base.pruning_events import Answered, ChannelUse, LayerTuned, MaskSnapshot, Measured
from engine.base.questions import split_of
from engine.base.settings import knobs
from studio import library
from studio.figures import words
from studio.page import Page
from studio.services import Services
from studio.settings import Settings
from studio.store import characters, connection, lines, runs
from studio.store import records as records_of_store
from studio.tabs import prune
from studio.tabs.models import dense_name
from studio.tabs.prune import cut, lines_view, own_lines, pictures, runs_view
from studio.tabs.prune.cut import Plan
from studio.tabs.prune.lines_controller import Edit, LinesController, LinesOptions
from studio.tabs.prune.lines_view import Filter
from studio.tabs.prune.listeners import sizes
from studio.tabs.prune.queueing import Queueing
from studio.tabs.prune.runs_controller import RunsController
from studio.workers.view import RunView

STUB = Path(__file__).with_name("stub_engine.py")
STARTER = {"name": "starter", "layers": 30, "hidden_size": 576, "intermediate_size": 1536, "parameters": 134_515_008}
EVIL = '<img src=x onerror="alert(1)"> **bold** {{7*7}}'
PLAIN = Plan()


def records(count: int = 60) -> list[dict[str, Any]]:
    """Lines as the engine writes them, of which some are held out."""
    return [{"question": f"Where is door number {number}?", "answer": f"Behind barrel {number}.", "category": "world",
             "source": "pool"} for number in range(count)]


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    settings = Settings(tmp_path / "home", poll_seconds=0.05, grace_seconds=0.5, command=(sys.executable, "-S", str(STUB)))
    settings.home.mkdir()
    found = Services.open(settings)
    monkeypatch.setattr(found.speech, "models", lambda wait=True, refresh=False: [STARTER])
    yield found
    found.close()


@pytest.fixture
def person(services: Services) -> str:
    return characters.create(services.store, card("Zoë")).id


@pytest.fixture
def line_room(services: Services) -> LinesController:
    return LinesController(services, Queueing(services))


@pytest.fixture
def run_room(services: Services) -> RunsController:
    return RunsController(services, Queueing(services))


@pytest.fixture
def set_id(services: Services, person: str) -> str:
    """A set that was read and approved."""
    found = lines.add_set(services.store, person, 1, records(), {}, name="Made")
    return lines.approve(services.store, found.id).id


def texts(services: Services, set_id: str) -> list[tuple[str, str]]:
    return [(line.question, line.answer) for line in lines.lines(services.store, set_id)]


# A writer's own file

@pytest.mark.parametrize("spelling", ["lines", "list", "alpaca"])
def test_own_lines_are_read_in_each_spelling(line_room: LinesController, person: str, tmp_path: Path, spelling: str) -> None:
    found = records(40)
    if spelling == "alpaca":
        found = [{"instruction": one["question"], "input": "", "output": one["answer"]} for one in found]
    text = json.dumps(found) if spelling == "list" else "\ufeff" + "\r\n".join(json.dumps(one) for one in found)
    (tmp_path / "mine.jsonl").write_text(text, encoding="utf-8")
    kept = line_room.take_file(person, tmp_path / "mine.jsonl")
    assert texts(line_room.services, kept.id) == [(one["question"], one["answer"]) for one in records(40)]
    assert (kept.name, kept.state, kept.run) == ("mine", "draft", None)
    assert {line.source for line in lines.lines(line_room.store, kept.id)} == {"user"}


def test_what_is_no_line_is_left_out_and_counted() -> None:
    odd: list[Any] = [{"question": "Where is door number 1?", "answer": "Again."}, {"question": "?!", "answer": "No words."},
                      {"question": "No answer?"}, {"question": ["a"], "answer": {"b": 1}},
                      {"question": "Long?", "answer": "x" * 5000}]
    found, left = own_lines.parse(json.dumps(records() + odd).encode(), "mine.json")
    assert len(found) == 60
    assert left == {Rejection.REPEATED: 1, Rejection.NO_TEXT: 3, Rejection.TOO_LONG: 1}


@pytest.mark.parametrize(("data", "sentence"), [
    (b"\xff\xfe\x00", "not UTF-8"), (b"{not json}", "neither JSON Lines nor one JSON list"), (b"[1, 2]", "JSON objects"),
    (b"[" * 100_000, "neither JSON Lines"), (b"", "no usable lines"), (b'{"a": 1}', "no usable lines"),
    (json.dumps(records(10)).encode(), "at least 16"),
    (json.dumps([one for one in records(80) if split_of(one["question"]) == "train"]).encode(), "held out"),
    (json.dumps(records(6000)).encode(), "more than 5,000 lines")])
def test_a_file_that_cannot_be_used_gets_a_sentence_with_its_name(data: bytes, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        own_lines.parse(data, "mine.json")
    assert "mine.json" in str(caught.value) and "Traceback" not in str(caught.value)


def test_a_file_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.json").write_bytes(b" " * 200)
    monkeypatch.setattr(own_lines, "MAX_BYTES", 100)
    with pytest.raises(UserError, match=r"mine\.json is larger"):
        own_lines.read_file(tmp_path / "mine.json")
    with pytest.raises(UserError, match="cannot be read"):
        own_lines.read_file(tmp_path / "gone.json")


# The table of lines

def test_search_and_category_find_lines(services: Services, person: str) -> None:
    fear = {"question": "Do you FEAR rain?", "answer": "No.", "category": "x"}
    made = lines.add_set(services.store, person, 1, [*records(20), fear], {})
    every = lines.lines(services.store, made.id)
    assert [line.question for line in lines_view.matching(every, Filter("fear"))] == ["Do you FEAR rain?"]
    assert [line.answer for line in lines_view.matching(every, Filter("BARREL 7"))] == ["Behind barrel 7."]
    assert len(lines_view.matching(every, Filter(category="world"))) == 20
    assert lines_view.categories(every) == [("All · 21", ""), ("world · 20", "world"), ("x · 1", "x")]


def test_lines_are_sorted_by_any_column(services: Services, set_id: str) -> None:
    every = lines.lines(services.store, set_id)
    look = dict.fromkeys(("search", "about", "lines"), "")
    for sort, first in (("question", 1), ("used", None), ("nonsense", 1)):
        wanted = Filter.of({**look, "sort": sort}, every)
        found = lines_view.matching(every, wanted)
        assert len(found) == 60 and first in (None, found[0].position), sort
    assert Filter.of({**look, "sort": "", "about": "gone", "lines": "400"}, every) == Filter(most=400)


def test_editing_approved_lines_makes_one_copy(line_room: LinesController, person: str, set_id: str) -> None:
    before = texts(line_room.services, set_id)
    copy = line_room.edit(set_id, Edit(3, None, "Elsewhere."))
    assert copy != set_id and texts(line_room.services, set_id) == before
    assert texts(line_room.services, copy)[2] == (before[2][0], "Elsewhere.")
    assert line_room.edit(set_id, Edit(5, None, "Typed before the copy was shown.")) == copy
    assert line_room.edit(copy, Edit(4, "Whose door is four?", None)) == copy
    assert texts(line_room.services, copy)[3] == ("Whose door is four?", before[3][1])
    found = lines.line_set(line_room.store, copy)
    assert found and (found.state, found.name) == ("draft", "Made, edited")
    assert line_room.chosen(person, "") == found and line_room.chosen(person, set_id) != found


@pytest.mark.parametrize("edit", [Edit(3, "", None), Edit(3, "?!", None), Edit(3, None, "  "),
                                  Edit(3, "where is DOOR number 7", None)])
def test_a_text_that_no_line_may_have_changes_and_copies_nothing(line_room: LinesController, person: str, set_id: str,
                                                                 edit: Edit) -> None:
    before = texts(line_room.services, set_id)
    with pytest.raises(UserError):
        line_room.edit(set_id, edit)
    assert texts(line_room.services, set_id) == before and len(line_room.sets(person)) == 1


def test_deleted_lines_come_back(line_room: LinesController, set_id: str) -> None:
    with pytest.raises(UserError, match="No line is ticked"):
        line_room.take_out(set_id, [])
    copy, gone = line_room.take_out(set_id, [1, 2])
    assert copy != set_id and len(texts(line_room.services, copy)) == 58 and len(texts(line_room.services, set_id)) == 60
    with pytest.raises(UserError, match="deleted already"):  # a second click before the page shows it
        line_room.take_out(copy, [1, 2])
    line_room.put_back(gone)
    assert texts(line_room.services, copy) == texts(line_room.services, set_id)


def test_lines_that_a_run_has_just_made_are_edited_where_they_are(line_room: LinesController, person: str) -> None:
    run = runs.add(line_room.store, person, 1, "lines", "Quick lines", {})
    made = lines.add_set(line_room.store, person, 1, records(), {}, run=run.id)
    runs.update(line_room.store, run.id, state="done", line_set=made.id)
    assert line_room.edit(made.id, Edit(3, None, "Elsewhere.")) == made.id
    assert line_room.take_out(made.id, [1])[0] == made.id
    assert [one.id for one in line_room.sets(person)] == [made.id]


def test_a_deleted_set_teaches_no_new_run_and_comes_back(line_room: LinesController, run_room: RunsController, person: str,
                                                         set_id: str) -> None:
    before = run_room.prune(person, set_id, "starter", PLAIN)
    assert line_room.rename(set_id, "x" * 200).name == "x" * 80
    assert line_room.delete(set_id).id == set_id and line_room.chosen(person, set_id) is None
    with pytest.raises(UserError, match="no lines to learn from"):
        run_room.prune(person, set_id, "starter", Plan(50))
    with pytest.raises(UserError, match="not in the library"):
        run_room.services.jobs.submit_prune(person, PLAIN.spec("starter"), set_id, "x")
    for act in (lambda: line_room.approve(set_id), lambda: line_room.edit(set_id, Edit(1, None, "x")),
                lambda: line_room.delete(set_id)):
        with pytest.raises(UserError):
            act()
    assert [run.id for run in run_room.newest(person)] == [before.id] and len(texts(line_room.services, set_id)) == 60
    line_room.undelete(set_id)
    assert run_room.prune(person, set_id, "starter", Plan(50)).line_set == set_id


def test_too_few_lines_are_not_approved(line_room: LinesController, person: str) -> None:
    made = lines.add_set(line_room.store, person, 1, records(15), {})
    with pytest.raises(UserError, match="15 usable lines"):
        line_room.approve(made.id)
    with pytest.raises(UserError, match="no lines yet"):
        line_room.approve("")


def test_the_summary_counts_each_kind_and_says_why_answers_went(services: Services, person: str) -> None:
    made = lines.add_set(services.store, person, 1, records(), {"truncated": 4, "<b>": 2})
    text = lines_view.summary_html(made, lines.lines(services.store, made.id), 60, 60, 2)
    sides = [split_of(one["question"]) for one in records()]
    assert f"{sides.count('train')} to learn from, {60 - sides.count('train')} held out" in text
    assert "4 broke off, 2 &lt;b&gt;" in text and "now at version 2" in text


@pytest.mark.parametrize(("name", "value", "said"), [
    ("seed", 3, ["Seed: 3"]), ("recover", True, [knobs(Recipe)["recover"].label]), ("seed", 0, []),
    ("a setting of long ago", 9, [])])
def test_a_run_says_each_setting_that_was_changed_and_no_other(name: str, value: Any, said: list[str]) -> None:
    spec = {"model": "some/model", "preset": "quick", "sparsity": 0.25, name: value}
    run: Any = SimpleNamespace(spec=spec, version=2, summary={}, name="Pim")
    assert runs_view.about(run, "").split(" · ") == ["25\u00a0% removed", "model", "Quick", *said, "card version 2"]
    run.name = "25 % removed (2)"  # by which it is called already
    assert runs_view.about(run, "").split(" · ") == ["model", "Quick", *said, "card version 2"]


# Making lines

def test_a_server_needs_an_address_and_a_model_and_no_secret_in_it() -> None:
    spec = LinesOptions("server", "standard", " http://127.0.0.1:8080/v1 ", "llama").spec("starter")
    assert spec == {"model": "starter", "preset": "standard", "teacher": "http://127.0.0.1:8080/v1", "teacher_model": "llama"}
    assert "teacher" not in LinesOptions("self", "quick", "http://x", "y").spec("starter")
    for url, name in (("127.0.0.1:8080", "a"), ("file:///etc/passwd", "a"), ("http://", "a"), ("http://[", "a"),
                      ("http://me:pw@x/v1", "a"), ("http://x", " ")):
        with pytest.raises(UserError):
            LinesOptions("server", "quick", url, name).spec("starter")


def test_a_double_click_makes_lines_once(line_room: LinesController, person: str) -> None:
    run = line_room.make(person, "some/quick", LinesOptions())
    with pytest.raises(UserError, match="being made already"):
        line_room.make(person, "some/quick", LinesOptions())
    assert runs.foremost(runs.list_runs(line_room.store, person)) == run
    assert line_room.make(person, "some/quick", LinesOptions(preset="standard")).id != run.id
    with pytest.raises(UserError, match="No character"):
        line_room.make("", "some/quick", LinesOptions())


# Sizes

def test_sizes_are_shown_in_both_shares_and_snap_to_the_multiple(services: Services) -> None:
    shape = cut.shape_of(services, "starter")
    text = cut.facts_html(shape, PLAIN)
    for part in ("25\u00a0%", "14.8\u00a0%", "229\u00a0MB", "before: 269\u00a0MB", "1.17\u00a0times", "1,536 become 1,152",
                 "multiple of 128", "of all parameters removed"):
        assert part in text, part
    badges = cut.likes_html(shape, PLAIN)
    assert badges.count('class="yes"') == 4 and badges.count('class="no"') == 1
    assert cut.likes_html(None, PLAIN) == cut.likes_html(shape, Plan(multiple=1024, percent=75)) == ""
    assert "Between 5 and 75" in cut.facts_html(shape, Plan(percent=None)) and cut.likes_html(shape, Plan(percent=None)) == ""
    assert cut.remaining_figure(shape, Plan(percent=None)).data
    assert "You asked for 20\u00a0%; the nearest step is 16.7\u00a0%" in cut.facts_html(shape, Plan(percent=20))
    assert "You asked" not in text
    assert cut.facts_html(shape, Plan(multiple=1024, percent=75)).count("No multiple of 1024") == 1
    assert cut.UNKNOWN in cut.facts_html(cut.shape_of(services, "some/other"), PLAIN)


@pytest.mark.parametrize("plan", [Plan(seed=None), Plan(seed=-1), Plan(seed=0.5), Plan(percent=4), Plan(percent=80),
                                  Plan(percent=None), Plan(0), Plan(0, bake=True, recover=True), Plan(3, bake=True)])
def test_a_plan_that_no_run_takes_is_refused(plan: Plan) -> None:
    assert Plan(0, bake=True).spec("starter")["sparsity"] == 0.0
    with pytest.raises(UserError):
        plan.spec("starter")


# Runs

def test_a_typed_folder_has_its_sizes_at_once(services: Services, run_room: RunsController, person: str, set_id: str, llama: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services.speech, "models", lambda **_: pytest.fail("no worker is needed to look into a folder"))
    shape = cut.shape_of(services, f" {llama} ")
    assert shape and (shape.layers, shape.intermediate_size) == (2, 64)
    assert "64 become 48 in each of 2 layers" in sizes(services, str(llama), Plan(multiple=16))[0]
    assert "No multiple of 128 fits here" in sizes(services, str(llama), PLAIN)[0]
    with pytest.raises(UserError, match="No multiple of 128 fits here"):
        run_room.prune(person, set_id, str(llama), PLAIN)


@pytest.mark.parametrize(("name", "sentence"), [("model.gguf", "is a GGUF file"), ("llama3.2:1b", "is a name in Ollama"),
                                                ("empty", "holds no model"), ("nowhere", "There is no model")])
def test_what_cannot_be_pruned_is_shown_in_the_room_and_never_queued(services: Services, line_room: LinesController,
                                                                    run_room: RunsController,
                                                                    person: str, set_id: str, name: str, sentence: str,
                                                                    tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("model.gguf").write_bytes(b"GGUF")
    facts, badges, _ = sizes(services, name, PLAIN)
    assert sentence in facts and cut.UNKNOWN not in facts and badges == ""
    assert sentence in library.model_note(services, name)
    for attempt in (lambda: line_room.make(person, name, LinesOptions()), lambda: run_room.prune(person, set_id, name, PLAIN),
                    lambda: run_room.prune_ladder(person, set_id, name, PLAIN)):
        with pytest.raises(UserError, match=sentence):
            attempt()
    assert runs.list_runs(services.store, person) == []


def test_the_note_below_the_model_tells_the_size_of_a_typed_folder(services: Services, llama: Path, tmp_path: Path) -> None:
    assert library.model_note(services, str(llama)) == '<span class="quiet">28\u00a0k parameters</span>'
    assert library.model_note(services, "some/other") == '<span class="quiet">looked up when it is first used</span>'
    shutil.copytree(llama, tmp_path / "town")
    place = tmp_path / "town" / "characters" / "ann"
    place.mkdir(parents=True)
    (place / "character.json").write_text('{"name": "Ann"}')
    assert "as ann of the cast town, in Play" in library.model_note(services, str(place))
    assert dense_name(str(place)) == "Cast town · ann"


def test_the_note_of_a_model_that_is_there_does_not_say_that_it_is_fetched(services: Services,
                                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services.speech, "models", lambda wait=True: [])  # the list is still being made
    assert "630\u00a0M parameters" in (note := library.model_note(services, "small")) and "fetched on first use" in note
    folder = KNOWN["small"].folder_in(services.settings.home)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert "630\u00a0M parameters" in (note := library.model_note(services, "small")) and "fetched" not in note
    assert library.model_choices(services)[0] == [("Starter · SmolLM2 135M", "starter"), ("Small · Qwen2.5 0.5B", "small")]


def test_pruning_needs_approved_lines_and_says_so(run_room: RunsController, person: str, services: Services) -> None:
    draft = lines.add_set(services.store, person, 1, records(), {})
    for lines_id, sentence in (("", "no lines to learn from"), (draft.id, "not approved")):
        with pytest.raises(UserError, match=sentence):
            run_room.prune(person, lines_id, "starter", PLAIN)
    assert run_room.newest(person) == []


def test_the_same_prune_is_queued_once_from_two_pages_at_once(services: Services, person: str, set_id: str) -> None:
    room = RunsController(services, Queueing(services))
    outcomes: list[str] = []

    def press() -> None:
        try:
            outcomes.append(room.prune(person, set_id, "starter", PLAIN).state)
        except UserError as error:
            outcomes.append(str(error))

    pages = [threading.Thread(target=press) for _ in range(6)]
    for page in pages:
        page.start()
    for page in pages:
        page.join()
    assert outcomes.count("queued") == 1 and len(room.newest(person)) == 1
    assert all("waiting or running already" in one for one in outcomes if one != "queued")
    other = room.prune(person, set_id, "starter", Plan(seed=1))
    assert {run.state for run in room.newest(person)} == {"queued"} and other.name == "25\u00a0% removed (2)"


def test_a_run_that_has_ended_may_be_made_again(run_room: RunsController, person: str, set_id: str) -> None:
    first = run_room.prune(person, set_id, "starter", PLAIN)
    runs.update(run_room.store, first.id, state="failed")
    assert run_room.prune(person, set_id, "starter", PLAIN, " My   own\nname ").name == "My own name"


def test_three_are_queued_with_their_own_sizes(run_room: RunsController, person: str, set_id: str) -> None:
    run_room.prune(person, set_id, "starter", PLAIN)
    queued, left = run_room.prune_ladder(person, set_id, "starter", PLAIN)
    assert [run.spec["sparsity"] for run in queued] == [0.1, 0.5] and left.startswith("25\u00a0%: The same prune")
    with pytest.raises(UserError, match="waiting or running already"):
        run_room.prune_ladder(person, set_id, "starter", PLAIN)
    coarse, left = run_room.prune_ladder(person, set_id, "starter", Plan(multiple=256))
    assert [run.spec["sparsity"] for run in coarse] == [0.1, 0.5] and "25\u00a0%: It comes to the same size" in left


def test_a_removed_run_comes_back(run_room: RunsController, person: str, set_id: str) -> None:
    run = run_room.prune(person, set_id, "starter", PLAIN)
    run_room.remove(run.id)
    assert run_room.newest(person) == []
    run_room.put_back(run.id)
    assert [one.id for one in run_room.newest(person)] == [run.id]
    with pytest.raises(UserError, match="needs a name"):
        run_room.rename(run.id, "  ")


def finish(services: Services, person: str, set_id: str, shape: tuple[int, int] = (4, 64), seed: int = 0, **spec: Any) -> runs.Run:
    """A finished run with a mask."""
    asked = {"model": "starter", "sparsity": 0.5, "preset": "quick", **spec}
    run = runs.add(services.store, person, 1, "prune", f"Run {seed}", asked, set_id)
    mask = numpy.random.default_rng(seed).random(shape) < 0.5
    runs.set_mask(services.store, run.id, numpy.packbits(mask, axis=1).tobytes(), *shape)
    reading = {"top1": 0.7, "nll": 2.0, "lines": 40, "tokens": 900}
    readings = {"dense": {**reading, "kl": 0.0}, "wanda": {**reading, "kl": 0.5, "top1": 0.6}, "mask": {**reading, "kl": 0.31}}
    summary = {"readings": readings,
               "before": {"intermediate_size": 1536, "parameters": 134_515_008, "bytes": 269_000_000},
               "after": {"intermediate_size": 768, "parameters": 94_000_000, "bytes": 189_000_000}, "seconds": 451.0}
    return runs.update(services.store, run.id, state="done", summary=summary)


def test_two_masks_of_one_model_can_be_compared(services: Services, run_room: RunsController, person: str, set_id: str) -> None:
    one, two = finish(services, person, set_id), finish(services, person, set_id, seed=1)
    stranger = finish(services, person, set_id, model="other")
    assert [id for _, id in run_room.others(one)] == [two.id]
    kept, removed = run_room.overlap(one, two.id, "kept"), run_room.overlap(one, two.id, "removed")
    assert len(kept.data[0].y) == len(removed.data[0].y) == 4
    odd = finish(services, person, set_id, shape=(2, 64))
    with pytest.raises(UserError, match="different models"):
        run_room.overlap(one, odd.id, "kept")
    with pytest.raises(UserError, match="no mask"):
        run_room.overlap(one, "unknown", "kept")
    assert run_room.others(runs.update(services.store, stranger.id, state="failed")) == []


def test_the_list_and_the_end_of_a_run_say_what_it_rests_on(services: Services, person: str, set_id: str) -> None:
    run = finish(services, person, set_id)
    table = runs_view.table_html([run], {run.id: "done"}, run.id)
    for part in ("50\u00a0%", "0.31", "40\u00a0lines", "189\u00a0MB", 'aria-pressed="true"'):
        assert part in table, part
    end = runs_view.ending_html(run, "done")
    for part in ("7\u00a0min 31\u00a0s", "70\u00a0% of the time", "manages 60\u00a0%", "40\u00a0lines"):
        assert part in end, part


@pytest.mark.parametrize(("state", "said"), [
    ("queued", "before it have ended"), ("starting", "is starting"), ("running", "is starting")])
def test_a_run_that_has_begun_nothing_yet_says_why(services: Services, person: str, set_id: str, state: str, said: str) -> None:
    run = dataclasses.replace(finish(services, person, set_id), state=state)
    assert said in runs_view.stages_html(run, RunView())


def test_names_and_sentences_of_others_never_become_html(services: Services, person: str, set_id: str) -> None:
    run = dataclasses.replace(finish(services, person, set_id), name=EVIL, sentence=EVIL, state="failed")
    view = services.watcher.view(run.id)
    view.add(events.Started(EVIL, EVIL, 0.25, [(EVIL, EVIL)]))
    view.add(events.Stage(EVIL, 4))
    view.add(events.Warned(EVIL))
    shown = (runs_view.table_html([run], {run.id: "failed"}, "") + runs_view.run_html(run, view, "failed", EVIL)
             + runs_view.progress_html(run, view, "failed"))
    assert "<img" not in shown and shown.count("&lt;img") >= 6


# What the live channel shows

LOOKS = ("character", "set", "search", "about", "sort", "lines", "run", "runs", "other", "how", "at")


def shown(services: Services, person: str, **look: str) -> dict[str, Any]:
    """What a page gets that looks at a character."""
    asked = {**dict.fromkeys(LOOKS, ""), "character": person, **look}
    queueing = Queueing(services)
    return {**LinesController(services, queueing).contents(asked), **RunsController(services, queueing).contents(asked)}


def tell(services: Services, run: runs.Run, *said: events.Event) -> None:
    path = services.settings.run_events(run.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    for event in said:
        event_file.append(path, event)
    services.watcher.forget(run.id)


SNAPSHOT = MaskSnapshot(2, 0.25, [[1.0, 0.5], [1.0, 0.5]], [3, 4], [1, 2])


def test_what_a_run_tells_is_shown_and_the_rest_stays_as_it_is(services: Services, run_room: RunsController, person: str,
                                                               set_id: str) -> None:
    run = runs.update(services.store, run_room.prune(person, set_id, "starter", PLAIN).id, state="running")
    tell(services, run, events.Started("Zoë", "starter", 0.25, [(StageId.LEARN_MASK, "")]), events.Stage(StageId.LEARN_MASK, 10))
    first = shown(services, person)
    assert first["prune-run"] and not any(first[f"prune-shown-{name}"] for row in pictures.FIGURES for name in row)
    assert shown(services, person) == first
    tell(services, run, events.Step(StageId.LEARN_MASK, 1, 10, {"loss": 0.5}))
    second = shown(services, person)
    assert {id for id in second if second[id] != first.get(id)} == {"prune-progress", "prune-shown-course", "prune-figure-course"}
    assert "1 of 10" in second["prune-progress"] and "the next one" not in second["prune-progress"]
    tell(services, run, SNAPSHOT)
    third = shown(services, person)
    assert {id for id in third if third[id] != second.get(id)} == {
        f"prune-{what}-{name}" for what in ("shown", "figure") for name in ("cut", "changes")}
    tell(services, run, events.Step(StageId.LEARN_MASK, 1, 10, {events.UNDER_WAY: 0.5}))
    assert "1 of 10, the next one 50\u00a0%" in shown(services, person)["prune-progress"]


def test_a_page_looks_at_a_character_by_its_name_in_the_address(services: Services, person: str, set_id: str) -> None:
    found = characters.get(services.store, person)
    assert found and shown(services, found.slug) == shown(services, person)
    assert shown(services, "nobody") == {"prune-room": False, "prune-nobody": True}


def test_what_is_shown_is_escaped(services: Services, run_room: RunsController, person: str, set_id: str) -> None:
    run = run_room.prune(person, set_id, "starter", PLAIN)
    runs.update(services.store, run.id, name=EVIL, state="failed", sentence=EVIL)
    made = lines.add_set(services.store, person, 1, [*records(), {"question": EVIL, "answer": EVIL, "category": EVIL}], {EVIL: 2},
                         name=EVIL)
    contents = shown(services, person, search="", run=run.id)
    assert "&lt;img" in contents["prune-progress"] and made.id in contents["prune-from"]
    assert contents["prune-lines-read"].count("&lt;img") >= 4
    assert "<img" not in "".join(text for text in contents.values() if isinstance(text, str))
    assert "<img" not in shown(services, person, search=EVIL)["prune-lines-read"]


def test_a_figure_is_drawn_once_for_all_pages_and_one_that_grows_not_too_often(run_room: RunsController, services: Services,
                                                                               person: str, set_id: str,
                                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs.update(services.store, run_room.prune(person, set_id, "starter", PLAIN).id, state="running")
    tell(services, run, events.Started("Zoë", "starter", 0.25, [(StageId.LEARN_MASK, "")]), SNAPSHOT)
    real, drawn, now = pictures.channels.cut, [], [100.0]
    monkeypatch.setattr(pictures.channels, "cut", lambda last: drawn.append(last.step) or real(last))
    monkeypatch.setattr(pictures.time, "monotonic", lambda: now[0])
    look = {**dict.fromkeys(LOOKS, ""), "character": person}
    first = run_room.contents(look)
    assert run_room.contents(look)["prune-figure-cut"] is first["prune-figure-cut"] and drawn == [2]
    tell(services, run, dataclasses.replace(SNAPSHOT, step=4))
    assert run_room.contents(look)["prune-figure-cut"] is first["prune-figure-cut"]  # soon after
    now[0] += pictures.PAUSE
    run_room.contents(look)
    tell(services, run, dataclasses.replace(SNAPSHOT, step=6))
    runs.update(services.store, run.id, state="done")
    run_room.contents(look)  # the last one at once
    assert drawn == [2, 4, 6]
    monkeypatch.setattr(pictures, "REMEMBERED", 2)
    one = real(SNAPSHOT)
    for number in range(5):
        run_room.drawings.get((str(number),), "", lambda: one)
    assert len(run_room.drawings._drawn) == 2


def test_a_silent_run_offers_its_end_though_no_event_came(services: Services, run_room: RunsController, person: str, set_id: str,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    runs.update(services.store, run_room.prune(person, set_id, "starter", PLAIN).id, state="running")
    first = shown(services, person)["prune-progress"]
    assert "prune-kill" not in first and "prune-stop-run" in first and 'id="prune-delete"' in first and " disabled" in first
    monkeypatch.setattr(services.jobs, "silent_seconds", lambda run: 1e6)
    second = shown(services, person)["prune-progress"]
    assert "prune-kill" in second and "has not reported anything" in second


def test_a_finished_run_shows_its_figures_when_its_files_are_gone(services: Services, person: str, set_id: str) -> None:
    run = finish(services, person, set_id)
    said = [events.Started("Zoë", "starter", 0.5, [(StageId.LEARN_MASK, "")]), events.Stage(StageId.LEARN_MASK, 2),
            events.Step(StageId.LEARN_MASK, 1, 2, {"loss": 0.4}), SNAPSHOT,
            Measured("mask", "test", 0.31, 0.7, 2.0, 40, 900), events.Finished("", 9.0)]
    runs.set_events(services.store, run.id, [json.loads(event_file.encode(event)) for event in said])
    contents = shown(services, person)
    assert "Done in" in contents["prune-progress"] and "prune-resume" not in contents["prune-progress"]
    assert not contents["prune-how"] and "prune-stages" not in contents["prune-progress"]
    went = shown(services, person, how="all")
    assert went["prune-how"] and "prune-stages" in went["prune-progress"]
    for name in ("cut", "changes", "course", "ladder"):
        assert len(json.loads(contents[f"prune-figure-{name}"])["data"]) > 0, name
    assert [name for row in pictures.FIGURES for name in row if not contents[f"prune-shown-{name}"]] == ["used", "errors"]


def test_a_run_that_has_ended_is_a_film_to_scrub(services: Services, person: str, set_id: str) -> None:
    run = finish(services, person, set_id)
    said = [events.Started("Zoë", "starter", 0.5, [], time=1), events.Stage(StageId.DENSE, 2, time=2),
            ChannelUse(1, 1, 90, ["", EVIL], 80, [[0.1, 0.4], [0.2, -0.3]], "Zoë", time=31),
            Answered("dense", EVIL, "I am Zoë.", time=32), events.Stage(StageId.TUNE, 2, time=40),
            LayerTuned(StageId.TUNE, 0, 2, 0.2, 0.1, True, time=50), Answered("after_tuning", EVIL, EVIL, time=61),
            Measured("mask", "test", 0.31, 0.7, 2.0, 40, 900, time=62), events.Finished("", 9.0, time=70)]
    tell(services, run, *said)
    whole, first, third = (shown(services, person, at=at) for at in ("", "1", "3"))
    there = lambda contents: [name for row in pictures.FIGURES for name in row if contents[f"prune-shown-{name}"]]
    assert there(whole) == ["used", "errors", "ladder"] and there(first) == ["used"] and there(third) == ["used", "errors"]
    assert 'max="4" value="4"' in whole["prune-film"] and 'max="4" value="3"' in third["prune-film"]
    assert "30\u00a0s in: Read the answers with the whole model" in first["prune-film"]
    assert "49\u00a0s in: Tune what" in third["prune-film"]
    assert [contents["prune-answers"].count("<dt>") for contents in (first, third, whole)] == [0, 1, 2]
    assert "&lt;img" in whole["prune-answers"] and "<img" not in whole["prune-answers"] + str(whole["prune-figure-used"])
    assert shown(services, person, at="99")["prune-film"] == shown(services, person, at="x")["prune-film"] == whole["prune-film"]
    runs.update(services.store, run.id, state="running")
    assert shown(services, person, at="1")["prune-film"] == "" and there(shown(services, person, at="1")) == there(whole)


def test_the_masks_of_two_runs_are_shown_side_by_side(services: Services, person: str, set_id: str) -> None:
    one, two = finish(services, person, set_id), finish(services, person, set_id, seed=1)
    odd = finish(services, person, set_id, shape=(2, 64), seed=2)
    assert "prune-figure-overlap-kept" not in shown(services, person, run=one.id)
    contents = shown(services, person, run=one.id, other=two.id)
    assert json.loads(contents["prune-figure-overlap-kept"])["data"] and f'value="{two.id}" selected' in contents["prune-others"]
    assert "different models" in shown(services, person, run=one.id, other=odd.id)["prune-figure-overlap-kept"]


def test_a_new_set_appears_and_the_chosen_one_stays(services: Services, person: str, set_id: str) -> None:
    assert f'data-id="{set_id}"' in shown(services, person)["prune-lines-read"]
    made = lines.add_set(services.store, person, 1, [*records(), {"question": "Who?", "answer": "I."}], {})
    newest = shown(services, person)["prune-lines-read"]
    assert f'data-id="{made.id}"' in newest and newest.count("data-tick") == 61
    assert f'data-id="{set_id}"' in shown(services, person, set=set_id)["prune-lines-read"]
    assert shown(services, person, about="gone")["prune-lines-read"] == newest
    few = shown(services, person, lines="20")["prune-lines-read"]
    assert few.count("data-tick") == 20 and 'value="220"' in few


def test_a_set_with_a_new_name_is_shown_by_it_everywhere(services: Services, line_room: LinesController, person: str,
                                                                 set_id: str) -> None:
    run = finish(services, person, set_id)
    line_room.rename(set_id, EVIL)
    contents = shown(services, person)
    for part in ("prune-from", "prune-progress", "prune-lines-read"):
        assert "&lt;img" in contents[part] and "<img" not in contents[part]
    line_room.delete(set_id)
    gone = shown(services, person)
    assert "prune-no-lines" in gone["prune-lines-read"] and "data-set" not in gone["prune-from"]
    assert runs.get(services.store, run.id) == run


def test_a_character_without_anything_gets_friendly_words(services: Services, person: str) -> None:
    contents = shown(services, person)
    assert "Nothing pruned yet" in contents["prune-runs"] and "prune-no-lines" in contents["prune-lines-read"]
    assert not contents["prune-run"] and contents["prune-making"] == ""


def test_a_run_of_lines_is_followed_to_its_set(services: Services, line_room: LinesController, person: str) -> None:
    run = line_room.make(person, "some/refuses", LinesOptions())
    assert "prune-lines-stop" in shown(services, person)["prune-making"]
    runs.update(services.store, run.id, state="failed", sentence="The card is empty.")
    contents = shown(services, person)["prune-making"]
    assert "The card is empty." in contents and "prune-lines-resume" in contents and "prune-lines-drop" in contents
    runs.update(services.store, run.id, state="done", sentence="")
    assert shown(services, person)["prune-making"] == ""
    runs.update(services.store, run.id, sentence="Pruning did not begin.")  # what was to follow
    contents = shown(services, person)["prune-making"]
    assert "Pruning did not begin." in contents and "prune-lines-drop" in contents and "prune-lines-resume" not in contents


def test_every_listener_is_private_and_none_asks_by_itself(services: Services) -> None:
    with gr.Blocks() as blocks:
        page = Page(gr.State(""), gr.State(0), gr.State("starter"))
        with gr.Tabs(), gr.Tab("Prune") as tab:
            prune.build(services, page, tab)
    listeners = list(blocks.fns.values())
    assert len(listeners) > 15 and {one.api_visibility for one in listeners} == {"private"}
    assert "tick" not in {event for one in listeners for _, event in one.targets}


def test_times_are_shown_in_words() -> None:
    assert [words.duration(seconds) for seconds in (0, 45.4, 60, 200, 3599, 3900)] == [
        "0\u00a0s", "45\u00a0s", "1\u00a0min", "3\u00a0min 20\u00a0s", "59\u00a0min", "1\u00a0h 5\u00a0min"]
    assert [words.remaining(seconds) for seconds in (3, 42, 100)] == [
        "a few seconds left", "about 40\u00a0s left", "about 1\u00a0min 30\u00a0s left"]


def many_runs(services: Services, person: str, count: int) -> None:
    summary = {"readings": {name: {"kl": 0.5, "top1": 0.5, "nll": 2.0, "lines": 8, "tokens": 90} for name in ("dense", "mask")}}
    for number in range(count):
        run = runs.add(services.store, person, 1, "prune", f"run {number}", {"model": "starter", "sparsity": 0.25})
        runs.update(services.store, run.id, state="done", summary=summary, ended=1.0)


def work_of(services: Services, person: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, int]:
    """Records that the room's contents read, connections that they open, and bytes of the list."""
    counted = {"records": 0, "connections": 0}

    def counting(name: str, do: Any) -> Any:
        def counts(*arguments: Any, **named: Any) -> Any:
            counted[name] += 1
            return do(*arguments, **named)

        return counts

    with monkeypatch.context() as patch:
        patch.setattr(records_of_store, "read", counting("records", records_of_store.read))
        patch.setattr(connection, "connect", counting("connections", connection.connect))
        contents = shown(services, person)
    return counted["records"], counted["connections"], len(contents["prune-runs"])


def test_the_work_of_a_look_does_not_grow_with_the_runs(services: Services, person: str,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    many_runs(services, person, 30)
    few = work_of(services, person, monkeypatch)
    many_runs(services, person, 120)
    many = work_of(services, person, monkeypatch)
    assert many[0] == few[0] < 120 and max(few[1], many[1]) < 25 and abs(many[2] - few[2]) < 100


def test_more_runs_are_shown_when_asked_for_and_the_chosen_one_always(services: Services, person: str) -> None:
    many_runs(services, person, 45)
    oldest = runs.list_runs(services.store, person)[-1]
    tables = [shown(services, person, runs=most, run=run_id)["prune-runs"]
              for most, run_id in (("", ""), ("40", ""), ("60", ""), ("20", oldest.id))]
    assert [html.count('data-look="run"') for html in tables] == [20, 40, 45, 21]
    assert ['data-look="runs"' in html for html in tables] == [True, True, False, True]
    assert "20 of 45 runs" in tables[0] and 'value="40"' in tables[0] and oldest.id in tables[3] and 'class="chosen"' in tables[3]
