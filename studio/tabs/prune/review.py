"""The lines one at a time, the doubtful ones first: keep, rewrite or drop (assets/prune.js has the keys). Everything is escaped."""

import hashlib
import html
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from engine.calibration.filtering import doubts, strangers
from engine.cards.card import unfinished
from engine.cards.fields import fields_of
from engine.cards.speaking import uses_third_person
from studio import labels
from studio.store.lines import CalibrationLine, LineSet

ENOUGH = 20  # lines looked at, after which the rest is offered for approval
AHEAD = 12  # cards that a page has at hand, so that a key is answered at once
Doubts = Mapping[int, tuple[tuple[str, str], ...]]  # position of a line -> its doubts
KEYS = {"keep": ("Keep", "K"), "rewrite": ("Rewrite", "R"), "drop": ("Drop", "D"), "back": ("Back", "B")}
ALL = '<p class="quiet">You have looked at every line.</p>'
DONE = {"keep": "kept", "rewrite": "rewritten", "drop": "dropped"}


def doubts_of(raw: dict[str, Any], others: Sequence[str], lines: Sequence[CalibrationLine]) -> Doubts:
    """The doubts about each line. `raw`: the card; `others`: the names of all other characters."""
    card = unfinished(raw)
    names = strangers(" ".join(map(str, fields_of(raw).values())), others)
    third = uses_third_person(card.names, card.example_dialogue)
    return {line.position: doubts(line.question, line.answer, card.names, names, complete=line.complete,
                                  speaks_in_third_person=third) for line in lines}


def in_turn(lines: Sequence[CalibrationLine], found: Doubts) -> list[CalibrationLine]:
    """The lines that nobody has looked at: the doubtful ones, then the others in random order, so that a few represent all."""
    open_lines = [line for line in lines if not line.decision]
    order = {line.position: hashlib.sha256(line.question.encode("utf-8", "surrogatepass")).hexdigest() for line in open_lines}
    return sorted(open_lines, key=lambda line: (not found[line.position], "" if found[line.position] else order[line.position],
                                                line.position))


def review_html(chosen: LineSet, lines: Sequence[CalibrationLine], dropped: Sequence[CalibrationLine], found: Doubts) -> str:
    """The lines in turn, with the counter and the button that approves. `dropped`: lines that were taken out."""
    if chosen.state == "approved":
        return ""
    waiting = in_turn(lines, found)
    cards = "".join(_card(chosen, line, found[line.position]) for line in waiting[:AHEAD])
    keys = "".join(f'<button data-review="{name}"{" hidden" if name == "back" else ""}>{word} <kbd>{key}</kbd></button>'
                   for name, (word, key) in KEYS.items() if waiting or name == "back")
    return (f'<section id="prune-review" aria-label="Lines, one at a time">{_counter(lines, dropped, found)}'
            f'{cards or ALL}<div class="live-buttons review-keys">{keys}</div>{_approve(chosen, lines, dropped, found)}</section>')


def _looked(lines: Sequence[CalibrationLine], dropped: Sequence[CalibrationLine]) -> Counter[str]:
    return Counter(line.decision for line in (*lines, *dropped) if line.decision)


def _doubtful(lines: Sequence[CalibrationLine], found: Doubts) -> int:
    return sum(not line.decision and bool(found[line.position]) for line in lines)


def _counter(lines: Sequence[CalibrationLine], dropped: Sequence[CalibrationLine], found: Doubts) -> str:
    looked, doubtful = _looked(lines, dropped), _doubtful(lines, found)
    every = len(lines) + looked["drop"]
    parts = [*(f"{looked[one]:,} {word}" for one, word in DONE.items() if looked[one]),
             f"{doubtful:,} doubtful {'line' if doubtful == 1 else 'lines'} left" if doubtful else "the rules doubt no other line"]
    return (f'<div class="review-head"><b>Looked at {looked.total():,} of {every:,}</b><span>{" · ".join(parts)}</span>'
            f'<progress max="{max(every, 1)}" value="{looked.total()}" aria-label="Lines looked at"></progress></div>')


def _card(chosen: LineSet, line: CalibrationLine, found: Sequence[tuple[str, str]]) -> str:
    pills = "".join(f'<li class="pill stopped">{labels.doubt(id, name)}</li>' for id, name in found)
    texts = "".join(f'<div class="review-{name}" contenteditable="plaintext-only" data-field="{name}" role="textbox" '
                    f'aria-multiline="true" aria-label="{name.capitalize()}">{html.escape(getattr(line, name))}</div>'
                    for name in ("question", "answer"))
    return (f'<article class="review-card" data-key="{html.escape(chosen.id)}-{line.position}" data-position="{line.position}">'
            f'{f"<ul>{pills}</ul>" if pills else ""}{texts}</article>')


def _approve(chosen: LineSet, lines: Sequence[CalibrationLine], dropped: Sequence[CalibrationLine], found: Doubts) -> str:
    looked, doubtful = _looked(lines, dropped).total(), _doubtful(lines, found)
    enough, waits = looked >= ENOUGH, any(not line.decision for line in lines)
    words = (f"Looked at {looked:,}: approve the rest" if enough and waits else
             "Approve these lines" if waits else "Approve all lines")
    note = (f"{doubtful:,} of the rest {'is' if doubtful == 1 else 'are'} doubtful and unread." if enough and doubtful else
            f"Once you have looked at {ENOUGH}, one click approves the rest." if not enough and waits else "")
    return (f'<div class="live-buttons"><button id="prune-approve" class="large{"" if waits and not enough else " primary"}" '
            f'data-do="approve" data-id="{html.escape(chosen.id)}">{words}</button><span class="quiet">{note}</span></div>')
