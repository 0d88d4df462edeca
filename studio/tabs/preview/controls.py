"""The Preview room's components, and what they say of a chat. Knows no listener."""

import time
from typing import Any

import gradio as gr

from engine.base.sampling import MAX_SEED
from studio.figures.words import dedupe_labels
from studio.page import beat
from studio.store.chats import Chat
from studio.tabs.answers import PLAYER, SamplingControls, about_of, greetings, player_of, sampling_of
from studio.tabs.preview.controller import Controller
from studio.tabs.preview.view import NO_GREETING, SHOWN, Scene
from studio.theme import ASSETS

TICK = 1.0  # seconds between two looks whether there is news
NEW = "New chat"
_LONGEST = 40  # characters of a greeting in the list


class Newest:
    """One page's last turn to something else: whoever still paints what was there before sees it, and ends.

    `visited`: whether this page has opened the room at all; before that, no model is loaded for it.
    """

    def __init__(self) -> None:
        self.number = ""
        self.visited = False

    def begin(self) -> None:
        """Turn to something else."""
        self.number = beat()


class Controls:
    """The components: the conversation at the left, chats and settings beside it (below it on a narrow page)."""

    def __init__(self) -> None:
        self.chat, self.editing, self.shown = gr.State(""), gr.State(""), gr.State(SHOWN)
        self.sight = gr.Textbox(visible="hidden", label="What this page shows")
        self.seen, self.gone = gr.State({}), gr.State("")
        self.named = gr.State("")  # the chat whose title is asked for; another may be open by now
        # Not a State: the page itself must see it change, and it hears of a State's change only through the queue.
        self.pulse = gr.Textbox("", visible="hidden", label="Pulse", elem_id="preview-pulse")
        self.owner = gr.State("")  # the character whose chat is open
        self.newest = gr.State(Newest())  # each page gets a copy of its own
        with gr.Row(elem_id="preview-row"):
            with gr.Column(scale=3, min_width=320, elem_id="preview-main"):
                self.log = gr.HTML(elem_id="preview-log", js_on_load=(ASSETS / "chat_log.js").read_text(encoding="utf-8"),
                                   apply_default_css=False)
                with gr.Row(elem_id="preview-composer", elem_classes="tight"):
                    self.message = gr.Textbox(placeholder="Write as the player; Enter sends",
                                              label="Your message", show_label=False, lines=1, max_lines=8, scale=5,
                                              container=False, elem_id="preview-message", max_length=20_000)
                    self.send = gr.Button("Send", variant="primary", scale=0, min_width=90, elem_id="preview-send")
                    self.stop = gr.Button("Stop (Esc)", variant="stop", scale=0, min_width=90, elem_id="preview-stop")
            with gr.Column(scale=1, min_width=260, elem_id="preview-side"):
                self._chats()
                self._settings()
        self.timer = gr.Timer(TICK, active=False)

    def _chats(self) -> None:
        self.choice = gr.Radio([(NEW, "")], value="", label="Chats", elem_id="preview-chats", elem_classes="plain-list")
        with gr.Row(elem_classes="tight"):
            self.new = gr.Button("New", size="sm", variant="primary", min_width=60, elem_id="preview-new")
            self.rename = gr.Button("Rename", size="sm", min_width=60, elem_id="preview-rename")
            self.delete = gr.Button("Delete", size="sm", min_width=60, elem_id="preview-delete")
        with gr.Column(visible=False, elem_classes="notice") as self.rename_box:
            self.title = gr.Textbox(label="Title of this chat", max_length=120, elem_id="preview-title")
            with gr.Row(elem_classes="tight"):
                self.rename_yes = gr.Button("Save", size="sm", variant="primary", min_width=60, elem_id="preview-title-save")
                self.rename_no = gr.Button("Cancel", size="sm", min_width=60, elem_id="preview-title-cancel")
        with gr.Column(visible=False, elem_classes="notice") as self.gone_box:
            self.gone_text = gr.HTML()
            self.undelete = gr.Button("Undo", size="sm", min_width=60, elem_id="preview-undelete")
        self.opening = gr.Dropdown([], label="Greeting", filterable=False, elem_id="preview-greeting",
                                   info="How the new chat begins.")
        self.player = gr.Textbox(PLAYER, label="Player's name", info="What {{user}} stands for.", max_length=80,
                                 elem_id="preview-player")
        self.about = gr.Textbox("", label="About the player", lines=2, max_lines=6, max_length=2_000, elem_id="preview-about",
                                info="What the character knows of you. Leave it empty to be a stranger.")

    def _settings(self) -> None:
        with gr.Accordion("How it answers", open=False, elem_id="preview-settings"):
            self.samplers = SamplingControls("preview")
            self.fresh = gr.Checkbox(True, label="A new seed each time", elem_id="preview-fresh")
            self.seed = gr.Number(1, label="Seed", precision=0, minimum=0, maximum=MAX_SEED, visible=False, elem_id="preview-seed",
                                  info="The same seed gives the same answer; Regenerate counts up from it.")
            self.samplers.more()

    @property
    def sampling(self) -> list[Any]:
        """In the order of room.chosen_sampling."""
        return [self.fresh, self.seed, *self.samplers.components]

    @property
    def draft(self) -> list[Any]:
        """What a chat that is not begun yet takes over."""
        return [self.player, self.about, self.opening, *self.sampling]

    @property
    def painted(self) -> list[Any]:
        """All that is painted from the library."""
        return [self.log, self.choice, self.rename, self.delete, self.opening, self.player, self.about,
                *self.sampling, self.seen]

    def look(self) -> list[Any]:
        """What this page looks at."""
        return [self.chat, self.editing, self.shown, self.opening]


def settings_of(room: Controller, scene: Scene) -> dict[str, Any]:
    """What the controls beside the chat are to show; compared with what they showed before, so that nothing jumps."""
    sampling = sampling_of(scene.chat.sampling if scene.chat else None)
    return {"character": scene.character, "chat": scene.id, "player": scene.chat.player if scene.chat else player_of(room.store),
            "about": scene.chat.about if scene.chat else about_of(room.store, scene.character), "sampling": sampling,
            "chats": [(label_of(chat), chat.id) for chat in scene.chats], "openings": [] if scene.chat else opening_choices(scene)}


def opening_choices(scene: Scene) -> list[tuple[str, int]]:
    """(beginning of the text, number) of the greetings, and none at all."""
    found = greetings(scene.card) if scene.card else []
    texts = [" ".join(text.replace("{{char}}", scene.char).replace("{{user}}", scene.player).split()) for text in found]
    short = [(text if len(text) <= _LONGEST else text[:_LONGEST].rstrip() + "…", number) for number, text in enumerate(texts)]
    return [*dedupe_labels(short[::-1])[::-1], ("None: the player speaks first", NO_GREETING)]


def label_of(chat: Chat) -> str:
    """A chat in the list."""
    return chat.title.replace("*", "") or f"Untitled, {time.strftime('%d %b, %H:%M', time.localtime(chat.made))}"


def updates(controls: Controls, now: dict[str, Any], before: dict[str, Any]) -> dict[Any, Any]:
    """Component updates for what has changed."""
    found: dict[Any, Any] = {}
    if (now["chats"], now["chat"]) != (before.get("chats"), before.get("chat")):
        choices = now["chats"] if now["chat"] else [(NEW, ""), *now["chats"]]
        found[controls.choice] = gr.Radio(choices, value=now["chat"])
    for button in (controls.rename, controls.delete):
        if bool(now["chat"]) != bool(before.get("chat", True)) or not before:
            found[button] = gr.Button(interactive=bool(now["chat"]))
    if now["openings"] != before.get("openings"):
        found[controls.opening] = gr.Dropdown(now["openings"] or [("", 0)], value=now["openings"][0][1] if now["openings"] else 0,
                                              visible=bool(now["openings"]))
    # Also where the value is the same: what was typed for another character or chat may still be in the field.
    other = (now["character"], now["chat"]) != (before.get("character"), before.get("chat"))
    if other or now["player"] != before.get("player"):
        found[controls.player] = now["player"]
    if other or now["about"] != before.get("about"):
        found[controls.about] = now["about"]
    if other or now["sampling"] != before.get("sampling"):
        sampling = now["sampling"]
        seed = sampling["seed"]
        found |= {**controls.samplers.shown(sampling), controls.fresh: seed is None,
                  controls.seed: gr.Number(visible=False) if seed is None else gr.Number(seed, visible=True)}
    return found
