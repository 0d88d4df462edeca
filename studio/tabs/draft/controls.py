"""The controls of the draft room, in the order in which a writer needs them."""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import gradio as gr

from engine.cards.fields import FIELDS, Field, Section
from engine.cards.files import Form
from studio.tabs.draft import sections
from studio.tabs.draft.cast import CastPanel
from studio.theme import ASSETS

EMPTY = ("<h3>No character is open</h3><p>Choose a character in the sidebar, press <b>New</b>, or import a card that you have: "
         "a PNG picture or a JSON file.</p><p>Three sentences are enough to begin with: who this is, how they talk, and what "
         "they want.</p>")
_SECTIONS: dict[Section, str] = {"who": "Who", "where": "Where", "words": "Words"}  # the others are folded away
_FORMS: dict[Form, str] = {"png": "Picture (PNG)", "charx": "Archive (CHARX)", "json": "Text (JSON, V3)", "v2": "Text (JSON, V2)"}
_SCRIPT_HINT = ('<p class="quiet">What the character is asked, and what a good answer must and must not do. Most of it follows '
                "from the card by itself; change what you like, and run it in the Compare room. Nothing is ever learned from "
                "these questions.</p>")
_DOSSIER_HINT = ('<p class="quiet">What an evaluation asks the character and compares its answers with. Nothing is ever learned '
                 "from it, and it adds nothing to the prompt.</p>")
_WRITING = ('<p class="quiet">Below each text, “Write with me” drafts, lengthens, tightens, or makes it speak like a sample: '
            "all of it, or the part that you select. You see what would change before anything does.</p>")
_WRITERS = [("The model in the sidebar", "self"), ("A server", "server")]
_DEEPEN_HINT = ('<p class="quiet">One question at a time about what gives a character depth. Answer it, or let the model propose '
                "an answer; what you add becomes text of the card.</p>")


class Controls:
    """The room's controls. `fields` are the texts by their key in a card, `lists` the lists of texts."""

    def __init__(self, server_functions: list[Callable[..., Any]], writing: list[Callable[..., Any]],
                 deepening: list[Callable[..., Any]]) -> None:
        self._deepening = deepening
        self.fields: dict[str, gr.Textbox] = {}
        self.lists: dict[str, gr.HTML] = {}
        with gr.Row(elem_id="draft-top"):
            self.status = gr.HTML({}, html_template="", js_on_load=_script("draft"), server_functions=server_functions,
                               elem_id="draft-status", apply_default_css=False, min_width=120, scale=3)
            self.meter = gr.HTML("", elem_id="draft-size", apply_default_css=False, min_width=150, scale=2)
        gr.HTML("", html_template="", js_on_load=_script("draft_write"), server_functions=writing, elem_id="draft-writing",
                apply_default_css=False, visible="hidden")
        self.empty = gr.HTML(EMPTY, elem_id="draft-empty")
        with gr.Column(visible=False, elem_id="draft-editor") as self.editor:
            with gr.Row(elem_id="draft-columns"):
                with gr.Column(scale=7, min_width=320, elem_id="draft-fields"):
                    self._texts()
                with gr.Column(scale=3, min_width=260, elem_id="draft-side"):
                    self._side()
            self._prompt()
            self._versions()
        self.cast = CastPanel()

    def _texts(self) -> None:
        for section, title in _SECTIONS.items():
            with _part(title):
                self._section(section)
        with _part("World"), gr.Column(elem_id="draft-character_book", elem_classes="draft-list"):
            gr.HTML('<span class="draft-list-title">Lorebook</span><span class="draft-list-hint">Knowledge that comes into the '
                    "chat when its keys are mentioned. {{char}} and {{user}} work here, too.</span>", apply_default_css=False)
            self.book = gr.HTML("", html_template="", js_on_load=_script("draft_book"), elem_id="draft-book",
                                server_functions=[sections.look_at_book, sections.read_world], apply_default_css=False)
        with gr.Accordion("Deepen by questions", open=False, elem_classes="draft-part", elem_id="draft-deepen"):
            gr.HTML(_DEEPEN_HINT, apply_default_css=False)
            gr.HTML("", html_template="", js_on_load=_script("draft_deepen"), apply_default_css=False,
                    elem_id="draft-deepen-questions", server_functions=self._deepening)
        self._npc()
        with gr.Accordion("For the model", open=False, elem_classes="draft-part") as self.for_model:
            self._section("model")
        with gr.Accordion("About the card", open=False, elem_classes="draft-part", elem_id="draft-about"):
            self._section("about")

    def _npc(self) -> None:
        with gr.Accordion("In the game", open=False, elem_classes="draft-part", elem_id="draft-npc") as self.npc_part:
            self.npc = gr.HTML({}, html_template="", js_on_load="personaStudioForms.drawNpc({element, props, server, watch})",
                               lists=sections.LIST_FORMS, scales=sections.SCALE_FORMS, apply_default_css=False,
                               server_functions=[sections.preview_typed], elem_id="draft-npc-fields")
        with gr.Accordion("Test script", open=False, elem_classes="draft-part", elem_id="draft-script"):
            gr.HTML(_SCRIPT_HINT, apply_default_css=False)
            self.script = gr.HTML({}, html_template="", js_on_load=_script("draft_script"), apply_default_css=False,
                                  elem_id="draft-script-questions")
        with gr.Accordion("Dossier", open=False, elem_classes="draft-part", elem_id="draft-dossier"):
            gr.HTML(_DOSSIER_HINT, apply_default_css=False)
            self.dossier = gr.HTML({}, html_template="", js_on_load=_script("draft_dossier"), apply_default_css=False,
                                   elem_id="draft-dossier-lists")

    def _section(self, section: Section) -> None:
        for beside, fields in itertools.groupby((one for one in FIELDS if one.section == section), key=lambda one: one.beside):
            with gr.Row() if beside else contextlib.nullcontext():
                for one in fields:
                    self._list(one) if one.item else self._field(one)

    def _field(self, one: Field) -> None:
        lines, most = one.lines
        self.fields[one.key] = gr.Textbox(label=one.label, info=one.hint or None, placeholder=one.example, lines=lines,
                                          max_lines=most, interactive=True, elem_id=f"draft-{one.key}",
                                          elem_classes="draft-field", min_width=200)

    def _list(self, one: Field) -> None:
        with gr.Column(elem_id=f"draft-{one.key}", elem_classes="draft-list"):
            gr.HTML(f'<span class="draft-list-title">{one.label}</span><span class="draft-list-hint">{one.hint}</span>',
                    apply_default_css=False)
            self.lists[one.key] = gr.HTML([], html_template="", js_on_load="personaStudioForms.drawTexts({element, props, watch})",
                                          field=one.key, word=one.item, apply_default_css=False)

    def _side(self) -> None:
        with _part("Portrait"):
            self.portrait = gr.Image(interactive=False, show_label=False, buttons=[], elem_id="draft-portrait", container=False,
                                     alt_text="Portrait of the character", visible=False)
            self.no_portrait = gr.HTML('<p class="quiet">None yet. Any PNG, JPEG or WebP picture will do.</p>')
            with gr.Row(elem_classes="tight"):
                self.upload = gr.UploadButton("Choose a picture", size="sm", type="filepath", min_width=110,
                                              file_types=[".png", ".jpg", ".jpeg", ".webp"], elem_id="draft-upload")
                self.remove = gr.Button("Remove", size="sm", min_width=70, elem_id="draft-remove", visible=False)
        with gr.Column(elem_classes="draft-part"):
            self.advice = gr.HTML("", elem_id="draft-advice", apply_default_css=False)
        with _part("Write with me"):
            gr.HTML(_WRITING, apply_default_css=False)
            self.writer_who = gr.Radio(_WRITERS, value="self", label="Who writes", elem_id="draft-writer")
            with gr.Row(visible=False) as self.writer_server:
                self.writer_url = gr.Textbox(label="Address of the server", placeholder="http://127.0.0.1:8080/v1", max_length=500,
                                             elem_id="draft-writer-url", min_width=120)
                self.writer_model = gr.Textbox(label="Name of its model", max_length=200, elem_id="draft-writer-model",
                                               min_width=120)
            self.writer_note = gr.HTML("", elem_id="draft-writer-note", elem_classes="quiet", apply_default_css=False)
        with _part("Download the card"):
            gr.HTML('<p class="quiet">The archive holds everything, the picture the card and its portrait, a text the card '
                    "alone.</p>")
            with gr.Row(elem_classes="tight"):
                self.forms = {form: gr.Button(words, size="sm", min_width=110, elem_id=f"draft-{form}")
                              for form, words in _FORMS.items()}
            self.file = gr.DownloadButton(visible="hidden", elem_id="draft-file")
            self.compatibility = gr.HTML("", elem_id="draft-compatibility", apply_default_css=False)

    def _prompt(self) -> None:
        self.prompt_part = gr.Accordion("What the model reads", open=False, elem_classes="draft-part", elem_id="draft-prompt-part")
        with self.prompt_part:
            self.prompt_note = gr.HTML("", elem_id="draft-prompt-note", apply_default_css=False)
            self.prompt = gr.Textbox(show_label=False, label="What the model reads", interactive=False, lines=8, max_lines=30,
                                     buttons=["copy"], elem_id="draft-prompt")
            self.prompt_again = gr.Button("Look again", size="sm", elem_id="draft-prompt-again")

    def _versions(self) -> None:
        self.versions_part = gr.Accordion("Versions", open=False, elem_classes="draft-part", elem_id="draft-versions-part")
        with self.versions_part, gr.Row():
            with gr.Column(scale=2, min_width=260):
                self.versions = gr.Radio([], label="Version", elem_id="draft-versions", elem_classes="draft-list-choice")
            with gr.Column(scale=3, min_width=300):
                self.other = gr.Dropdown([], label="Compare with", elem_id="draft-other", filterable=False)
                self.changes = gr.HTML("", elem_id="draft-changes", apply_default_css=False)
                self.restore = gr.Button("Restore this version", size="sm", elem_id="draft-restore", interactive=False)


def _part(title: str) -> Any:
    column = gr.Column(elem_classes="draft-part")
    with column:
        gr.HTML(f"<h3>{title}</h3>", apply_default_css=False)
    return column


def _script(name: str) -> str:
    return (ASSETS / f"{name}.js").read_text(encoding="utf-8")
