"""Who judges what no rule can check, and who plays the player: models of this machine, or a server. One choice for all rooms."""

import html
from dataclasses import dataclass
from typing import Any

import gradio as gr

from engine.base.errors import UserError
from engine.base.files import is_file, named_path
from engine.base.judges import judge_name, last_result, sentence_of
from engine.base.known_models import KNOWN
from engine.serving.files import gguf_file
from studio.page import Page, guarded, live_html
from studio.services import Services
from studio.shelf import models_here
from studio.store import values
from studio.tabs.models import unfetched

NONE = "none"  # in the lists
_JUDGES, _PLAYERS = [("No judge", NONE)], [("Nobody: written lines only", NONE)]
SERVER_FIRST = ("It takes an exam first in an evaluation or a scene: who says this line? Below the bar it judges nothing. The "
                "test script takes its word until then.")
FIRST = ("It takes an exam first, once: who says this line? 132 lines by characters that it knows from a sentence each. On this "
         "machine that takes some minutes. Below the bar it judges nothing.")


@dataclass(frozen=True)
class Chosen:
    """`judge`: an address, a model of this machine, or "" for none; `model`: the server's; `player`: who plays the player."""

    judge: str = ""
    model: str = ""
    player: str = ""

    @property
    def is_server(self) -> bool:
        """Whether the judge is a server."""
        return "://" in self.judge

    @property
    def fields(self) -> list[str]:
        """The values of the components."""
        return [self.judge or NONE, self.model, self.player or NONE]


def chosen(services: Services) -> Chosen:
    """What was chosen last, in any room."""
    judge, model = values.get_value(services.store, "compare-judge", ["", ""], tuple[str, str])
    return Chosen(judge, model, str(values.get_value(services.store, "evaluate-player", "")))


def choose(services: Services, judge: str | None = None, model: str | None = None, player: str | None = None) -> Chosen:
    """Keep a choice as the components have it. `player` None: as it was."""
    judge, former = (judge or "").strip(), chosen(services)
    found = Chosen("" if judge == NONE else judge, (model or "").strip(), former.player if player is None else
                   "" if player == NONE else player.strip())
    values.set_value(services.store, "compare-judge", [found.judge, found.model])
    values.set_value(services.store, "evaluate-player", found.player)
    return found


def check(found: Chosen) -> tuple[str, str]:
    """Judge and model as a job has them, ("", "") for none. Raises UserError for what cannot be one."""
    if found.is_server and not found.model:
        raise UserError("A judge on a server needs an address and the name of its model.", "Fill in both, or choose no judge.")
    if found.judge and not found.is_server and not (found.judge.endswith(".gguf") and is_file(named_path(found.judge))):
        gguf_file(found.judge)  # raises for what is no model
    return found.judge, found.model if found.is_server else ""


def says_html(services: Services) -> str:
    """How the chosen judge did in its exam, or that it takes one first; "" without a judge."""
    found = chosen(services)
    if not found.judge or (found.is_server and not found.model):
        return ""
    result = last_result(services.settings.home, judge_name(found.judge, found.model if found.is_server else ""))
    fetched = "" if found.is_server or not (known := unfetched(services, found.judge)) else f" {known.label} is fetched before."
    first = SERVER_FIRST if found.is_server else FIRST + fetched
    return f'<p class="quiet">{html.escape(sentence_of(result) if result else first)}</p>'


def choices(services: Services) -> list[tuple[str, str]]:
    """(label, model) of the models on this machine that can judge or play; known ones that are not here are fetched first."""
    known = [(f"{one.label}{' (fetched first)' if unfetched(services, one.name) else ''}", one.name) for one in KNOWN.values()]
    return [*known, *models_here()]


class JudgeFields:
    """The components. `player`: who plays the player can be chosen as well."""

    def __init__(self, room: str, player: bool = False) -> None:
        self.room = room
        title = "A model that judges the answers" + (", and one that plays the player" if player else "")
        with gr.Accordion(title, open=False, elem_id=f"{room}-judge-box"):
            with gr.Row():
                self.judge = gr.Dropdown(_JUDGES, value=NONE, label="Judge", allow_custom_value=True,
                                         elem_id=f"{room}-judge", min_width=220,
                                         info="A model of this machine, or the address of a server with OpenAI's chat completions "
                                              "and log-probabilities.")
                self.model = gr.Textbox(label="Its model", placeholder="its name on that server", visible=False,
                                        elem_id=f"{room}-judge-model", min_width=180,
                                        info="A key is taken from the environment (PERSONA_STUDIO_JUDGE_KEY) alone.")
                self.inputs: list[Any] = [self.judge, self.model]  # in the order of `choose`
                if player:
                    self.inputs.append(gr.Dropdown(_PLAYERS, value=NONE, label="Plays the player", elem_id=f"{room}-player",
                                                   min_width=220, info="In further long conversations, beside the written ones."))
            live_html(f"{room}-judge-says")

    def shown(self, services: Services) -> dict[Any, Any]:
        """Updates for what is chosen now."""
        found, models = chosen(services), choices(services)
        judge, model, player = found.fields
        updates = [gr.Dropdown([*_JUDGES, *models], value=judge), gr.Textbox(model, visible=found.is_server),
                   gr.Dropdown([*_PLAYERS, *models], value=player)]
        return dict(zip(self.inputs, updates, strict=False))

    def listen(self, services: Services, page: Page) -> None:
        """Keep what is chosen as it is chosen."""
        @guarded
        def keep(*fields: str | None) -> Any:
            found = choose(services, *fields)
            services.live.touch(self.room)
            return gr.Textbox(visible=found.is_server)

        for part in self.inputs:
            part.input(keep, self.inputs, self.model, trigger_mode="always_last", **page.private)
