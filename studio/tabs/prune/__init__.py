"""Prune: the lines that a character is learned from, and the runs that carve the model down to it.

Listeners change the library; what the page shows of it comes by the live channel, so that a reload, a second tab and a
restart show the same.
"""

import gradio as gr

from studio.page import Page, looks
from studio.services import Services
from studio.tabs.prune import listeners
from studio.tabs.prune.layout import Controls
from studio.tabs.prune.lines_controller import LinesController
from studio.tabs.prune.queueing import Queueing
from studio.tabs.prune.runs_controller import RunsController

LINES_LOOKS, RUNS_LOOKS = ("set", "search", "about", "sort", "lines"), ("run", "runs", "other", "how", "at")


def build(services: Services, page: Page, tab: gr.Tab) -> None:
    """The room with its listeners, and its parts of the live channel."""
    controls, queueing = Controls(), Queueing(services)
    lines, runs = LinesController(services, queueing), RunsController(services, queueing)
    services.live.part("prune", lines.contents, "character", *LINES_LOOKS, stamp=services.library_stamp)
    services.live.part("prune", runs.contents, "character", *RUNS_LOOKS)
    # What is looked at begins with a character.
    page.character.change(lambda: looks(**dict.fromkeys((*LINES_LOOKS, *RUNS_LOOKS), "")), None, controls.looks, **page.private)
    listeners.listen_to_lines(services, lines, page, controls)
    listeners.listen_to_runs(services, runs, page, tab, controls)
