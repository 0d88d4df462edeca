"""What a newcomer sees above the rooms: what this is and how to begin; afterwards the five steps, with those that are done.

Pure contents of the library; the listeners are in sidebar.py. Both can be closed for good.
"""

import html
from typing import Literal

from engine.cards.fields import data_of
from studio.services import Services
from studio.store import characters, chats, rounds, runs, values

GUEST = "pim-tuckett"  # whom a newcomer meets
SENTENCE = ("Write a character for your game, talk to it, and carve a language model down to that one character: small enough to "
            "ship, and offline.")
STEPS = {"draft": ("Draft", "Write who {} is"), "preview": ("Play", "Talk to {}"), "prune": ("Prune", "Carve {}’s own model"),
         "compare": ("Compare", "Whole or pruned: vote blind"), "export": ("Export", "A folder for your game")}
State = Literal["new", "begun", "known"]
_KEY = "welcome"


def state(services: Services) -> State:
    """How far the reader is: new here, on the way, or no longer in need of this."""
    kept = values.get_value(services.store, _KEY, "")
    if kept in ("begun", "known"):
        return kept
    return "begun" if runs.list_runs(services.store, limit=1) else "new"


def set_state(services: Services, state: State) -> None:
    """Remember it, over restarts."""
    values.set_value(services.store, _KEY, state)


def done(services: Services, character: str) -> set[str]:
    """The steps that are done for a character, as rooms of the page."""
    store = services.store
    card = data_of(characters.head(store, character).card)
    found = {"draft"} if any(str(card.get(field) or "").strip() for field in ("description", "personality")) else set()
    if any(len(chats.messages(store, chat.id)) > 1 for chat in chats.chats(store, character)[:3]):
        found.add("preview")
    finished = runs.list_runs(store, character, kinds=["prune"], states=["done"])
    if finished:
        found.add("prune")
    if any(rounds.tally(store, run.id).total for run in finished):
        found.add("compare")
    if runs.list_exports(store, character=character):
        found.add("export")
    return found


def welcome_html(services: Services, character: str) -> str:
    """The welcome, or the steps of a character, or nothing."""
    now = state(services)
    if now == "new":
        return _WELCOME
    who = characters.get(services.store, character) if now == "begun" and character else None
    finished = done(services, who.id) if who and not who.deleted else None
    if who is None or finished is None or len(finished) == len(STEPS):
        return ""
    following = next(room for room in STEPS if room not in finished)
    steps = "".join(_step(room, who.char, room in finished, room == following) for room in STEPS)
    return f'<nav class="steps" aria-label="The five steps"><ol>{steps}</ol>{_CLOSE}</nav>'


def _step(room: str, char: str, is_done: bool, is_next: bool) -> str:
    name, what = STEPS[room]
    kind = "done" if is_done else "next" if is_next else ""
    sign = '<i aria-hidden="true">✓</i><span class="visually-hidden">Done: </span>' if is_done else '<i aria-hidden="true"></i>'
    return (f'<li class="{kind}"><button data-do="room" data-room="{room}">{sign}<b>{name}</b>'
            f'<span>{html.escape(what.format(char))}</span></button></li>')


_CLOSE = '<button class="welcome-close" data-do="close" aria-label="Hide this" title="Hide this">×</button>'
_WELCOME = (f'<section class="welcome" aria-labelledby="welcome-title"><h2 id="welcome-title">Welcome</h2><p>{SENTENCE}</p>'
            '<div class="live-buttons"><button id="welcome-meet" class="primary large" data-do="meet">Meet Pim</button>'
            '<button id="welcome-write" class="large" data-do="write">Write your own</button>'
            '<button id="welcome-import" class="large" data-do="import">Import a card</button></div>'
            f'{_CLOSE}</section>')
