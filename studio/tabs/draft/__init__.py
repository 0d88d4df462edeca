"""The draft room: the card's fields, saved as versions while the writer types.

Here the controls meet the handlers; what these do stands in the other files of this folder.
"""

import html
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from engine.base.errors import UserError
from engine.cards.book import shown_book
from engine.cards.fields import LISTS, fields_of
from engine.cards.files import Form
from engine.cards.prompt import PLAYER, render_description, render_greeting
from studio.page import DEFECT, Page, guarded
from studio.services import Services
from studio.store import characters
from studio.tabs.draft import files, history, hosts, measure, npc, saving
from studio.tabs.draft.layout import Room

FIRST_LINE = "(the player's first words)"  # a model reads no text that ends with the character's own turn
_FLUSH = "async (...values) => { await window.personaStudioDraft?.flush(); return values; }"
_FETCH = "() => setTimeout(() => document.querySelector('#draft-file, #draft-file *')?.closest('#draft-file').click(), 50)"


def build(services: Services, page: Page, tab: gr.Tab) -> None:
    """The room inside its tab."""
    room = Room(server_functions(services))
    _card(services, page, room)
    _portrait(services, page, room)
    _export(services, page, room)
    _prompt(services, page, room)
    _versions(services, page, room)


def server_functions(services: Services) -> list[Any]:
    """What the page's script calls: it saves without an event of the page, so that no field is set while one types."""

    def save(records: list[dict[str, Any]]) -> dict[str, Any]:
        return {str(one["character"]): _saved(services, one) for one in records}

    def newest(character: str) -> dict[str, Any]:
        try:
            return saving.newest(services.store, character)
        except UserError:
            return {}

    return [save, newest]


def _saved(services: Services, record: dict[str, Any]) -> dict[str, Any]:
    """The answer to one record: the new sight, or the problem as a sentence."""
    character = str(record["character"])
    try:
        return saving.save_typed(services.store, character, str(record.get("print", "")), record["fields"])
    except UserError as error:
        return {"problem": str(error), "gone": characters.get(services.store, character) is None}
    except Exception:
        logging.getLogger("studio").exception("draft")
        return {"problem": DEFECT, "gone": False}


def look(services: Services, character: str, model: str) -> tuple[Any, str]:
    """The meter and the advice of the newest version."""
    if not character:
        return gr.HTML("", counts={}), ""
    raw = characters.head(services.store, character).card
    size = measure.size_of(services, model, raw)
    return gr.HTML(measure.meter_html(size), counts=measure.counts_of(size)), measure.advice_html(services, model, raw)


def _card(services: Services, page: Page, room: Room) -> None:
    """Filling the fields, and what follows a save."""
    shown = [room.pad, room.empty, room.editor, room.for_model, room.npc_part, room.npc, room.script, room.portrait,
             room.no_portrait, room.remove, *room.fields.values(), *room.lists.values(), room.book]
    measured = [room.meter, room.advice]

    @guarded
    def load(character: str) -> Any:
        found = characters.get(services.store, character) if character else None
        if found is None or found.deleted:
            return [{}, gr.HTML(visible=True), gr.Column(visible=False), *[gr.skip()] * (len(shown) - 3)]
        head = characters.head(services.store, character)
        fields = fields_of(head.card)
        instructions = bool(fields["system_prompt"].strip() or fields["post_history_instructions"].strip())
        texts = [", ".join(fields[key]) if key in LISTS else fields[key] for key in room.fields]
        return [saving.sight(head), gr.HTML(visible=False), gr.Column(visible=True), gr.Accordion(open=instructions),
                gr.Accordion(open=npc.has_fields(head.card)), npc.npc_value(head.card), npc.script_value(head.card),
                *portrait_updates(services, head.portrait), *texts, *[fields[key] for key in room.lists],
                json.dumps(shown_book(head.card))]

    @guarded
    def measure_card(character: str, model: str) -> Any:
        return look(services, character, model)

    @guarded
    def follow(character: str, model: str, revision: int) -> Any:
        script = npc.script_value(characters.head(services.store, character).card) if character else {}
        return [*look(services, character, model), script, revision + 1]

    page.character.change(load, page.character, shown, **page.private)
    page.character.change(measure_card, [page.character, page.model], measured, **page.private)
    page.model.change(measure_card, [page.character, page.model], measured, **page.private)
    room.pad.apply(load, page.character, shown, trigger_mode="always_last", **page.private)
    room.pad.submit(follow, [page.character, page.model, page.revision], [*measured, room.script, page.revision],
                    trigger_mode="always_last", **page.private)


def portrait_updates(services: Services, sha256: str | None) -> list[Any]:
    """Picture, the words instead of one, and the button that removes it."""
    picture = files.shown_portrait(services.store, sha256)
    there = picture is not None
    return [gr.Image(picture, visible=there), gr.HTML(visible=not there), gr.Button(visible=there)]


def _portrait(services: Services, page: Page, room: Room) -> None:
    @guarded
    def change(character: str, revision: int, file: str | None) -> Any:
        picture = files.read_picture(Path(file)) if file else None
        version = saving.save_portrait(services.store, character, picture)
        return [saving.sight(version), *portrait_updates(services, version.portrait), revision + 1]

    outputs = [room.pad, room.portrait, room.no_portrait, room.remove, page.revision]
    room.upload.upload(change, [page.character, page.revision, room.upload], outputs, js=_FLUSH, **page.private)
    room.remove.click(lambda character, revision: change(character, revision, None), [page.character, page.revision], outputs,
                      js=_FLUSH, **page.private)


def _export(services: Services, page: Page, room: Room) -> None:
    for form, button in room.forms.items():

        @guarded
        def make(character: str, form: Form = form) -> Any:
            return str(files.card_file(services.store, character, form))

        button.click(make, page.character, room.file, js=_FLUSH, **page.private).success(None, js=_FETCH, **page.private)

    @guarded
    def show_hosts(character: str) -> Any:
        return hosts.hosts_html(services.store, character)

    for event in (page.character.change, page.revision.change):
        event(show_hosts, page.character, room.hosts, **page.private)


def prompt_news(services: Services, character: str, model: str) -> Iterator[tuple[str, str]]:
    """(text, note as HTML): the system prompt at once, then the exact text as the chat engine gives it."""
    raw = characters.head(services.store, character).card
    card = measure.card_of(raw)
    system, greeting = render_description(card), render_greeting(card)
    count = services.tokens.count(model, system)
    first = f"The description as the model gets it, about {count:,} tokens."
    yield system, f"{first} Asking the model for the exact text…"
    try:
        turns = [*([("assistant", greeting)] if greeting else []), ("user", FIRST_LINE)]
        text, tokens = services.speech.prompt(model, raw, turns, PLAYER)
    except UserError as error:
        yield system, html.escape(f"{first} The exact text is not to be had: {error}")
        return
    yield text, (f"The exact text that the model reads for its first answer, with “{FIRST_LINE}” in place of the player's words: "
                 f"{tokens:,} tokens.")


def _prompt(services: Services, page: Page, room: Room) -> None:
    @guarded
    def show(character: str, model: str) -> Iterator[Any]:
        yield from prompt_news(services, character, model)

    for event in (room.prompt_part.expand, room.prompt_again.click):
        event(show, [page.character, page.model], [room.prompt, room.prompt_note], js=_FLUSH, **page.private)


def versions_panel(services: Services, character: str, chosen: int | None = None, other: int | None = None) -> list[Any]:
    """The list of versions, what one is compared with, the changes, and the button that brings the chosen one back."""
    choices = history.version_choices(services.store, character) if character else []
    numbers = [number for _, number in choices]
    if not numbers:
        return [gr.Radio([]), gr.Dropdown([]), "", gr.Button(interactive=False)]
    first = chosen if chosen in numbers else numbers[0]
    second = other if other in numbers else history.partner(numbers, first)
    old = first != numbers[0]
    label = f"Bring version {first} back" if old else "This is the newest version"
    return [gr.Radio(choices, value=first), gr.Dropdown(choices, value=second),
            history.changes_html(services.store, character, first, second), gr.Button(label, interactive=old)]


def _versions(services: Services, page: Page, room: Room) -> None:
    opened = gr.State(False)

    @guarded
    def fill(character: str) -> Any:
        return [*versions_panel(services, character), True]

    @guarded
    def fill_open(character: str, is_open: bool) -> Any:
        return versions_panel(services, character) if is_open else gr.skip()

    @guarded
    def choose(character: str, chosen: int | None, other: int | None) -> Any:
        return versions_panel(services, character, chosen, other if other != chosen else None)

    @guarded
    def compare(character: str, chosen: int | None, other: int | None) -> Any:
        return versions_panel(services, character, chosen, other)

    @guarded
    def restore(character: str, number: int | None) -> Any:
        if number is None:
            raise UserError("No version is chosen.", "Choose one in the list.")
        version = saving.restore(services.store, character, number)
        gr.Info(f"Version {number} is back, as version {version.number}.", title="Brought back")
        return gr.skip()

    panel = [room.versions, room.other, room.changes, room.restore]
    picked = [page.character, room.versions, room.other]
    room.versions_part.expand(fill, page.character, [*panel, opened], js=_FLUSH, **page.private)
    room.versions_part.collapse(lambda: False, None, opened, **page.private)
    for event in (page.character.change, page.revision.change):
        event(fill_open, [page.character, opened], panel, **page.private)
    room.versions.input(choose, picked, panel, **page.private)
    room.other.input(compare, picked, panel, **page.private)
    room.restore.click(restore, [page.character, room.versions], room.changes, js=_FLUSH, **page.private).success(
        None, js="() => window.personaStudioDraft.reload()", **page.private)
