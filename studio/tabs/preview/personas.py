"""Who the player is, by name: personas with what a character may know of them, kept for all characters and chosen in Play."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from engine.base.errors import UserError
from studio.page import Page, at_once, guarded
from studio.services import Services
from studio.store import values
from studio.store.database import Store

KEY = "personas"  # the setting: [[name, about], ...]
MOST = 50
NOBODY = ("None of these", "")


def personas(store: Store) -> dict[str, str]:
    """What is said of each persona, by name, in the order of names."""
    kept: list[tuple[str, str]] = values.get_value(store, KEY, [], list[tuple[str, str]])
    return dict(sorted(kept, key=lambda one: one[0].casefold()))


def keep(store: Store, name: str, about: str) -> str:
    """Keep a persona, in the place of one with the same name; its name. Raises UserError."""
    name = " ".join(name.split())
    known = personas(store)
    if not name:
        raise UserError("A persona needs a name.")
    if len(known) >= MOST and name not in known:
        raise UserError(f"There are {MOST} personas already.", "Forget one first.")
    values.set_value(store, KEY, list({**known, name: about.strip()}.items()))
    return name


def forget(store: Store, name: str) -> None:
    """Take a persona off the list; chats keep their player."""
    values.set_value(store, KEY, [one for one in personas(store).items() if one[0] != name])


class PersonaPanel:
    """The components, above the player's name."""

    def __init__(self) -> None:
        self.choice = gr.Dropdown([NOBODY], value="", label="Play as", filterable=False, elem_id="preview-persona",
                                  info="A persona fills in the two fields below.")

    def buttons(self) -> None:
        """Those below the fields."""
        with gr.Row(elem_classes="tight"):
            self.keep = gr.Button("Keep as a persona", size="sm", min_width=60, elem_id="preview-persona-keep")
            self.forget = gr.Button("Forget this persona", size="sm", min_width=60, elem_id="preview-persona-forget", visible=False)


def connect(services: Services, panel: PersonaPanel, player: gr.Textbox, about: gr.Textbox, page: Page, tab: gr.Tab,
            then: Callable[[Any], Any]) -> None:
    """The panel's listeners; `then` gets the event after which the chosen persona is in the fields, to keep it with the chat."""
    store, shown = services.store, [panel.choice, panel.forget]

    def listed(chosen: str) -> list[Any]:
        known = personas(store)
        return [gr.Dropdown([NOBODY, *((name, name) for name in known)], value=chosen if chosen in known else ""),
                gr.Button(visible=chosen in known)]

    def fitting(name: str, text: str) -> list[Any]:
        return listed(name if personas(store).get(name) == text.strip() else "")

    @guarded
    def choose(name: str) -> Any:
        known = personas(store)
        return [name, known[name], gr.Button(visible=True)] if name in known else [gr.skip(), gr.skip(), gr.Button(visible=False)]

    @guarded
    def keep_this(name: str, text: str) -> Any:
        kept = keep(store, name, text)
        gr.Info("It can be chosen with every character.", title="Persona kept")
        return listed(kept)

    @guarded
    def forget_this(name: str) -> Any:
        forget(store, name)
        return listed("")

    then(panel.choice.input(choose, panel.choice, [player, about, panel.forget], **at_once(page.private)))
    panel.keep.click(keep_this, [player, about], shown, **page.private)
    panel.forget.click(forget_this, panel.choice, shown, **page.private)
    for event in (tab.select, player.change, about.change):  # the fields may be those of another chat by now
        event(guarded(fitting), [player, about], shown, **{**page.poll, "trigger_mode": "always_last"})
