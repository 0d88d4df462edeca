"""The library's file under bad luck: locks, a full disk, failing updates, damaged and foreign files."""

import json
import logging
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from engine.base.errors import UserError
from studio.store import characters, connection, lines, runs, values
from studio.store.database import Store, backup, check, open_store, restore
from studio.store.migrations import MIGRATIONS
from tests.store_samples import card, library, smith

HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("COMMIT")
"""


@contextmanager
def held(path: Path, seconds: float) -> Iterator[None]:
    """Another process has the write lock for some seconds."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path), str(seconds)], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            process.kill()


def names(store: Store) -> list[str]:
    return sorted(character.name for character in characters.list_characters(store))


def integrity(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]


def later(step: Callable[[Database], None]) -> Migrations:
    """Today's migrations and one more."""
    migrations = Migrations(MIGRATIONS.name)
    with closing(sqlite3.connect(":memory:")) as nothing:
        for known in MIGRATIONS.pending(Database(nothing)):
            migrations(name=known.name)(known.fn)
    migrations(name="later")(step)
    return migrations


def test_connections_are_safe_against_loss_of_power_and_dangling_references(tmp_path: Path) -> None:
    store = library(tmp_path)
    with store.write() as db:
        settings = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "foreign_keys")]
        assert settings == ["wal", 2, 1]
    with pytest.raises(UserError, match="not in the library"), store.write() as db:
        db.execute("INSERT INTO events VALUES ('no such run', 0, '{}')")


def test_a_short_lock_is_waited_for(tmp_path: Path) -> None:
    store = library(tmp_path, timeout=20)
    with held(store.path, 0.5):
        before = time.monotonic()
        smith(store)
        assert time.monotonic() - before > 0.2
    assert names(store) == ["Ann Lee"]


def test_a_long_lock_is_reported_and_a_second_try_works(tmp_path: Path) -> None:
    store = library(tmp_path)
    with held(store.path, 60):
        assert names(store) == []  # reading goes on
        with pytest.raises(UserError, match=r"^The library is busy; nothing was lost\. Try again\.$"):
            smith(store)
    smith(store)
    assert names(store) == ["Ann Lee"]


def test_an_exception_undoes_the_whole_block(tmp_path: Path) -> None:
    store = library(tmp_path)
    with pytest.raises(ZeroDivisionError), store.write() as db:
        db.execute("INSERT INTO settings VALUES ('a', '1')")
        raise ZeroDivisionError
    assert values.get_value(store, "a", None) is None


def test_a_reader_cannot_write_and_sees_one_moment(tmp_path: Path) -> None:
    store = library(tmp_path)
    with store.read() as db:
        db.execute("SELECT * FROM settings").fetchall()
        values.set_value(store, "a", 1)
        assert db.execute("SELECT count(*) FROM settings").fetchone()[0] == 0
    with pytest.raises(UserError), store.read() as db:
        db.execute("DELETE FROM settings")
    assert values.get_value(store, "a", None) == 1


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = library(tmp_path)
    smith(store)
    with store.read() as db:
        pages = db.execute("PRAGMA page_count").fetchone()[0]

    def small(path: Path, timeout: float, mode: str = "rw") -> sqlite3.Connection:
        made = connect(path, timeout, mode)
        made.execute(f"PRAGMA max_page_count = {pages + 20}")
        return made

    connect = connection.connect
    monkeypatch.setattr(connection, "connect", small)
    with pytest.raises(UserError, match=r"^The disk that holds .*studio\.db is full; nothing was changed\."):
        characters.create(store, card("Bea"), portrait=b"\1" * 500_000)
    assert (names(store), integrity(store.path), check(store, tmp_path)) == (["Ann Lee"], "ok", [])
    monkeypatch.undo()
    characters.create(store, card("Bea"), portrait=b"\1" * 500_000)
    assert names(store) == ["Ann Lee", "Bea"]


def test_a_text_with_half_a_character_is_refused_in_a_sentence(tmp_path: Path) -> None:
    store = library(tmp_path)
    with pytest.raises(UserError, match="half of a character"):
        characters.create(store, card("A\ud800"))
    assert names(store) == []


def test_an_update_keeps_a_copy_and_the_contents(tmp_path: Path) -> None:
    smith(library(tmp_path))
    updated = open_store(tmp_path / "studio.db", 0.3, later(lambda db: db.table("settings").add_column("more", str)))
    assert names(updated) == ["Ann Lee"]
    with updated.read() as db:
        assert "more" in db.table("settings").columns_dict
    [copy] = (tmp_path / "backups").iterdir()
    assert "before-update" in copy.name
    assert names(Store(copy)) == ["Ann Lee"]


def test_a_library_of_the_first_version_is_opened_with_all_that_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "studio.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        db = Database(connection)
        MIGRATIONS.apply(db, stop_before=["2 sets of lines can be deleted"])
        connection.execute("INSERT INTO characters (id, slug, name, char, version, tags, made, updated) "
                           "VALUES ('ann', 'ann-lee', 'Ann Lee', 'Ann Lee', 1, '[]', 0, 0)")
        connection.execute("INSERT INTO versions (character, number, card, note, origin, made) "
                           "VALUES ('ann', 1, ?, '', 'saved', 0)",
                           [json.dumps(card())])
        connection.execute("INSERT INTO line_sets (id, character, version, name, state, rejected, made) "
                           "VALUES ('x', 'ann', 1, 'mine', 'draft', '{\"assistant manners\": 2}', 0)")
        reading = {"kl": 0.1, "top1": 0.9, "nll": 2.0, "lines": 4, "tokens": 40}
        connection.execute("INSERT INTO runs (id, character, version, kind, name, spec, state, made, sentence, summary, out, "
                           "position) VALUES ('r', 'ann', 1, 'prune', 'first', '{}', 'done', 0, '', ?, '', 1)",
                           [json.dumps({"readings": {"mask + least squares": reading}, "recipe": {"further_answers": 3}})])
    store = library(tmp_path)
    assert [(one.name, one.deleted, one.rejected) for one in lines.sets(store, "ann")] == [("mine", None, {"assistant_manners": 2})]
    [run] = runs.list_runs(store, "ann")
    assert run.summary == {"readings": {"mask_reconstructed": reading}, "recipe": {"extra_samples": 3}}
    assert (characters.head(store, "ann").card, characters.head(store, "ann").files) == (card(), {})
    assert (check(store, tmp_path), len(list((tmp_path / "backups").iterdir()))) == ([], 1)


def test_an_update_that_fails_midway_is_undone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    smith(library(tmp_path))

    def fail(db: Database) -> None:
        db.execute("DROP TABLE votes")
        db.execute("UPDATE characters SET name = 'Nobody'")
        raise RuntimeError("halfway")

    with caplog.at_level(logging.ERROR), pytest.raises(UserError) as told:
        open_store(tmp_path / "studio.db", 0.3, later(fail))
    [copy] = (tmp_path / "backups").iterdir()
    assert str(told.value).endswith(f"nothing in it was changed. There is a copy of it in {copy}.")
    assert "halfway" in caplog.text
    store = library(tmp_path)
    assert (integrity(store.path), integrity(copy)) == ("ok", "ok")
    assert (names(store), names(Store(copy)), check(store, tmp_path)) == (["Ann Lee"], ["Ann Lee"], [])


def test_an_update_that_breaks_references_is_undone(tmp_path: Path) -> None:
    smith(library(tmp_path))
    with pytest.raises(UserError, match="nothing in it was changed"):
        open_store(tmp_path / "studio.db", 0.3, later(lambda db: db.table("characters").delete_where() and None))
    assert names(library(tmp_path)) == ["Ann Lee"]


def test_a_newer_library_and_a_foreign_file_are_not_opened(tmp_path: Path) -> None:
    open_store(tmp_path / "studio.db", 0.3, later(lambda db: None))
    with pytest.raises(UserError, match="newer version"):
        library(tmp_path)
    other = tmp_path / "other" / "studio.db"
    other.parent.mkdir()
    with closing(sqlite3.connect(other)) as connection:
        connection.execute("CREATE TABLE songs (title)")
    with pytest.raises(UserError, match="not a library of Persona Studio"):
        open_store(other)
    other.write_text("no database at all, but long enough to be looked at" * 100)
    with pytest.raises(UserError, match="is damaged"):
        open_store(other)


def test_a_new_library_waits_for_another_that_is_making_it(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "studio.db", isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError, match="busy"):
            library(tmp_path, timeout=0.1)
        timer = threading.Timer(0.3, lambda: other.execute("ROLLBACK"))
        timer.start()
        assert characters.create(library(tmp_path, timeout=20), card()).slug == "ann-lee"
        timer.join()


def test_many_openers_of_a_new_library_get_one(tmp_path: Path) -> None:
    problems: list[BaseException] = []

    def start() -> None:
        try:
            characters.create(library(tmp_path, timeout=20), card())
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert sorted(one.slug for one in characters.list_characters(library(tmp_path))) == [
        "ann-lee", *(f"ann-lee-{number}" for number in range(2, 9))]


def test_backup_and_restore(tmp_path: Path) -> None:
    store = library(tmp_path)
    ann = characters.create(store, card(), portrait=b"picture")
    copy = backup(store)
    characters.create(store, card("Bea"))
    characters.delete(store, ann.id)
    kept = restore(store, copy)
    assert names(store) == ["Ann Lee"]
    assert characters.portrait(store, characters.head(store, ann.id).portrait or "") == b"picture"
    assert kept is not None
    assert names(Store(kept)) == ["Bea"]
    assert check(store, tmp_path) == []
    assert sorted(file.name for file in tmp_path.iterdir()) == ["backups", "studio.db"]


def test_restoring_an_older_library_brings_it_up_to_date(tmp_path: Path) -> None:
    store = library(tmp_path)
    smith(store)
    copy = backup(store)
    newer = later(lambda db: db.table("settings").add_column("more", str))
    store = open_store(store.path, 0.3, newer)
    restore(store, copy, newer)
    with store.read() as db:
        assert "more" in db.table("settings").columns_dict
    assert names(store) == ["Ann Lee"]


def damaged(copy: Path) -> None:
    with copy.open("rb+") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096 * 4)


def cut_short(copy: Path) -> None:
    copy.write_bytes(copy.read_bytes()[:5000])


def foreign(copy: Path) -> None:
    copy.unlink()
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("CREATE TABLE songs (title)")


def triggered(copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute("CREATE TRIGGER spy AFTER INSERT ON settings BEGIN DELETE FROM characters; END")


def dangling(copy: Path) -> None:
    with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
        connection.execute("INSERT INTO events VALUES ('no such run', 0, '{}')")


def newer(copy: Path) -> None:
    open_store(copy, 0.3, later(lambda db: None))


def no_database(copy: Path) -> None:
    copy.write_bytes(b"\x89PNG" * 2000)


def absent(copy: Path) -> None:
    copy.unlink()


@pytest.mark.parametrize("spoil", [damaged, cut_short, foreign, triggered, dangling, newer, no_database, absent])
def test_a_bad_file_is_not_restored(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    store = library(tmp_path)
    characters.create(store, card(description="x" * 200_000))
    copy = backup(store).rename(tmp_path / "given.db")
    characters.create(store, card("Bea"))
    spoil(copy)
    before = names(store), sorted((tmp_path / "backups").iterdir())
    with pytest.raises(UserError) as told:
        restore(store, copy)
    assert str(told.value).startswith(str(copy)) and str(told.value).endswith("nothing was changed.")
    assert (names(store), sorted((tmp_path / "backups").iterdir()), integrity(store.path)) == (*before, "ok")
    assert not list(tmp_path.glob(".*"))


def test_restore_while_another_writes(tmp_path: Path) -> None:
    store = library(tmp_path)
    copy = backup(store)
    smith(store)
    with held(store.path, 60), pytest.raises(UserError, match=r"^The library is busy; nothing was lost"):
        restore(store, copy)
    assert names(store) == ["Ann Lee"]
    restore(store, copy)
    assert names(store) == []


def test_a_damaged_library_is_named_and_can_be_restored(tmp_path: Path) -> None:
    store = library(tmp_path)
    characters.create(store, card(description="x" * 200_000))
    copy = backup(store)
    damaged(store.path)
    assert check(store, tmp_path)
    with pytest.raises(UserError, match=r"studio\.db is damaged"), store.read() as db:
        for table in db.table_names():
            db.execute(f"SELECT * FROM {table} ORDER BY 2").fetchall()
    kept = restore(store, copy)
    assert names(store) == ["Ann Lee"]
    assert check(store, tmp_path) == []
    assert kept is not None and integrity_fails(kept)


def integrity_fails(path: Path) -> bool:
    try:
        return integrity(path) != "ok"
    except sqlite3.DatabaseError:
        return True


def test_remembered_values(tmp_path: Path) -> None:
    store = library(tmp_path)
    assert values.get_value(store, "model", "starter") == "starter"
    values.set_value(store, "model", {"name": "large", "since": None})
    values.set_value(store, "model", ["x"])
    assert values.get_value(store, "model", None) == ["x"]
    assert values.get_value(store, "model", "starter") == "starter"  # what a page could not use counts as not set
