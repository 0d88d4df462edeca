"""What characters remember of players, and the conversations it is found in: every question to the file, and every change."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from engine.base.errors import UserError
from engine.serving.memory.file import MemoryFile
from engine.serving.memory.records import (
    LONGEST_FACT,
    LONGEST_NAME,
    LONGEST_SUMMARY,
    LONGEST_TURN,
    MOST_FACTS,
    MOST_FORMER,
    MOST_SESSIONS,
    MOST_TURNS,
    PERSON,
    Fact,
    Found,
    Missing,
    Player,
    Session,
    Summary,
    Turn,
    check_id,
    one_line,
    whole_text,
)
from engine.serving.memory.slots import slot_of
from engine.serving.memory.words import alike, share

_FACT = "id, player, character, text, slot, session, turn, said, time, edited_by, active"


class PlayerMemory:
    """The memory of players in one file, which is made on first use. `timeout`: seconds that a write waits for another's.

    Every method may raise UserError: the file is busy, damaged, foreign or cannot be written, the disk is full, an id is no id.
    """

    def __init__(self, path: Path, timeout: float = 5.0) -> None:
        self.path = Path(path)
        self._file = MemoryFile(self.path, timeout)

    # Conversations

    def append(self, player: str, character: str, session: str, turns: Sequence[tuple[str, str]], name: str = "") -> None:
        """Add turns, (role, text), to a conversation, which begins with its first; after it ended, it starts over."""
        with self._file.write() as db:
            number = _session(db, player, character, session, name)
            db.execute("DELETE FROM turns WHERE session = ? AND n <= (SELECT read FROM sessions WHERE number = ? AND ended"
                       " IS NOT NULL)", [number, number])
            db.execute("UPDATE sessions SET ended = NULL WHERE number = ?", [number])
            last = db.execute("SELECT max(read, (SELECT ifnull(max(n), 0) FROM turns WHERE session = number)) FROM sessions"
                              " WHERE number = ?", [number]).fetchone()[0]
            for place, (role, text) in enumerate(turns, start=last + 1):
                db.execute("INSERT INTO turns (session, n, role, text, time) VALUES (?, ?, ?, ?, ?)",
                           [number, place, role, whole_text(text, LONGEST_TURN), now()])
            db.execute("DELETE FROM turns WHERE session = ? AND n <= ?", [number, last + len(turns) - MOST_TURNS])

    def take_back(self, player: str, character: str, session: str, count: int) -> None:
        """Remove the last `count` turns of a conversation, so that they can be said differently."""
        with self._file.write() as db:
            if number := _number(db, player, character, session):
                db.execute("DELETE FROM turns WHERE session = ? AND n > (SELECT max(n) - ? FROM turns WHERE session = ?)",
                           [number, max(0, count), number])

    def forget_session(self, player: str, character: str, session: str) -> bool:
        """Forget a conversation, but not what it brought; whether there was one."""
        with self._file.write(erases=True) as db:
            return bool(db.execute("DELETE FROM sessions WHERE player = ? AND character = ? AND id = ?",
                                   [player, character, session]).rowcount)

    def turns(self, player: str, character: str, session: str) -> list[Turn]:
        """The turns of a conversation in order; [] where there is none."""
        with self._file.read() as db:
            return _turns(db, _number(db, player, character, session))

    def sessions(self, player: str = "", character: str = "") -> list[Session]:
        """The conversations, the last one first."""
        with self._file.read() as db:
            rows = db.execute("""SELECT player, character, id, started, ended, read,
                (SELECT ifnull(max(n), 0) FROM turns WHERE session = number) FROM sessions
                WHERE ? IN ('', player) AND ? IN ('', character) ORDER BY number DESC""", [player, character])
            return [Session(*row) for row in rows]

    def waiting(self, idle: float) -> list[Session]:
        """The conversations with turns that are not in the memory yet, and nothing said for `idle` seconds, or ended."""
        with self._file.read() as db:
            rows = db.execute("""SELECT player, character, id, started, ended, read, count FROM sessions
                JOIN (SELECT session, max(n) AS count, max(time) AS last FROM turns GROUP BY session) ON session = number
                WHERE count > read AND (ended IS NOT NULL OR last <= ?) ORDER BY number""", [now(-idle)])
            return [Session(*row) for row in rows]

    def end(self, player: str, character: str, session: str) -> bool:
        """Mark a conversation as ended; False where there is none."""
        with self._file.write() as db:
            number = _number(db, player, character, session)
            db.execute("UPDATE sessions SET ended = ? WHERE number = ? AND ended IS NULL", [now(), number])
            return bool(number)

    # Facts and summaries

    def keep(self, player: str, character: str, session: str, found: Sequence[Found], summary: str = "", read: int = 0,
             before: int | None = None, name: str = "") -> list[Fact] | None:
        """Keep what was found in a conversation up to turn `read`, all of it or nothing; the facts that are new.

        A fact that is known already gets the present time. One with the slot of another (engine/serving/memory/slots.py), or of
        the same words and the opposite, takes its place; the former stays, no longer active. `before`: None is returned, and
        nothing kept, where the conversation is no longer read just that far: another process was faster, or it was forgotten.
        """
        with self._file.write() as db:
            if before is not None:
                is_so = "SELECT 1 FROM sessions WHERE number = ? AND read = ?"
                if not db.execute(is_so, [_number(db, player, character, session), before]).fetchone():
                    return None
            number = _session(db, player, character, session, name)
            new = [fact for one in found if (fact := _merge(db, player, character, session, one))]
            if summary := one_line(summary, LONGEST_SUMMARY):
                _put_summary(db, player, character, summary, session)
            db.execute("UPDATE sessions SET read = max(read, ?) WHERE number = ?", [read, number])
            _trim(db, player, character)
            return new

    def facts(self, player: str, character: str = "", former: bool = False) -> list[Fact]:
        """What is known of a player, by one character or by all, in the order found; `former`: with what was replaced."""
        with self._file.read() as db:
            rows = db.execute(f"SELECT {_FACT} FROM facts WHERE player = ? AND ? IN ('', character) AND active >= ? ORDER BY id",
                              [player, character, int(not former)])
            return [_fact(row) for row in rows]

    def summaries(self, player: str = "", character: str = "") -> list[Summary]:
        """The summaries of a player, or of all, with one character or all."""
        with self._file.read() as db:
            rows = db.execute("SELECT player, character, text, session, time FROM summaries WHERE ? IN ('', player) AND"
                              " ? IN ('', character) ORDER BY time DESC, rowid DESC", [player, character])
            return [Summary(*row) for row in rows]

    def players(self, character: str = "") -> list[Player]:
        """The players, the last seen first; `character`: those that it has talked to."""
        with self._file.read() as db:
            rows = db.execute(
                "SELECT id, name, first_seen, last_seen, (SELECT count(*) FROM facts WHERE player = players.id AND active AND"
                " ? IN ('', character)) FROM players WHERE ? = '' OR id IN (SELECT player FROM sessions WHERE character = ? UNION"
                " SELECT player FROM facts WHERE character = ?) ORDER BY last_seen DESC, id", [character] * 4)
            return [Player(*row) for row in rows]

    def edit(self, player: str, id: int, text: str) -> Fact:
        """Correct a fact; its former text is gone. Raises UserError for an empty text, or where the player has no such fact."""
        tidy = one_line(text, LONGEST_FACT)
        if not tidy:
            raise UserError("A fact needs a text.", "Delete it instead.")
        with self._file.write(erases=True) as db:
            old = _need(db, player, id)
            db.execute("UPDATE facts SET text = ?, slot = ?, edited_by = ?, time = ? WHERE id = ?",
                       [tidy, slot_of(tidy) or old.slot, PERSON, now(), id])
            return _need(db, player, id)

    def set_summary(self, player: str, character: str, text: str) -> None:
        """Write or correct a summary; an empty text deletes it. Raises Missing for an unknown player."""
        with self._file.write(erases=True) as db:
            if not db.execute("SELECT 1 FROM players WHERE id = ?", [player]).fetchone():
                raise Missing("There is no such player.")
            row = db.execute("SELECT session FROM summaries WHERE player = ? AND character = ?", [player, character]).fetchone()
            db.execute("DELETE FROM summaries WHERE player = ? AND character = ?", [player, character])
            if tidy := one_line(text, LONGEST_SUMMARY):
                _put_summary(db, player, character, tidy, row[0] if row else "")

    def delete(self, player: str, id: int) -> Fact:
        """Delete a fact; with it go the turn in which it was said, the reply to that, and a summary that repeats it.

        Raises UserError where the player has no such fact.
        """
        with self._file.write(erases=True) as db:
            fact = _need(db, player, id)
            db.execute("DELETE FROM facts WHERE id = ?", [id])
            number = _number(db, fact.player, fact.character, fact.session)
            db.execute("DELETE FROM turns WHERE session = ? AND (n = ? OR (n = ? AND role = 'assistant'))",
                       [number, fact.turn, fact.turn + 1])
            for summary in db.execute("SELECT text FROM summaries WHERE player = ? AND character = ?",
                                      [fact.player, fact.character]).fetchall():
                if share(fact.text, summary[0]) >= 0.5:
                    db.execute("DELETE FROM summaries WHERE player = ? AND character = ?", [fact.player, fact.character])
            return fact

    def put_back(self, fact: Fact) -> None:
        """Undo the deletion of a fact; the turns that went with it stay away."""
        with self._file.write() as db:
            db.execute("INSERT OR IGNORE INTO players (id, name, first_seen, last_seen) VALUES (?, '', ?, ?)",
                       [fact.player, now(), now()])
            db.execute(f"INSERT OR REPLACE INTO facts ({_FACT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", [*vars(fact).values()])

    def forget(self, player: str, character: str = "") -> int:
        """Forget a player, with one character or with all: facts, summaries, conversations. How many facts went.

        To forget a player of whom nothing is known is no error, and clears the file's traces once more.
        """
        with self._file.write(erases=True) as db:
            where, values = "player = ? AND ? IN ('', character)", [player, character]
            count = db.execute(f"DELETE FROM facts WHERE {where}", values).rowcount
            db.execute(f"DELETE FROM summaries WHERE {where}", values)
            db.execute(f"DELETE FROM sessions WHERE {where}", values)
            db.execute("DELETE FROM players WHERE id = ? AND id NOT IN (SELECT player FROM sessions UNION SELECT player FROM facts"
                       " UNION SELECT player FROM summaries)", [player])
            return count




def now(shift: float = 0.0) -> str:
    """The present time, or that in `shift` seconds, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + shift))


def _session(db: Database, player: str, character: str, session: str, name: str) -> int:
    """The number of a conversation, which is begun where there is none; its player is seen now."""
    for id, what in ((player, "player"), (character, "character"), (session, "session")):
        check_id(id, what)
    db.execute("INSERT INTO players (id, name, first_seen, last_seen) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET"
               " last_seen = excluded.last_seen, name = iif(excluded.name = '', name, excluded.name)",
               [player, one_line(name, LONGEST_NAME), now(), now()])
    db.execute("INSERT OR IGNORE INTO sessions (player, character, id, started) VALUES (?, ?, ?, ?)",
               [player, character, session, now()])
    return _number(db, player, character, session)


def _number(db: Database, player: str, character: str, session: str) -> int:
    row = db.execute("SELECT number FROM sessions WHERE player = ? AND character = ? AND id = ?",
                     [player, character, session]).fetchone()
    return row[0] if row else 0


def _turns(db: Database, number: int) -> list[Turn]:
    return [Turn(*row) for row in db.execute("SELECT n, role, text, time FROM turns WHERE session = ? ORDER BY n", [number])]


def _fact(row: Sequence[Any]) -> Fact:
    return replace(Fact(*row), active=bool(row[-1]))


def _need(db: Database, player: str, id: int) -> Fact:
    row = db.execute(f"SELECT {_FACT} FROM facts WHERE id = ? AND player = ?", [id, player]).fetchone()
    if row is None:
        raise Missing("There is no such fact of this player.", "It may have been deleted meanwhile.")
    return _fact(row)


def _merge(db: Database, player: str, character: str, session: str, found: Found) -> Fact | None:
    """Keep a fact; None where it is known already, or says nothing."""
    text = one_line(found.text, LONGEST_FACT)
    if not text:
        return None
    slot = slot_of(text)
    rows = db.execute(f"SELECT {_FACT} FROM facts WHERE player = ? AND character = ? AND active ORDER BY id", [player, character])
    known = [_fact(row) for row in rows]
    if same := next((fact for fact in known if alike(fact.text, text)), None):
        db.execute("UPDATE facts SET time = ? WHERE id = ?", [now(), same.id])
        return None
    for fact in known:
        if slot and fact.slot == slot:
            db.execute("UPDATE facts SET active = 0 WHERE id = ?", [fact.id])
    row = db.execute("INSERT INTO facts (player, character, text, slot, session, turn, said, time, edited_by) VALUES"
                     f" (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING {_FACT}",
                     [player, character, text, slot, session, found.turn, one_line(found.said, LONGEST_FACT), now(), found.by])
    return _fact(row.fetchone())


def _put_summary(db: Database, player: str, character: str, text: str, session: str) -> None:
    db.execute("INSERT OR REPLACE INTO summaries (player, character, text, session, time) VALUES (?, ?, ?, ?, ?)",
               [player, character, text, session, now()])


def _trim(db: Database, player: str, character: str) -> None:
    """Hold the limits on the number of facts, of former facts, and of conversations whose turns are kept."""
    for active, most in ((1, MOST_FACTS), (0, MOST_FORMER)):
        db.execute("""DELETE FROM facts WHERE id IN (
            SELECT id FROM facts WHERE player = ? AND character = ? AND active = ?
            ORDER BY edited_by = ? DESC, time DESC, id DESC LIMIT -1 OFFSET ?)""", [player, character, active, PERSON, most])
    db.execute("""DELETE FROM sessions WHERE number IN (
        SELECT number FROM sessions WHERE player = ? AND character = ? ORDER BY number DESC LIMIT -1 OFFSET ?)
        AND read >= (SELECT ifnull(max(n), 0) FROM turns WHERE session = number)""", [player, character, MOST_SESSIONS])
