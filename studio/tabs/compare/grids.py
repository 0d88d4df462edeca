"""Grids as HTML: one line, and the answers of several models to it, each with its own vote. Everything is escaped. Pure."""

import html

from studio.figures.words import count, moment
from studio.labels import FINISHES
from studio.tabs.answers import lore_html, measures_words, text_html, waiting_words
from studio.tabs.compare.scene import Cell, Scene, Shown
from studio.tabs.compare.view import facts_words, lines_html, words_html


def grids_html(scene: Scene) -> str:
    """The newest grids, the newest first, with the sums of their votes."""
    if scene.fault:
        return f'<div class="versus"><div class="chat-note warn">{html.escape(scene.fault)} Correct it in Draft.</div></div>'
    if not scene.grids:
        return ('<div class="versus" data-state="begin"><p class="versus-invite">Choose pruned models above and write one line. '
                f'The dense model and each of them answer it as {html.escape(scene.char)}, one after another.</p></div>')
    note = f'<p class="quiet">{html.escape(scene.note)}</p>' if scene.note else ""
    rows = "".join(_grid(scene, shown) for shown in scene.grids)
    speaks = " data-speaks" if scene.busy else ""
    return f'<div class="versus" data-state="grid"{speaks}>{_sums(scene)}{rows}{note}</div>'


def _sums(scene: Scene) -> str:
    """How many of the rated answers on the page were good, by model."""
    found: dict[tuple[str | None, str], list[bool]] = {}
    names = {}
    for shown in scene.grids:
        verdicts = {vote.answer: vote.verdict == "good" for vote in shown.votes}
        for cell in shown.cells:
            if cell.answer.id in verdicts:
                who = (cell.answer.run, cell.answer.model)
                found.setdefault(who, []).append(verdicts[cell.answer.id])
                names[who] = cell.contender
    if not found:
        return ""
    ordered = sorted(found.items(), key=lambda one: names[one[0]].removed)
    parts = [f"{html.escape(names[who].name)}: <b>{sum(good)} of {len(good)}</b>" for who, good in ordered]
    return f'<p class="grid-sums measure" id="compare-grid-sums">Good answers in the grids below · {" · ".join(parts)}</p>'


def _grid(scene: Scene, shown: Shown) -> str:
    verdicts = {vote.answer: vote.verdict for vote in shown.votes}
    cells = "".join(_grid_cell(scene, shown, cell, verdicts.get(cell.answer.id, "")) for cell in shown.cells)
    when = moment(shown.round.made)
    basis = f"card version {shown.round.version} · seed {shown.round.seed} · {count(len(shown.cells), 'answer')} · {when}"
    basis = html.escape(" · ".join(filter(None, (basis, shown.engine))))
    line = text_html(shown.round.message, scene.card, scene.player)
    return (f'<section class="grid-round"><header><p class="grid-line">{line}</p>'
            f'<span class="quiet measure">{basis}</span></header><div class="grid-cells">{cells}</div></section>')


def _grid_cell(scene: Scene, shown: Shown, cell: Cell, verdict: str) -> str:
    if cell.waits:
        words, foot = '<span class="quiet">Waiting for its turn.</span>', []
    else:
        words = words_html(scene, cell, cell.text)
        over = [cell.fault or FINISHES.get(cell.reason, ""), measures_words(cell.measures, not shown.engine)]
        foot = over if cell.over else [waiting_words(cell.reply) if cell.reply else ""]
    lore = lore_html(cell.measures) if cell.over else ""
    votes = _votes(cell, verdict) if cell.good and cell.answer.text else ""
    name, facts = html.escape(cell.contender.name), html.escape(facts_words(cell.contender))
    return (f'<article class="versus-side {verdict}" aria-label="{name} says"><header>'
            f'<h3>{name}</h3><span class="quiet">{facts}</span></header>'
            f'<div class="versus-words">{words}</div>{lore}{lines_html(foot)}{votes}</article>')


def _votes(cell: Cell, verdict: str) -> str:
    buttons = "".join(
        f'<button type="button" data-do="{kind}" data-answer="{html.escape(cell.answer.id)}" '
        f'aria-pressed="{"true" if verdict == kind else "false"}">{word}</button>'
        for kind, word in (("good", "Good"), ("bad", "Not good")))
    return f'<div class="grid-votes" role="group" aria-label="Your vote">{buttons}</div>'
