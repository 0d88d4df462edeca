"""The Prune room without a browser: own files, the table of lines, sizes, the queue, and what is painted when."""

import dataclasses
import json
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy
import pytest
from store_samples import card

from engine.base import events
from engine.base.errors import UserError
from engine.base.questions import split_of
from studio import library
from studio.page import Page
from studio.services import Services
from studio.settings import Settings
from studio.store import characters, connection, lines, runs
from studio.store import records as records_of_store
from studio.tabs import prune
from studio.tabs.prune import cut, drawing, lines_table, own_lines, runs_html, words
from studio.tabs.prune.cut import Plan
from studio.tabs.prune.layout import Controls
from studio.tabs.prune.line_listeners import edited
from studio.tabs.prune.lines_room import LinesRoom, Wish
from studio.tabs.prune.lines_table import Edit, Filter
from studio.tabs.prune.painting import Look, Painter
from studio.tabs.prune.queueing import Queueing
from studio.tabs.prune.run_listeners import sizes
from studio.tabs.prune.runs_room import RunsRoom

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
def line_room(services: Services) -> LinesRoom:
    return LinesRoom(services, Queueing(services))


@pytest.fixture
def run_room(services: Services) -> RunsRoom:
    return RunsRoom(services, Queueing(services))


@pytest.fixture
def set_id(services: Services, person: str) -> str:
    """A set that was read and approved."""
    found = lines.add_set(services.store, person, 1, records(), {}, name="Made")
    return lines.approve(services.store, found.id).id


def texts(services: Services, set_id: str) -> list[tuple[str, str]]:
    return [(line.question, line.answer) for line in lines.lines(services.store, set_id)]


# A writer's own file

@pytest.mark.parametrize("spelling", ["lines", "list", "alpaca"])
def test_own_lines_are_read_in_each_spelling(line_room: LinesRoom, person: str, tmp_path: Path, spelling: str) -> None:
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
    assert left == {own_lines.TWICE: 1, own_lines.EMPTY: 3, own_lines.LONG: 1}


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
    assert [line.question for line in lines_table.matching(every, Filter("fear"))] == ["Do you FEAR rain?"]
    assert [line.answer for line in lines_table.matching(every, Filter("BARREL 7"))] == ["Behind barrel 7."]
    assert len(lines_table.matching(every, Filter(category="world"))) == 20
    assert lines_table.categories(every) == [("All · 21", ""), ("world · 20", "world"), ("x · 1", "x")]


def test_an_edit_is_found_in_a_sorted_table_and_a_tick_is_none(services: Services, set_id: str) -> None:
    every = lines.lines(services.store, set_id)
    table = list(reversed(lines_table.rows(every)))
    assert lines_table.edits(every, table) == [] and lines_table.ticked(table) == []
    table[3][0], table[5][3] = True, "On the roof."
    assert lines_table.edits(every, table) == [Edit(55, None, "On the roof.")]
    assert lines_table.ticked(table) == [57]
    assert lines_table.edits(every, [[False, "", "new row", "x", "", "", ""], []]) == []


def test_editing_approved_lines_makes_a_copy_and_editing_the_copy_none(line_room: LinesRoom, person: str, set_id: str) -> None:
    before = texts(line_room.services, set_id)
    copy = line_room.edit(set_id, [Edit(3, None, "Elsewhere.")])
    assert copy != set_id and texts(line_room.services, set_id) == before
    assert texts(line_room.services, copy)[2] == (before[2][0], "Elsewhere.")
    assert line_room.edit(copy, [Edit(4, "Whose door is four?", None)]) == copy
    assert texts(line_room.services, copy)[3] == ("Whose door is four?", before[3][1])
    found = lines.line_set(line_room.store, copy)
    assert found and (found.state, found.name) == ("draft", "Made, edited")
    assert line_room.chosen(person, "") == found and line_room.chosen(person, set_id) != found


@pytest.mark.parametrize("edit", [Edit(3, "", None), Edit(3, "?!", None), Edit(3, None, "  "),
                                  Edit(3, "where is DOOR number 7", None)])
def test_a_text_that_no_line_may_have_changes_and_copies_nothing(line_room: LinesRoom, person: str, set_id: str,
                                                                 edit: Edit) -> None:
    before = texts(line_room.services, set_id)
    with pytest.raises(UserError):
        line_room.edit(set_id, [edit])
    assert texts(line_room.services, set_id) == before and len(line_room.sets(person)) == 1


def test_what_is_typed_is_kept_without_painting_the_table_again(line_room: LinesRoom, person: str) -> None:
    made = lines.add_set(line_room.store, person, 1, records(), {})
    table = lines_table.rows(lines.lines(line_room.store, made.id))
    assert edited(line_room, made.id, table, Filter(), {}) == gr.skip()
    table[0][3] = "Behind you."
    found, shown, seen, _ = edited(line_room, made.id, table, Filter(), {"rows": "old"})
    assert shown == found
    assert (found, texts(line_room.services, made.id)[0][1]) == (made.id, "Behind you.") and seen["rows"]
    painter, _ = painting(line_room.services)
    again = painter.paint(Look(person), seen)
    assert painter.controls.table not in again
    table[0][3] = " "
    assert edited(line_room, made.id, table, Filter(), seen)[2]["rows"] is None  # the library's text comes back
    assert edited(line_room, made.id, table[:-1], Filter(), seen)[2]["rows"] is None  # a row taken out of the page only


def test_deleted_lines_come_back(line_room: LinesRoom, set_id: str) -> None:
    with pytest.raises(UserError, match="No line is ticked"):
        line_room.take_out(set_id, [])
    copy, gone = line_room.take_out(set_id, [1, 2])
    assert copy != set_id and len(texts(line_room.services, copy)) == 58 and len(texts(line_room.services, set_id)) == 60
    with pytest.raises(UserError, match="deleted already"):  # a second click before the page shows it
        line_room.take_out(copy, [1, 2])
    line_room.put_back(gone)
    assert texts(line_room.services, copy) == texts(line_room.services, set_id)


def test_lines_that_a_run_has_just_made_are_edited_where_they_are(line_room: LinesRoom, person: str) -> None:
    run = runs.add(line_room.store, person, 1, "lines", "Quick lines", {})
    made = lines.add_set(line_room.store, person, 1, records(), {}, run=run.id)
    runs.update(line_room.store, run.id, state="done", line_set=made.id)
    assert line_room.edit(made.id, [Edit(3, None, "Elsewhere.")]) == made.id
    assert line_room.take_out(made.id, [1])[0] == made.id
    assert [one.id for one in line_room.sets(person)] == [made.id]


def test_a_deleted_set_teaches_no_new_run_and_comes_back(line_room: LinesRoom, run_room: RunsRoom, person: str,
                                                         set_id: str) -> None:
    before = run_room.prune(person, set_id, "starter", PLAIN)
    assert line_room.rename(set_id, "x" * 200).name == "x" * 80
    assert line_room.delete(set_id).id == set_id and line_room.chosen(person, set_id) is None
    with pytest.raises(UserError, match="no lines to learn from"):
        run_room.prune(person, set_id, "starter", Plan(50))
    with pytest.raises(UserError, match="not in the library"):
        run_room.services.jobs.submit_prune(person, PLAIN.spec("starter"), set_id, "x")
    for act in (lambda: line_room.approve(set_id), lambda: line_room.edit(set_id, [Edit(1, None, "x")]),
                lambda: line_room.delete(set_id)):
        with pytest.raises(UserError):
            act()
    assert [run.id for run in run_room.newest(person)] == [before.id] and len(texts(line_room.services, set_id)) == 60
    line_room.undelete(set_id)
    assert run_room.prune(person, set_id, "starter", Plan(50)).line_set == set_id


def test_too_few_lines_are_not_approved(line_room: LinesRoom, person: str) -> None:
    made = lines.add_set(line_room.store, person, 1, records(15), {})
    with pytest.raises(UserError, match="15 usable lines"):
        line_room.approve(made.id)
    with pytest.raises(UserError, match="no lines yet"):
        line_room.approve("")


def test_the_summary_counts_each_kind_and_says_why_answers_went(services: Services, person: str) -> None:
    made = lines.add_set(services.store, person, 1, records(), {"truncated": 4, "<b>": 2})
    text = lines_table.summary_html(made, lines.lines(services.store, made.id), 60, 60, 2)
    sides = [split_of(one["question"]) for one in records()]
    assert f"{sides.count('train')} to learn from, {60 - sides.count('train')} held out" in text
    assert "4 broke off, 2 &lt;b&gt;" in text and "now at version 2" in text


# Making lines

def test_a_server_needs_an_address_and_a_model_and_no_secret_in_it() -> None:
    spec = Wish("server", "standard", " http://127.0.0.1:8080/v1 ", "llama").spec("starter")
    assert spec == {"model": "starter", "preset": "standard", "teacher": "http://127.0.0.1:8080/v1", "teacher_model": "llama"}
    assert "teacher" not in Wish("self", "quick", "http://x", "y").spec("starter")
    for url, name in (("127.0.0.1:8080", "a"), ("file:///etc/passwd", "a"), ("http://", "a"), ("http://[", "a"),
                      ("http://me:pw@x/v1", "a"), ("http://x", " ")):
        with pytest.raises(UserError):
            Wish("server", "quick", url, name).spec("starter")


def test_a_double_click_makes_lines_once(line_room: LinesRoom, person: str) -> None:
    run = line_room.make(person, "some/quick", Wish())
    with pytest.raises(UserError, match="being made already"):
        line_room.make(person, "some/quick", Wish())
    assert line_room.under_way(person) == run
    assert line_room.make(person, "some/quick", Wish(preset="standard")).id != run.id
    with pytest.raises(UserError, match="No character"):
        line_room.make("", "some/quick", Wish())


# Sizes

def test_sizes_are_told_in_both_shares_and_snap_to_the_multiple(services: Services) -> None:
    shape = cut.shape_of(services, "starter")
    text = cut.facts_html(shape, PLAIN)
    for part in ("25\u00a0%", "14.8\u00a0%", "229\u00a0MB", "before: 269\u00a0MB", "1.17\u00a0times", "1,536 become 1,152",
                 "multiple of 128"):
        assert part in text, part
    badges = cut.likes_html(shape, PLAIN)
    assert badges.count('class="yes"') == 4 and badges.count('class="no"') == 1
    assert cut.likes_html(None, PLAIN) == cut.likes_html(shape, Plan(multiple=1024, percent=75)) == ""
    assert "You asked for 20\u00a0%; the nearest step is 16.7\u00a0%" in cut.facts_html(shape, Plan(percent=20))
    assert "You asked" not in text
    assert cut.facts_html(shape, Plan(multiple=1024, percent=75)).count("No multiple of 1024") == 1
    assert cut.UNKNOWN in cut.facts_html(cut.shape_of(services, "some/other"), PLAIN)


@pytest.mark.parametrize("plan", [Plan(seed=None), Plan(seed=-1), Plan(seed=0.5), Plan(percent=4), Plan(percent=80)])
def test_a_plan_that_no_run_takes_is_refused(plan: Plan) -> None:
    with pytest.raises(UserError):
        plan.spec("starter")


# Runs

def test_a_typed_folder_has_its_sizes_at_once(services: Services, run_room: RunsRoom, person: str, set_id: str, llama: Path,
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
def test_what_cannot_be_pruned_is_told_in_the_room_and_never_queued(services: Services, line_room: LinesRoom, run_room: RunsRoom,
                                                                    person: str, set_id: str, name: str, sentence: str,
                                                                    tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("model.gguf").write_bytes(b"GGUF")
    facts, badges, _ = sizes(services, name, PLAIN)
    assert sentence in facts and cut.UNKNOWN not in facts and badges == ""
    assert sentence in library.model_note(services, name)
    for attempt in (lambda: line_room.make(person, name, Wish()), lambda: run_room.prune(person, set_id, name, PLAIN),
                    lambda: run_room.prune_ladder(person, set_id, name, PLAIN)):
        with pytest.raises(UserError, match=sentence):
            attempt()
    assert runs.list_runs(services.store, person) == []


def test_the_note_below_the_model_tells_the_size_of_a_typed_folder(services: Services, llama: Path) -> None:
    assert library.model_note(services, str(llama)) == '<span class="quiet">28\u00a0k parameters</span>'
    assert library.model_note(services, "some/other") == '<span class="quiet">looked up when it is first used</span>'
    assert library.model_choices(services)[0] == [("Starter · SmolLM2 135M", "starter")]


def test_pruning_needs_approved_lines_and_says_so(run_room: RunsRoom, person: str, services: Services) -> None:
    draft = lines.add_set(services.store, person, 1, records(), {})
    for lines_id, sentence in (("", "no lines to learn from"), (draft.id, "not approved")):
        with pytest.raises(UserError, match=sentence):
            run_room.prune(person, lines_id, "starter", PLAIN)
    assert run_room.newest(person) == []


def test_the_same_prune_is_queued_once_from_two_pages_at_once(services: Services, person: str, set_id: str) -> None:
    room = RunsRoom(services, Queueing(services))
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


def test_a_run_that_has_ended_may_be_made_again(run_room: RunsRoom, person: str, set_id: str) -> None:
    first = run_room.prune(person, set_id, "starter", PLAIN)
    runs.update(run_room.store, first.id, state="failed")
    assert run_room.prune(person, set_id, "starter", PLAIN, " My   own\nname ").name == "My own name"


def test_three_are_queued_with_their_own_sizes(run_room: RunsRoom, person: str, set_id: str) -> None:
    run_room.prune(person, set_id, "starter", PLAIN)
    queued, left = run_room.prune_ladder(person, set_id, "starter", PLAIN)
    assert [run.spec["sparsity"] for run in queued] == [0.1, 0.5] and left.startswith("25\u00a0%: The same prune")
    with pytest.raises(UserError, match="waiting or running already"):
        run_room.prune_ladder(person, set_id, "starter", PLAIN)
    coarse, left = run_room.prune_ladder(person, set_id, "starter", Plan(multiple=256))
    assert [run.spec["sparsity"] for run in coarse] == [0.1, 0.5] and "25\u00a0%: It comes to the same size" in left


def test_a_removed_run_comes_back(run_room: RunsRoom, person: str, set_id: str) -> None:
    run = run_room.prune(person, set_id, "starter", PLAIN)
    run_room.remove(run.id)
    assert run_room.newest(person) == [] and not run_room.is_busy(person)
    run_room.put_back(run.id)
    assert [one.id for one in run_room.newest(person)] == [run.id] and run_room.is_busy(person)
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


def test_two_masks_of_one_model_can_be_laid_side_by_side(services: Services, run_room: RunsRoom, person: str, set_id: str) -> None:
    one, two = finish(services, person, set_id), finish(services, person, set_id, seed=1)
    stranger = finish(services, person, set_id, model="other")
    assert [id for _, id in run_room.others(one)] == [two.id]
    kept, removed = run_room.overlaps(one, two.id)
    assert len(kept.data[0].y) == len(removed.data[0].y) == 4
    odd = finish(services, person, set_id, shape=(2, 64))
    with pytest.raises(UserError, match="different models"):
        run_room.overlaps(one, odd.id)
    with pytest.raises(UserError, match="no mask"):
        run_room.overlaps(one, "unknown")
    assert run_room.others(runs.update(services.store, stranger.id, state="failed")) == []


def test_the_list_and_the_end_of_a_run_say_what_it_rests_on(services: Services, person: str, set_id: str) -> None:
    run = finish(services, person, set_id)
    table = runs_html.table_html([run], {run.id: "done"}, run.id)
    for part in ("50\u00a0%", "0.31", "40\u00a0lines", "189\u00a0MB", 'aria-pressed="true"'):
        assert part in table, part
    end = runs_html.ending_html(run, "done")
    for part in ("7\u00a0min 31\u00a0s", "70\u00a0% of the time", "manages 60\u00a0%", "40\u00a0lines"):
        assert part in end, part


def test_names_and_sentences_of_others_never_become_html(services: Services, person: str, set_id: str) -> None:
    run = dataclasses.replace(finish(services, person, set_id), name=EVIL, sentence=EVIL, state="failed")
    view = services.watcher.view(run.id)
    view.add(events.Started(EVIL, EVIL, 0.25, [EVIL]))
    view.add(events.Stage(EVIL, 4))
    view.add(events.Warned(EVIL))
    shown = (runs_html.table_html([run], {run.id: "failed"}, "") + runs_html.run_html(run, view, "failed", EVIL)
             + runs_html.progress_html(run, view, "failed"))
    assert "<img" not in shown and shown.count("&lt;img") >= 6


# What is painted, and when

def painting(services: Services) -> tuple[Painter, Controls]:
    queueing = Queueing(services)
    with gr.Blocks():
        controls = Controls()
    return Painter(services, LinesRoom(services, queueing), RunsRoom(services, queueing), controls), controls


def tell(services: Services, run: runs.Run, *said: events.Event) -> None:
    path = services.settings.run_events(run.id)
    path.parent.mkdir(parents=True, exist_ok=True)
    for event in said:
        events.append(path, event)
    services.watcher.forget(run.id)


SNAPSHOT = events.MaskSnapshot(2, 0.25, [[1.0, 0.5], [1.0, 0.5]], [3, 4])


def test_nothing_is_painted_when_nothing_is_new(services: Services, person: str, set_id: str) -> None:
    painter, controls = painting(services)
    run = runs.update(services.store, painter.runs_room.prune(person, set_id, "starter", PLAIN).id, state="running")
    tell(services, run, events.Started("Zoë", "starter", 0.25, ["learn the mask", "measure"]), events.Stage("learn the mask", 10))
    first = painter.paint(Look(person), {})
    seen = first[controls.seen]
    assert controls.stamp in first and controls.figures["kept"] in first
    assert not any(first[row].visible for row in controls.figure_rows)
    assert painter.paint(Look(person), seen) == painter.paint(Look(person), seen, whole=False) == {}
    tell(services, run, events.Step("learn the mask", 1, 10, {"loss": 0.5}))
    second = painter.paint(Look(person), seen, whole=False)
    assert set(second) == {controls.progress, controls.figures["curves"], controls.captions["curves"], *controls.figure_rows,
                           controls.stamp, controls.seen}
    assert [second[row].visible for row in controls.figure_rows] == [True, False, False]
    assert "1 of 10" in second[controls.progress]
    tell(services, run, SNAPSHOT)
    third = painter.paint(Look(person), second[controls.seen], whole=False)
    drawn = {name for name, figure in controls.figures.items() if figure in third}
    assert drawn == {"kept", "changes", "bars", "rescued"}


def stamp_in(html: str) -> dict[str, str]:
    return dict(re.findall(r'data-(\w+)="(\w+)"', html))


def test_the_news_has_the_stamp_that_the_page_was_painted_with_until_something_changes(services: Services, person: str,
                                                                                      set_id: str) -> None:
    painter, controls = painting(services)
    found = characters.get(services.store, person)
    assert found
    slug = found.slug

    def news(run_id: str) -> dict[str, Any]:
        return painter.room_news.tell(f"{slug}/{run_id}")

    def differs(shown: dict[Any, Any], run_id: str) -> set[str]:
        stamp = stamp_in(shown[controls.stamp])
        return {name for name in stamp if stamp[name] != news(run_id)[name]}

    shown = painter.paint(Look(person), {})
    assert differs(shown, "") == set() and news("")["run"] == news("")["progress"] == news("")["making"] == ""
    run = painter.runs_room.prune(person, set_id, "starter", PLAIN)
    assert differs(shown, "") == {"state", "masks", "curves"}  # there is a run now, and its figures
    run = runs.update(services.store, run.id, state="running")
    tell(services, run, events.Started("Zoë", "starter", 0.25, ["learn the mask"]), events.Stage("learn the mask", 10),
         events.Step("learn the mask", 1, 10, {"loss": 0.5}), SNAPSHOT)
    shown = painter.paint(Look(person), {})
    assert differs(shown, run.id) == set() and "1 of 10" in news(run.id)["progress"]
    tell(services, run, events.Step("learn the mask", 2, 10, {"loss": 0.4}))
    assert differs(shown, run.id) == {"curves"} and "2 of 10" in news(run.id)["progress"]
    tell(services, run, dataclasses.replace(SNAPSHOT, step=4))
    assert differs(shown, run.id) == {"masks", "curves"}
    grown = painter.paint_figures(Look(person), shown[controls.seen])
    assert differs(grown, run.id) == set()
    assert grown.keys() == {*controls.painted_figures} and isinstance(grown[controls.figures["kept"]]["plot"], str)
    assert painter.paint_figures(Look(person), grown[controls.seen]) == {}
    runs.update(services.store, run.id, state="stopping")
    assert differs(grown, run.id) == {"state"}
    assert painter.room_news.tell("nobody/") == {}


def test_what_the_news_tells_is_escaped(services: Services, person: str, set_id: str) -> None:
    painter, _ = painting(services)
    run = painter.runs_room.prune(person, set_id, "starter", PLAIN)
    runs.update(services.store, run.id, name=EVIL, state="failed", sentence=EVIL)
    told = painter.room_news.tell(f"{person}/{run.id}")
    assert "&lt;img" in told["progress"] and "<img" not in json.dumps(told)


def test_a_figure_is_drawn_once_for_all_pages(services: Services, person: str, set_id: str,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    painter, controls = painting(services)
    run = runs.update(services.store, painter.runs_room.prune(person, set_id, "starter", PLAIN).id, state="running")
    tell(services, run, events.Started("Zoë", "starter", 0.25, ["learn the mask"]), SNAPSHOT)
    real, drawn = drawing.heatmaps.kept_channels, []
    monkeypatch.setattr(drawing.heatmaps, "kept_channels", lambda last: drawn.append(last.step) or real(last))
    shown = [painter.paint(Look(person), {}) for _ in range(3)]
    assert drawn == [2] and all(one[controls.figures["kept"]] is shown[0][controls.figures["kept"]] for one in shown)
    tell(services, run, dataclasses.replace(SNAPSHOT, step=4))
    for one in shown:
        painter.paint_figures(Look(person), one[controls.seen])
    assert drawn == [2, 4]
    monkeypatch.setattr(drawing, "REMEMBERED", 2)
    one = real(SNAPSHOT)
    for number in range(5):
        painter.drawings.get("kept", number, lambda: one)
    assert len(painter.drawings._drawn) == 2


def test_a_silent_run_offers_its_end_though_no_event_came(services: Services, person: str, set_id: str,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    painter, controls = painting(services)
    runs.update(services.store, painter.runs_room.prune(person, set_id, "starter", PLAIN).id, state="running")
    first = painter.paint(Look(person), {})
    assert not first[controls.kill].visible and first[controls.stop].visible and not first[controls.remove].interactive
    monkeypatch.setattr(services.jobs, "silent_seconds", lambda run: 1e6)
    second = painter.paint(Look(person), first[controls.seen], whole=False)
    assert second[controls.kill].visible and "Nothing was heard" in second[controls.progress]


def test_a_finished_run_shows_its_figures_when_its_files_are_gone(services: Services, person: str, set_id: str) -> None:
    run = finish(services, person, set_id)
    said = [events.Started("Zoë", "starter", 0.5, ["learn the mask"]), events.Stage("learn the mask", 2),
            events.Step("learn the mask", 1, 2, {"loss": 0.4}), SNAPSHOT, events.Measured("mask", "test", 0.31, 0.7, 2.0, 40, 900),
            events.Finished("", 9.0)]
    runs.set_events(services.store, run.id, [json.loads(events.encode(event)) for event in said])
    painter, controls = painting(services)
    shown = painter.paint(Look(person), {})
    assert "Done in" in shown[controls.progress]
    for name in ("kept", "changes", "bars", "curves", "ladder"):
        assert len(json.loads(shown[controls.figures[name]].plot)["data"]) > 0, name
    assert not shown[controls.resume].visible and shown[controls.remove].interactive


def test_a_new_set_appears_and_the_chosen_one_stays(services: Services, person: str, set_id: str) -> None:
    painter, controls = painting(services)
    first = painter.paint(Look(person), {})
    assert first[controls.shown_set] == set_id and len(first[controls.table]) == 60
    made = lines.add_set(services.store, person, 1, [*records(), {"question": EVIL, "answer": EVIL}], {})
    second = painter.paint(Look(person), first[controls.seen], whole=False)
    assert second[controls.shown_set] == made.id and len(second[controls.table]) == 61
    assert second[controls.table][-1][2:4] == [EVIL, EVIL]  # as it is: the table's columns are plain text
    assert set(lines_table.TYPES) == {"bool", "number", "str"}
    assert painter.paint(Look(person, set_id=set_id), {})[controls.shown_set] == set_id
    assert painter.paint(Look(person, filter=Filter(category="gone")), {})[controls.table] == second[controls.table]


def test_a_set_with_a_new_name_is_shown_by_it_wherever_it_stands(services: Services, person: str, set_id: str) -> None:
    painter, controls = painting(services)
    run = finish(services, person, set_id)
    seen = painter.paint(Look(person), {})[controls.seen]
    painter.lines_room.rename(set_id, EVIL)
    shown = painter.paint(Look(person), seen)
    assert shown[controls.sets].choices[0][0].startswith(EVIL)  # a list is plain text
    for part in (controls.from_lines, controls.progress):
        assert "&lt;img" in shown[part] and "<img" not in shown[part]
    painter.lines_room.delete(set_id)
    gone = painter.paint(Look(person), shown[controls.seen])
    assert gone[controls.no_lines].visible and not gone[controls.lines_box].visible and gone[controls.shown_set] == ""
    assert runs.get(services.store, run.id) == run


def test_a_character_without_anything_gets_friendly_words(services: Services, person: str) -> None:
    painter, controls = painting(services)
    shown = painter.paint(Look(person), {})
    assert "Nothing pruned yet" in shown[controls.runs] and shown[controls.no_lines].visible and not shown[controls.live].visible
    nobody = painter.paint(Look(""), {})
    assert nobody[controls.empty].visible and not nobody[controls.room].visible


def test_a_run_of_lines_is_followed_to_its_set(services: Services, person: str) -> None:
    painter, controls = painting(services)
    run = painter.lines_room.make(person, "some/refuses", Wish())
    assert painter.paint(Look(person), {})[controls.making_stop].visible
    runs.update(services.store, run.id, state="failed", sentence="The card is empty.")
    shown = painter.paint(Look(person), {})
    assert "The card is empty." in shown[controls.making] and shown[controls.making_resume].visible
    runs.update(services.store, run.id, state="done")
    assert painter.paint(Look(person), {})[controls.making] == ""


def test_every_listener_is_private_and_painting_knows_its_components(services: Services) -> None:
    with gr.Blocks() as blocks:
        page = Page(gr.State(""), gr.State(0), gr.State("starter"))
        with gr.Tabs(), gr.Tab("Prune") as tab:
            prune.build(services, page, tab)
    listeners = list(blocks.fns.values())
    assert len(listeners) > 25 and {one.api_visibility for one in listeners} == {"private"}
    named = {event: one for one in listeners for _, event in one.targets}
    assert "tick" not in named and named["figures"].queue is False and named["state"].queue is True


def test_times_are_told_in_words() -> None:
    assert [words.duration(seconds) for seconds in (0, 45.4, 60, 200, 3599, 3900)] == [
        "0\u00a0s", "45\u00a0s", "1\u00a0min", "3\u00a0min 20\u00a0s", "59\u00a0min", "1\u00a0h 5\u00a0min"]
    assert [words.remaining(seconds) for seconds in (3, 42, 100)] == [
        "a few seconds left", "about 40\u00a0s left", "about 1\u00a0min 30\u00a0s left"]


@pytest.fixture
def painter(services: Services) -> Painter:
    return painting(services)[0]


def many_runs(services: Services, person: str, count: int) -> None:
    summary = {"readings": {name: {"kl": 0.5, "top1": 0.5, "nll": 2.0, "lines": 8, "tokens": 90} for name in ("dense", "mask")}}
    for number in range(count):
        run = runs.add(services.store, person, 1, "prune", f"run {number}", {"model": "starter", "sparsity": 0.25})
        runs.update(services.store, run.id, state="done", summary=summary, ended=1.0)


def work_of(services: Services, painter: Painter, person: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int, int]:
    """Records that a painting and a piece of news read, connections that they open, and bytes of the list."""
    counted = {"records": 0, "connections": 0}

    def counting(name: str, do: Any) -> Any:
        def counts(*arguments: Any, **named: Any) -> Any:
            counted[name] += 1
            return do(*arguments, **named)

        return counts

    with monkeypatch.context() as patch:
        patch.setattr(records_of_store, "read", counting("records", records_of_store.read))
        patch.setattr(connection, "connect", counting("connections", connection.connect))
        painted = painter.paint(Look(person), {})
        painter.room_news.tell(characters.list_characters(services.store, "Zoë")[0].slug)
    return counted["records"], counted["connections"], len(painted[painter.controls.runs])


def test_the_work_of_a_painting_does_not_grow_with_the_runs(services: Services, person: str, painter: Painter,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    many_runs(services, person, 30)
    few = work_of(services, painter, person, monkeypatch)
    many_runs(services, person, 120)
    many = work_of(services, painter, person, monkeypatch)
    assert many[0] == few[0] < 120 and max(few[1], many[1]) < 25 and abs(many[2] - few[2]) < 100


def test_more_runs_are_shown_when_asked_for_and_the_chosen_one_always(services: Services, person: str, painter: Painter) -> None:
    many_runs(services, person, 45)
    controls, oldest = painter.controls, runs.list_runs(services.store, person)[-1]
    shown = [painter.paint(Look(person, runs=most, run_id=run_id), {})[controls.runs]
             for most, run_id in ((20, ""), (40, ""), (60, ""), (20, oldest.id))]
    assert [html.count("data-run=") for html in shown] == [20, 40, 45, 21]
    assert ["data-more" in html for html in shown] == [True, True, False, True]
    assert "20 of 45 runs" in shown[0] and oldest.id in shown[3] and 'class="chosen"' in shown[3]
    seen = painter.paint(Look(person), {})[controls.seen]
    runs.rename(services.store, oldest.id, "Of another page")  # not in sight, and yet told
    assert painter.room_news.tell("zoe")["state"] != seen["stamp"]["state"]
