"""The components of the Export room. No listeners; the cast's planner has a file of its own."""

from typing import Any

import gradio as gr

from engine.base.sizes import FILE_TYPES, WRITTEN
from engine.export.engines import TARGETS
from studio.tabs.export import view
from studio.tabs.export.planner import Planner
from studio.theme import ASSETS

NEWS_SECONDS = 1.0
_KEEP_OPEN = (ASSETS / "keep_open.js").read_text(encoding="utf-8")
EXPORT, CAST = "export", "cast"
_COPY = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  navigator.clipboard.writeText(button.dataset.copy).then(() => {
    const former = button.textContent; button.textContent = "Copied"; setTimeout(() => { button.textContent = former; }, 1500);
  });
});"""


class Room:
    """The controls of the room."""

    def __init__(self) -> None:
        self.empty = gr.HTML(view.NO_RUN, visible=False, elem_id="export-empty")
        with gr.Column(visible=False) as self.whole:
            self.view = gr.Radio([("Export", EXPORT), ("Plan a cast", CAST)], value=EXPORT, label="View", show_label=False,
                                 container=False, elem_id="export-view", elem_classes="views")
            with gr.Row(equal_height=False) as self.making:
                with gr.Column(scale=3, min_width=320):
                    self._asking()
                with gr.Column(scale=3, min_width=320):
                    self._past()
            self.planner = Planner()
        self.seen, self.chosen = gr.State(""), gr.State("")  # news; the run that is shown
        self.forgotten = gr.State("")
        self.timer = gr.Timer(NEWS_SECONDS, active=False)

    def _asking(self) -> None:
        self.run = gr.Dropdown([], label="Pruned model", elem_id="export-run")
        self.report = gr.HTML(elem_id="export-report")
        with gr.Group():
            self.name = gr.Textbox(label="Name", max_length=100, elem_id="export-name",
                                   info="The folder gets this name, with dashes for spaces.")
            targets = [(one.label, one.id) for one in TARGETS.values()]
            self.engines = gr.CheckboxGroup(targets, label="Ready for", elem_id="export-engines",
                                            info="The model's folder is always made. Each of these gets a folder in it, with a "
                                                 "page that says how to use it; they share one GGUF file.")
            self.zip = gr.Checkbox(label="Also pack a zip to hand on", elem_id="export-zip")
        with gr.Accordion("For engineers", open=False, elem_id="export-more"):
            types = [(f"{name} · {'about ' if FILE_TYPES[name].better else ''}{FILE_TYPES[name].bits:.3g} bits", name)
                     for name in WRITTEN]
            self.gguf = gr.CheckboxGroup(types, label="GGUF files", elem_id="export-gguf",
                                         info="Each is loaded by llama.cpp and compared with the folder before it is kept. With "
                                              "none chosen, an engine gets Q8_0.")
            self.measure = gr.Checkbox(label="Measure speed and memory, dense and pruned", elem_id="export-measure",
                                       info="Loads both models once more. Takes a minute with the starter.")
            self.sizes = gr.HTML(elem_id="export-sizes")
        with gr.Row(elem_classes="tight"):
            self.start = gr.Button("Export", variant="primary", elem_id="export-start")
            self.stop = gr.Button("Stop", visible=False, elem_id="export-stop")
        self.progress = gr.HTML(elem_id="export-progress", js_on_load=_KEEP_OPEN, apply_default_css=False)

    def _past(self) -> None:
        self.figure = gr.Plot(show_label=False, container=False, elem_id="export-figure")
        self.past = gr.Radio([], label="Past exports", elem_id="export-past", visible=False)
        self.detail = gr.HTML(elem_id="export-detail", js_on_load=_COPY, apply_default_css=False)
        with gr.Row(elem_classes="tight"):
            self.download = gr.DownloadButton("Download the zip", size="sm", visible=False, elem_id="export-download")
            self.forget = gr.Button("Take off the list", size="sm", visible=False, elem_id="export-forget")
            self.undo = gr.Button("Undo", size="sm", visible=False, elem_id="export-undo")

    @property
    def of_character(self) -> list[Any]:
        """What changes with the character."""
        return [self.empty, self.whole, self.run, *self.of_run, self.past, *self.of_export, self.timer, self.chosen]

    @property
    def of_run(self) -> list[Any]:
        """What changes with the chosen run."""
        return [self.report, self.figure, self.name, self.sizes]

    @property
    def of_export(self) -> list[Any]:
        """What changes with the chosen past export."""
        return [self.detail, self.download, self.forget]
