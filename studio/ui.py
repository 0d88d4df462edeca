"""The one page: sidebar and the five rooms, in the order of the work.

A room is a module with build(services, page, tab).
"""

import html
import json
from typing import Any

import gradio as gr

from studio import sidebar
from studio.page import PRIVATE, Page, follow_rooms
from studio.services import Services
from studio.tabs import compare, draft, export, preview, prune

# To add a room, add it here. The id is in addresses and stays; LABELS has a room's name where the id is not.
ROOMS: dict[str, Any] = {"draft": draft, "preview": preview, "prune": prune, "compare": compare, "export": export}
LABELS = {"preview": "Play"}
_CACHE = (3_600, 86_400)  # seconds: how often, and how old, files that Gradio copied for a page are removed


def build_page(services: Services) -> gr.Blocks:
    """The whole page; nothing is computed until it is opened."""
    with gr.Blocks(title="Persona Studio", analytics_enabled=False, fill_width=True, delete_cache=_CACHE) as blocks:
        page = Page(gr.State(""), gr.State(0), gr.State("starter"))
        side = sidebar.build(services, page)
        page.base = side.model
        jobs, welcome = sidebar.jobs_box(), sidebar.welcome_box()
        rooms = []
        with gr.Tabs(elem_id="rooms") as page.rooms:
            for number, (name, room) in enumerate(ROOMS.items(), start=1):
                label = LABELS.get(name, name.capitalize())
                with gr.Tab(f"{number} · {label}", id=name, elem_id=f"room-{name}") as tab:
                    gr.HTML(f'<h2 class="visually-hidden">{label}</h2>', elem_classes="room-title")
                    room.build(services, page, tab)
                rooms.append(tab)
        names = html.escape(json.dumps({f"room-{name}": LABELS.get(name, name.capitalize()) for name in ROOMS}))
        gr.HTML(f'<i data-rooms="{names}"></i>', visible="hidden")  # for the command palette
        follow_rooms(rooms)
        sidebar.open_rooms(services, page, side, jobs, welcome)
        wanted = gr.Textbox(visible="hidden", label="Room")
        gr.on([blocks.load, side.live.click], _room, wanted, page.rooms, js="() => window.personaStudioFirstRoom", **PRIVATE)
        sidebar.load(blocks, services, page, side)
    return blocks


def _room(wanted: str) -> Any:
    if wanted and wanted not in ROOMS:
        gr.Warning(f"There is no room “{html.escape(wanted[:80])}”. This is Draft.", title="Not here")
    # The first room is shown already; to select it again could undo a click made meanwhile.
    return gr.Tabs(selected=wanted) if wanted in ROOMS and wanted != "draft" else gr.skip()
