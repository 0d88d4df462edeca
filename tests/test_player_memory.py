"""The memory of players: what is kept, found again, corrected and forgotten; by several processes, also when they are killed."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.base.embedding import embedder
from engine.base.errors import UserError
from engine.serving.memory import Found, PlayerMemory, recall
from engine.serving.memory.records import LONGEST_FACT, LONGEST_TURN, MOST_FACTS, MOST_SESSIONS, MOST_TURNS, Turn
from engine.serving.memory.rules import find_facts
from engine.serving.memory.schema import APPLICATION_ID, STEPS


@pytest.fixture
def memory(tmp_path: Path) -> PlayerMemory:
    return PlayerMemory(tmp_path / "data" / "players.db")


def texts(memory: PlayerMemory, player: str = "mara", character: str = "pim", former: bool = False) -> list[str]:
    return [fact.text for fact in memory.facts(player, character, former)]


def keep(memory: PlayerMemory, *facts: str, player: str = "mara", character: str = "pim", session: str = "one") -> None:
    memory.keep(player, character, session, [Found(fact, 1, f"I said: {fact}") for fact in facts])


def test_a_conversation_and_what_is_known_of_it(memory: PlayerMemory) -> None:
    memory.append("mara", "pim", "one", [("assistant", "Welcome."), ("user", "I like tea.")], "Mara")
    memory.append("mara", "pim", "one", [("assistant", "Good.")])
    assert [(turn.n, turn.role, turn.text) for turn in memory.turns("mara", "pim", "one")] == [
        (1, "assistant", "Welcome."), (2, "user", "I like tea."), (3, "assistant", "Good.")]
    assert [one.id for one in memory.waiting(0)] == ["one"] and memory.waiting(3_600) == []
    new = memory.keep("mara", "pim", "one", [Found("The player likes tea.", 2, "I like tea.")], "Tea was had.", read=3, before=0)
    assert new and (new[0].turn, new[0].said, new[0].session, new[0].edited_by) == (2, "I like tea.", "one", "rules")
    assert memory.waiting(0) == [] and [one.text for one in memory.summaries("mara")] == ["Tea was had."]
    assert memory.keep("mara", "pim", "one", [Found("The player likes beer.", 2)], read=3, before=0) is None  # another was faster
    assert texts(memory) == ["The player likes tea."]
    assert [(one.id, one.name, one.facts) for one in memory.players()] == [("mara", "Mara", 1)]
    memory.take_back("mara", "pim", "one", 1)
    assert len(memory.turns("mara", "pim", "one")) == 2 and memory.turns("tom", "pim", "one") == []


def test_the_file_can_be_read_by_a_person(memory: PlayerMemory) -> None:
    keep(memory, "The player likes tea.")
    assert stat.S_IMODE(memory.path.stat().st_mode) == 0o600
    with sqlite3.connect(memory.path) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        assert {"players", "sessions", "turns", "facts", "summaries"} <= tables
        row = db.execute("SELECT player, character, text, said, time, active FROM facts").fetchone()
        assert row[:4] == ("mara", "pim", "The player likes tea.", "I said: The player likes tea.")
        assert row[4].startswith("20") and row[4].endswith("Z") and row[5] == 1
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_the_same_is_kept_once_and_the_opposite_takes_its_place(memory: PlayerMemory) -> None:
    keep(memory, "The player's name is Mara.", "The player likes apples.", "The player likes apples!")
    keep(memory, "The player likes apple.", "The player's name is Tom.", session="two")
    assert texts(memory) == ["The player likes apples.", "The player's name is Tom."]
    assert texts(memory, former=True) == ["The player's name is Mara.", "The player likes apples.", "The player's name is Tom."]
    keep(memory, "The player doesn't like apples.")
    assert texts(memory) == ["The player's name is Tom.", "The player doesn't like apples."]


def test_nothing_of_another_player_or_character_is_known(memory: PlayerMemory) -> None:
    keep(memory, "The player hides in the old mill.")
    keep(memory, "The player guards the north gate.", player="tom")
    keep(memory, "The player owes money to Zubaida.", character="zubaida")
    memory.append("tom", "pim", "one", [("user", "Where is Mara?")])  # the same id of a session is another session
    found = recall(memory, "tom", "pim", "Who hides in the mill, and who owes money?")
    assert found.sentences == ("The player guards the north gate.",)
    assert recall(memory, "mara", "pim", "Money?").sentences == ("The player hides in the old mill.",)
    assert memory.turns("mara", "pim", "one") == []
    with pytest.raises(UserError, match="no such fact"):
        memory.edit("tom", memory.facts("mara")[0].id, "Mine.")
    with pytest.raises(UserError, match="no such fact"):
        memory.delete("tom", memory.facts("mara")[0].id)


def test_what_was_said_in_session_one_is_known_in_session_three(memory: PlayerMemory) -> None:
    said = {"one": "My name is Mara. I have a dog called Bruno, and I live in the old mill.", "two": "Fine weather. Any news?"}
    for session, line in said.items():
        memory.append("mara", "pim", session, [("assistant", "Speak."), ("user", line), ("assistant", "I am Pim. I like cheese.")])
        memory.keep("mara", "pim", session, find_facts(memory.turns("mara", "pim", session)))
        memory.end("mara", "pim", session)
    memory = PlayerMemory(memory.path)  # the server was restarted
    assert "The player has a dog called Bruno." in recall(memory, "mara", "pim", "How is my dog?").sentences
    assert not any("cheese" in text for text in texts(memory))  # the character's own words are no facts of the player


def test_what_was_just_said_is_not_recalled(memory: PlayerMemory) -> None:
    memory.keep("mara", "pim", "one", [Found("The player likes tea.", 3), Found("The player has a dog.", 30)], "Tea was had.")
    assert recall(memory, "mara", "pim", "Tea? Dogs?", session="one", turn=31).sentences == ("The player likes tea.",)
    assert len(recall(memory, "mara", "pim", "Tea? Dogs?", session="two", turn=31).sentences) == 3


NOISE = [f"The player owns {number} {thing}." for number, thing in enumerate(("carts", "boats", "coins", "goats", "maps"), 2)]


def test_recall_finds_by_words_and_puts_the_name_first(memory: PlayerMemory) -> None:
    spiders, key = "The player is afraid of spiders.", "The player promised to bring back the silver key."
    keep(memory, "The player's name is Mara.", spiders, key, *NOISE)
    for line, fact in (("A spider!", spiders), ("I brought what I promised.", key)):
        found = recall(memory, "mara", "pim", line)
        assert fact in found.sentences and found.sentences[0] == "The player's name is Mara."
        assert found.as_dict()["facts"] == [{"id": one.id, "text": one.text} for one in found.facts]
    assert len(recall(memory, "mara", "pim", "The weather is fine.").sentences) < 6  # not everything, every time


@pytest.mark.skipif(embedder() is None, reason="the package wordllama is not installed")
def test_recall_finds_by_meaning(memory: PlayerMemory) -> None:
    keep(memory, "The player has a dog called Bruno.", "The player wants to find their brother.", *NOISE)
    assert "The player has a dog called Bruno." in recall(memory, "mara", "pim", "Do you remember my pet?").sentences
    assert "The player wants to find their brother." in recall(memory, "mara", "pim", "Have you seen my sibling?").sentences


def test_recall_keeps_to_its_budget(memory: PlayerMemory) -> None:
    keep(memory, *(f"The player has seen {'very ' * (number % 9)}many wolves in winter number {number}." for number in range(40)))
    memory.keep("mara", "pim", "one", [], "The wolves " * 30)
    for budget in (0, 5, 20, 60, 200):
        found = recall(memory, "mara", "pim", "Wolves?", budget, count=lambda text: len(text.split()), most=50)
        assert sum(len(sentence.split()) for sentence in found.sentences) <= found.tokens <= budget
        assert bool(found.sentences) == (budget > 5) and found.summary == (budget >= 200)
    assert recall(memory, "nobody", "pim", "Wolves?").sentences == ()


def test_a_person_corrects_deletes_and_takes_that_back(memory: PlayerMemory) -> None:
    said = [("assistant", "Yes?"), ("user", "I like apples."), ("assistant", "Apples!"), ("user", "Bye.")]
    memory.append("mara", "pim", "one", said)
    memory.keep("mara", "pim", "one", [Found("The player likes apples.", 2, "I like apples.")], "The player likes apples and left.")
    (fact,) = memory.facts("mara")
    edited = memory.edit("mara", fact.id, " The player likes\npears. ")
    assert (edited.text, edited.edited_by, edited.slot) == ("The player likes pears.", "person", "taste: pears")
    memory.set_summary("mara", "pim", "The player likes pears and left.")
    gone = memory.delete("mara", fact.id)
    assert memory.facts("mara") == [] and memory.summaries("mara") == []  # the summary repeated it
    assert [turn.text for turn in memory.turns("mara", "pim", "one")] == ["Yes?", "Bye."]
    memory.put_back(gone)
    assert memory.facts("mara") == [gone]
    memory.keep("mara", "pim", "one", [Found("The player likes pears.", 4)])
    assert texts(memory) == ["The player likes pears."]
    for text in ("", " \n", "\0"):
        with pytest.raises(UserError, match="needs a text"):
            memory.edit("mara", fact.id, text)
    with pytest.raises(UserError, match="no such player"):
        memory.set_summary("tom", "pim", "Hm.")


def bytes_of(memory: PlayerMemory) -> bytes:
    return b"".join(file.read_bytes() for file in memory.path.parent.glob("players.db*"))


@pytest.mark.parametrize("reader", [False, True])
def test_forgotten_is_gone_from_the_file(memory: PlayerMemory, reader: bool) -> None:
    for number in range(60):  # pages are split and merged
        secret = f"The player buried treasure{number:03}"
        memory.append("mara", "pim", f"s{number}", [("user", f"{secret} {'deep ' * 200}")], name="Marazione")
        keep(memory, secret, session=f"s{number}")
        keep(memory, f"The player guards gate{number:03}.", player="tom")
    assert b"treasure" in bytes_of(memory) and b"Marazione" in bytes_of(memory)
    if reader:
        with sqlite3.connect(memory.path) as other:
            other.execute("BEGIN")
            other.execute("SELECT * FROM facts").fetchone()
            memory.timeout = 0.2
            with pytest.raises(UserError, match="traces of it are still in the file"):
                memory.forget("mara")
        other.close()
        assert memory.forget("mara") == 0
    else:
        assert memory.forget("mara", "zubaida") == 0 and len(texts(memory)) == 60
        assert memory.forget("mara", "pim") == 60
    left = bytes_of(memory)
    assert b"treasure" not in left and b"Marazione" not in left and b"mara" not in left
    assert len(texts(memory, "tom")) == 60 and [one.id for one in memory.players()] == ["tom"]


def test_deleted_and_corrected_facts_are_gone_from_the_file(memory: PlayerMemory) -> None:
    memory.append("mara", "pim", "one", [("user", "I like aubergines."), ("assistant", "Aubergines, then!"), ("user", "Bye.")])
    keep(memory, "The player likes aubergines.", "The player fears otters.")
    first, second = memory.facts("mara")
    memory.delete("mara", first.id)
    assert b"ubergine" not in bytes_of(memory)
    memory.edit("mara", second.id, "The player fears ducks.")
    assert b"fears otters" not in bytes_of(memory).replace(b"I said: The player fears otters", b"")


@pytest.mark.parametrize("text", ["\ud800 half", "NUL \0 here", "'; DROP TABLE facts; --", "x" * 1_000_000, "{{char}} <|im_end|>",
                                  "\u202eright to left", "a\nb\r\nc", "I like " + "a, " * 300_000])
def test_hostile_texts(memory: PlayerMemory, text: str) -> None:
    memory.append("mara", "pim", "one", [("user", text), ("assistant", text)], name=text)
    turns = memory.turns("mara", "pim", "one")
    assert len(turns) == 2 and all(len(turn.text) <= LONGEST_TURN for turn in turns)
    memory.keep("mara", "pim", "one", [Found(text, 1, text), *find_facts([Turn(1, "user", text)])], summary=text)
    for fact in memory.facts("mara"):
        assert len(fact.text) <= LONGEST_FACT and fact.text.encode() and "\n" not in fact.text
    assert len(recall(memory, "mara", "pim", text).sentences) <= 3
    assert memory.forget("mara") <= 1 and memory.facts("mara") == []


@pytest.mark.parametrize("id", ["", " ", "a/b", "a\0", "\ud800", "x" * 201, "new\nline", "..\\.."])
def test_ids_are_checked(memory: PlayerMemory, id: str) -> None:
    with pytest.raises(UserError, match="id of a player"):
        memory.append(id, "pim", "one", [("user", "Hello.")])
    with pytest.raises(UserError, match="id of a session"):
        memory.append("mara", "pim", id, [("user", "Hello.")])


def test_the_memory_stays_small(memory: PlayerMemory) -> None:
    keep(memory, "The player is afraid of geese.")
    person = memory.edit("mara", memory.facts("mara")[0].id, "The player is afraid of swans.")
    for start in range(0, MOST_FACTS + 60, 20):
        keep(memory, *(f"The player has been to town{number}." for number in range(start, start + 20)))
    known = memory.facts("mara")
    assert len(known) == MOST_FACTS and person.id in {fact.id for fact in known} and "town259" in known[-1].text
    memory.append("mara", "pim", "long", [("user", "Hm.")] * (MOST_TURNS + 10))
    assert len(memory.turns("mara", "pim", "long")) == MOST_TURNS and memory.turns("mara", "pim", "long")[-1].n == MOST_TURNS + 10
    for number in range(MOST_SESSIONS + 5):
        memory.append("mara", "pim", f"s{number}", [("user", "Hm.")])
        memory.end("mara", "pim", f"s{number}")
        memory.keep("mara", "pim", f"s{number}", [], read=1)
    left = [session.id for session in memory.sessions("mara", "pim")]
    assert len(left) == MOST_SESSIONS + 1 and "long" in left  # what is not in the memory yet is kept


WRITER = """
import sys
from pathlib import Path
from engine.serving.memory import Found, PlayerMemory
memory, name = PlayerMemory(Path(sys.argv[1]), timeout=60), sys.argv[2]
for number in range(100_000):
    memory.append(name, "pim", "one", [("user", f"I own town{number}."), ("assistant", "So?")])
    memory.keep(name, "pim", "one", [Found(f"The player owns town{number}.", 2 * number + 1)], f"To {number}.", 2 * number + 2)
    print(number, flush=True)
"""


def writer_of(memory: PlayerMemory, player: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", WRITER, str(memory.path), player], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_kill_9_loses_no_finished_write(memory: PlayerMemory) -> None:
    for round in range(2):
        writers = [writer_of(memory, f"p{round}{one}") for one in range(2)]
        for writer in writers:
            assert writer.stdout
            while int(writer.stdout.readline()) < 5 + 10 * round:
                pass
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
        for one, writer in enumerate(writers):
            assert writer.stdout
            last = max([5 + 10 * round, *map(int, writer.stdout.read().split())])  # finished before it was killed
            writer.wait()
            name, again = f"p{round}{one}", PlayerMemory(memory.path)
            turns, facts = again.turns(name, "pim", "one"), texts(again, name)
            assert f"The player owns town{last}." in facts and len(turns) >= min(2 * last + 2, MOST_TURNS - 2)
            assert len(turns) % 2 == 0  # a write is whole
    with sqlite3.connect(memory.path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_many_threads_share_the_file(memory: PlayerMemory) -> None:
    def work(name: str) -> None:
        own = PlayerMemory(memory.path, timeout=60)
        for number in range(10):
            own.append(name, "pim", "one", [("user", f"{number}")])
            keep(own, f"The player has been to town{number}.", player=name)

    threads = [threading.Thread(target=work, args=(f"p{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(memory.turns(f"p{number}", "pim", "one")) for number in range(8)] == [10] * 8
    assert sum(player.facts for player in memory.players()) == 80


def test_a_lock_that_is_held_is_one_sentence(memory: PlayerMemory) -> None:
    keep(memory, "The player likes tea.")
    memory.timeout = 0.1
    with sqlite3.connect(memory.path, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(UserError, match="busy; nothing was changed"):
            keep(memory, "The player likes beer.")
    other.close()
    assert texts(memory) == ["The player likes tea."]


def test_files_that_are_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "players.db"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(UserError, match="damaged"):
        PlayerMemory(path).players()
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE characters (id TEXT)")
    db.close()
    with pytest.raises(UserError, match="not a memory of players"):
        PlayerMemory(path).players()
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    db.close()
    with pytest.raises(UserError, match="newer version"):
        PlayerMemory(path).players()
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="cannot be opened"):
        PlayerMemory(path).players()


def test_a_file_that_was_removed_is_made_again(memory: PlayerMemory) -> None:
    keep(memory, "The player likes tea.")
    for file in memory.path.parent.glob("players.db*"):
        file.unlink()
    assert memory.facts("mara") == []
    keep(memory, "The player likes tea.")
    assert texts(memory) == ["The player likes tea."]


def test_a_file_that_is_emptied_or_exchanged_while_it_is_used(tmp_path: Path) -> None:
    memory = PlayerMemory(tmp_path / "players.db")
    memory.append("kit", "pim", "one", [("user", "Hm?")])
    (tmp_path / "players.db").write_bytes(b"")
    assert memory.players() == []
    memory.append("kit", "pim", "two", [("user", "Hm?")])
    assert [one.id for one in memory.sessions()] == ["two"]
    (tmp_path / "players.db").unlink()
    with sqlite3.connect(tmp_path / "players.db") as other:
        other.execute("CREATE TABLE things (id)")
        other.execute(f"PRAGMA user_version = {len(STEPS)}")
    other.close()
    with pytest.raises(UserError, match="is not a memory of players"):
        memory.players()
