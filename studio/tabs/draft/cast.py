"""A cast at once, below the card: a place and quotas become a plan, the plan becomes cards, and a writer keeps the ones to keep.

Independent of the character that is open. What is shown is the library's, so that a closed page or studio loses nothing.
"""

import secrets
from collections.abc import Mapping
from typing import Any

import gradio as gr

from engine.base.errors import UserError
from engine.base.sampling import MAX_SEED
from engine.cards import cast_plan
from studio.page import FLUSH, Page, at_once, guarded, live_html
from studio.services import Services
from studio.store import casts, characters
from studio.store.casts import Cast, CastDraft
from studio.tabs.answers import changing
from studio.tabs.draft import cast_view
from studio.tabs.draft.writer import Writer
from studio.workers.casting import missing, require_rows

ROOM = "draft"
AT_FIRST = 6  # characters
_HINT = ('<p class="quiet">Say what the place is about and who should be there. You get a plan, which you may change; then a model '
         "drafts a card for each row, one after another, so that they differ and may know each other.</p>")
# A changed value of the plan is kept at once, and not only with the next button.
_CHANGE = """
element.addEventListener("change", ({target}) => {
  const form = target.closest("form[data-cast]");
  if (form) trigger("click", {...form.dataset, ...Object.fromEntries(new FormData(form)), do: "change"});
});
"""


class CastPanel:
    """The components."""

    def __init__(self) -> None:
        with gr.Accordion("A cast at once", open=False, elem_classes="draft-part", elem_id="draft-cast") as self.part:
            gr.HTML(_HINT, apply_default_css=False)
            self.place = gr.Textbox(label="The place", lines=2, max_lines=6, max_length=cast_plan.MOST_PLACE, elem_id="cast-place",
                                    placeholder="A harbour town at the end of a railway that stopped running ten years ago.",
                                    info="What it is about, in a sentence or two.")
            with gr.Row():
                self.quotas = gr.Textbox(label="Quotas", lines=3, max_lines=8, max_length=2_000, elem_id="cast-quotas", scale=3,
                                         min_width=260, placeholder="role: 2 traders, 1 guard, 3 fishers\nage: 2 old, 4 young\n"
                                         "temper: calm, sour, quick", info="One line for each property. A value may have a number; "
                                         "values without one share the rest, or else the rest is open.")
                self.count = gr.Slider(cast_plan.FEWEST, cast_plan.MOST, AT_FIRST, step=1, label="Characters", elem_id="cast-count",
                                       min_width=200)
            self.plan = gr.Button("Make a plan", scale=0, min_width=140, elem_id="cast-plan-button")
            self.shown = live_html("cast-shown", _CHANGE)


class CastRoom:
    """What the part does with the library and the process that drafts."""

    def __init__(self, services: Services, writer: Writer) -> None:
        self.services, self.store, self.writer, self.casting = services, services.store, writer, services.casting

    def contents(self, look: Mapping[str, str]) -> dict[str, Any]:
        """The live contents: the plan and its cards, of the cast that is looked at or else the newest."""
        every = casts.every(self.store)
        cast = next((one for one in every if one.id == look["cast"]), every[0] if every else None)
        return {"cast-shown": cast_view.cast_html(every, cast, self._state(cast), self.writer.who()["note"]) if cast else ""}

    def make_plan(self, place: str, count: int, quotas: str) -> Cast:
        """A new cast with a plan. Raises UserError."""
        place, seed = cast_plan.checked_place(place), secrets.randbelow(MAX_SEED)
        return casts.begin(self.store, place, quotas, seed, cast_plan.make_plan(int(count), cast_plan.read_quotas(quotas), seed))

    def change(self, given: Mapping[str, Any]) -> Cast:
        """Keep the values of a plan's form. Those of rows that have a card stay as they are. Raises UserError."""
        cast = require_rows(casts.get(self.store, str(given.get("cast"))))
        there = casts.drafts(self.store, cast.id)
        rows = [{name: value if position in there else str(given.get(f"{position}-{column}", value))
                 for column, (name, value) in enumerate(row.items())} for position, row in enumerate(cast.rows)]
        return casts.change_rows(self.store, cast.id, cast_plan.checked_plan(rows)) if rows != cast.rows else cast

    def draft(self, given: Mapping[str, Any]) -> None:
        """Draft all rows without a card, or the row of `position` again. Raises UserError."""
        cast = self.change(given)
        there = casts.drafts(self.store, cast.id)
        rows = [int(given["position"])] if "position" in given else missing(cast, there)
        if not rows:
            raise UserError("Every row has a card.", "Draft one again, or make a new plan.")
        self.casting.begin(cast, rows, self.writer.model(), self.writer.server(), secrets.randbelow(MAX_SEED))

    def keep(self, id: str) -> int:
        """Make characters of the library of a draft, or of every draft of a cast that is neither kept nor dropped; how many."""
        one = casts.get_draft(self.store, id)
        found = [one] if one else [one for one in casts.drafts(self.store, id).values() if one.state == "drafted"]
        for draft in found:
            casts.keep(self.store, draft.id)
        return len(found)

    def _state(self, cast: Cast | None) -> cast_view.State:
        there: dict[int, CastDraft] = casts.drafts(self.store, cast.id) if cast else {}
        slugs = {one.id: one.slug for one in characters.list_characters(self.store)}
        busy = self.casting.character()
        mine = bool(cast and busy == cast.id)
        return cast_view.State(there, slugs, mine, bool(busy), self.casting.progress if mine else ("", 0, 0),
                               self.casting.redrafting if mine else (), self.casting.endings.get(cast.id, "") if cast else "")


def connect(services: Services, panel: CastPanel, writer: Writer, page: Page, tab: gr.Tab) -> None:
    """The listeners, and the live part."""
    room = CastRoom(services, writer)
    services.live.part(ROOM, room.contents, "cast", stamp=lambda: (*services.library_stamp(), *services.casting.stamp()))

    def make(place: str, count: int, quotas: str) -> None:
        room.make_plan(place, count, quotas)

    def act(event: gr.EventData, revision: int) -> Any:
        given = event._data if isinstance(event._data, dict) else {}
        do, id = str(given.get("do")), str(given.get("id"))
        kept = 0
        match do:
            case "change":
                room.change(given)
            case "draft":
                room.draft(given)
            case "keep":
                kept = room.keep(id)
            case "drop" | "back":
                casts.drop(services.store, id, do == "back")
            case "stop":
                services.casting.stop()
        return revision + 1 if kept else gr.skip()

    def fill() -> Any:
        newest = casts.newest(services.store)
        part = gr.Accordion(open=True) if services.casting.character() else gr.skip()
        return (part, newest.place, len(newest.rows), newest.quotas) if newest else gr.skip()

    inputs = [panel.place, panel.count, panel.quotas]
    panel.plan.click(changing(services.live, ROOM, make), inputs, None, js="(...values) => { personaStudioLive.look({cast: ''}, "
                     "'draft'); return values; }", trigger_mode="once", **page.private)
    turn = page.in_turn("cast").private  # a changed value is kept before what is pressed next
    panel.shown.click(changing(services.live, ROOM, act), page.revision, page.revision, js=FLUSH, **at_once(turn))
    tab.select(guarded(fill), None, [panel.part, *inputs], **page.private)
