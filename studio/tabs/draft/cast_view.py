"""A cast as HTML, everything escaped: its plan as a table with fields, and each card with what can be done about it."""

import html
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.cards.card import unfinished
from engine.cards.cast_plan import MOST_VALUE
from engine.cards.fields import LABELS
from engine.cards.macros import expand_macros
from engine.cards.prompt import PLAYER
from engine.cards.speaking import START
from studio.figures.words import count
from studio.store.casts import Cast, CastDraft
from studio.workers.casting import missing

_SHOWN = ("description", "personality", "scenario", "first_mes", "mes_example")
_LONGEST = 60  # characters of a place in the list of casts


@dataclass(frozen=True)
class State:
    """What is known of a cast beside its plan. `slugs`: of the characters in the library; `mine`: it is being drafted, `busy`: any
    cast is; `progress`: stage, done, total; `again`: rows that get another card; `ending`: how the last drafting ended."""

    drafts: Mapping[int, CastDraft]
    slugs: Mapping[str, str]
    mine: bool = False
    busy: bool = False
    progress: tuple[str, int, int] = ("", 0, 0)
    again: Sequence[int] = ()
    ending: str = ""


def cast_html(every: Sequence[Cast], cast: Cast, state: State, who: str) -> str:
    """The cast that is looked at. `every`: all casts, newest first; `who`: a sentence on the model that writes."""
    return "".join([_choice(every, cast), f'<p class="cast-place">{html.escape(cast.place)}</p>', _plan(cast, state),
                    _foot(cast, state, who), "".join(_card(cast, position, state) for position in sorted(state.drafts)),
                    _keep_all(cast, state)])


def _choice(every: Sequence[Cast], cast: Cast) -> str:
    if len(every) < 2:
        return ""
    options = "".join(f'<option value="{one.id}"{" selected" if one.id == cast.id else ""}>'
                      f'{html.escape(_short(one.place))} · {time.strftime("%d %b %Y, %H:%M", time.localtime(one.made))}</option>'
                      for one in every)
    return f'<label class="cast-choice">Cast <select data-look="cast">{options}</select></label>'


def _short(place: str) -> str:
    return place if len(place) <= _LONGEST else f"{place[:_LONGEST].rsplit(None, 1)[0]} …"


def _plan(cast: Cast, state: State) -> str:
    """The plan: fields in rows without a card, plain words in the others."""
    names = list(dict.fromkeys(name for row in cast.rows for name in row))
    if not names:
        return f'<p class="quiet">{count(len(cast.rows), "character")}, without quotas.</p>'
    heads = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in names)
    rows = []
    for position, row in enumerate(cast.rows):
        fixed = state.mine or position in state.drafts
        draft = state.drafts.get(position)
        name = html.escape(unfinished(draft.card).name) if draft else ""
        cells = "".join(f"<td>{_cell(position, column, one, row.get(one, ''), fixed)}</td>" for column, one in enumerate(names))
        rows.append(f'<tr data-key="{position}"><th scope="row">{position + 1}</th>{cells}<td>{name}</td></tr>')
    return (f'<form id="cast-form" class="cast-plan" data-do="change" data-cast="{cast.id}"><table class="plain-table">'
            f'<thead><tr><td></td>{heads}<th scope="col">who</th></tr></thead><tbody>{"".join(rows)}</tbody></table></form>')


def _cell(position: int, column: int, name: str, value: str, fixed: bool) -> str:
    if fixed:
        return html.escape(value) or '<span class="quiet">open</span>'
    return (f'<input name="{position}-{column}" value="{html.escape(value)}" maxlength="{MOST_VALUE}" placeholder="open" '
            f'autocomplete="off" aria-label="{html.escape(name)} of character {position + 1}">')


def _foot(cast: Cast, state: State, who: str) -> str:
    left = missing(cast, state.drafts)
    if state.mine:
        stage, done, total = state.progress
        share = done / total if total else 0
        said = f"{stage or 'Starting'}…"
        return (f'<div class="cast-under-way" role="status"><span>{said}</span><div class="bar" role="progressbar" '
                f'aria-label="Drafting" aria-valuenow="{share * 100:.0f}" aria-valuemin="0" aria-valuemax="100">'
                f'<i style="width:{share * 100:.0f}%"></i></div>'
                f'<div class="live-buttons"><button class="stop" data-do="stop">Stop</button></div></div>')
    parts = [f'<p class="quiet" role="status">{state.ending}</p>' if state.ending else ""]
    if state.busy:
        parts.append('<p class="quiet">Another cast is being drafted.</p>')
    elif left:
        label = "Draft these characters" if not state.drafts else f"Go on: {len(left)} left"
        parts.append(f'<div class="live-buttons"><button type="button" form="cast-form" class="primary large" data-do="draft" '
                     f'data-cast="{cast.id}">{label}</button></div><p class="quiet">{html.escape(who)}</p>')
    return "".join(parts)


def _card(cast: Cast, position: int, state: State) -> str:
    draft = state.drafts[position]
    card = unfinished(draft.card)
    name = html.escape(card.name)
    values = " · ".join(filter(None, cast.rows[position].values())) if position < len(cast.rows) else ""
    notes = []
    if draft.twin:
        shared = f" Both have: {', '.join(draft.shared)}." if draft.shared else ""
        notes.append(f"Still too like {draft.twin} after {count(draft.tries, 'draft')}.{shared}")
    if draft.thin:
        notes.append(f"The model left thin: {', '.join(LABELS[key].lower() for key in draft.thin if key in LABELS)}.")
    if draft.unsaid:
        notes.append(f"The texts never mention: {', '.join(draft.unsaid)}.")
    if position in state.again:
        notes.append("Being drafted again; this one stays until the new one is there.")
    noted = "".join(f'<p class="cast-note">{html.escape(one)}</p>' for one in notes)
    fields = "".join(f"<dt>{LABELS[key]}</dt><dd>{html.escape(text)}</dd>" for key in _SHOWN
                     if (text := START.sub("", expand_macros(str(draft.card["data"].get(key) or ""), card, PLAYER)).strip()))
    return (f'<article class="cast-card {draft.state}" data-key="{draft.id}" aria-label="{name}"><h4>{name} '
            f'<span class="quiet">{html.escape(values)}</span></h4><p>{html.escape(draft.line)}</p>{noted}'
            f'<details><summary>The card</summary><dl>{fields}</dl></details>{_buttons(cast, draft, state, name)}</article>')


def _buttons(cast: Cast, draft: CastDraft, state: State, name: str) -> str:
    """What can be done about a card."""
    def button(do: str, label: str, kind: str = "") -> str:
        return f'<button class="{kind}" data-do="{do}" data-id="{draft.id}" aria-label="{label}: {name}">{label}</button>'

    again = (f'<button data-do="draft" data-cast="{cast.id}" data-position="{draft.position}" aria-label="Draft again: {name}"'
             f'{" disabled" if state.busy else ""}>Draft again</button>')
    slug = state.slugs.get(draft.character or "", "")
    if draft.state == "kept":
        shown = (f'<a href="?character={html.escape(slug)}&amp;room=draft" aria-label="Open {name}">Open</a>'
                 '<span class="quiet">In the library.</span>' if slug else
                 f'<span class="quiet">Was kept, and deleted from the library.</span>{again}')
    elif draft.state == "dropped":
        shown = f'{button("back", "Take back")}{again}<span class="quiet">Dropped.</span>'
    else:
        shown = f'{button("keep", "Keep", "primary")}{button("drop", "Drop")}{again}'
    return f'<div class="live-buttons">{shown}</div>'


def _keep_all(cast: Cast, state: State) -> str:
    open_ones = [one for one in state.drafts.values() if one.state == "drafted"]
    if len(open_ones) < 2:
        return ""
    return (f'<div class="live-buttons cast-all"><button data-do="keep" data-id="{cast.id}">Keep all {len(open_ones)}</button>'
            '<span class="quiet">A kept card is a character of the library, with its greeting and example dialogue.</span></div>')
