"""Serve: the server that games and scripts talk to, started and stopped here, with its address and code to paste.

The form goes through Gradio; what the server does comes through the live channel. Its key goes only to the page that started it.
"""

import html
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from engine.base.errors import UserError
from engine.export.engines.clients import CLIENTS, KEY_NAME, Endpoint
from studio import labels
from studio.figures import words
from studio.page import COPY, Page, guarded, live_html
from studio.services import Services
from studio.store import characters, runs, values
from studio.tabs.models import pruned_name
from studio.workers.commands import is_whole, result_folder
from studio.workers.game_server import Serving, State

ROOM = "export"
PORT = 8080
_EXPORT = "export:"  # before an export's id, as a choice
_KEPT = "serve"  # where the form is remembered
WHAT = ('<h3>A server for your game</h3><p class="quiet">Games and scripts talk to your characters over HTTP, in the form of '
        "OpenAI’s chat completions. The server knows the card: a game sends what the player said and gets the answer. It runs on "
        "this machine as long as the studio does.</p>")


class Panel:
    """The controls."""

    def __init__(self) -> None:
        with gr.Column(visible=False, elem_id="serve") as self.whole:
            gr.HTML(WHAT)
            with gr.Row(equal_height=False):
                with gr.Column(scale=2, min_width=300):
                    self.sources = gr.Dropdown([], multiselect=True, label="Characters", elem_id="serve-sources",
                                               info="Pruned models and exports. One server speaks for all of them.")
                    self.port = gr.Number(PORT, label="Port", precision=0, minimum=0, maximum=65_535, elem_id="serve-port",
                                          info="The address ends with it. 0: any free one.")
                    self.everyone = gr.Checkbox(False, label="Also for other machines", elem_id="serve-everyone",
                                                info="They need a key, which is made at the start and shown once.")
                    self.memory = gr.Checkbox(False, label="Remember players", elem_id="serve-memory",
                                              info="What a player tells a character is kept on this machine. Play shows it, "
                                                   "under “What it remembers”.")
                    with gr.Row(elem_classes="tight"):
                        self.start = gr.Button("Start the server", variant="primary", elem_id="serve-start",
                                               elem_classes="live-shown")
                        self.stop = gr.Button("Stop the server", variant="stop", elem_id="serve-stop", elem_classes="live-shown")
                with gr.Column(scale=3, min_width=320):
                    self.key = gr.HTML(elem_id="serve-key", js_on_load=COPY)
                    live_html("serve-state", COPY)
                    live_html("serve-code", COPY)


def listen(services: Services, page: Page, panel: Panel, begins: Sequence[Any], view: gr.Radio, run: gr.Dropdown) -> None:
    """The panel's listeners and its live part. `run`: the pruned model that the room shows, served unless others are chosen."""
    services.live.part(ROOM, lambda look: contents(services, look["snippet"]), "snippet",
                       stamp=lambda: (services.server.now, services.server.log_lines()))

    @guarded
    def open_(shown: str, run: str | None) -> Any:
        if shown != "serve":
            return (gr.skip(),) * len(form)
        choices, kept = choices_of(services), values.get_value(services.store, _KEPT, {})
        known = [id for _, id in choices]
        chosen = [id for id in kept.get("sources", []) if id in known] or [id for id in [run] if id in known]
        return (gr.Dropdown(choices, value=chosen), int(kept.get("port", PORT)), bool(kept.get("everyone", False)),
                bool(kept.get("memory", False)))

    @guarded
    def start(chosen: list[str], port: float | None, everyone: bool, memory: bool) -> str:
        return key_html(begin(services, chosen, int(PORT if port is None else port), everyone, memory))

    @guarded
    def stop() -> str:
        services.server.stop()
        return ""

    form = [panel.sources, panel.port, panel.everyone, panel.memory]
    for begin_ in begins:
        begin_(open_, [view, run], form, **page.private)
    panel.start.click(start, form, panel.key, trigger_mode="once", **page.private)
    panel.stop.click(stop, None, panel.key, **page.poll)


def begin(services: Services, chosen: Sequence[str], port: int, everyone: bool = False, memory: bool = False) -> str:
    """Start the server for what was chosen, and remember the form; the key, "" without one. Raises UserError."""
    folders = [folder_of(services, one) for one in chosen]
    key = services.server.start([str(folder) for folder in folders], port, everyone, memory)
    values.set_value(services.store, _KEPT, {"sources": list(chosen), "port": port, "everyone": everyone, "memory": memory})
    return key


def choices_of(services: Services) -> list[tuple[str, str]]:
    """(label, choice) of what can be served: the pruned models of all characters, newest first, then their exports."""
    found = [run for run in runs.list_runs(services.store, kinds=["prune"], states=["done"])
             if is_whole(result_folder(services.settings, run))]
    names = {run.id: _who(services, run) for run in found}
    exported = [one for one in runs.list_exports(services.store) if Path(one.folder).is_dir()]
    return words.dedupe_labels([*((f"{names[run.id]} · {pruned_name(run)}", run.id) for run in found),
                                *((f"Export · {one.name}", f"{_EXPORT}{one.id}") for one in exported)])


def folder_of(services: Services, choice: str) -> Path:
    """The folder of a choice. Raises UserError where it is gone."""
    if choice.startswith(_EXPORT):
        found = next((one for one in runs.list_exports(services.store) if f"{_EXPORT}{one.id}" == choice), None)
        folder = Path(found.folder) if found else None
    else:
        run = runs.get(services.store, choice)
        folder = result_folder(services.settings, run) if run and not run.deleted else None
    if folder is None or not is_whole(folder):
        raise UserError("The files of a chosen character are no longer there.", "Take it out of the list, or make it again.")
    return folder


def contents(services: Services, snippet: str) -> dict[str, Any]:
    """The live contents. `snippet`: the client whose code is looked at."""
    now = services.server.now
    return {"serve-state": state_html(now, services.server.log_lines()), "serve-code": code_html(now, snippet),
            "serve-start": now.state is State.OFF, "serve-stop": now.state is not State.OFF}


def state_html(now: Serving, lines: Sequence[str]) -> str:
    """What the server does, and the end of its log."""
    match now.state:
        case State.OFF if now.sentence:
            text = f'<p class="chat-note warn" role="alert">{html.escape(now.sentence)}</p>'
        case State.OFF:
            text = '<p class="quiet">The server is off. Once it runs, you find its address and code to paste here.</p>'
        case State.STARTING:
            text = f'<p role="status">Starting… {html.escape(_progress(now))}</p>'
        case State.STOPPING:
            text = '<p role="status">Stopping… Answers under way get a few seconds.</p>'
        case _:
            text = _running(now)
    log = html.escape("\n".join(lines))
    more = ('<details class="export-log" data-key="serve-log"><summary>Log, without what was said</summary>'
            f"<pre>{log}</pre></details>" if lines else "")
    return f'<div id="serve-now" data-state="{now.state}">{text}{more}</div>'


def code_html(now: Serving, snippet: str) -> str:
    """Code to paste for one client, with buttons for the others; "" while the server does not answer."""
    if now.state is not State.ON or not now.characters:
        return ""
    client = CLIENTS.get(snippet) or next(iter(CLIENTS.values()))
    code = client.render(Endpoint(now.address, now.characters[0], now.key))
    tabs = "".join(f'<button type="button" data-look="snippet" value="{one.id}" aria-pressed="{str(one is client).lower()}">'
                   f"{html.escape(one.label)}</button>" for one in CLIENTS.values())
    hint = client.hint + (f" It takes the key from the environment variable {KEY_NAME}." if now.key else "")
    return ('<div class="snippet"><div class="snippet-top"><div class="snippet-tabs" role="group" aria-label="Code for">'
            f'{tabs}</div><button type="button" class="copy" data-copy="{html.escape(code)}">Copy</button></div>'
            f'<pre id="serve-snippet" tabindex="0">{html.escape(code)}</pre><p class="quiet">{html.escape(hint)}</p></div>')


def key_html(key: str) -> str:
    """The key, for the page that started the server; "" without one."""
    return (f'<div class="chat-note warn"><p>The key is shown only now, and another start makes another one: <code>{key}</code> '
            f'<button type="button" class="copy" data-copy="{key}">Copy</button></p></div>') if key else ""


def _running(now: Serving) -> str:
    address = html.escape(f"{now.address}/v1")
    facts = [("Address", f'<code id="serve-address">{address}</code> '
                         f'<button type="button" class="copy" data-copy="{address}">Copy</button>')]
    if now.key:
        facts.append(("Other machines", f"the same port at this machine’s IP address, or at {html.escape(socket.gethostname())}"))
    names = ", ".join(f"<code>{html.escape(one)}</code>" for one in now.characters)
    facts.append(("Characters" if len(now.characters) > 1 else "Character", names))
    refused = f", {now.refused:,} refused" if now.refused else ""
    facts.append(("Requests", f"{now.answered:,} answered{refused}"))
    facts.append(("Running for", f'<time data-since="{now.since:.0f}"></time>'))
    faults = "".join(f'<p class="chat-note warn">{html.escape(f"{name}: {fault}")}</p>' for name, fault in now.faults.items())
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)
    return f'<dl class="facts" role="status">{rows}</dl>{faults}'


def _progress(now: Serving) -> str:
    stage, subject = now.stage
    if not stage:
        return ""
    share = f": {words.percent(now.done / now.total)}" if now.total > 1 else ""
    return f"{html.unescape(labels.stage(stage, subject))}{share}. A model’s file is made only once."


def _who(services: Services, run: runs.Run) -> str:
    found = characters.get(services.store, run.character)
    return found.char if found else run.name
