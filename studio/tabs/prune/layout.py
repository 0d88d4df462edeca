"""The Prune room's components. Knows no listener."""

from typing import Any

import gradio as gr

from studio.tabs.prune import lines_table, runs_html, words
from studio.tabs.prune.drawing import GROWING
from studio.theme import ASSETS

HELP = "The model answers player questions as the character. The smaller model learns from these answers, so read them."


class Controls:
    """The components: two steps, then what came of them."""

    def __init__(self) -> None:
        script = (ASSETS / "prune.js").read_text(encoding="utf-8")
        self.set_id, self.run_id = gr.State(""), gr.State("")  # what the writer chose; "": the newest
        # Lists whose choices change are never read by painting: an old choice would be refused before it begins.
        self.other_id, self.about = gr.State(""), gr.State(lines_table.ALL)
        self.shown_set, self.shown_run = gr.State(""), gr.State("")  # what is on the page
        self.most, self.runs_most = gr.State(lines_table.PAGE), gr.State(runs_html.PAGE)
        self.gone_lines, self.gone_set, self.gone_run = gr.State([]), gr.State(""), gr.State("")
        self.named_set, self.named_run = gr.State(""), gr.State("")  # whose name is asked for; another may be shown by now
        self.pulse, self.seen = gr.State(0), gr.State({})
        self.empty = gr.HTML('<p class="prune-empty">Choose a character on the left.</p>', visible=False, elem_id="prune-nobody")
        with gr.Column(elem_id="prune-room") as self.room:
            with gr.Column(elem_classes="prune-step"):
                self._making()
                self._reading()
            with gr.Column(elem_classes="prune-step"):
                self._cutting()
            with gr.Column(elem_classes="prune-step"):
                gr.HTML('<h3>Your runs</h3>')
                self.runs = gr.HTML(elem_id="prune-runs", js_on_load=script)
                self._run(script)
        self.stamp = gr.HTML(visible="hidden", elem_id="prune-stamp",
                             js_on_load=(ASSETS / "prune_news.js").read_text(encoding="utf-8"))

    def _making(self) -> None:
        gr.HTML(f'<h3><i>1</i> Make the lines</h3><p class="quiet">{HELP}</p>')
        with gr.Row():
            self.who = gr.Radio(words.WHO, value="self", label="Who answers", elem_id="prune-who", min_width=220)
            self.preset = gr.Radio(words.PRESETS, value="quick", label="How thorough", info=words.PRESET_NOTE, scale=2,
                                   elem_id="prune-thorough", min_width=280)
        with gr.Row(visible=False) as self.server:
            self.url = gr.Textbox(label="Address of the server", placeholder="http://127.0.0.1:8080/v1", max_length=500,
                                  elem_id="prune-server",
                                  info="Any server that speaks like OpenAI's. Questions and the card go there.")
            self.server_model = gr.Textbox(label="Name of its model", max_length=200, elem_id="prune-server-model",
                                           info="A key is only ever read from the variable OPENAI_API_KEY.")
        with gr.Row(elem_classes=["tight", "prune-buttons"]):
            self.make = gr.Button("Make the lines", variant="primary", elem_id="prune-lines", min_width=140, scale=0)
            self.file = gr.UploadButton("Use my own file", file_types=[".json", ".jsonl"], type="filepath", elem_id="prune-file",
                                        min_width=140, scale=0)
        self.making = gr.HTML(elem_id="prune-making", js_on_load=(ASSETS / "prune.js").read_text(encoding="utf-8"))
        with gr.Row(elem_classes=["tight", "prune-buttons"]):
            self.making_stop = gr.Button("Stop", size="sm", visible=False, elem_id="prune-lines-stop", scale=0, min_width=90)
            self.making_resume = gr.Button("Resume", size="sm", visible=False, elem_id="prune-lines-resume", scale=0, min_width=90)
            self.making_kill = gr.Button("End at once", size="sm", variant="stop", visible=False, elem_id="prune-lines-kill",
                                         scale=0, min_width=90)
            self.making_drop = gr.Button("Dismiss", size="sm", visible=False, elem_id="prune-lines-drop", scale=0, min_width=90)

    def _reading(self) -> None:
        self.no_lines = gr.HTML('<p class="prune-empty">No lines yet. Make some, or bring your own: a JSON or JSONL file with '
                                'question and answer in each entry.</p>', elem_id="prune-no-lines")
        with gr.Row(visible=False, elem_classes=["notice", "tight", "prune-buttons"]) as self.gone_set_box:
            self.gone_set_text = gr.HTML()
            self.undelete_set = gr.Button("Undo", size="sm", elem_id="prune-undo-set", scale=0, min_width=80)
        with gr.Column(visible=False) as self.lines_box:
            with gr.Row():
                self.sets = gr.Dropdown([], label="Lines", elem_id="prune-sets", filterable=False, scale=2, min_width=260)
                self.search = gr.Textbox(label="Search", placeholder="Any word", elem_id="prune-search",
                                         max_length=200, min_width=180)
                self.category = gr.Dropdown([("All", "")], value="", label="About", elem_id="prune-category", min_width=140)
            with gr.Row(elem_classes=["tight", "prune-buttons"]):
                self.rename_set = gr.Button("Rename set", size="sm", elem_id="prune-rename-set", scale=0, min_width=90)
                self.delete_set = gr.Button("Delete set", size="sm", elem_id="prune-delete-set", scale=0, min_width=90)
            self.rename_set_box, self.set_title, self.rename_set_yes, self.rename_set_no = _renaming("prune-set-title")
            self.summary = gr.HTML(elem_id="prune-summary")
            self.table = gr.Dataframe(
                headers=lines_table.HEADERS, datatype=lines_table.TYPES, static_columns=lines_table.FIXED, type="array", wrap=True,
                column_widths=lines_table.WIDTHS, column_count=len(lines_table.HEADERS), interactive=True, max_height=430,
                show_label=False, label="Lines", buttons=[], elem_id="prune-table")
            with gr.Row(elem_classes=["tight", "prune-buttons"]):
                self.approve = gr.Button("Approve these lines", variant="primary", elem_id="prune-approve", scale=0, min_width=180)
                self.delete = gr.Button("Delete ticked lines", elem_id="prune-delete-lines", scale=0, min_width=160)
                self.more = gr.Button("Show more", elem_id="prune-more-lines", visible=False, scale=0, min_width=110)
            with gr.Row(visible=False, elem_classes=["notice", "tight", "prune-buttons"]) as self.undo_box:
                self.undo_text = gr.HTML()
                self.undo = gr.Button("Undo", size="sm", elem_id="prune-undo-lines", scale=0, min_width=80)

    def _cutting(self) -> None:
        gr.HTML('<h3><i>2</i> Prune</h3><p class="quiet">The model keeps the channels that this character needs and loses the '
                'others. Remove little for a close likeness, much for a small and fast model. The '
                'whole model, before it loses any, is called dense.</p>')
        self.from_lines = gr.HTML(elem_id="prune-from")
        with gr.Row(elem_classes="figure-row"):
            with gr.Column(scale=3, min_width=300):
                self.percent = gr.Slider(5, 75, 25, step=1, label="How much is removed", elem_id="prune-percent", buttons=[],
                                         info="In percent of the feed-forward channels, the model's largest parts.")
                self.remains = gr.Plot(show_label=False, elem_id="prune-remains", container=False, buttons=[])
                self.likes = gr.HTML(elem_id="prune-likes")
            with gr.Column(scale=2, min_width=300):
                self.facts = gr.HTML(elem_id="prune-cut")
        with gr.Accordion("More", open=False, elem_id="prune-more"):
            with gr.Row():
                self.multiple = gr.Dropdown(words.MULTIPLES, value=128, label="Snap to a multiple of", elem_id="prune-multiple",
                                            info="Programs that run models want round sizes.", filterable=False, min_width=160)
                self.prune_preset = gr.Dropdown([(name.partition(":")[0], value) for name, value in words.PRESETS], value="quick",
                                                label="How thorough", info=words.STEPS_NOTE, filterable=False,
                                                elem_id="prune-preset", min_width=160)
                self.bits = gr.Dropdown(words.BITS, value="16bit", label="Load the model in", elem_id="prune-bits",
                                        filterable=False, min_width=160,
                                        info="Fewer bits need less memory while learning. The result stays 16 bit.")
                self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, elem_id="prune-seed", min_width=120,
                                      info="The same seed and lines give the same result.")
            self.recover = gr.Checkbox(False, label="Recover some of what was lost", elem_id="prune-recover",
                                       info="Learns from many more answers: comes closer, takes three times as long.")
        with gr.Row(elem_classes=["tight", "prune-buttons"]):
            self.name = gr.Textbox(show_label=False, label="Name of the run", placeholder="Name of the run (made up when empty)",
                                   container=False, max_length=80, elem_id="prune-name", min_width=200)
            self.start = gr.Button("Prune", variant="primary", elem_id="prune-start", scale=0, min_width=120)
            self.ladder = gr.Button("Queue 10, 25 and 50\u00a0%", elem_id="prune-ladder", scale=0, min_width=190)

    def _run(self, script: str) -> None:
        with gr.Row(visible=False, elem_classes=["notice", "tight", "prune-buttons"]) as self.gone_box:
            self.gone_text = gr.HTML()
            self.put_back = gr.Button("Undo", size="sm", elem_id="prune-undo-run", scale=0, min_width=80)
        with gr.Column(visible=False, elem_id="prune-live") as self.live:
            self.progress = gr.HTML(elem_id="prune-progress", js_on_load=script)
            with gr.Row(elem_classes=["tight", "prune-buttons"]):
                self.stop = gr.Button("Stop", size="sm", elem_id="prune-stop-run", scale=0, min_width=90)
                self.resume = gr.Button("Resume", size="sm", variant="primary", elem_id="prune-resume", scale=0, min_width=90)
                self.kill = gr.Button("End at once", size="sm", variant="stop", elem_id="prune-kill", scale=0, min_width=110)
                self.rename = gr.Button("Rename", size="sm", elem_id="prune-rename", scale=0, min_width=90)
                self.remove = gr.Button("Delete", size="sm", elem_id="prune-delete", scale=0, min_width=90)
            self.rename_box, self.title, self.rename_yes, self.rename_no = _renaming("prune-title")
            self._figures()

    def _figures(self) -> None:
        self.figures, self.captions, self.figure_rows = {}, {}, []
        for pair in (("curves", "ladder"), ("kept", "changes"), ("bars", "rescued")):
            with gr.Row(elem_classes="figure-row", visible=False) as row:
                self.figure_rows.append(row)
                for name in pair:
                    with gr.Column(min_width=300):
                        self.figures[name] = gr.Plot(show_label=False, elem_id=f"prune-figure-{name}", container=False, buttons=[])
                        self.captions[name] = gr.HTML()
        with gr.Column(visible=False) as self.compare_box:
            self.other = gr.Dropdown([], label="Lay another run's mask beside this one", elem_id="prune-other", filterable=False)
            with gr.Row(visible=False, elem_classes="figure-row") as self.overlap_row:
                for name in ("overlap-kept", "overlap-removed"):
                    with gr.Column(min_width=300):
                        self.figures[name] = gr.Plot(show_label=False, elem_id=f"prune-figure-{name}", container=False, buttons=[])
                        self.captions[name] = gr.HTML()

    @property
    def painted(self) -> list[Any]:
        """All that painting.Painter changes."""
        return [self.room, self.empty, self.stamp, self.making, self.making_stop, self.making_resume, self.making_drop,
                self.making_kill, self.sets, self.no_lines, self.lines_box, self.shown_set, self.approve, self.from_lines,
                self.table, self.category, self.summary, self.more, self.runs, self.shown_run, self.live, self.progress, self.stop,
                self.resume, self.kill, self.remove, *self.figures.values(), *self.captions.values(), *self.figure_rows,
                self.compare_box, self.other, self.overlap_row, self.seen]

    @property
    def painted_figures(self) -> list[Any]:
        """What painting.Painter changes when only the figures that grow have grown."""
        return [*(self.figures[name] for name in GROWING), *(self.captions[name] for name in GROWING), self.stamp, self.seen]


def _renaming(id: str) -> tuple[gr.Row, gr.Textbox, gr.Button, gr.Button]:
    """A row that asks for another name, hidden until then: the row, the name, Save and Cancel."""
    with gr.Row(visible=False, elem_classes=["notice", "tight", "prune-buttons"]) as row:
        name = gr.Textbox(show_label=False, label="New name", container=False, max_length=80, elem_id=id)
        save = gr.Button("Save", size="sm", variant="primary", scale=0, min_width=80, elem_id=f"{id}-save")
        cancel = gr.Button("Cancel", size="sm", scale=0, min_width=80, elem_id=f"{id}-cancel")
    return row, name, save, cancel
