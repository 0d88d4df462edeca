"""What the rooms of the page share: the chosen character, the settings of listeners, and the guard of handlers.

`guarded` turns what goes wrong in a handler into a sentence; the log gets the
rest. Independent of any room.
"""

import functools
import html
import inspect
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr

from engine.base.errors import UserError
from studio.live import PLOTLY_ADDRESS, Live

DEFECT = "Something went wrong inside the studio; nothing of yours was lost. The details are in the log."
_SHOWN_ROOM = "() => window.personaStudioAddress('room', window.personaStudioRoom())"
# Before a listener: what was typed last in the draft room is saved first.
FLUSH = "async (...values) => { await window.personaStudioDraft?.flush(); return values; }"
ENGINEER = "engineer-view"  # where the library keeps whether it is on
# Every listener of the studio: not part of a public API, and quiet. Without show_progress_on Gradio's page marks, at each event
# of any listener, all components that were ever an output as pending, and looks for each of them in its whole tree.
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "show_progress_on": []}
# A listener that must not wait for work in progress.
POLL: dict[str, Any] = {**PRIVATE, "queue": False}


def in_turn(room: str) -> dict[str, Any]:
    """PRIVATE for quick listeners that run one after the other, in the order of the page's events. Side by side, one that began
    early could end late and overwrite what was typed and kept meanwhile."""
    return {**PRIVATE, "concurrency_id": room, "concurrency_limit": 1}


def at_once(settings: dict[str, Any]) -> dict[str, Any]:
    """The same for a choice: each is sent at once. Gradio's default drops what is chosen while the choice before is worked on,
    and the page would then be painted with that one."""
    return {**settings, "trigger_mode": "multiple"}


@dataclass
class Page:
    """What the rooms share. `character`: id of the chosen one ("": none); `revision` grows when a card was saved; `run`: the
    pruned model that was chosen last, in any room; `rooms`: the tabs, for listeners that open a room; `base`: the list in which the
    base model is chosen, which sets `model`; `engineer`: whether the engineer view is on, as this page has turned it."""

    character: gr.State
    revision: gr.State
    model: gr.State
    run: gr.State = field(default_factory=lambda: gr.State(""))
    rooms: gr.Tabs = field(default_factory=lambda: gr.Tabs(render=False))
    base: gr.Dropdown = field(default_factory=lambda: gr.Dropdown(render=False))
    engineer: gr.State = field(default_factory=lambda: gr.State(None))
    private: dict[str, Any] = field(default_factory=lambda: dict(PRIVATE))
    poll: dict[str, Any] = field(default_factory=lambda: dict(POLL))

    def in_turn(self, room: str) -> "Page":
        """The same for listeners of a room that read and set the same fields: see `in_turn`."""
        return replace(self, private=in_turn(room))


# Hands on what a button or a form in live HTML is to do: its data, of which `do` names the action, and a form's fields.
ACT = """
element.addEventListener("click", ({target}) => {
  const button = target.closest("button[data-do]");
  const ticked = [...element.querySelectorAll("input[data-tick]:checked")].map(({dataset}) => Number(dataset.tick));
  const fields = button?.form ? Object.fromEntries(new FormData(button.form)) : {};
  if (button && !button.disabled) trigger("click", {...fields, ...button.dataset, ticked});
});
element.addEventListener("submit", (event) => {
  event.preventDefault();
  trigger("click", {...event.target.dataset, ...Object.fromEntries(new FormData(event.target))});
  event.target.closest("details")?.removeAttribute("open");
});
"""
# Puts what a button holds in data-copy on the clipboard.
COPY = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  navigator.clipboard.writeText(button.dataset.copy).then(() => {
    const former = button.textContent; button.textContent = "Copied"; setTimeout(() => { button.textContent = former; }, 1500);
  });
});
"""
_FIGURE = """
const figure = document.createElement("div");  // beside the element, whose content Gradio makes again each time
element.after(figure);
const draw = () => {
  const json = element.querySelector("template")?.content.textContent;
  if (json && window.personaStudioLive) personaStudioLive.figure(figure, JSON.parse(json));
  else if (json) setTimeout(draw, 100);  // the page's other end of the live channel is still being made
};
watch("value", draw);
draw();
"""


def live_html(id: str, more_script: str = "", **named: Any) -> gr.HTML:
    """HTML or a figure that the live channel fills with the content `id`. Its `click` gives the data of a
    [data-do], and the fields of the form that it belongs to."""
    return gr.HTML(f'<div data-live="{id}"></div>', js_on_load=ACT + more_script, **{"elem_id": id, **named})


def figure_box(**named: Any) -> gr.HTML:
    """A figure of a form: a listener gives it `figure_html`. What changes by itself is a live content instead."""
    return gr.HTML(js_on_load=_FIGURE, **named)


def figure_html(figure: Any) -> str:
    """A plotly figure as the value of a figure_box."""
    text = figure.to_json().replace("<", "\\u003c").replace("&", "\\u0026")
    return f"<template>{text}</template>"  # for a script of any type, Gradio prints a warning


def look_box(room: str) -> gr.Textbox:
    """Where a listener puts `looks(...)`, to change what the page looks at in a room."""
    box = gr.Textbox(visible="hidden", label=f"What is looked at in {room}")
    box.change(None, box, None, js=f"(text) => {{ if (text) personaStudioLive.look(JSON.parse(text).looks, '{room}'); }}",
               **PRIVATE)
    return box


def looks(**values: str) -> str:
    """What a page is to look at from now on, for a look_box."""
    return json.dumps({"looks": values, "at": time.time_ns()})  # the same looks twice are two changes


class Notice:
    """A row that says what was deleted, and takes it back."""

    def __init__(self, id: str) -> None:
        self.gone = gr.State(None)
        with gr.Row(visible=False, elem_classes=["notice", "tight", "prune-buttons"]) as self.row:
            self.text = gr.HTML()
            self.undo = gr.Button("Undo", size="sm", elem_id=id, scale=0, min_width=80)

    def shown(self, text: str, gone: Any) -> dict[Any, Any]:
        """The updates that show it. `gone`: what `undo` needs to know."""
        return {self.row: gr.Row(visible=True), self.text: html.escape(text), self.gone: gone}

    def hidden(self) -> dict[Any, Any]:
        """The update that hides it."""
        return {self.row: gr.Row(visible=False)}

    @property
    def parts(self) -> list[Any]:
        """The outputs of a listener that shows or hides it."""
        return [self.row, self.text, self.gone]


def live_script(live: Live, filled: bool = False) -> str:
    """The value of the hidden component that opens the channel. Only pages that have logged in get it."""
    return f'<i data-token="{live.token}" data-plotly="{PLOTLY_ADDRESS}"{" data-filled" if filled else ""}></i>'


def guarded(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler with its errors shown as one sentence; the page stays as it is then."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def stream(*arguments: Any, **named: Any) -> Iterator[Any]:
            try:
                yield from handler(*arguments, **named)
            except Exception as error:
                _say(error)
                yield gr.skip()

        return stream

    @functools.wraps(handler)
    def once(*arguments: Any, **named: Any) -> Any:
        try:
            return handler(*arguments, **named)
        except Exception as error:
            _say(error)
            return gr.skip()

    return once


def in_sight(*selectors: str, wait: int = 100) -> dict[str, Any]:
    """A listener's arguments that scroll to what has just appeared: after `wait` ms, to the first of these that is there."""
    first = " ?? ".join(f"document.querySelector('{one}')" for one in selectors)
    return {"fn": None, "js": f"() => setTimeout(() => ({first})?.scrollIntoView({{block: 'nearest'}}), {wait})", **PRIVATE}


def for_script(act: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    """The function with its errors as {"problem": sentence}, for a script of the page."""
    @functools.wraps(act)
    def answer(given: Any) -> dict[str, Any]:
        try:
            return act(given)
        except UserError as error:
            return {"problem": str(error)}
        except Exception:
            logging.getLogger("studio").exception("defect")
            return {"problem": DEFECT}

    return answer


def follow_rooms(tabs: list[gr.Tab]) -> None:
    """Write the room into the address. The page's script says which one is shown: an event may come after the next choice."""
    gr.on([tab.select for tab in tabs], None, None, None, js=_SHOWN_ROOM, **PRIVATE)


def _say(error: Exception) -> None:
    if isinstance(error, UserError):
        gr.Warning(html.escape(str(error)), title="Please look")
        return
    logging.getLogger("studio").exception("defect", exc_info=error)
    gr.Warning(DEFECT, title="Our mistake")
