"""The tables of the library, as steps that are only ever appended: each runs once, in order, in one transaction."""

import json
import sqlite3
from contextlib import closing, suppress

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from engine.base import migrate

APPLICATION_ID = 0x50535444  # in the file's header: tells a library from any other SQLite file
MIGRATIONS = Migrations("studio")

_VERSION = "FOREIGN KEY (character, version) REFERENCES versions (character, number)"
_FIRST = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    """CREATE TABLE characters (
        id TEXT PRIMARY KEY, slug TEXT NOT NULL UNIQUE, name TEXT NOT NULL, char TEXT NOT NULL, bundled_as TEXT,
        version INTEGER NOT NULL, tags TEXT NOT NULL, made REAL NOT NULL, updated REAL NOT NULL, deleted REAL) STRICT""",
    "CREATE TABLE portraits (sha256 TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT",
    """CREATE TABLE versions (
        character TEXT NOT NULL REFERENCES characters (id), number INTEGER NOT NULL, card TEXT NOT NULL,
        portrait TEXT REFERENCES portraits (sha256), note TEXT NOT NULL,
        origin TEXT NOT NULL CHECK (origin IN ('saved', 'autosaved', 'bundled')), made REAL NOT NULL,
        PRIMARY KEY (character, number)) STRICT""",
    f"""CREATE TABLE line_sets (
        id TEXT PRIMARY KEY, character TEXT NOT NULL, version INTEGER NOT NULL, name TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('draft', 'approved')), run TEXT REFERENCES runs (id), rejected TEXT NOT NULL,
        made REAL NOT NULL, {_VERSION}) STRICT""",
    """CREATE TABLE lines (
        id TEXT PRIMARY KEY, line_set TEXT NOT NULL REFERENCES line_sets (id), position INTEGER NOT NULL,
        question TEXT NOT NULL, answer TEXT NOT NULL, neutral TEXT NOT NULL, category TEXT NOT NULL, source TEXT NOT NULL,
        complete INTEGER NOT NULL, sensitivity REAL, removed INTEGER NOT NULL DEFAULT 0, UNIQUE (line_set, position)) STRICT""",
    f"""CREATE TABLE runs (
        id TEXT PRIMARY KEY, character TEXT NOT NULL, version INTEGER NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('lines', 'prune', 'export')), name TEXT NOT NULL, spec TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('queued', 'starting', 'running', 'stopping', 'stopped', 'failed', 'done')),
        line_set TEXT REFERENCES line_sets (id), pid INTEGER, process_started REAL, made REAL NOT NULL, begun REAL, ended REAL,
        sentence TEXT NOT NULL, summary TEXT NOT NULL, out TEXT NOT NULL, position INTEGER NOT NULL, deleted REAL,
        {_VERSION}) STRICT""",
    """CREATE TABLE masks (run TEXT PRIMARY KEY REFERENCES runs (id), layers INTEGER NOT NULL, channels INTEGER NOT NULL,
        kept BLOB NOT NULL) STRICT""",
    """CREATE TABLE events (run TEXT NOT NULL REFERENCES runs (id), position INTEGER NOT NULL, event TEXT NOT NULL,
        PRIMARY KEY (run, position)) STRICT""",
    f"""CREATE TABLE chats (
        id TEXT PRIMARY KEY, character TEXT NOT NULL, version INTEGER NOT NULL, run TEXT REFERENCES runs (id),
        model TEXT NOT NULL, title TEXT NOT NULL, player TEXT NOT NULL, sampling TEXT NOT NULL, made REAL NOT NULL,
        updated REAL NOT NULL, deleted REAL, {_VERSION}) STRICT""",
    """CREATE TABLE messages (
        id TEXT PRIMARY KEY, chat TEXT NOT NULL REFERENCES chats (id), position INTEGER NOT NULL,
        role TEXT NOT NULL CHECK (role IN ('user', 'assistant')), swipes TEXT NOT NULL, chosen INTEGER NOT NULL,
        cut TEXT) STRICT""",
    "CREATE UNIQUE INDEX messages_in_order ON messages (chat, position) WHERE cut IS NULL",
    f"""CREATE TABLE rounds (
        id TEXT PRIMARY KEY, character TEXT NOT NULL, version INTEGER NOT NULL,
        kind TEXT NOT NULL CHECK (kind IN ('pair', 'grid')), message TEXT NOT NULL, turns TEXT NOT NULL, seed INTEGER NOT NULL,
        blind INTEGER NOT NULL, swapped INTEGER NOT NULL, made REAL NOT NULL, cleared TEXT, {_VERSION}) STRICT""",
    """CREATE TABLE answers (
        id TEXT PRIMARY KEY, round TEXT NOT NULL REFERENCES rounds (id), side INTEGER NOT NULL, run TEXT REFERENCES runs (id),
        model TEXT NOT NULL, text TEXT NOT NULL, measures TEXT NOT NULL, reason TEXT NOT NULL, UNIQUE (round, side)) STRICT""",
    """CREATE TABLE votes (
        round TEXT NOT NULL REFERENCES rounds (id), answer TEXT REFERENCES answers (id),
        verdict TEXT NOT NULL CHECK (verdict IN ('dense', 'pruned', 'tie', 'both_bad', 'good', 'bad')),
        made REAL NOT NULL) STRICT""",
    "CREATE UNIQUE INDEX one_vote_each ON votes (round, ifnull(answer, ''))",
    """CREATE TABLE exports (
        id TEXT PRIMARY KEY, run TEXT NOT NULL REFERENCES runs (id), name TEXT NOT NULL, folder TEXT NOT NULL, zip TEXT NOT NULL,
        bytes INTEGER NOT NULL, zip_bytes INTEGER NOT NULL, proof TEXT NOT NULL, made REAL NOT NULL, deleted REAL) STRICT""",
    "CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    "CREATE INDEX line_sets_of_character ON line_sets (character, version)",
    "CREATE INDEX runs_of_character ON runs (character, version)",
    "CREATE INDEX runs_by_state ON runs (state, position)",
    "CREATE INDEX chats_of_character ON chats (character, version)",
    "CREATE INDEX rounds_of_character ON rounds (character, version)",
    "CREATE INDEX answers_of_run ON answers (run)",
)


@MIGRATIONS(name="1 the first tables")
def _first_tables(db: Database) -> None:
    for statement in _FIRST:
        db.execute(statement)


@MIGRATIONS(name="2 sets of lines can be deleted")
def _deleted_sets(db: Database) -> None:
    db.execute("ALTER TABLE line_sets ADD COLUMN deleted REAL")


@MIGRATIONS(name="3 cards bring files")
def _files_of_cards(db: Database) -> None:
    db.execute("CREATE TABLE files (sha256 TEXT PRIMARY KEY, data BLOB NOT NULL) STRICT")
    db.execute("ALTER TABLE versions ADD COLUMN files TEXT NOT NULL DEFAULT '{}'")


@MIGRATIONS(name="4 tests by a script")
def _tests_by_a_script(db: Database) -> None:
    db.execute(f"""CREATE TABLE script_runs (
        id TEXT PRIMARY KEY, character TEXT NOT NULL, version INTEGER NOT NULL, run TEXT REFERENCES runs (id), model TEXT NOT NULL,
        seed INTEGER NOT NULL, sampling TEXT NOT NULL, judge TEXT NOT NULL,
        state TEXT NOT NULL CHECK (state IN ('running', 'stopped', 'failed', 'done')), sentence TEXT NOT NULL, made REAL NOT NULL,
        ended REAL, {_VERSION}) STRICT""")
    db.execute("""CREATE TABLE script_answers (
        script_run TEXT NOT NULL REFERENCES script_runs (id), question TEXT NOT NULL, position INTEGER NOT NULL,
        kind TEXT NOT NULL, lines TEXT NOT NULL, answers TEXT NOT NULL,
        verdict TEXT NOT NULL CHECK (verdict IN ('pass', 'fail', 'not judged')), checks TEXT NOT NULL, score REAL,
        preferred REAL, PRIMARY KEY (script_run, question)) STRICT""")
    db.execute("CREATE INDEX script_runs_of_character ON script_runs (character, made)")


@MIGRATIONS(name="5 what a chat knows of its player, and its seed")
def _players_of_chats(db: Database) -> None:
    db.execute("ALTER TABLE chats ADD COLUMN about TEXT NOT NULL DEFAULT ''")
    db.execute("ALTER TABLE chats ADD COLUMN seed INTEGER NOT NULL DEFAULT 0")


@MIGRATIONS(name="6 addresses of characters that were renamed")
def _former_slugs(db: Database) -> None:
    db.execute("CREATE TABLE former_slugs (slug TEXT PRIMARY KEY, character TEXT NOT NULL REFERENCES characters (id)) STRICT")


@MIGRATIONS(name="7 ids in the place of phrases")
def _ids(db: Database) -> None:
    """What a run brought, and why lines were left out, by the ids of engine.base.ids; what cannot be read stays as it is."""
    for table, column, translate in (("runs", "summary", migrate.report), ("line_sets", "rejected", migrate.rejected)):
        for id, text in db.execute(f"SELECT id, {column} FROM {table}").fetchall():
            with suppress(ValueError, AttributeError, TypeError, RecursionError):
                changed = json.dumps(translate(json.loads(text)), ensure_ascii=False)
                db.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", [changed, id])


@MIGRATIONS(name="8 what a reader made of each line")
def _decisions(db: Database) -> None:
    db.execute("ALTER TABLE lines ADD COLUMN decision TEXT NOT NULL DEFAULT ''")


@MIGRATIONS(name="9 casts that are drafted at once")
def _casts(db: Database) -> None:
    db.execute("""CREATE TABLE casts (id TEXT PRIMARY KEY, place TEXT NOT NULL, quotas TEXT NOT NULL, seed INTEGER NOT NULL,
        rows TEXT NOT NULL, made REAL NOT NULL) STRICT""")
    db.execute("""CREATE TABLE cast_drafts (
        id TEXT PRIMARY KEY, cast_id TEXT NOT NULL REFERENCES casts (id), position INTEGER NOT NULL, card TEXT NOT NULL,
        line TEXT NOT NULL, thin TEXT NOT NULL, unsaid TEXT NOT NULL, twin TEXT NOT NULL, shared TEXT NOT NULL,
        tries INTEGER NOT NULL, state TEXT NOT NULL CHECK (state IN ('drafted', 'kept', 'dropped')),
        character TEXT REFERENCES characters (id), made REAL NOT NULL) STRICT""")
    db.execute("CREATE INDEX drafts_of_cast ON cast_drafts (cast_id, position)")


def schema(db: Database) -> dict[str, str]:
    """Name and SQL of every table, index, view and trigger, but for the ledger of migrations and SQLite's own."""
    rows = db.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND tbl_name != ?", [Migrations.migrations_table])
    return dict(rows.fetchall())


def expected_schema(migrations: Migrations, names: list[str]) -> dict[str, str]:
    """The schema after the migrations of these names."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        db = Database(connection, execute_plugins=False)
        following = [migration.name for migration in migrations.pending(db)][len(names):]
        migrations.apply(db, stop_before=following[:1])
        return schema(db)
