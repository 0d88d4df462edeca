"""The Prune room's components; their listeners are in listeners.py."""

from typing import Any

import gradio as gr

from engine.base.job import PRESET_LABELS, Recipe, make_recipe
from engine.base.settings import knobs
from studio.page import Notice, figure_box, live_html, look_box
from studio.tabs.judges import JudgeFields
from studio.tabs.prune import pictures
from studio.theme import ASSETS

KNOBS = knobs(Recipe)
WHO = [("The model itself", "self"), ("A server", "server")]
_STEPS = ", ".join(str(make_recipe(name).steps) for name in PRESET_LABELS)
STEPS_NOTE = (f"Steps of mask learning: {_STEPS}. All but the last learn a mask only where "
              f"{100 * make_recipe().mask_from:.0f} % or more is removed; below that they read more text.")
BAKE_NOTE = ("Afterwards the card is in the weights, and the prompt is the character's name: first words come much sooner, "
             "and conversations take less memory. Changing the card later means baking again. Takes longer.")
WISHES = {"Closest": 10, "Balanced": 25, "Smallest": 50}  # per cent removed
MULTIPLES = [(f"{number} channels", number) for number in (32, 64, 128, 256)]
BITS = [(f"{name.removesuffix('bit')} bit", name) for name in KNOBS["load_in"].choices]
HELP = ("The model answers player questions as the character. The smaller model learns from these answers, so read them. Some "
        "questions are odd on purpose: players ask odd things, too.")


class Controls:
    """The components: two steps, then what came of them."""

    def __init__(self) -> None:
        self.looks = look_box("prune")
        self.shown_set = gr.Textbox(visible="hidden", label="Lines that are shown")
        # Gradio puts the classes of a component on two elements, and only one of them would be shown.
        gr.HTML('<p id="prune-nobody" class="prune-empty live-shown">Choose a character in the sidebar.</p>')
        with gr.Column(elem_id="prune-room", elem_classes="live-shown"):
            with gr.Column(elem_classes="prune-step"):
                self._making()
                self.gone_set = Notice("prune-undo-set")
                self.lines = live_html("prune-lines-read", (ASSETS / "prune.js").read_text(encoding="utf-8"))
                self.gone_lines = Notice("prune-undo-lines")
            with gr.Column(elem_classes="prune-step"):
                self._cutting()
            with gr.Column(elem_classes=["prune-step", "prune-ran"]):  # the first of them, once there is a run
                gr.HTML('<h3>Your runs</h3>')
                live_html("prune-runs")
                self.gone_run = Notice("prune-undo-run")
                with gr.Column(elem_id="prune-run", elem_classes="live-shown"):
                    self.verdict = live_html("prune-verdict")
                    self.progress = live_html("prune-progress")
                    self.asking = live_html("prune-asking")
                    with gr.Column(elem_id="prune-judging", elem_classes="live-shown"):
                        self.judge = JudgeFields("prune", player=True)
                    gr.HTML(f'<div id="prune-how" class="live-shown">{pictures.frame_html()}</div>')

    def _making(self) -> None:
        gr.HTML(f'<h3><i>1</i> Make the lines</h3><p class="quiet">{HELP}</p>')
        with gr.Row():
            self.who = gr.Radio(WHO, value="self", label="Who answers", elem_id="prune-who", min_width=220)
            self.preset = gr.Radio([(label, name) for name, label in PRESET_LABELS.items()], value="quick", label="How thorough",
                                   scale=2, min_width=280, elem_id="prune-thorough")
        live_html("prune-times")
        with gr.Row(visible=False) as self.server:
            self.url = gr.Textbox(label="Address of the server", placeholder="http://127.0.0.1:8080/v1", max_length=500,
                                  elem_id="prune-server",
                                  info="Any server with an API like OpenAI's. The questions and the card are sent to it.")
            self.server_model = gr.Textbox(label="Name of its model", max_length=200, elem_id="prune-server-model",
                                           info="A key is only ever read from the variable OPENAI_API_KEY.")
        with gr.Row(elem_classes=["tight", "prune-buttons"]):
            self.make = gr.Button("Make the lines", elem_id="prune-lines", min_width=140, scale=0)
            self.file = gr.UploadButton("Use my own file", file_types=[".json", ".jsonl"], type="filepath", elem_id="prune-file",
                                        min_width=140, scale=0)
        self.making = live_html("prune-making")

    def _cutting(self) -> None:
        gr.HTML('<h3><i>2</i> Prune</h3><p class="quiet">The model keeps the channels that this character needs and loses the '
                'others. Remove little to stay close to the whole model, or much for a small and fast one. The '
                'whole model, before anything is removed, is called dense.</p>')
        live_html("prune-from")
        with gr.Row(elem_classes="figure-row"):
            with gr.Column(scale=3, min_width=300):
                self.wish = gr.Radio(list(WISHES.items()), value=WISHES["Balanced"], label="What matters most",
                                     info="How close it stays to the whole model, or how small it becomes.", elem_id="prune-wish")
                self.percent = gr.Slider(0, 75, 25, step=1, label=KNOBS["sparsity"].label, elem_id="prune-percent", buttons=[],
                                         info="In percent of the model's largest parts, the feed-forward channels.")
                self.remains = figure_box(elem_id="prune-remains")
                self.likes = gr.HTML(elem_id="prune-likes", elem_classes="engineer")
            with gr.Column(scale=2, min_width=300):
                self.facts = gr.HTML(elem_id="prune-cut")
        self.engineer = gr.Checkbox(label="Engineer view", info="Shows channels, steps, seed and the other knobs.", container=False,
                                    elem_id="prune-engineer")
        with gr.Accordion("More", open=False, elem_id="prune-more", elem_classes="engineer"):
            with gr.Row():
                self.multiple = gr.Dropdown(MULTIPLES, **_asked("multiple"), elem_id="prune-multiple", filterable=False,
                                            min_width=160)
                self.prune_preset = gr.Dropdown([(label, name) for name, label in PRESET_LABELS.items()], value="quick",
                                                label="How thorough", info=STEPS_NOTE, filterable=False,
                                                elem_id="prune-preset", min_width=160)
                self.bits = gr.Dropdown(BITS, **_asked("load_in"), elem_id="prune-bits", filterable=False, min_width=160)
                self.seed = gr.Number(**_asked("seed"), precision=0, minimum=0, elem_id="prune-seed", min_width=120)
            self.recover = gr.Checkbox(**_asked("recover"), elem_id="prune-recover")
            self.bake = gr.Checkbox(**_asked("bake") | {"info": BAKE_NOTE}, elem_id="prune-bake")
        self.plan = [self.percent, self.multiple, self.prune_preset, self.bits, self.recover, self.seed,
                     self.bake]  # in the order of cut.Plan
        with gr.Row(elem_classes=["tight", "prune-buttons"]):
            self.name = gr.Textbox(show_label=False, label="Name of the run", placeholder="Name of the run (optional)",
                                   container=False, max_length=80, elem_id="prune-name", min_width=200)
            self.start = gr.Button("Prune", variant="primary", elem_id="prune-start", scale=0, min_width=120)
            self.ladder = gr.Button("Queue 10, 25 and 50\u00a0%", elem_id="prune-ladder", elem_classes="engineer", scale=0,
                                    min_width=190)


def _asked(name: str) -> dict[str, Any]:
    """The value, label and info of a knob's component."""
    return {"value": KNOBS[name].default, "label": KNOBS[name].label, "info": f"{KNOBS[name].help}."}
