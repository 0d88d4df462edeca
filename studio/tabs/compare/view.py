"""A pair of answers side by side as HTML, with its votes. Everything is escaped.

Before the vote on a blind round nothing here depends on which model is where: no name, no size, no measure, no earlier
answer, and no text before both have begun (one model may take longer to load). Pure functions of a Scene.
"""

import html
from collections.abc import Sequence

from studio.figures.words import count, percent
from studio.labels import FINISHES
from studio.tabs.answers import BASIS, CURSOR, lore_html, measures_words, text_html, waiting_words
from studio.tabs.compare.scene import SIDE, Cell, Scene, Shown
from studio.tabs.models import DENSE, Contender, short_name

DENSE_MEANS = "Dense is the whole model, before anything was removed."
SUGGESTED = 3  # questions on the page
_VERDICTS = {"pruned": "You chose the pruned model.", "dense": "You chose the dense model.", "tie": "You called it a tie.",
             "both_bad": "You found both bad."}


def empty_html(scene: Scene) -> str:
    """What to do while there is no pruned model to compare."""
    char = html.escape(scene.char)
    if scene.waiting:
        word = "is being made now" if scene.waiting[-1].state != "queued" else "waits in the queue"
        return (f'<div class="empty"><h3>Nearly there</h3><p>A pruned model of {char} {word}. '
                "When it is done, it appears here by itself, and you can put it beside the dense model. "
                f"{DENSE_MEANS}</p></div>")
    return (f'<div class="empty"><h3>Nothing to compare yet</h3><p>Here {char} on the dense model and {char} on '
            f"a pruned one answer side by side, and you say which answer is better. {DENSE_MEANS} Make a pruned model first: the "
            "<b>Prune</b> room does that with a few clicks.</p></div>")


def pair_html(scene: Scene) -> str:
    """The present round with what was said before, or the invitation to begin."""
    if scene.fault:
        return f'<div class="versus"><div class="chat-note warn">{html.escape(scene.fault)} Correct it in Draft.</div></div>'
    shown = scene.pair
    if shown is None:
        return (f'<div class="versus" data-state="begin">{_greeting(scene, scene.greeting)}<p class="versus-invite">'
                f'Write one message. Two models answer as {html.escape(scene.char)}, side by side.</p>{_suggested(scene)}</div>')
    turns = shown.round.turns
    greeting = turns[0][1] if turns and turns[0][0] == "assistant" else ""
    sides = "".join(_side(scene, shown, place, side) for place, side in enumerate(shown.places))
    state = "busy" if shown.busy else "vote" if shown.can_vote else "over"
    speaks = " data-speaks" if shown.busy else ""
    return (f'<div class="versus" data-state="{state}"{speaks} data-round="{shown.round.id}" role="log" '
            f'aria-busy="{"true" if shown.busy else "false"}" aria-label="Two answers">'
            f'{_before(scene)}{_greeting(scene, greeting)}{_earlier(scene, shown)}{_said(scene, shown.round.message)}'
            f'<div class="versus-sides">{sides}</div>{_foot(scene, shown)}</div>')


def facts_words(contender: Contender) -> str:
    """A model's name and size, for a heading's second line."""
    name = short_name(contender) if contender.run is None else ""
    return " · ".join(filter(None, (name, contender.size_words)))


def words_html(scene: Scene, cell: Cell, text: str) -> str:
    """What an answer says, with a cursor while it grows."""
    if not text and cell.over and not cell.fault:
        return '<span class="quiet">Said nothing.</span>'
    return text_html(text, scene.card, scene.player) + (CURSOR if not cell.over else "")


def lines_html(lines: Sequence[str]) -> str:
    """Small lines below an answer; empty ones are left out."""
    found = "".join(f"<div>{html.escape(line)}</div>" for line in lines if line)
    return f'<div class="versus-measures measure">{found}</div>' if found else ""


def _side(scene: Scene, shown: Shown, place: int, side: int) -> str:
    cell, spot = shown.cells[side], ("left", "right")[place]
    begun = not shown.round.blind or all(other.begun for other in shown.cells)
    text = cell.text if begun else ""
    title, facts, chosen = spot.capitalize(), "", ""
    if shown.named:
        title, facts = cell.contender.name, facts_words(cell.contender)
        won = shown.verdict == ("dense" if cell.contender.run is None else "pruned")
        chosen = '<span class="versus-chosen">Your vote</span>' if won else ""
    foot = _measures(shown, cell)
    return (f'<article class="versus-side{" won" if chosen else ""}" id="compare-{spot}" aria-label="{html.escape(title)} says">'
            f'<header><h3>{html.escape(title)}</h3>{chosen}<span class="quiet">{html.escape(facts)}</span></header>'
            f'<div class="versus-words">{words_html(scene, cell, text)}</div>{foot}</article>')


def _measures(shown: Shown, cell: Cell) -> str:
    if not cell.over:
        return lines_html([waiting_words(cell.reply)] if cell.reply and not shown.round.blind else [])
    lore = lore_html(cell.measures) if shown.named else ""
    measures = measures_words(cell.measures, not shown.engine) if shown.named else ""
    return lore + lines_html([FINISHES.get(cell.reason, ""), measures])


def _earlier(scene: Scene, shown: Shown) -> str:
    turns = shown.round.turns[1:] if shown.round.turns and shown.round.turns[0][0] == "assistant" else shown.round.turns
    messages = sum(role == "user" for role, _ in turns)
    if not messages:
        return ""
    said = count(messages, "earlier message")
    if not shown.named:
        return (f'<p class="versus-hidden quiet">{said} in this conversation. Each model remembers its own answers; they show '
                "again after your vote, because they could give a side away.</p>")
    rows = []
    for role, text in turns:
        if role == "user":
            rows.append(_said(scene, text))
        else:
            name = DENSE if role == f"{SIDE}0" else "Pruned"
            words = text_html(text or "…", scene.card, scene.player)
            rows.append(f'<div class="versus-before"><h4>{name}</h4><p>{words}</p></div>')
    return f'<details class="versus-earlier"><summary>{said}</summary><div class="versus-turns">{"".join(rows)}</div></details>'


def _said(scene: Scene, text: str) -> str:
    return (f'<div class="versus-said"><h4>{html.escape(scene.player)}</h4>'
            f'<p id="compare-said">{text_html(text, scene.card, scene.player)}</p></div>')


def _greeting(scene: Scene, greeting: str) -> str:
    if not greeting.strip():
        return ""
    return (f'<details class="versus-greeting"><summary>{html.escape(scene.char)} opens with a greeting</summary>'
            f'<p>{text_html(greeting, scene.card, scene.player)}</p></details>')


def _foot(scene: Scene, shown: Shown) -> str:
    found = []
    faults = sorted({cell.fault for cell in shown.cells if cell.fault})
    for fault in faults:
        found.append(f'<div class="chat-note warn" role="alert" id="compare-failure">{html.escape(fault)} '
                     "Press Regenerate to ask both again.</div>")
    if shown.busy and shown.round.blind and not all(cell.begun for cell in shown.cells):
        found.append(f'<p class="quiet" role="status" id="compare-waiting">{html.escape(waiting_words(*shown.replies))}</p>')
    if shown.can_vote:
        found.append('<p class="versus-ask">Which answer is better? <span class="quiet">Keys: <kbd>1</kbd> left, <kbd>2</kbd> tie, '
                     "<kbd>3</kbd> both bad, <kbd>4</kbd> right</span></p>")
    if shown.verdict:
        words = f"{_VERDICTS[shown.verdict]} {_reveal(shown)}"
        found.append(f'<p class="versus-revealed" role="status" id="compare-revealed">{words}</p>{_suggested(scene)}')
    if not shown.round.blind and not shown.busy:
        found.append('<p class="versus-open quiet">You knew who said what, so this round takes no vote.</p>')
    if shown.engine and not shown.busy:
        same = f"Both answered in the same precision: {html.escape(shown.engine)}."
        found.append(f'<p class="quiet versus-open" id="compare-engine">{same}</p>')
    if shown.named and shown.whole:
        found.append(f'<details class="chat-measures"><summary>What the figures mean</summary><p>{html.escape(BASIS)} '
                     "Both sides had the same seed. One answered after the other, so neither slowed the other down.</p></details>")
    if scene.note:
        found.append(f'<p class="quiet">{html.escape(scene.note)}</p>')
    return f'<div class="versus-foot">{"".join(found)}</div>'


def _suggested(scene: Scene) -> str:
    """Questions that no model has learned from. After each vote the next one comes by itself."""
    if not scene.suggested:
        return ""
    buttons = "".join(f'<button data-do="suggest" data-text="{html.escape(text)}">'
                      f'{text_html(text, scene.card, scene.player)}</button>'
                      for text in scene.suggested[:SUGGESTED])
    number = count(len(scene.suggested), "question")
    return (f'<div class="versus-suggested"><p class="quiet">Or one of {number} that it has not learned from; after each '
            f'vote, the next comes by itself:</p>{buttons}</div>')


def _before(scene: Scene) -> str:
    """The vote that has brought this question."""
    if scene.before is None or not scene.before.verdict:
        return ""
    return (f'<p class="versus-open quiet" id="compare-before">The question before: {_VERDICTS[scene.before.verdict]} '
            f'{_reveal(scene.before)}</p>')


def _reveal(shown: Shown) -> str:
    left, right = (shown.cells[side].contender for side in shown.places)
    dense, pruned = (right, left) if left.run else (left, right)
    smaller = f" It is {percent(1 - pruned.bytes / dense.bytes)} smaller on disk." if 0 < pruned.bytes < dense.bytes else ""
    return f"The pruned one was on the {'left' if left.run else 'right'}.{smaller}"
