"""Is it still the character? The verdict on a finished run, first of all on its page, and the evaluation that makes it."""

import base64
import html
from typing import Any

import gradio as gr

from engine.base.evidence import Evaluation, Telling, headline
from engine.base.files import slug
from engine.base.verdict_page import verdict_html, verdict_page
from engine.cards.fields import as_v3
from engine.cards.script import with_question
from studio.figures.words import count
from studio.services import Services
from studio.store import characters
from studio.store.runs import Run
from studio.tabs import judges
from studio.tabs.answers import waiting_words
from studio.tabs.models import dense_of, finished
from studio.workers.commands import result_folder
from studio.workers.siblings import Asked

ASK = ("Is it still {}? Both models answer the same questions, and every answer is measured: who it sounds like, whether it "
       "keeps to the card, whether it loops. It takes some minutes, and goes on where it was stopped.")

TEACH = ("Another question of the same kind, with the dense model's answer, becomes a line that the next run learns from. This one "
         "does not: it is measured with.")
KEPT = "Answers as {{char}} would, in {{char}}'s own voice, with nothing that the description contradicts."


def contents(services: Services, run: Run | None) -> dict[str, Any]:
    """The verdict on a run, which comes before all else about it, and what can be done for one, which comes after."""
    if run is None or run.state != "done" or result_folder(services.settings, run) is None:
        return {"prune-verdict": "", "prune-asking": "", "prune-judging": False}
    evaluating = services.evaluating
    found, busy = evaluating.result(run.character), evaluating.character()
    speaker = speaker_of(services, found, run) if found else ""
    shown = verdict_html(found, speaker, lambda one: _item_buttons(services, run, one)) if found and speaker else ""
    if busy == run.character:
        return {"prune-verdict": shown, "prune-asking": _progress(services), "prune-judging": False}
    ending = evaluating.endings.get(run.character, "")
    said = f'<p role="status">{html.escape(ending)}</p>' if ending else ""
    return {"prune-verdict": shown, "prune-asking": said + _buttons(services, run, found if speaker else None, bool(busy)),
            "prune-judging": True, "prune-judge-says": judges.says_html(services)}


def line_html(services: Services, run: Run | None) -> str:
    """The verdict on a run in one line, for other rooms; "" where there is none."""
    found = services.evaluating.result(run.character) if run else None
    speaker = speaker_of(services, found, run) if found and run else ""
    return f'<p class="quiet">Measured: {html.escape(headline(found, speaker))}</p>' if found and speaker else ""


def speaker_of(services: Services, found: Evaluation, run: Run) -> str:
    """The id of a run in a result; "" where it is not in it."""
    folder = str(result_folder(services.settings, run))
    return next((one.id for one in found.runs() if one.model == folder), "")


def begin(services: Services, run: Run, quick: bool = True) -> None:
    """Evaluate a run, as the character that it was made from. Raises UserError."""
    folder = result_folder(services.settings, run)
    assert folder
    card = characters.version(services.store, run.character, run.version).card
    found = judges.chosen(services)
    services.evaluating.begin(run.character, card, dense_of(run).model, folder, quick, judges.check(found), found.player)


def actions(services: Services) -> dict[str, Any]:
    """What the buttons do, by name; each gets the button's data."""
    def ask(data: dict[str, Any]) -> None:
        for run in finished(services, data["character"]):
            if run.id == data["id"]:
                begin(services, run, data["quick"] == "yes")

    def keep(data: dict[str, Any]) -> None:
        said = keep_question(services, data["character"], data["item"])
        gr.Info(said, title="Test script")

    siblings = services.siblings
    return {"verdict-ask": ask, "verdict-keep": keep, "verdict-stop": lambda data: services.evaluating.stop(),
            "verdict-teach": lambda data: siblings.begin(data["character"], data["item"]),
            "verdict-teach-stop": lambda data: siblings.stop(data["character"])}


def keep_question(services: Services, character: str, item: str) -> str:
    """Ask what an item of the evaluation asked in the character's test script, too; a sentence on it. Raises UserError."""
    _, one = services.evaluating.differing(character, item)
    head = characters.head(services.store, character)
    card = with_question(head.card, one.lines, KEPT)
    if card == as_v3(head.card):
        return "The test script asks this already."
    characters.save(services.store, character, card, note="A question was added to the test script", autosave=False)
    return "The question was added. Draft shows it; Compare asks it."


def _item_buttons(services: Services, run: Run, one: Telling) -> str:
    """What can be done with a case where the two differ; and a line like it, while it is written and after."""
    asked = services.siblings.last(run.character)
    disabled, own = " disabled" if asked and not asked.ending else "", asked if asked and asked.item == one.item else None
    data = f'data-character="{html.escape(run.character)}" data-item="{html.escape(one.item)}"'
    if own and not own.ending:
        return f'{_sibling_html(own)}<div class="live-buttons"><button data-do="verdict-teach-stop" {data}>Stop</button></div>'
    return (f'{_sibling_html(own) if own else ""}<div class="live-buttons">'
            f'<button data-do="verdict-keep" {data}>Add to the test script</button>'
            f'<button data-do="verdict-teach" {data} title="{TEACH}"{disabled}>Learn from one like it</button></div>')


def _sibling_html(asked: Asked) -> str:
    reply = asked.reply
    text = reply.text.strip() if reply else ""
    said = asked.ending or (waiting_words(reply) if reply else "") or "Writing…"
    answer = f"<blockquote>{html.escape(text)}</blockquote>" if text else ""
    return (f'<div class="verdict-sibling"><b>“{html.escape(asked.question)}”</b>{answer}<p class="soft" role="status">'
            f"{html.escape(said)}</p></div>")


def _progress(services: Services) -> str:
    stage, done, total = services.evaluating.progress
    counted = f": {done:,} of {total:,}" if total else ""
    bar = (f'<div class="bar" role="progressbar" aria-label="Evaluation" aria-valuemin="0" aria-valuemax="{total}" '
           f'aria-valuenow="{done}"><i style="width:{100 * done / total:.0f}%"></i></div>' if total else "")
    return (f'<div class="verdict-wait"><p>{html.escape(stage or "Starting")}{counted}</p>{bar}</div>'
            '<div class="live-buttons"><button data-do="verdict-stop">Stop</button></div>')


def _buttons(services: Services, run: Run, found: Evaluation | None, busy: bool) -> str:
    person = characters.get(services.store, run.character)
    name = person.char if person else "the character"
    ask = lambda id, words, quick, kind="": (
        f'<button id="{id}" class="{kind}" data-do="verdict-ask" data-id="{html.escape(run.id)}" data-quick="{quick}" '
        f'data-character="{html.escape(run.character)}"{" disabled" if busy else ""}>{words}</button>')
    if found is None:
        kept = services.evaluating.broken_off(run.character)
        begun = f" It has begun: {count(kept, 'answer')} {'is' if kept == 1 else 'are'} kept." if kept else ""
        return (f'<p class="quiet">{html.escape(ASK.format(name) + begun)}</p><div class="live-buttons">'
                f'{ask("prune-ask", f"Is it still {html.escape(name)}?", "yes", "primary")}</div>')
    page = base64.b64encode(verdict_page(found).encode()).decode()
    save = f'<a class="verdict-save" download="{slug(name)}-verdict.html" href="data:text/html;base64,{page}">Save as a page</a>'
    return f'<div class="live-buttons">{ask("prune-ask-more", "Ask more questions", "no")}{save}</div>'
