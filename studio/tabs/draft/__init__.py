"""The draft room: the card's fields, saved as versions while the writer types. Here the controls meet their handlers."""

import html
import json
import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from engine.base.errors import UserError
from engine.cards.book import shown_book
from engine.cards.card import unfinished
from engine.cards.fields import LISTS, fields_of
from engine.cards.files import Form
from engine.cards.prompt import PLAYER, render_description, render_greeting
from studio.page import DEFECT, FLUSH, Page, at_once, guarded
from studio.services import Services
from studio.store import characters
from studio.tabs.draft import card_views, cast, sections, versions
from studio.tabs.draft.controls import Controls
from studio.tabs.draft.deepen import Deepening
from studio.tabs.draft.writer import Writer

MOST_NOTE = 80  # characters of what a page says of a version
FIRST_LINE = "(the player's first words)"  # a model reads no text that ends with the character's own turn
_FETCH = "() => setTimeout(() => document.querySelector('#draft-file, #draft-file *')?.closest('#draft-file').click(), 50)"


def build(services: Services, page: Page, tab: gr.Tab) -> None:
    controller = Controller(services)

    def save(records: list[dict[str, Any]]) -> dict[str, Any]:  # Gradio takes functions here, and no methods
        return controller.save(records)

    def newest(character: str) -> dict[str, Any]:
        return controller.newest(character)

    writer = Writer(services)
    controls = Controls([save, newest], writer.functions(), Deepening(services).functions())
    _listen_to_card(controller, page, controls)
    _listen_to_versions(controller, page, controls)
    _listen_to_writer(writer, page, tab, controls)
    cast.connect(services, controls.cast, writer, page, tab)


class Controller:
    """What the room does with the library."""

    def __init__(self, services: Services) -> None:
        self.services, self.store = services, services.store

    def save(self, records: list[dict[str, Any]]) -> dict[str, Any]:
        """The version that holds each character's typed fields, or the problem. For the page's script, not an event of the page,
        so that no field is set while one types."""
        answers: dict[str, Any] = {}
        for one in records:
            character = str(one["character"])
            try:
                answers[character] = versions.save_typed(self.store, character, str(one.get("print", "")), one["fields"],
                                                         str(one.get("note") or "")[:MOST_NOTE])
            except UserError as error:
                answers[character] = {"problem": str(error), "gone": characters.get(self.store, character) is None}
            except Exception:
                logging.getLogger("studio").exception("draft")
                answers[character] = {"problem": DEFECT, "gone": False}
        return answers

    def newest(self, character: str) -> dict[str, Any]:
        """For the page's script: the newest version as a page remembers it; {} for an unknown character."""
        try:
            return versions.seen_as(characters.head(self.store, character))
        except UserError:
            return {}

    def load(self, controls: Controls, character: str) -> dict[Any, Any]:
        """What the controls show of a character's newest version."""
        found = characters.get(self.store, character) if character else None
        if found is None or found.deleted:
            return {controls.status: {}, controls.empty: gr.HTML(visible=True), controls.editor: gr.Column(visible=False)}
        head = characters.head(self.store, character)
        fields = fields_of(head.card)
        instructions = bool(fields["system_prompt"].strip() or fields["post_history_instructions"].strip())
        return {controls.status: versions.seen_as(head), controls.empty: gr.HTML(visible=False),
                controls.editor: gr.Column(visible=True), controls.for_model: gr.Accordion(open=instructions),
                controls.npc_part: gr.Accordion(open=sections.has_fields(head.card)),
                controls.npc: sections.npc_value(head.card), controls.script: sections.script_value(head.card),
                controls.dossier: sections.dossier_value(head.card),
                controls.book: json.dumps(shown_book(head.card)), **self.portrait(controls, head.portrait),
                **{box: ", ".join(fields[key]) if key in LISTS else fields[key] for key, box in controls.fields.items()},
                **{box: fields[key] for key, box in controls.lists.items()}}

    def portrait(self, controls: Controls, sha256: str | None) -> dict[Any, Any]:
        """Picture, the words instead of one, and the button that removes it."""
        picture = card_views.shown_portrait(self.store, sha256)
        there = picture is not None
        return {controls.portrait: gr.Image(picture, visible=there), controls.no_portrait: gr.HTML(visible=not there),
                controls.remove: gr.Button(visible=there)}

    def change_portrait(self, controls: Controls, character: str, file: str | None) -> dict[Any, Any]:
        version = versions.save_portrait(self.store, character, card_views.read_picture(Path(file)) if file else None)
        return {controls.status: versions.seen_as(version), **self.portrait(controls, version.portrait)}

    def measure(self, character: str, model: str) -> tuple[str, str]:
        if not character:
            return "", ""
        raw = characters.head(self.store, character).card
        return (card_views.meter_html(card_views.size_of(self.services, model, raw)),
                card_views.advice_html(self.services, model, raw))

    def follow(self, character: str, model: str, revision: int) -> tuple[Any, ...]:
        """What a save changes beside the fields."""
        card = characters.head(self.store, character).card if character else None
        shown = (sections.script_value(card), sections.dossier_value(card)) if card else ({}, {})
        return *self.measure(character, model), *shown, revision + 1

    def prompt(self, character: str, model: str) -> Iterator[tuple[str, str]]:
        """(text, note as HTML): the system prompt at once, then the exact text as the chat engine gives it."""
        raw = characters.head(self.store, character).card
        card = unfinished(raw)
        system, greeting = render_description(card), render_greeting(card)
        count = self.services.tokens.count(model, system)
        first = f"The description as the model gets it, about {count:,} tokens."
        yield system, f"{first} Asking the model for the exact text…"
        try:
            turns = [*([("assistant", greeting)] if greeting else []), ("user", FIRST_LINE)]
            text, tokens = self.services.speech.prompt(model, raw, turns, PLAYER)
        except UserError as error:
            yield system, html.escape(f"{first} The exact text is not available: {error}")
            return
        yield text, (f"The exact text that the model reads for its first answer, with “{FIRST_LINE}” in place of the player's "
                     f"words: {tokens:,} tokens.")

    def versions(self, character: str, chosen: int | None = None, other: int | None = None) -> list[Any]:
        """The list of versions, what one is compared with, the changes, and the button that restores the chosen one."""
        choices = versions.version_choices(self.store, character) if character else []
        numbers = [number for _, number in choices]
        if not numbers:
            return [gr.Radio([]), gr.Dropdown([]), "", gr.Button(interactive=False)]
        first = chosen if chosen in numbers else numbers[0]
        second = other if other in numbers else versions.partner(numbers, first)
        old = first != numbers[0]
        return [gr.Radio(choices, value=first), gr.Dropdown(choices, value=second),
                versions.changes_html(self.store, character, first, second),
                gr.Button(f"Restore version {first}" if old else "This is the newest version", interactive=old)]

    def restore(self, character: str, number: int | None) -> Any:
        if number is None:
            raise UserError("No version is chosen.", "Choose one in the list.")
        version = versions.restore(self.store, character, number)
        gr.Info(f"Version {number} is back, as version {version.number}.", title="Restored")
        return gr.skip()


def _listen_to_card(controller: Controller, page: Page, controls: Controls) -> None:
    portrait = [controls.status, controls.portrait, controls.no_portrait, controls.remove]
    shown = [*portrait, controls.empty, controls.editor, controls.for_model, controls.npc_part, controls.npc, controls.script,
             controls.dossier, controls.book, *controls.fields.values(), *controls.lists.values()]
    load, measure = guarded(partial(controller.load, controls)), guarded(controller.measure)
    measured = [controls.meter, controls.advice]
    chosen = [page.character, page.model]
    page.character.change(load, page.character, shown, **page.private)
    for event in (page.character.change, page.model.change):
        event(measure, chosen, measured, **page.private)
    controls.status.apply(load, page.character, shown, trigger_mode="always_last", **page.private)
    followed = [*measured, controls.script, controls.dossier, page.revision]
    controls.status.submit(guarded(controller.follow), [*chosen, page.revision], followed,
                        trigger_mode="always_last", **page.private)

    @guarded
    def change_portrait(character: str, revision: int, file: str | None = None) -> dict[Any, Any]:
        return {**controller.change_portrait(controls, character, file), page.revision: revision + 1}

    for event, inputs in ((controls.upload.upload, [controls.upload]), (controls.remove.click, [])):
        event(change_portrait, [page.character, page.revision, *inputs], [*portrait, page.revision], js=FLUSH, **page.private)
    for form, button in controls.forms.items():

        @guarded
        def make(character: str, form: Form = form) -> str:
            return str(card_views.card_file(controller.store, character, form))

        button.click(make, page.character, controls.file, js=FLUSH, **page.private).success(None, js=_FETCH, **page.private)
    for event in (page.character.change, page.revision.change):
        event(guarded(partial(card_views.compatibility_html, controller.store)), page.character, controls.compatibility,
              **page.private)
    for event in (controls.prompt_part.expand, controls.prompt_again.click):
        event(guarded(controller.prompt), chosen, [controls.prompt, controls.prompt_note], js=FLUSH, **page.private)


def _listen_to_versions(controller: Controller, page: Page, controls: Controls) -> None:
    opened = gr.State(False)
    panel = [controls.versions, controls.other, controls.changes, controls.restore]
    picked = [page.character, controls.versions, controls.other]

    @guarded
    def choose(character: str, chosen: int | None, other: int | None) -> Any:
        return controller.versions(character, chosen, other if other != chosen else None)

    fill = guarded(lambda character: [*controller.versions(character), True])
    fill_open = guarded(lambda character, is_open: controller.versions(character) if is_open else gr.skip())
    controls.versions_part.expand(fill, page.character, [*panel, opened], js=FLUSH, **page.private)
    controls.versions_part.collapse(lambda: False, None, opened, **page.private)
    for event in (page.character.change, page.revision.change):
        event(fill_open, [page.character, opened], panel, **page.private)
    controls.versions.input(choose, picked, panel, **at_once(page.private))
    controls.other.input(guarded(controller.versions), picked, panel, **at_once(page.private))
    controls.restore.click(guarded(controller.restore), [page.character, controls.versions], controls.changes, js=FLUSH,
                           **page.private).success(None, js="() => window.personaStudioDraft.reload()", **page.private)


def _listen_to_writer(writer: Writer, page: Page, tab: gr.Tab, controls: Controls) -> None:
    server = [controls.writer_url, controls.writer_model]

    @guarded
    def use(who: str, url: str, model: str) -> Any:
        if who != "server" or (url.strip() and model.strip()):  # a half-filled form is no mistake yet
            writer.use(who, url, model)
        return [gr.Row(visible=who == "server"), writer.who()["note"]]

    def show() -> list[Any]:
        kept = writer.server()
        return ["server" if kept else "self", *(kept or ("", "")), gr.Row(visible=kept is not None), writer.who()["note"]]

    chosen, shown = [controls.writer_who, *server], [controls.writer_server, controls.writer_note]
    for event in (controls.writer_who.input, *(box.input for box in server)):
        event(use, chosen, shown, trigger_mode="always_last", **page.private)
    for begin in (tab.select, page.character.change, page.model.change):
        begin(guarded(show), None, [*chosen, *shown], **page.private)
