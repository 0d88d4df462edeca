"""Answers side by side as HTML: a pair with its votes, grids of several models, and what the votes say. Everything is escaped.

Before the vote on a blind round nothing here depends on which model is where: no name, no size, no measure, no earlier
answer, and no text before both have begun (one model may take longer to load). Pure functions of a Scene, whose side 0 of
a pair is always the dense model; `places` says where each side is shown.
"""

import html
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.base.ids import FinishReason
from engine.base.verdict import wilson
from engine.cards.card import Card
from studio.figures.votes import RunVotes
from studio.figures.words import count, moment, percent
from studio.labels import FINISHES
from studio.store.rounds import Answer, Round, Tally, Vote
from studio.store.runs import Run
from studio.tabs.answers import BASIS, CURSOR, engine_words, lore_html, measures_of, measures_words, text_html, waiting_words
from studio.tabs.models import DENSE, Contender, removed_by, short_name
from studio.workers.speech import Reply

SIDE = "side "
"""The role of an answer in a round's history: "side 0" was said by the model of side 0, and only that model reads it."""
DONE = (FinishReason.ENDED, FinishReason.LIMIT, FinishReason.LOOP, FinishReason.STOPPED)
LOST = "Interrupted when the studio was closed."
DENSE_MEANS = "Dense is the whole model, before anything was removed."
FEWEST = 10  # decided votes before a preference is called one
SUGGESTED = 3  # questions on the page
_NARROW = 0.2  # width of an interval around one half from which a difference, if any, is called small
HOW = ("Only votes in blind rounds count, each for the model that it was given to, whichever side it was on. A tie "
       "counts half for each; “Both bad” counts for neither. The range is the 95 % Wilson interval: if it holds 50 %, chance "
       "alone could have made this result. Decide beforehand how many votes you will give. If you stop as soon as one model "
       f"leads, chance decides more often than it seems. With fewer than {FEWEST} votes nothing is claimed at all.")
_VERDICTS = {"pruned": "You chose the pruned model.", "dense": "You chose the dense model.", "tie": "You called it a tie.",
             "both_bad": "You found both bad."}


@dataclass(frozen=True)
class Cell:
    """One answer as it is now. `text` grows while `reply` does; `over`: nothing will follow; `fault`: why it broke off."""

    answer: Answer
    contender: Contender
    reply: Reply | None
    waits: bool = False

    @property
    def text(self) -> str:
        """What was said so far."""
        return self.reply.text if self.reply else self.answer.text

    @property
    def reason(self) -> str:
        """How it ended; "" before, and where that was never known."""
        return self.reply.reason if self.reply else self.answer.reason

    @property
    def measures(self) -> dict[str, Any]:
        """What was measured; {} before its end."""
        return (measures_of(self.reply) if self.over else {}) if self.reply else self.answer.measures

    @property
    def over(self) -> bool:
        """Whether nothing will follow."""
        return not self.waits and (self.reply is None or self.reply.done)

    @property
    def begun(self) -> bool:
        """Whether something was said, or will never be."""
        return self.over or bool(self.reply and self.reply.tokens)

    @property
    def good(self) -> bool:
        """Whether it came to a proper end."""
        return self.over and self.reason in DONE

    @property
    def fault(self) -> str:
        """Why it did not, for the reader."""
        if not self.over or self.good:
            return ""
        sentence = self.reply.sentence if self.reply else self.answer.measures.get("sentence")
        return str(sentence or LOST)


@dataclass(frozen=True)
class Shown:
    """A round with its answers by side, and its votes."""

    round: Round
    cells: list[Cell]
    votes: list[Vote]

    @property
    def replies(self) -> list[Reply]:
        """What is under way."""
        return [cell.reply for cell in self.cells if cell.reply]

    @property
    def engine(self) -> str:
        """With which weights and program all sides have answered; "" where they differ, or none has answered."""
        words = {engine_words(cell.measures) for cell in self.cells if cell.over and cell.measures}
        return next(iter(words)) if len(words) == 1 else ""

    @property
    def busy(self) -> bool:
        """Whether something will follow."""
        return not all(cell.over for cell in self.cells)

    @property
    def places(self) -> list[int]:
        """The sides from left to right."""
        return [1, 0] if self.round.swapped else [0, 1]

    @property
    def whole(self) -> bool:
        """Whether all answers came to a proper end."""
        return all(cell.good for cell in self.cells)

    @property
    def verdict(self) -> str:
        """The vote on a pair; "" before it."""
        return self.votes[0].verdict if self.votes else ""

    @property
    def named(self) -> bool:
        """Whether the reader may know who said what."""
        return not self.round.blind or bool(self.verdict)

    @property
    def can_vote(self) -> bool:
        """Whether the reader is to vote now."""
        return self.round.kind == "pair" and not self.named and self.whole


@dataclass(frozen=True)
class Scene:
    """A comparison as it is now. `pair`: the present round, None when a conversation begins; `grids`: newest first.

    `suggested`: questions that were not asked yet; `before`: the round whose vote has brought the present question.
    """

    character: str
    char: str
    player: str
    card: Card | None
    fault: str
    runs: list[Run]
    run: Run | None
    picks: list[str]
    waiting: list[Run]
    pair: Shown | None = None
    grids: list[Shown] = field(default_factory=list)
    tallies: dict[str, Tally] = field(default_factory=dict)
    undo: bool = False
    note: str = ""
    suggested: list[str] = field(default_factory=list)
    before: Shown | None = None

    @property
    def shown(self) -> Shown | None:
        """The round that may be under way."""
        return self.pair or next(iter(self.grids), None)

    @property
    def busy(self) -> bool:
        """Whether an answer is under way or waits for its turn."""
        return bool(self.shown and self.shown.busy)

    @property
    def greeting(self) -> str:
        """What the character opens with."""
        return self.card.greeting if self.card and self.card.greeting.strip() else ""


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


def tally_html(scene: Scene) -> str:
    """What the votes say so far, and how they are counted."""
    tally = scene.tallies.get(scene.run.id) if scene.run else None
    if tally is None:
        return ""
    parts = [("pruned", "Pruned better", tally.pruned), ("tie", "Tie", tally.tie), ("dense", "Dense better", tally.dense),
             ("bad", "Both bad", tally.both_bad)]
    bar = "".join(f'<i class="{kind}" style="flex:{number}"></i>' for kind, _, number in parts if number)
    legend = "".join(f'<li class="{kind}"><b>{number:,}</b> {word}</li>' for kind, word, number in parts)
    return (f'<div class="tally"><h3>Your votes · {html.escape(scene.run.name if scene.run else "")}</h3>'
            f'<p class="tally-words" id="compare-verdict" role="status">{html.escape(verdict_words(tally))}</p>'
            f'<p class="quiet" id="compare-needed">{html.escape(needed_words(tally))}</p>'
            f'<div class="tally-bar" aria-hidden="true">{bar}</div><ul id="compare-tally" class="measure">{legend}</ul>'
            f'<details><summary>How this is counted</summary><p>{html.escape(HOW)}</p></details></div>')


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


def verdict_words(tally: Tally) -> str:
    """What the votes on one pruned model say, with how many there are."""
    bad = f" Both were bad in {count(tally.both_bad, 'more round')}." if tally.both_bad else ""
    if tally.share is None:
        return f"No votes for either model yet.{bad or ' Compare blind, then say which answer is better.'}"
    decided = tally.pruned + tally.dense + tally.tie
    after = f"After {count(decided, 'vote')}"
    spread = f"{percent(tally.share)} for the pruned model; likely between {percent(tally.low)} and {percent(tally.high)}."
    if tally.low <= 0.5 <= tally.high:
        if tally.high - tally.low <= _NARROW:
            return f"{after} you cannot tell them apart. If there is a difference, it is small: {spread}{bad}"
        return f"{after} you cannot tell them apart yet: {spread}{bad}"
    leader = "pruned" if tally.low > 0.5 else "dense"
    if decided < FEWEST:
        return f"{after} the {leader} model leads, but that is too few to go by: {spread}{bad}"
    return f"{after} you prefer the {leader} model: {spread}{bad}"


def votes_needed(tally: Tally) -> int:
    """How many more votes decide, if they go on as they did: until the interval leaves out one half, or is narrow around it.

    0: decided. Without votes: the fewest that can decide, all for one model.
    """
    decided = tally.pruned + tally.dense + tally.tie
    share = 1.0 if tally.share is None else tally.share
    return next(more for more in itertools.count() if _is_decided(share, decided + more))


def _is_decided(share: float, votes: int) -> bool:
    low, high = wilson(share * votes, votes)
    return votes >= FEWEST and (not low <= 0.5 <= high or high - low <= _NARROW)


def needed_words(tally: Tally) -> str:
    """How many votes are still needed."""
    decided, more = tally.pruned + tally.dense + tally.tie, votes_needed(tally)
    if not decided:
        return f"It takes at least {count(more, 'vote')} to decide."
    return (f"If the votes go on like these {decided:,}, {count(more, 'more vote')} will decide." if more else
            f"Decided, by {count(decided, 'vote')}.")


def run_votes(runs: Sequence[Run], tallies: Mapping[str, Tally]) -> list[RunVotes]:
    """The figure's data: the runs that were voted on."""
    found = []
    for run in runs:
        tally = tallies.get(run.id)
        if tally and tally.total:
            found.append(RunVotes(run.name, removed_by(run), tally.share, tally.low, tally.high,
                                  tally.pruned + tally.dense + tally.tie, tally.both_bad))
    return found
