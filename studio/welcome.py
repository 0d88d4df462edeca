"""What a newcomer sees above the rooms: what this is and how to begin. Afterwards the rooms themselves say what they are for, until
something was exported; and always which of them are done for a character.

Pure contents of the library; the listeners are in sidebar.py.
"""

from typing import Literal

from engine.cards.fields import data_of
from studio.services import Services
from studio.store import characters, chats, rounds, runs, values

GUEST = "pim-tuckett"  # whom a newcomer meets
NAMELESS = "New character"  # until its writer gives it a name
SENTENCE = ("Write a character for your game, talk to it, and carve a language model down to that one character: small enough to "
            "ship, and offline.")
STEPS = {"draft": "Write who {} is", "preview": "Talk to {}", "prune": "Carve {}’s own model",
         "compare": "Whole or pruned: vote blind", "export": "A folder for your game"}
State = Literal["new", "begun", "known"]
_KEY = "welcome"


def state(services: Services) -> State:
    """How far the reader is: new here, on the way, or no longer in need of this."""
    kept = values.get_value(services.store, _KEY, "")
    if kept == "known" or runs.list_exports(services.store):
        return "known"
    return "begun" if kept == "begun" or runs.list_runs(services.store, limit=1) else "new"


def begin(services: Services) -> None:
    """The reader is on the way, over restarts."""
    values.set_value(services.store, _KEY, "begun")


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
    """The welcome, or what marks the rooms of a character: a style sheet, whose properties assets/studio.css shows."""
    if (now := state(services)) == "new":
        return _WELCOME
    who = characters.get(services.store, character) if character else None
    if who is None or who.deleted:
        return ""
    finished = done(services, who.id)
    rules = [_rule(room, name, text) for room in STEPS if room in finished for name, text in (("done", "✓ "), ("said", "Done "))]
    if now == "begun":
        char = "your character" if who.char == NAMELESS else who.char
        rules += [_rule(room, "about", what.format(char)) for room, what in STEPS.items()]
    return f'<style data-state="{now}">{"".join(rules)}</style>'


def _rule(room: str, name: str, text: str) -> str:
    """A property of a room's tab. A text is any author's: of it, only letters, digits and spaces stay as they are."""
    written = "".join(sign if sign.isalnum() or sign == " " else f"\\{ord(sign):x} " for sign in text)
    return f'#room-{room}-button{{--{name}:"{written}"}}'


_CLOSE = '<button class="welcome-close" data-do="close" aria-label="Hide this" title="Hide this">×</button>'
_WELCOME = (f'<section class="welcome" aria-labelledby="welcome-title"><h2 id="welcome-title">Welcome</h2><p>{SENTENCE}</p>'
            '<div class="live-buttons"><button id="welcome-meet" class="primary large" data-do="meet">Meet Pim</button>'
            '<button id="welcome-write" class="large" data-do="write">Write your own</button>'
            '<button id="welcome-import" class="large" data-do="import">Import a card</button></div>'
            f'{_CLOSE}</section>')
