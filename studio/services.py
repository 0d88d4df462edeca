"""What the rooms of the studio work with, made once at the start and handed to each of them.

Independent of the page and its handlers; closing it ends the worker processes' leashes.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.base.known_models import SMALL, STARTER
from engine.cards.card import bundled_cards
from studio.live import Live
from studio.settings import Settings
from studio.store import characters, runs, values
from studio.store.database import Store, open_store
from studio.tokens import TokenCounter
from studio.workers.casting import Casting
from studio.workers.evaluating import Evaluating
from studio.workers.game_server import GameServer
from studio.workers.jobs import Jobs
from studio.workers.scenes import Scenes
from studio.workers.scripts import Scripts
from studio.workers.shipping import Shipping
from studio.workers.siblings import Siblings
from studio.workers.single import Single
from studio.workers.speech import Speech
from studio.workers.watch import Watcher


@dataclass
class Services:
    """The library, the worker processes and the counters of one studio."""

    settings: Settings
    store: Store
    jobs: Jobs
    watcher: Watcher
    speech: Speech
    tokens: TokenCounter
    scripts: Scripts
    shipping: Shipping
    evaluating: Evaluating
    siblings: Siblings
    scenes: Scenes
    casting: Casting
    server: GameServer
    live: Live = field(default_factory=Live)

    @classmethod
    def open(cls, settings: Settings) -> "Services":
        """Open the library and put the bundled characters into it; nothing runs yet. Raises UserError."""
        store = open_store(settings.database)
        characters.sync_bundled(store, [card.raw for card in bundled_cards()])
        live = Live()
        speech, evaluating = Speech(settings, live.touch), Evaluating(settings, live.touch)
        found = cls(settings, store, Jobs(settings, store), Watcher(settings, store), speech, TokenCounter(settings.home),
                   Scripts(settings, store, live.touch), Shipping(settings, live.touch), evaluating,
                   Siblings(store, speech, evaluating), Scenes(settings, live.touch), Casting(settings, store, live.touch),
                   GameServer(settings, live.touch), live=live)
        if not values.get_value(store, "model", ""):  # once: a model that is fetched later does not take over by itself
            values.set_value(store, "model", found.base_model())
        return found

    def base_model(self) -> str:
        """The dense model in use: the one that was chosen last; before any was, `small` where it is there, else the starter."""
        first = SMALL if SMALL.is_in(self.settings.home) else STARTER
        return values.get_value(self.store, "model", "") or first.name

    def library_stamp(self) -> tuple[Any, ...]:
        """Changes with each write to the library, and every ten seconds, in case two writes leave the file alike."""
        files = (self.settings.database, self.settings.database.with_name(f"{self.settings.database.name}-wal"))
        found = (file.stat() for file in files if file.exists())
        return (*((one.st_mtime_ns, one.st_size) for one in found), int(time.monotonic() / 10))

    def export_folder(self, id: str) -> Path | None:
        """The folder of an export; None for an unknown one."""
        found = runs.get_export(self.store, id)
        return Path(found.folder) if found else None

    def answers_stamp(self) -> tuple[Any, ...]:
        """Changes with each write to the library, and all the time while a model answers or a test by a script is under way."""
        testing = time.monotonic() if self.scripts.character() else 0.0
        return (*self.library_stamp(), self.speech.stamp(), testing)

    def singles(self) -> list[Single]:
        """All processes of which there is one at a time: what is named above is closed, and listed on the page (under_way.py)."""
        return [one for one in vars(self).values() if isinstance(one, Single)]

    def start(self) -> "Services":
        """Take up the queue."""
        self.jobs.start()
        self.scripts.start()
        self.casting.start()
        return self

    def close(self) -> None:
        """End the chat worker and the server, and let running jobs checkpoint."""
        self.jobs.close()
        for one in self.singles():
            one.close()
        self.server.close()
        self.speech.close()
