"""The planner of a cast: who is in it, for how many players, on what card; how much memory each way to run it takes."""

import html
from collections.abc import Sequence
from typing import Any

import gradio as gr

from engine.base.cast_folder import MOST
from engine.base.errors import UserError
from engine.base.files import read_json
from engine.base.job import Recipe
from engine.base.sizes import Cast, Decoder, Needed, adapter_bytes, decoder_of, most_characters, plan
from studio.figures import words
from studio.figures.sizes import NAMES, memory_bars
from studio.page import Page, figure_box, figure_html, guarded
from studio.services import Services
from studio.store import characters, runs
from studio.store.runs import Run
from studio.tabs.models import removed_by
from studio.workers.commands import result_folder

CARDS = [4, 6, 8, 12, 16, 24, 32, 48, 80]  # GB
CONTEXTS = [1024, 2048, 4096, 8192, 16384, 32768]
GB = 10**9
RANK = int(Recipe.model_fields["bake_rank"].default)  # of a cast's adapters
WAYS = {
    "standalone": "Every character is a pruned model of its own, as Export makes it. Each one costs a model.",
    "cast": "One pruned model in memory, and a small adapter for each character. Made by persona prune-cast."}
HEADS = ("Memory", "Fits?", "Characters at most")
NONE = '<p class="quiet">Prune a character first: its model says how large a cast of such characters would be.</p>'


class Planner:
    """The controls."""

    def __init__(self) -> None:
        with gr.Column(visible=False, elem_id="planner") as self.whole:
            gr.HTML('<h3>A cast that shares one model</h3><p class="quiet">How much memory do many characters need? Choose the '
                    "ones you have, and how many there will be.</p>")
            with gr.Row(equal_height=False):
                with gr.Column(scale=2, min_width=300):
                    self.runs = gr.Dropdown([], multiselect=True, label="Characters", elem_id="planner-runs",
                                            info="Pruned from one model. Without a choice: the newest of each character.")
                    self.count = gr.Number(8, label="Characters in the whole cast", precision=0, minimum=1, maximum=MOST,
                                           elem_id="planner-count")
                    self.players = gr.Number(1, label="Conversations at the same time", precision=0, minimum=1, maximum=10_000,
                                             elem_id="planner-players")
                    self.card = gr.Dropdown([(f"{size} GB", size) for size in CARDS], value=8, label="Memory of the graphics card",
                                            filterable=False, elem_id="planner-card")
                    with gr.Accordion("For engineers", open=False):
                        self.context = gr.Dropdown([(f"{size:,} tokens", size) for size in CONTEXTS], value=4096,
                                                   label="Longest conversation", filterable=False, elem_id="planner-context")
                with gr.Column(scale=3, min_width=320):
                    self.figure = figure_box(elem_id="planner-figure")
            self.ways = gr.HTML(elem_id="planner-ways")
            self.basis = gr.HTML(elem_id="planner-basis")
        self.asked: list[Any] = [self.runs, self.count, self.players, self.card, self.context]  # of the plan
        self.shown = [self.figure, self.ways, self.basis]


def listen(services: Services, page: Page, planner: Planner, begins: Sequence[Any], view: gr.Radio) -> None:
    """Show the plan when it is opened and whenever something it depends on changes."""
    @guarded
    def open_(view: str, *asked: Any) -> Any:
        if view != "cast":
            return (gr.skip(),) * 4
        choices = words.dedupe_labels([(label_of(services, run), run.id) for run in choose_from(services)])
        known = [one for one in asked[0] or [] if one in [id for _, id in choices]]
        return gr.Dropdown(choices, value=known), *show(services, known, *asked[1:])

    @guarded
    def change(*asked: Any) -> Any:
        return show(services, *asked)

    for begin in begins:
        begin(open_, [view, *planner.asked], [planner.runs, *planner.shown], **page.private)
    gr.on([one.change for one in planner.asked], change, planner.asked, planner.shown, trigger_mode="always_last", **page.private)


def choose_from(services: Services) -> list[Run]:
    """All finished pruned models whose figures are known, newest first."""
    found = runs.list_runs(services.store, kinds=["prune"], states=["done"])
    return [run for run in found if run.summary.get("before", {}).get("parameters")]


def label_of(services: Services, run: Run) -> str:
    """A run in the list: its character, what was removed, and from which model."""
    found = characters.get(services.store, run.character)
    return f"{found.char if found else run.name} · {words.percent(removed_by(run))} removed · {base_of(run)}"


def base_of(run: Run) -> str:
    """What the dense model of a run is called."""
    return str(run.summary.get("base", {}).get("name", ""))


def show(services: Services, chosen: list[str] | None, count: float | None, players: float | None, card: float,
         context: float) -> tuple[str, str, str]:
    """Figure, table and basis of a plan. Raises UserError for characters of several models."""
    known = choose_from(services)
    newest = list({run.character: run for run in reversed(known)}.values())[::-1]
    found = [run for run in known if run.id in (chosen or [])] or newest
    decoder = next((one for run in found if (one := decoder_for(services, run))), None)
    if decoder is None:
        return figure_html(memory_bars([], 0)), NONE, ""
    bases = {base_of(run) for run in found}
    if chosen and len(bases) > 1:
        raise UserError(f"These characters were pruned from different models ({', '.join(sorted(bases))}).",
                        "Only characters of one model can share it: take the others out.")
    if not chosen:
        found = [run for run in found if base_of(run) == base_of(found[0])]
    kept = max(int(run.summary.get("after", {}).get("intermediate_size") or decoder.shape.intermediate_size) for run in found)
    cast = Cast(max(int(count or 1), len(chosen or [])), max(int(players or 1), 1), int(context), kept, RANK)
    needed, memory = plan(decoder, cast), int(card * GB)
    names = [label_of(services, run).partition(" · ")[0] for run in found]
    return (figure_html(memory_bars(needed, memory)), ways_html(needed, decoder, cast, memory),
            basis_html(decoder, cast, names))


def decoder_for(services: Services, run: Run) -> Decoder | None:
    """The figures of the dense model that a run was made from; None where its files are gone."""
    folder, before = result_folder(services.settings, run), run.summary.get("before", {})
    try:
        config = {**read_json(folder / "config.json"), "intermediate_size": before["intermediate_size"]} if folder else {}
        return decoder_of(config, int(before["parameters"]))
    except (UserError, KeyError, TypeError, ValueError):
        return None


def ways_html(needed: Sequence[Needed], decoder: Decoder, cast: Cast, card: int) -> str:
    """A row a way: its memory, whether it fits, and how many characters would."""
    most = {one.way: most_characters(one.way, decoder, cast, card) for one in needed}
    rows = "".join(_way(one, min(most[one.way], MOST) if one.way == "cast" else most[one.way], card) for one in needed)
    heads = "".join(f"<th>{name}</th>" for name in ("", *HEADS))
    return (f'<div class="size-scroll"><table class="size-table ways"><thead><tr>{heads}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>")


def basis_html(decoder: Decoder, cast: Cast, models: Sequence[str]) -> str:
    """On what the figures rest."""
    shape = decoder.shape
    names = ", ".join(html.escape(one) for one in models[:6]) + (f" and {len(models) - 6} more" if len(models) > 6 else "")
    return (f'<p class="quiet">For {words.count(cast.characters, "character")} ({names}) on a dense model of '
            f"{words.millions(shape.parameters)} weights, {words.size(shape.bytes)} in 16 bit; {cast.kept:,} of "
            f"{shape.intermediate_size:,} channels kept. An adapter of rank {cast.rank} takes "
            f"{words.size(adapter_bytes(decoder, cast.kept, cast.rank))}. A token of conversation takes "
            f"{decoder.token_bytes / 1000:,.0f} kB, and "
            f"{words.count(cast.players, 'conversation')} of {cast.context:,} tokens "
            f"{words.size(cast.players * cast.context * decoder.token_bytes)}.</p>")


def _way(one: Needed, at_most: int, card: int) -> str:
    sign = '<b class="fits">✓ yes</b>' if one.bytes <= card else f"{words.size(one.bytes - card)} too much"
    cells = zip(HEADS, (words.size(one.bytes), sign, f"{at_most:,}"), strict=True)
    shown = "".join(f'<td data-head="{head}">{cell}</td>' for head, cell in cells)
    return f"<tr><th>{NAMES[one.way]}<small>{WAYS[one.way]}</small></th>{shown}</tr>"
