"""What the planner of a cast says: what each way to run it takes, and what fits. Pure."""

import html
from collections.abc import Sequence

from engine.base.memory import Cast, Decoder, Needed, most
from studio.figures import words
from studio.figures.memory import NAMES

WAYS = {
    "standalone": "Every character is a pruned model of its own, as Export makes it. Each one costs a model.",
    "gather": "One dense model in memory; the character that speaks is cut out of it in a moment. Those spoken last stay ready."}
HEADS = ("Memory", "Fits?", "Characters at most")
NONE = '<p class="quiet">Prune a character first: its model says how large a cast of such characters would be.</p>'


def ways_html(needed: Sequence[Needed], decoder: Decoder, cast: Cast, card: int) -> str:
    """A row a way: its memory, whether it fits, and how many characters would."""
    rows = "".join(_way(one, most(one.way, decoder, cast, card, "characters"), card) for one in needed)
    heads = "".join(f"<th>{name}</th>" for name in ("", *HEADS))
    return (f'<div class="size-scroll"><table class="size-table ways"><thead><tr>{heads}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div>")


def basis_html(decoder: Decoder, cast: Cast, models: Sequence[str]) -> str:
    """On what the figures rest."""
    shape = decoder.shape
    told = ", ".join(html.escape(one) for one in models[:6]) + (f" and {len(models) - 6} more" if len(models) > 6 else "")
    return (f'<p class="quiet">For {words.count(cast.characters, "character")} ({told}) on a dense model of '
            f"{words.millions(shape.parameters)} weights, {words.size(shape.bytes)} in 16 bit; {cast.kept:,} of "
            f"{shape.intermediate_size:,} channels kept. A token of conversation takes {decoder.token_bytes / 1000:,.0f} kB, and "
            f"{words.count(cast.players, 'conversation')} of {cast.context:,} tokens "
            f"{words.size(cast.players * cast.context * decoder.token_bytes)}.</p>")


def _way(one: Needed, at_most: int, card: int) -> str:
    sign = '<b class="fits">✓ yes</b>' if one.bytes <= card else f"{words.size(one.bytes - card)} too much"
    cells = zip(HEADS, (words.size(one.bytes), sign, f"{at_most:,}"), strict=True)
    shown = "".join(f'<td data-head="{head}">{cell}</td>' for head, cell in cells)
    return f"<tr><th>{NAMES[one.way]}<small>{WAYS[one.way]}</small></th>{shown}</tr>"
