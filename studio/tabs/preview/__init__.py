"""Play: talking with a character, on the dense model or on a pruned one, which can change under the same conversation.

The chat comes by the live channel. Listeners change the library or what this page looks at, and paint the lists and
fields beside the chat; the page asks for that too when something changed elsewhere.
"""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from engine.base.known_models import SMALL
from engine.base.sampling import MAX_SEED
from studio.page import Notice, Page, at_once, guarded
from studio.services import Services
from studio.tabs.answers import NOBODY, PLAYER, Composer, SamplingControls, ViewLink, changing
from studio.tabs.models import WHOLE, takes_new_chat
from studio.tabs.preview import personas, scenes
from studio.tabs.preview.controller import Controller
from studio.tabs.preview.looks import LOOKS, Draft, ViewState, chosen_sampling
from studio.tabs.preview.memory import MemoryPanel, connect
from studio.tabs.preview.personas import PersonaPanel
from studio.tabs.preview.scenes import ScenePanel
from studio.tabs.preview.view import SHOWN
from studio.theme import ASSETS

ROOM = "preview"
NEW = "New chat"
_DOWNLOAD = """(saved) => {
  if (!saved) return;
  const [name, text] = JSON.parse(saved), address = URL.createObjectURL(new Blob([text], {type: "application/x-ndjson"}));
  Object.assign(document.createElement("a"), {href: address, download: name}).click();
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}"""
# The answer that grows is marked as busy, so that a screen reader reads it once, when it is whole.
_CHAT = ('<div class="chat"><div class="chat-top" data-live="preview-top"></div>'
         '<div class="chat-log" role="log" tabindex="0" aria-label="Conversation"><div data-live="preview-said"></div>'
         '<div data-live="preview-growing" aria-busy="true"></div></div>'
         '<div class="chat-foot" data-live="preview-foot"></div></div>')


class Controls:
    """The components: the conversation at the left, chats and settings beside it (below it on a narrow page)."""

    def __init__(self) -> None:
        self.state = gr.State(ViewState())
        self.named = gr.State("")  # the chat whose title is asked for
        self.link = ViewLink(ROOM)
        gr.Radio([("Chat", "chat"), ("Scene", "scene")], value="chat", label="View", show_label=False, container=False,
                 elem_id="preview-view", interactive=True)  # the style sheet shows the one or the other
        self.scene = ScenePanel()
        with gr.Row(elem_id="preview-row"):
            with gr.Column(scale=3, min_width=320, elem_id="preview-main"):
                with gr.Row(elem_id="preview-voices", elem_classes="live-shown"):
                    gr.HTML('<span class="quiet">Speaks with</span>', elem_id="preview-voices-label")
                    self.voice = gr.Dropdown([("", WHOLE)], value=WHOLE, label="Speaks with", show_label=False, container=False,
                                             filterable=False, elem_id="preview-voice")
                self.log = gr.HTML(_CHAT, elem_id="preview-log", js_on_load=(ASSETS / "chat_log.js").read_text(encoding="utf-8"),
                                   apply_default_css=False)
                self.composer = Composer(ROOM)
            with gr.Column(scale=1, min_width=260, elem_id="preview-side"):
                self._chats()
                self._settings()
                self.memory = MemoryPanel()

    def _chats(self) -> None:
        self.choice = gr.Radio([(NEW, "")], value="", label="Chats", elem_id="preview-chats", elem_classes="plain-list")
        with gr.Row(elem_classes="tight"):
            self.new = gr.Button("New", size="sm", min_width=60, elem_id="preview-new")
            self.rename = gr.Button("Rename", size="sm", min_width=60, elem_id="preview-rename", elem_classes="live-shown")
            self.delete = gr.Button("Delete", size="sm", min_width=60, elem_id="preview-delete", elem_classes="live-shown")
        with gr.Row(elem_classes="tight"):
            self.save = gr.Button("Save as a file", size="sm", min_width=60, elem_id="preview-save", elem_classes="live-shown")
            self.load = gr.UploadButton("Load a file", size="sm", min_width=60, file_types=[".jsonl"], type="filepath",
                                        elem_id="preview-load")
        self.saved = gr.Textbox(visible="hidden", label="The chat as a file")
        with gr.Column(visible=False, elem_classes="notice") as self.rename_box:
            self.title = gr.Textbox(label="Title of this chat", max_length=120, elem_id="preview-title")
            with gr.Row(elem_classes="tight"):
                self.rename_yes = gr.Button("Save", size="sm", variant="primary", min_width=60, elem_id="preview-title-save")
                self.rename_no = gr.Button("Cancel", size="sm", min_width=60, elem_id="preview-title-cancel")
        self.gone = Notice("preview-undelete")
        self.opening = gr.Dropdown([("", 0)], value=0, label="Greeting", filterable=False, elem_id="preview-greeting",
                                   elem_classes="live-shown", info="How the new chat begins.")
        self.personas = PersonaPanel()
        self.player = gr.Textbox(PLAYER, label="Player's name", info="What {{user}} stands for.", max_length=80,
                                 elem_id="preview-player")
        self.about = gr.Textbox("", label="About the player", lines=2, max_lines=6, max_length=2_000, elem_id="preview-about",
                                info="What the character knows of you. Leave it empty to be a stranger.")
        self.personas.buttons()

    def _settings(self) -> None:
        with gr.Accordion("How it answers", open=False, elem_id="preview-settings"):
            self.samplers = SamplingControls(ROOM)
            self.fresh = gr.Checkbox(True, label="A new seed each time", elem_id="preview-fresh")
            self.seed = gr.Number(1, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, visible=False, elem_id="preview-seed",
                                  info="The same seed usually gives the same answer; Regenerate counts up from it.")
            self.samplers.more()

    @property
    def draft(self) -> list[Any]:
        """What a chat that has not begun takes over: player, about, and the sampling as chosen_sampling takes it."""
        return [self.player, self.about, self.fresh, self.seed, *self.samplers.components]

    @property
    def painted(self) -> list[Any]:
        """What `paint` sets."""
        return [self.composer.row, self.link.component, self.link.seen, self.state, self.voice, self.choice, self.opening,
                *self.draft]


def paint(controller: Controller, controls: Controls, state: ViewState, seen: dict[str, Any]) -> dict[Any, Any]:
    """Component updates for what the page looks at; lists and fields only where they differ from what is `seen`."""
    if not state.character:
        return {controls.state: state, **controls.link.shows(state.look(), {})}
    now = controller.settings(controller.scene(state), state.opening)
    first = {} if seen.get("character") else {controls.composer.row: gr.Row(visible=True)}
    return {**first, controls.state: state, **controls.link.shows(state.look(), now), **_changes(controls, now, seen)}


def _changes(controls: Controls, now: dict[str, Any], before: dict[str, Any]) -> dict[Any, Any]:
    # Fields also where the value is the same: what was typed for another character or chat may still be in them.
    other = (now["character"], now["chat"]) != (before.get("character"), before.get("chat"))
    changed = {name for name in now if other or now[name] != before.get(name)}
    found: dict[Any, Any] = {}
    if changed & {"chat", "chats"}:
        choices = now["chats"] if now["chat"] else [(NEW, ""), *now["chats"]]
        found[controls.choice] = gr.Radio(choices, value=now["chat"])
    if changed & {"voice", "voices"}:
        found[controls.voice] = gr.Dropdown(now["voices"], value=now["voice"])
    if changed & {"opening", "openings"} and now["openings"]:
        known = [number for _, number in now["openings"]]
        found[controls.opening] = gr.Dropdown(now["openings"], value=now["opening"] if now["opening"] in known else known[0])
    found |= {field: now[name] for name, field in (("player", controls.player), ("about", controls.about)) if name in changed}
    if "sampling" in changed:
        seed = now["sampling"]["seed"]
        found |= {**controls.samplers.shown(now["sampling"]), controls.fresh: seed is None,
                  controls.seed: gr.Number(visible=False) if seed is None else gr.Number(seed, visible=True)}
    return found


def build(services: Services, page: Page, tab: gr.Tab) -> None:
    """The room with its listeners."""
    controller, controls = Controller(services), Controls()
    services.live.part(ROOM, controller.contents, "character", *LOOKS, stamp=services.answers_stamp)
    services.live.part(ROOM, partial(scenes.contents, services), "character",
                       stamp=lambda: (services.library_stamp(), services.scenes.stamp()))
    page = page.in_turn(ROOM)
    _opening(controller, page, tab, controls)
    _talking(controller, page, controls)
    _keeping(controller, page, tab, controls)
    _renaming(controller, page, controls)
    _files(controller, page, controls)
    _deleting(controller, page, controls)
    connect(controller.memories, controls.memory, page, tab)
    scenes.connect(services, controls.scene, page, tab)


def _opening(controller: Controller, page: Page, tab: gr.Tab, controls: Controls) -> None:
    def open_room(state: ViewState, seen: dict[str, Any], character: str, model: str, new: bool = False) -> Any:
        same = state.character == character
        chat = "" if new else state.chat if same and not state.chat else controller.latest(character, state.chat)
        if not same or chat != state.chat:  # else what is being edited stays
            state = ViewState(visited=state.visited, chat=chat)
        state = replace(state, character=character, model=model)
        if character and state.visited:
            controller.speaking.warm(character, chat, model)
        return paint(controller, controls, state, seen)

    @guarded
    def visit(state: ViewState, seen: dict[str, Any], character: str, model: str) -> Any:
        new = bool(character) and takes_new_chat(controller.services, character)
        return open_room(replace(state, visited=True), seen, character, model, new)

    @guarded
    def repaint(state: ViewState, _: dict[str, Any], *asked: Any) -> Any:
        return open_room(replace(state, visited=True), {}, *asked)

    @guarded
    def choose(state: ViewState, seen: dict[str, Any], chat: str | None) -> Any:
        controller.speaking.warm(state.character, chat or "", state.model)
        return paint(controller, controls, replace(state, chat=chat or "", editing="", shown=SHOWN), seen)

    @guarded
    def start_new(state: ViewState, seen: dict[str, Any]) -> Any:
        return paint(controller, controls, replace(state, chat="", editing="", shown=SHOWN), seen)

    def choose_voice(state: ViewState, seen: dict[str, Any], voice: str) -> Any:
        controller.choose_voice(state, voice)
        return paint(controller, controls, state, seen)

    @guarded
    def greet(state: ViewState, seen: dict[str, Any], opening: int | None) -> Any:
        return paint(controller, controls, replace(state, opening=opening or 0), {**seen, "opening": opening})

    view = [controls.state, controls.link.seen]
    chosen = [*view, page.character, page.model]
    for begin in (page.character.change, page.model.change, page.revision.change):
        begin(guarded(open_room), chosen, controls.painted, **page.private)
    tab.select(visit, chosen, controls.painted, **page.private)
    controls.link.component.click(repaint, chosen, controls.painted, **page.private)
    controls.choice.input(choose, [*view, controls.choice], controls.painted, **at_once(page.private))
    controls.voice.input(changing(controller.services.live, ROOM, choose_voice), [*view, controls.voice], controls.painted,
                         **at_once(page.private))
    controls.new.click(start_new, view, controls.painted, **page.private)
    controls.opening.input(greet, [*view, controls.opening], controls.painted, **at_once(page.private))


def _talking(controller: Controller, page: Page, controls: Controls) -> None:
    live, composer = controller.services.live, controls.composer

    def send(state: ViewState, seen: dict[str, Any], text: str, *draft: Any) -> Any:
        return {composer.message: "", **paint(controller, controls, controller.send(state, text, _draft(*draft)), seen)}

    def act(event: gr.EventData, state: ViewState, seen: dict[str, Any], *draft: Any) -> Any:
        said = event._data if isinstance(event._data, dict) else {}
        action, message, text = (str(said.get(name, "")) for name in ("do", "message", "text"))
        after = controller.act(state, _draft(*draft), action, message, text)
        if action == "example":
            gr.Info("The reply is an example in the card now; Draft shows it.", title="Example dialogue")
        chosen = {page.base: SMALL.name} if action == "larger" else {}
        return {**chosen, **paint(controller, controls, after, seen)}

    view = [controls.state, controls.link.seen]
    for begin in (composer.message.submit, composer.send.click):
        begin(changing(live, ROOM, send), [*view, composer.message, *controls.draft], [composer.message, *controls.painted],
              trigger_mode="once", **page.private)
    controls.log.click(changing(live, ROOM, act), [*view, *controls.draft], [page.base, *controls.painted],
                       trigger_mode="multiple", **page.private)
    composer.stop.click(guarded(lambda state: controller.speaking.stop(state.chat)), controls.state, None, **page.poll)


def _keeping(controller: Controller, page: Page, tab: gr.Tab, controls: Controls) -> None:
    live = controller.services.live

    def change(state: ViewState, seen: dict[str, Any], link: str, player: str, about: str, *sampling: Any) -> Any:
        # Kept with the chat whose fields were on the page when it sent them: another one may have been opened since.
        look = controls.link.look_of(link)
        of, chat = (look["of"], look["chat"]) if look.get("of", NOBODY) != NOBODY else ("", "")
        controller.change_settings(of, chat, player, about, chosen_sampling(*sampling))
        if not of or any((one.get("character"), one.get("chat")) != (of, chat) for one in (vars(state), seen)):
            return gr.skip()
        now = controller.settings(controller.scene(state), state.opening)
        # The list of greetings names the player; to paint it now would take away what is being typed.
        return controls.link.keeps(state.look(), seen, now, "player", "about", "sampling", "openings")

    keep, changed = changing(live, ROOM, change), [controls.state, controls.link.seen, controls.link.component, *controls.draft]
    kept = [controls.link.seen, controls.link.component]
    # What the player changes, not what is painted: what was painted for one chat must never be kept with another.
    sliders = controls.samplers.components
    for begin in (controls.player.blur, controls.player.submit, controls.about.blur, controls.fresh.input, controls.seed.input,
                  *(one.release for one in sliders)):
        begin(keep, changed, kept, trigger_mode="multiple", **page.private)  # at once, before another chat can be opened
    personas.connect(controller.services, controls.personas, controls.player, controls.about, page, tab,
                     lambda chosen: chosen.then(keep, changed, kept, trigger_mode="multiple", **page.private))
    for one in sliders:
        one.input(keep, changed, kept, trigger_mode="always_last", **page.private)  # while it is drawn, and by the keyboard
    controls.fresh.change(lambda fresh: gr.Number(visible=not fresh), controls.fresh, controls.seed, **page.private)


def _files(controller: Controller, page: Page, controls: Controls) -> None:
    """Chats to and from files."""
    @guarded
    def save(state: ViewState) -> str:
        return json.dumps(controller.save_chat(state.chat))

    def load(state: ViewState, seen: dict[str, Any], file: str) -> Any:
        chat = controller.load_chat(state.character, state.model, Path(file))
        return paint(controller, controls, replace(state, chat=chat, editing="", shown=SHOWN), seen)

    controls.save.click(save, controls.state, controls.saved, **page.private).then(None, controls.saved, None, js=_DOWNLOAD,
                                                                                   **page.private)
    controls.load.upload(changing(controller.services.live, ROOM, load), [controls.state, controls.link.seen, controls.load],
                         controls.painted, **page.private)


def _renaming(controller: Controller, page: Page, controls: Controls) -> None:
    @guarded
    def ask(state: ViewState) -> Any:
        return gr.Column(visible=True), controller.title(state.chat), state.chat

    def rename(chat: str, title: str) -> Any:
        controller.rename(chat, title)
        return gr.Column(visible=False)

    live = controller.services.live
    controls.rename.click(ask, controls.state, [controls.rename_box, controls.title, controls.named], **page.private)
    for begin in (controls.rename_yes.click, controls.title.submit):
        begin(changing(live, ROOM, rename), [controls.named, controls.title], controls.rename_box, **page.private)
    controls.rename_no.click(lambda: gr.Column(visible=False), None, controls.rename_box, **page.private)


def _deleting(controller: Controller, page: Page, controls: Controls) -> None:
    gone = controls.gone

    def delete(state: ViewState, seen: dict[str, Any]) -> Any:
        title = controller.delete(state.chat)
        after = replace(state, chat=controller.latest(state.character), editing="", shown=SHOWN)
        return {**paint(controller, controls, after, seen), **gone.shown(f"“{title}” was deleted.", state.chat)}

    def undelete(state: ViewState, seen: dict[str, Any], chat: str) -> Any:
        after = replace(state, chat=controller.undelete(chat), editing="", shown=SHOWN)
        return {**paint(controller, controls, after, seen), **gone.hidden()}

    live, view = controller.services.live, [controls.state, controls.link.seen]
    controls.delete.click(changing(live, ROOM, delete), view, [*controls.painted, *gone.parts], **page.private)
    gone.undo.click(changing(live, ROOM, undelete), [*view, gone.gone], [*controls.painted, *gone.parts], **page.private)
    page.character.change(lambda: {**gone.hidden(), controls.rename_box: gr.Column(visible=False)}, None,
                          [gone.row, controls.rename_box], **page.private)


def _draft(player: str, about: str, *sampling: Any) -> Draft:
    return Draft(player, about, chosen_sampling(*sampling))
