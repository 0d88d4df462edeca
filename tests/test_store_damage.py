"""A damaged library: an empty or broken file is never taken for a new library, and one bad row takes no page down."""

import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy
import pytest
from safetensors import SafetensorError
from store_samples import LINES, card, library, pruning, smith

from engine.base.errors import UserError
from engine.base.files import write_json
from engine.base.process import is_out_of_memory, says_out_of_memory
from engine.cards.fields import fields_of
from studio import launch, under_way
from studio import library as sidebar
from studio.services import Services
from studio.settings import Settings
from studio.store import characters, chats, lines, rounds, runs, script_runs, values
from studio.store.database import JSON_COLUMNS, Store, backup, check, open_store
from studio.store.script_runs import ScriptAnswer
from studio.tabs.answers import sampling_of
from studio.tabs.compare.controller import Controller as Compare
from studio.tabs.compare.controller import ViewState as CompareState
from studio.tabs.draft import versions
from studio.tabs.export import library_parts, view
from studio.tabs.preview.controller import Controller as Play
from studio.tabs.preview.looks import ViewState as ChatState
from studio.tabs.prune import LINES_LOOKS, RUNS_LOOKS, runs_view
from studio.tabs.prune.lines_controller import LinesController
from studio.tabs.prune.queueing import Queueing
from studio.tabs.prune.runs_controller import RunsController
from studio.uploads import servable
from studio.workers.commands import prepare
from studio.workers.ending import Ending, settle

STUB = Path(__file__).with_name("stub_engine.py")


def empty(file: Path) -> None:
    file.write_bytes(b"")


def write_text(file: Path) -> None:
    file.write_text("This is no database. " * 500)


def fill_with_zeros(file: Path) -> None:
    file.write_bytes(bytes(file.stat().st_size))


def make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def make_empty_database(file: Path) -> None:
    """A whole SQLite file without tables."""
    file.unlink()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("VACUUM")
        connection.execute("PRAGMA user_version = 1")


def make_other_database(file: Path) -> None:
    file.unlink()
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE bookmarks (x)")


def shorten_to(share: float) -> Callable[[Path], None]:
    def shorten(file: Path) -> None:
        file.write_bytes(file.read_bytes()[: round(share * file.stat().st_size)])

    return shorten


DAMAGES = [empty, write_text, fill_with_zeros, make_folder, make_empty_database, make_other_database, Path.unlink,
           *map(shorten_to, (0.0004, 0.001, 0.02, 0.3, 0.6, 0.99))]


def close_log(path: Path) -> None:
    """Everything into the one file, as a studio that ended leaves it."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for ending in ("-wal", "-shm"):
        path.with_name(path.name + ending).unlink(missing_ok=True)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_is_refused_and_its_backup_named_and_brought_back(
        damage: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = library(tmp_path)
    smith(store)
    kept = backup(store)
    close_log(store.path)
    damage(store.path)
    before = store.path.read_bytes() if store.path.is_file() else None
    with pytest.raises(UserError) as caught:
        open_store(store.path)
    assert str(kept) in str(caught.value) and f"--home {tmp_path} --restore" in str(caught.value)
    assert (store.path.read_bytes() if store.path.is_file() else None) == before
    assert launch.main(["--home", str(tmp_path), "--restore", str(kept)]) == 0, capsys.readouterr().err
    again = open_store(store.path)
    assert [one.name for one in characters.list_characters(again)] == ["Ann Lee"] and check(again, tmp_path) == []


@pytest.mark.parametrize("left", ["jobs/abc/card.json", "exports/pim/config.json", "backups/studio-1-backup.db-wal"])
def test_an_empty_file_beside_anything_of_a_library_is_no_new_one(left: str, tmp_path: Path) -> None:
    (tmp_path / left).parent.mkdir(parents=True)
    (tmp_path / left).write_text("{}")
    empty(tmp_path / "studio.db")
    with pytest.raises(UserError, match=f"(?s)is empty.*{left.partition('/')[0]}.*There is no backup.*delete studio.db"):
        open_store(tmp_path / "studio.db")
    (tmp_path / "studio.db").unlink()  # as it says
    assert open_store(tmp_path / "studio.db") and (tmp_path / left).exists()


def test_an_empty_file_alone_and_no_file_beside_jobs_are_a_new_library(tmp_path: Path) -> None:
    for name in ("jobs", "exports", "backups"):
        (tmp_path / name).mkdir()
    empty(tmp_path / "studio.db")
    assert open_store(tmp_path / "studio.db")
    (tmp_path / "other" / "jobs" / "pim-1").mkdir(parents=True)  # the command line keeps its jobs there
    assert open_store(tmp_path / "other" / "studio.db")


# One bad row in a library that has others

def fill(store: Store, home: Path) -> str:
    """Two of everything, the first of which the tests damage; the character's id."""
    person = characters.create(store, card("Zoë")).id
    characters.save(store, person, card("Zoë", description="Newer."), autosave=False)
    characters.save(store, person, card("Zoë", description="Newest."), autosave=False)
    made = [lines.add_set(store, person, 1, LINES, {"too_long": 2}, name=f"set {number}") for number in range(2)]
    readings = {name: {"kl": 0.5, "top1": 0.5, "nll": 2.0, "lines": 8, "tokens": 90} for name in ("dense", "mask")}
    sizes = {"bytes": 1000, "parameters": 500, "intermediate_size": 64}
    summary = {"readings": readings, "before": sizes, "after": sizes, "seconds": 5.0, "bytes": 1000, "recipe": {"sparsity": 0.25},
               "base": {"name": "starter", "licence": "apache-2.0"}, "proof": {"reply": "Yes."}}
    found = [runs.add(store, person, 1, "prune", f"run {number}", {"model": "starter", "sparsity": 0.25}, made[0].id)
             for number in range(2)]
    for run in found:
        runs.update(store, run.id, state="done", summary=summary, ended=1.0)
        runs.set_events(store, run.id, [{"event": "Warned", "sentence": "x", "time": 1.0}] * 2)
        runs.set_mask(store, run.id, numpy.packbits(numpy.ones((2, 8), bool), axis=1).tobytes(), 2, 8)
        write_json(home / "jobs" / run.id / "model" / "manifest.json", {"files": {}})
        runs.add_export(store, run.id, "out", str(home / "exports" / run.id), 10, {"text": "Hello.", "seconds": 1.0, "tokens": 3})
        chat = chats.start(store, person, 1, "starter", sampling={"temperature": 0.5}, greeting="Hello.")
        chats.say(store, chat.id, "user", "Who are you?")
        one = rounds.open_round(store, person, 1, "pair", "Hi.", [["assistant", "Hello."]], [(None, "starter"), (run.id, "x")])
        rounds.set_answer(store, one.answers[0].id, "Ann.", {"tokens": 3})
        [test] = script_runs.begin(store, person, 1, [(run.id, "x")], 0, {"temperature": 0.5})
        for question in ("a", "b"):
            script_runs.add_answer(store, test.id, ScriptAnswer(question, "fact", ["Who?"], ["Ann."], "pass", [
                {"rule": "says", "outcome": "pass", "detail": ""}], None, None))
    values.set_value(store, "model", "starter")
    return person


COLUMNS = [(table, column) for table, columns in JSON_COLUMNS.items() for column in columns]
BAD = ["", "[" * 100_000, "5", '{"a": [1]}', '[["a"]]',
       '{"readings": {"dense": {"kl": "x"}}, "before": [1], "model": [1], "seconds": "y", "sparsity": "z", "temperature": "w"}']


@pytest.fixture
def services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Services]:
    settings = Settings(tmp_path / "home", poll_seconds=0.05, command=(sys.executable, "-S", str(STUB)))
    settings.home.mkdir()
    found = Services.open(settings)
    monkeypatch.setattr(found.speech, "models", lambda wait=True, refresh=False: [])
    yield found
    found.close()


def damage(store: Store, table: str, column: str, text: str) -> None:
    """The newest row of Zoë's (bundled characters are older), but for the version: every page opens that."""
    with store.write() as db:
        order = "rowid DESC"
        db.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = (SELECT rowid FROM {table} ORDER BY {order} LIMIT 1)", [text])


def look_everywhere(services: Services, person: str) -> dict[str, int]:
    """What every room reads, as often as there are entries; raises what a page would fail with."""
    store = services.store
    under_way.jobs_html(services), sidebar.model_choices(services), characters.list_characters(store, "smith newest")
    assert fields_of(characters.head(store, person).card) and versions.version_choices(store, person)
    for run in runs.list_runs(store, person):
        look = dict.fromkeys((*LINES_LOOKS, *RUNS_LOOKS), "")
        for shown in (LinesController, RunsController):
            assert shown(services, Queueing(services)).contents({**look, "character": person, "run": run.id})
        assert view.report_html(run) is not None and view.readings_figure(run)
        services.watcher.forget(run.id)
        services.watcher.view(run.id)
        for kind in ("pair", "grid", "script"):
            found = Compare(services).contents(CompareState(person, "starter", run.id, kind).look())
            assert found["compare-controls"] and found["compare-script-results" if kind == "script" else "compare-arena"]
    library_parts(services, {"character": person, "run": "", "export": ""})
    for one in runs.list_exports(store, person):
        assert view.export_html(one, "")
    said = []
    for chat in chats.chats(store, person):
        found = Play(services).contents(ChatState(person, "starter", chat.id, shown=5).look())
        assert found["preview-said"] and sampling_of(chat.sampling)["temperature"]
        said += chats.messages(store, chat.id)
    assert all(message.text for message in said)
    return {"versions": len(characters.versions(store, person)), "sets": len(lines.sets(store, person)),
            "runs": len(runs.list_runs(store, person)), "exports": len(runs.list_exports(store, person)),
            "messages": len(said), "rounds": len(rounds.rounds(store, person)),
            "tests": sum(len(script_runs.answers(store, one.id)) for one in script_runs.newest(store, person))}


def test_one_bad_row_takes_no_page_down(services: Services) -> None:
    """As anything that JSON can be or not be, in every column at once."""
    person = fill(services.store, services.settings.home)
    whole = look_everywhere(services, person)
    for text in BAD:
        for table, column in COLUMNS:
            damage(services.store, table, column, text)
        assert look_everywhere(services, person) == whole, text


def test_a_check_names_every_bad_row(tmp_path: Path) -> None:
    store = library(tmp_path)
    fill(store, tmp_path)
    assert not [fault for fault in check(store, tmp_path) if "cannot be read" in fault]
    for table, column in COLUMNS:
        damage(store, table, column, "{")
    found = "".join(check(store, tmp_path))
    assert all(f"1 entries of {table} cannot be read ({column})." in found for table, column in COLUMNS)


def test_the_newest_version_that_can_be_read_takes_the_place_of_a_damaged_one(tmp_path: Path) -> None:
    store = library(tmp_path)
    ann = smith(store)
    characters.save(store, ann.id, card(description="Newer."), autosave=False)
    characters.save(store, ann.id, card(description="Newest."), autosave=True)
    damage(store, "versions", "card", "{")
    assert characters.head(store, ann.id).number == 2
    assert ["damaged" in label for label, _ in versions.version_choices(store, ann.id)] == [True, False, False]
    with pytest.raises(UserError, match=r"Version 3 .* is damaged"):
        characters.restore(store, ann.id, 3)
    saved = characters.save(store, ann.id, card(description="Mended."), autosave=True)  # takes no number twice
    assert saved.number == 4 and characters.head(store, ann.id) == saved
    assert characters.restore(store, ann.id, 1).number == 5
    for _ in range(5):
        with store.write() as db:
            db.execute("UPDATE versions SET card = '['")
    with pytest.raises(UserError, match="is damaged"):
        characters.head(store, ann.id)
    characters.sync_bundled(store, [card()])  # the studio opens


@pytest.mark.parametrize("text", ["{", '{"model": [1], "sparsity": 0.25}', '{"sparsity": 1' + "0" * 400 + "}"])
def test_a_run_whose_wish_is_damaged_does_not_run(text: str, services: Services) -> None:
    run = pruning(services.store, "first")
    damage(services.store, "runs", "spec", text)
    found = runs.get(services.store, run.id)
    assert found and found.damaged == ("spec",) and "its settings cannot be read" in found.fault
    with pytest.raises(UserError, match="damaged"):
        prepare(services.settings, services.store, found)
    painted = runs_view.table_html([found], {found.id: "queued"}, "") + runs_view.ending_html(found, "failed")
    assert ">damaged<" in painted and "Restore a backup" in painted


# Memory

OUT_OF_MEMORY = ["std::bad_alloc", "terminate called after throwing an instance of 'std::bad_alloc'",
                 "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried to allocate 4 bytes",
                 "CUDA out of memory. Tried to allocate 2 GiB", "[Errno 12] Cannot allocate memory",
                 "CUBLAS_STATUS_ALLOC_FAILED"]


@pytest.mark.parametrize("text", OUT_OF_MEMORY)
def test_each_library_says_in_its_own_words_that_the_memory_was_not_enough(text: str) -> None:
    assert is_out_of_memory(RuntimeError(text)) and is_out_of_memory(OSError(12, text)) and says_out_of_memory(text)
    assert is_out_of_memory(MemoryError(text)) and is_out_of_memory(SafetensorError(text))
    assert not is_out_of_memory(RuntimeError("index out of range")) and not is_out_of_memory(UserError(text))


@pytest.mark.parametrize(("log", "found"), [
    ("terminate called after throwing an instance of 'std::bad_alloc'\n", "memory ran out"),
    ("free(): invalid pointer\n", "crashed")])
def test_a_worker_that_dies_of_memory_is_reported_as_that(log: str, found: str, tmp_path: Path) -> None:
    settings, store = Settings(tmp_path), library(tmp_path)
    run = pruning(store, state="running")
    file = settings.run_folder(run.id) / "log.txt"
    file.parent.mkdir(parents=True)
    file.write_text("std::bad_alloc, of a former process\n" + log)
    ended = settle(settings, store, run, Ending(code=-signal.SIGABRT, log_offset=36))
    assert ended.state == "failed" and found in ended.sentence


# Backups that a page may fetch

def test_a_page_can_fetch_the_librarys_own_backups_and_nothing_else(services: Services, tmp_path: Path) -> None:
    store = services.store
    kept = [backup(store), backup(store)]
    folder, secret = kept[0].parent, tmp_path / "secret.db"
    secret.write_text("secret")
    (folder / "studio-20260101-000000-backup-7.db").symlink_to(secret)
    (folder / "studio-20260101-000000-damaged.db").write_text("x")
    (folder / "studio-20260101-000000-backup.db-wal").write_text("x")
    (folder / "other.db").write_text("x")
    (folder / "studio-20260101-000000-backup-8.db").mkdir()
    assert {name for _, name in sidebar.backup_choices(services)} == {file.name for file in kept}
    assert [sidebar.backup_file(services, file.name) for file in kept] == kept
    for name in ("", "other.db", "../studio.db", str(store.path), f"../backups/{kept[0].name}", f"{kept[0].name}\0",
                 "studio-20260101-000000-damaged.db", "studio-20260101-000000-backup-7.db", "studio-20260101-000000-backup-8.db"):
        with pytest.raises(UserError, match="not there any more"):
            sidebar.backup_file(services, name)
    fetched = Path(servable(kept[0]))
    assert fetched.name == kept[0].name and fetched.read_bytes() == kept[0].read_bytes() and fetched.parent != folder
