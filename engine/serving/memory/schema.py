"""The tables of players.db, as steps that are only ever appended. The file's user_version says how many it has had."""

from sqlite_utils import Database

from engine.serving.memory.records import Unavailable

APPLICATION_ID = 0x50534D45  # in the file's header: distinguishes players.db from any other SQLite file

_FIRST = (
    """CREATE TABLE players (
        id TEXT PRIMARY KEY, name TEXT NOT NULL, first_seen TEXT NOT NULL, last_seen TEXT NOT NULL) STRICT""",
    # An id of a session is its client's: the same one with another player or character is another session.
    """CREATE TABLE sessions (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL, player TEXT NOT NULL REFERENCES players (id), character TEXT NOT NULL,
        started TEXT NOT NULL, ended TEXT, read INTEGER NOT NULL DEFAULT 0, UNIQUE (player, character, id)) STRICT""",
    """CREATE TABLE turns (
        session INTEGER NOT NULL REFERENCES sessions (number) ON DELETE CASCADE, n INTEGER NOT NULL,
        role TEXT NOT NULL CHECK (role IN ('user', 'assistant')), text TEXT NOT NULL, time TEXT NOT NULL,
        PRIMARY KEY (session, n)) STRICT""",
    """CREATE TABLE facts (
        id INTEGER PRIMARY KEY AUTOINCREMENT, player TEXT NOT NULL REFERENCES players (id), character TEXT NOT NULL,
        text TEXT NOT NULL, slot TEXT NOT NULL, session TEXT NOT NULL, turn INTEGER NOT NULL, said TEXT NOT NULL,
        time TEXT NOT NULL, edited_by TEXT NOT NULL CHECK (edited_by IN ('rules', 'model', 'person')),
        active INTEGER NOT NULL DEFAULT 1) STRICT""",
    """CREATE TABLE summaries (
        player TEXT NOT NULL REFERENCES players (id), character TEXT NOT NULL, text TEXT NOT NULL, session TEXT NOT NULL,
        time TEXT NOT NULL, PRIMARY KEY (player, character)) STRICT""",
    "CREATE INDEX facts_of_player ON facts (player, character, active)",
    "CREATE INDEX facts_of_character ON facts (character)",
)

STEPS: tuple[tuple[str, ...], ...] = (_FIRST,)  # step n makes version n


def bring_up_to_date(db: Database, path: object) -> None:
    """Take the steps that a file has not had, all or none; it may be empty. Raises Unavailable for a foreign or newer one."""
    id, version = _marks(db)
    if id != APPLICATION_ID and (id or version or db.execute("SELECT 1 FROM sqlite_master").fetchone()):
        raise Unavailable(f"{path} is not a memory of players.", "Move it away.")
    if version > len(STEPS):
        raise Unavailable(f"{path} was made by a newer version of Persona Studio.", "Update this one to open it.")
    for step in STEPS[version:]:
        for statement in step:
            db.execute(statement)
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {len(STEPS)}")


def is_up_to_date(db: Database) -> bool:
    """Whether a file is a memory of players that has had all steps."""
    return _marks(db) == (APPLICATION_ID, len(STEPS))


def _marks(db: Database) -> tuple[int, int]:
    id, version = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    return id, version
