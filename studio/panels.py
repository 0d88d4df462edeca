"""Two panels of the sidebar: the library with its backups and runs from elsewhere, and the settings."""

import html
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from studio import library
from studio.figures import words
from studio.page import ACT, COPY, ENGINEER, PRIVATE, Page, at_once, guarded
from studio.services import Services
from studio.store import characters, database, values
from studio.store.characters import Character
from studio.uploads import servable
from studio.workers import adopting

THEMES = [("As the system", "system"), ("Light", "light"), ("Dark", "dark")]
_THEME = "window.personaStudioTheme"  # in assets/studio.js, which keeps it in the browser
_ADD_HINT = "The folder that persona prune ‑‑out made, or the run’s work folder. The model stays where it is."


class LibraryPanel:
    """Backups, and runs of the command line."""

    def __init__(self) -> None:
        with gr.Accordion("Library", open=False, elem_id="side-library") as self.panel:
            self.backup = gr.Button("Back up now", size="sm", elem_id="side-backup")
            self.restore = gr.UploadButton("Restore a backup", size="sm", file_types=[".db"], type="filepath",
                                           elem_id="side-restore")
            self.backups = gr.Dropdown([], label="Backups", elem_id="side-backups", filterable=False, visible=False)
            self.download = gr.DownloadButton("Download this backup", size="sm", elem_id="side-download", visible=False)
            self.note = gr.Markdown(elem_id="side-library-note")
            self.place = gr.Textbox(label="Add a run", info=_ADD_HINT, placeholder="/home/me/pim-25", max_length=1_000,
                                    elem_id="side-add-place")
            self.add = gr.Button("Add", size="sm", elem_id="side-add")
            self.found = gr.HTML(elem_id="side-found", js_on_load=ACT)

    def listen(self, services: Services, page: Page, shown: list[Any], show: Callable[[Character | None], tuple[Any, ...]],
               turn: dict[str, Any]) -> None:
        """The listeners. `shown`: what opens a character, in the order of what `show` gives for one."""
        self._back_up(services)

        def open_run(place: str) -> dict[Any, Any]:
            run = adopting.adopt(services.settings, services.store, adopting.find(services.settings, place))
            who = characters.get(services.store, run.character)
            gr.Info(html.escape(f"“{run.name}” is among the runs of {who.char if who else 'its character'}."), title="Added")
            services.live.touch()
            return {**dict(zip(shown, show(who), strict=True)), page.run: run.id, page.rooms: gr.Tabs(selected="prune"),
                    self.place: "", self.found: found_html(services)}

        @guarded
        def act(event: gr.EventData) -> Any:
            return open_run(str(event._data.get("place", "")))

        @guarded
        def look() -> str:
            return found_html(services)

        opened = [*shown, page.run, page.rooms, self.place, self.found]
        for begin in (self.add.click, self.place.submit):
            begin(guarded(open_run), self.place, opened, trigger_mode="once", **turn)
        self.found.click(act, None, opened, trigger_mode="once", **turn)
        self.panel.expand(look, None, self.found, **PRIVATE)

    def _back_up(self, services: Services) -> None:
        def listed(name: str | None) -> tuple[Any, Any]:
            """The list of backups with one of them chosen, else the newest, and the button that fetches it."""
            found = library.backup_choices(services)
            names = [one for _, one in found]
            chosen = name if name in names else next(iter(names), None)
            button = (gr.DownloadButton(value=servable(library.backup_file(services, chosen)), visible=True) if chosen
                      else gr.DownloadButton(visible=False))
            return gr.Dropdown(found, value=chosen, visible=bool(found)), button

        @guarded
        def back_up() -> Any:
            kept = database.backup(services.store)
            return f"Saved as `{kept}`.", *listed(kept.name)

        @guarded
        def list_backups(name: str | None) -> Any:
            return listed(name)

        @guarded
        def offer(name: str | None) -> Any:
            return gr.DownloadButton(value=servable(library.backup_file(services, name or "")), visible=True)

        @guarded
        def restore(file: str) -> Any:
            library.restore(services, Path(file))
            return "Restored. Reload the page to see it; what was here before is among the backups."

        shown = [self.backups, self.download]
        self.backup.click(back_up, None, [self.note, *shown], **PRIVATE)
        self.panel.expand(list_backups, self.backups, shown, **PRIVATE)
        self.backups.input(offer, self.backups, self.download, **at_once(PRIVATE))
        self.restore.upload(restore, self.restore, self.note, **PRIVATE)


def found_html(services: Services) -> str:
    """Runs of the command line that can be added, as buttons; "" without any."""
    found = adopting.found_here(services.settings, services.store)
    if not found:
        return ""
    rows = "".join(f'<li><b>{html.escape(one.name)}</b><span class="quiet">{html.escape(_about(one))}</span>'
                   f'<div class="live-buttons"><button data-do="add" data-place="{html.escape(str(one.folder))}" '
                   f'aria-label="Add {html.escape(one.name)}">Add</button></div></li>' for one in found)
    return f'<p class="quiet">Found in the data folder:</p><ul class="shelf">{rows}</ul>'


def _about(found: adopting.Found) -> str:
    removed = found.recipe.get("sparsity")
    share = f"{words.percent(removed)} removed" if isinstance(removed, int | float) else ""
    made = time.strftime("%d %b %Y", time.localtime(found.folder.stat().st_mtime))
    return " · ".join(filter(None, (Path(found.model).name, share, made)))


class SettingsPanel:
    """The theme, which this browser remembers; the engineer view, which the library does; and where everything is."""

    def __init__(self) -> None:
        with gr.Accordion("Settings", open=False, elem_id="side-settings") as self.panel:
            self.theme = gr.Radio(THEMES, value="system", label="Theme", elem_id="side-theme")
            self.engineer = gr.Checkbox(label="Engineer view", info="Shows channels, steps, seed and the other knobs in Prune.",
                                        elem_id="side-engineer")
            self.folders = gr.HTML(elem_id="side-folders", js_on_load=COPY)

    def listen(self, services: Services, page: Page, blocks: gr.Blocks) -> None:
        """The listeners."""
        @guarded
        def turn(engineer: bool) -> bool:
            values.set_value(services.store, ENGINEER, bool(engineer))
            services.live.touch("prune")
            return bool(engineer)

        @guarded
        def look() -> Any:
            return bool(values.get_value(services.store, ENGINEER, False)), folders_html(services)

        blocks.load(None, None, self.theme, js=f"() => {_THEME}()", **PRIVATE)
        self.theme.input(None, self.theme, None, js=f"(theme) => {{ {_THEME}(theme); }}", **PRIVATE)
        self.engineer.input(turn, self.engineer, page.engineer, **at_once(PRIVATE))
        page.engineer.change(lambda engineer: engineer, page.engineer, self.engineer, **PRIVATE)
        self.panel.expand(look, None, [self.engineer, self.folders], **PRIVATE)


def folders_html(services: Services) -> str:
    """Where the data and the models are, and which models have been fetched, with their sizes."""
    from huggingface_hub import constants

    home = services.settings.home
    there = [one for one in services.speech.models(wait=False) if one.get("ready")]
    own, cached = ([one for one in there if (one.get("kind") == "hub") == hub] for hub in (False, True))
    parts = [("Data folder", home, "Cards, chats, runs and exports. Another one: start with --home DIR."),
             ("Models", home / "models", _listed(own)),
             ("Models of the hub", Path(constants.HF_HUB_CACHE), _listed(cached))]
    return "".join(f'<div class="folder"><h3>{name}</h3><code>{html.escape(os.fspath(path))}</code>'
                   f'<button class="copy" data-copy="{html.escape(os.fspath(path))}" aria-label="Copy the path of: {name}">'
                   "Copy</button>"
                   f'<p class="quiet">{html.escape(about)}</p></div>' for name, path, about in parts)


def _listed(models: list[dict[str, Any]]) -> str:
    names = [f"{Path(str(one['name'])).name} ({words.size(one['bytes'])})" if one.get("bytes") else Path(str(one["name"])).name
             for one in models]
    return "Fetched: " + ", ".join(names) if names else "Nothing has been fetched yet."
