"""What characters remember of players: a panel beside the chat to see, correct, delete and forget it, and the switch for the
writer's own chats, off at first.

It shows the file players.db, which the cast server writes too (engine/serving/memory). For chats here, facts are found by rules
alone: the models are in the chat worker.
"""

import html
from collections.abc import Mapping
from typing import Any

import gradio as gr

from engine.base.errors import UserError
from engine.base.files import slug
from engine.serving.memory import Fact, PlayerMemory, Summary, recall
from engine.serving.memory.records import LONGEST_FACT, LONGEST_SUMMARY, MODEL, PERSON, Turn
from engine.serving.memory.rules import find_facts
from studio.page import Notice, Page, at_once, live_html
from studio.services import Services
from studio.store import characters, values
from studio.tabs.answers import changing, looked_at

ROOM = "preview"
_HERE = "studio:"  # what the ids of players begin with who play here
_MOST = 50  # players in the panel, the last seen; the API has the others
_KEY = "memory"  # of the switch, in the library
_BY = {PERSON: "corrected", MODEL: "by the model"}
_NOTHING = ('<p class="quiet">Nothing yet. What players say of themselves, in chats with the switch on or with persona serve '
            "--memory, is kept here as short facts.</p>")


class Memories:
    """What the panel and the room's chats do with the memory of players. Raises UserError as the memory does. Thread-safe."""

    def __init__(self, services: Services) -> None:
        self.services, self.store = services, services.store
        self.memory = PlayerMemory(services.settings.players)

    @property
    def on(self) -> bool:
        """Whether the writer's own chats are remembered."""
        return bool(values.get_value(self.store, _KEY, False))

    def switch(self, on: bool) -> None:
        """Turn that on or off; what is remembered stays."""
        values.set_value(self.store, _KEY, bool(on))

    def recall(self, character: str, player: str, chat: str, turns: list[tuple[str, str]]) -> tuple[str, ...]:
        """What goes into the prompt of the next answer; nothing with the switch off."""
        said = next((text for role, text in reversed(turns) if role == "user"), "")
        if not self.on or not said:
            return ()
        return recall(self.memory, player_id(player), self._id(character), said, session=chat, turn=len(turns)).sentences

    def keep(self, character: str, player: str, chat: str, turns: list[tuple[str, str]]) -> None:
        """Keep what the player's last words say; nothing with the switch off."""
        last = next((n for n in range(len(turns), 0, -1) if turns[n - 1][0] == "user"), 0)
        if self.on and last:
            found = find_facts([Turn(last, "user", turns[last - 1][1])])
            self.memory.keep(player_id(player), self._id(character), chat, found, name=player)

    def contents(self, look: Mapping[str, str]) -> dict[str, Any]:
        """The panel for a page that looks at a character."""
        character = looked_at(self.store, look)
        if not character:
            return {}
        try:
            found = self._players(character)
            who = characters.get(self.store, character)
            return {"preview-memory": panel_html(found, who.char if who else "The character")}
        except UserError as error:
            return {"preview-memory": f'<p class="warn" role="status">{html.escape(str(error))}</p>'}

    def stamp(self) -> tuple[Any, ...]:
        """Changes with each write to the memory or the library."""
        path = self.memory.path
        files = (path, path.with_name(f"{path.name}-wal"))
        return (*((one.stat().st_mtime_ns, one.stat().st_size) for one in files if one.exists()), *self.services.library_stamp())

    def act(self, character: str, said: Mapping[str, Any]) -> Fact | None:
        """Do what a button or a form of the panel says; the fact that was deleted, to take that back."""
        player, id, text = str(said.get("player", "")), str(said.get("fact", "")), str(said.get("text", ""))
        match said.get("do"):
            case "correct":
                self.memory.edit(player, int(id), text)
            case "delete":
                return self.memory.delete(player, int(id))
            case "summary":
                self.memory.set_summary(player, self._id(character), text)
            case "forget":
                self.memory.forget(player, self._id(character))
        return None

    def _players(self, character: str) -> list[tuple[str, str, list[Fact], list[Summary]]]:
        """(id, name, facts, summaries) of the players that the character knows something of, the last seen first."""
        id = self._id(character)
        if not self.memory.path.exists():
            return []
        found = [(one.id, one.name or one.id, self.memory.facts(one.id, id, former=True), self.memory.summaries(one.id, id))
                 for one in self.memory.players(id)[:_MOST]]
        return [one for one in found if one[2] or one[3]]

    def _id(self, character: str) -> str:
        who = characters.get(self.store, character)
        return who.slug if who else character


def player_id(name: str) -> str:
    """The id in the memory of whoever plays here under a name."""
    return f"{_HERE}{slug(name)}"


def panel_html(players: list[tuple[str, str, list[Fact], list[Summary]]], char: str) -> str:
    """All that a character remembers, player by player."""
    return "".join(_player_html(*one, char) for one in players) or _NOTHING


def _player_html(id: str, name: str, facts: list[Fact], summaries: list[Summary], char: str) -> str:
    active, former = ([one for one in facts if one.active is wanted] for wanted in (True, False))
    told = "".join(_edit(one.text, "summary", {"player": id}, "Summary", LONGEST_SUMMARY) for one in summaries)
    rows = "".join(_fact_html(one) for one in active)
    old = (f'<details class="memory-former"><summary>{len(former)} replaced</summary><ul>'
           f'{"".join(_fact_html(one) for one in former)}</ul></details>' if former else "")
    person = html.escape(name)
    forget = (f'<details class="memory-forget"><summary>Forget {person}</summary><p>All that {html.escape(char)} remembers of '
              f'{person} is deleted, from the file as well. This cannot be undone. Chats stay.</p><div class="live-buttons">'
              f'<button class="stop" data-do="forget" data-player="{html.escape(id)}">Forget</button></div></details>')
    place = ' <span class="quiet">in this studio</span>' if id.startswith(_HERE) else ""
    return f'<section class="memory-player"><h4>{person}{place}</h4>{told}<ul>{rows}</ul>{old}{forget}</section>'


def _fact_html(fact: Fact) -> str:
    data = {"player": fact.player, "fact": str(fact.id)}
    by = f" · {_BY[fact.edited_by]}" if fact.edited_by in _BY else ""
    said = f"“{html.escape(fact.said)}” · " if fact.said else ""
    attributes = " ".join(f'data-{name}="{html.escape(value)}"' for name, value in data.items())
    return (f"<li>{_edit(fact.text, 'correct', data, 'Fact', LONGEST_FACT)}"
            f'<button data-do="delete" {attributes} aria-label="Delete: {html.escape(fact.text)}" title="Delete">✕</button>'
            f'<span class="quiet">{said}<time>{html.escape(fact.time[:10])}</time>{by}</span></li>')


def _edit(text: str, do: str, data: Mapping[str, str], label: str, longest: int) -> str:
    """A text that opens as a field to correct it."""
    attributes = " ".join(f'data-{name}="{html.escape(value)}"' for name, value in data.items())
    safe = html.escape(text)
    return (f'<details class="memory-edit"><summary title="Correct">{safe}</summary><form data-do="{do}" {attributes}>'
            f'<textarea name="text" rows="2" maxlength="{longest}" aria-label="{label}">{safe}</textarea>'
            '<div class="live-buttons"><button type="submit" class="primary">Save</button></div></form></details>')


class MemoryPanel:
    """The components, beside the chat."""

    def __init__(self) -> None:
        with gr.Accordion("What it remembers", open=False, elem_id="preview-memory-box"):
            self.on = gr.Checkbox(False, label="Remember players between chats", elem_id="preview-memory-on",
                                  info="Facts that players state go into later chats with the same player’s name. English only.")
            self.gone = Notice("preview-remember-again")
            self.list = live_html("preview-memory")


def connect(memories: Memories, panel: MemoryPanel, page: Page, tab: gr.Tab) -> None:
    """The panel's listeners and its live part."""
    live, gone = memories.services.live, panel.gone
    live.part(ROOM, memories.contents, "character", "of", stamp=memories.stamp)

    def act(event: gr.EventData, character: str) -> Any:
        said = event._data if isinstance(event._data, dict) else {}
        deleted = memories.act(character, said)
        return gone.shown(f"“{deleted.text}” was deleted.", deleted) if deleted else gone.hidden()

    def put_back(fact: Fact) -> Any:
        memories.memory.put_back(fact)
        return gone.hidden()

    panel.list.click(changing(live, ROOM, act), page.character, gone.parts, trigger_mode="multiple", **page.private)
    gone.undo.click(changing(live, ROOM, put_back), gone.gone, gone.parts, **page.private)
    panel.on.input(changing(live, ROOM, memories.switch), panel.on, None, **at_once(page.private))
    for begin in (tab.select, page.character.change):
        begin(lambda: memories.on, None, panel.on, **page.private)
    page.character.change(gone.hidden, None, gone.parts, **page.private)
