"""Where the studio keeps its files, and the few numbers that say how patient it is."""

import dataclasses
import errno
import sys
import tempfile
from pathlib import Path

from engine.base.errors import UserError
from engine.base.files import data_folder

_PROBE = 64 * 1024  # bytes; a disk with less left cannot hold even a character


class _Inside:
    """A path in the data folder."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, settings: "Settings", owner: type | None = None) -> Path:
        return settings.home / self.name


@dataclasses.dataclass(frozen=True)
class Settings:
    """One studio's folders (all inside `home`) and limits. Times are in seconds."""

    home: Path
    silence_seconds: float = 180  # without a sign of life, a run is called "not responding"
    grace_seconds: float = 60  # from asking a run to stop until it is ended by force
    jobs_at_once: int = 1
    poll_seconds: float = 1.0  # between two looks at the running jobs
    command: tuple[str, ...] = (sys.executable, "-m", "engine")  # what starts a worker

    database = _Inside("studio.db")  # the library: characters, lines, runs, chats and votes
    players = _Inside("players.db")  # what characters remember of players (engine/serving/memory)
    jobs = _Inside("jobs")  # a folder for each run
    exports = _Inside("exports")  # the models that were exported for use elsewhere
    backups = _Inside("backups")  # copies of the library
    uploads = _Inside("uploads")  # what pages upload and download: the only folder that Gradio serves, emptied at the start
    shipping = _Inside("frontier")  # a folder for each character: what it can be shipped as
    evaluations = _Inside("evaluations")  # a folder for each character: is it still the character?
    casts = _Inside("casts")  # a folder for each cast that is drafted: the job, and its events
    scenes = _Inside("scenes")  # a folder for each character: its last scene with others
    script = _Inside("script")  # the folder of the test by a script that is under way
    log = _Inside("studio.log")  # the studio's own log
    chat_log = _Inside("chat.log")  # what the chat worker writes to its standard error
    server_log = _Inside("server.log")  # ... and the server that games talk to

    @classmethod
    def of_environment(cls) -> "Settings":
        """The settings of this machine's data folder, which is made on demand.

        Raises UserError, one sentence, when the folder cannot be made or written to, or its disk is full.
        """
        settings = cls(data_folder().absolute())
        try:
            for folder in (settings.jobs, settings.exports, settings.backups, settings.uploads):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=settings.home, buffering=0) as probe:
                if probe.write(b"\0" * _PROBE) < _PROBE:
                    raise OSError(errno.ENOSPC, "the disk is full")
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(f"The disk that holds the data folder {settings.home} is full.",
                                "Free some space and start the studio again.") from error
            raise UserError(f"The data folder {settings.home} cannot be written to ({error.strerror}).",
                            "Set PERSONA_STUDIO_HOME to a folder that you may write to.") from error
        return settings

    @property
    def private(self) -> tuple[Path, ...]:
        """What is never served, whatever else is: everything beside the uploads."""
        return (self.database, self.players, self.jobs, self.exports, self.backups, self.shipping, self.evaluations, self.scenes,
                self.casts, self.script, self.log, self.chat_log, self.server_log, self.home / "models")

    def run_folder(self, run_id: str) -> Path:
        """The folder of one run: card.json, lines.jsonl, work/, model/ and log.txt."""
        return self.jobs / run_id

    def run_events(self, run_id: str) -> Path:
        """The file of events of one run."""
        return self.run_folder(run_id) / "work" / "events.jsonl"
