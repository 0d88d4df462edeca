"""How long the card is, what could be better, and the prompt that is made from it. Knows no page."""

import html
from dataclasses import dataclass
from typing import Any

from engine.cards.advice import advice
from engine.cards.card import Card
from engine.cards.fields import LABELS, LISTS, fields_of
from engine.cards.prompt import Setting, render_description, render_greeting
from studio.services import Services

CONTEXT = 2048  # tokens that the model holds, where its own number is not known
MOST = 2048  # tokens of a character, however much the model holds: they are read before every answer
READ = ("name", "nickname", "description", "personality", "scenario", "first_mes", "alternate_greetings", "mes_example",
        "system_prompt", "post_history_instructions")  # by the model
GUIDE = ("<h3>Begin with three sentences</h3><p>Who is this? How do they talk? What do they want right now?</p>"
         "<p>Write them into the description. A greeting and a few lines of example dialogue do more for a voice than any "
         "list of traits.</p><p>Everything is saved while you write.</p>")
FINE = "<h3>Nothing to mend</h3><p>The card reads well. Talk to the character in the Preview room.</p>"


@dataclass(frozen=True)
class Size:
    """Tokens of a card: of each filled field that the model reads, of what it always reads, and what that should not exceed."""

    fields: dict[str, int]
    total: int
    budget: int
    exact: bool


def card_of(raw: dict[str, Any]) -> Card:
    """The card as the prompt needs it, also where it is not finished: nothing is asked of it."""
    fields = fields_of(raw)
    name, nickname = (" ".join(fields[key].split()) for key in ("name", "nickname"))
    return Card(name, nickname, fields["description"], fields["personality"], fields["scenario"], fields["first_mes"],
                fields["mes_example"], fields["system_prompt"], fields["post_history_instructions"],
                tuple(filter(str.strip, fields["alternate_greetings"])), tuple(fields["tags"]), raw)


def size_of(services: Services, model: str, raw: dict[str, Any]) -> Size:
    """The size of a card in the tokens of a model."""
    card, fields = card_of(raw), fields_of(raw)
    counts = {}
    for key in READ:
        text = "\n".join(fields[key]) if key in LISTS else fields[key]
        if text.strip():
            counts[key] = services.tokens.count(model, text)
    setting = Setting(count=lambda text: services.tokens.count(model, text))
    total = sum(setting.count(text) for text in (render_description(card, setting), render_greeting(card, setting)))
    context = services.tokens.context(model) or CONTEXT
    return Size(counts, total, min(context // 2, MOST), services.tokens.exact(model))


def meter_html(size: Size) -> str:
    """The total with its bar."""
    about = "" if size.exact else "about "
    share = min(size.total / size.budget, 1.0)
    state = "over" if size.total > size.budget else ""
    words = f"{about}{size.total:,} of {size.budget:,} tokens"
    hint = ("Tokens are pieces of words. The model reads these before every answer: all that describes the character, and the "
            "greeting. More than the limit makes answers slow and leaves little room for the conversation.")
    return (f'<div class="draft-meter {state}" title="{hint}"><span class="measure">{words}</span>'
            f'<div class="bar" role="progressbar" aria-label="Size of the character: {words}. {hint}" aria-valuemin="0" '
            f'aria-valuemax="{size.budget}" aria-valuenow="{min(size.total, size.budget)}"><i style="width:{share:.0%}"></i></div>'
            "</div>")


def counts_of(size: Size) -> dict[str, str]:
    """The words beside each field's label."""
    about = "" if size.exact else "about "
    return {key: f"{about}{count:,} token{'' if count == 1 else 's'}" for key, count in size.fields.items()}


def advice_html(services: Services, model: str, raw: dict[str, Any]) -> str:
    """The advice as HTML, problems first; every text of the card in it is escaped."""
    fields = fields_of(raw)
    if not any(fields[key].strip() for key in ("description", "personality", "scenario", "mes_example", "first_mes")):
        return GUIDE
    found = advice(raw, lambda text: services.tokens.count(model, text), services.tokens.context(model) or CONTEXT)
    if not found:
        return FINE
    items = []
    for one in found:
        word = "Problem" if one.level == "problem" else "Hint"
        field = f'<a href="#draft-{one.field}">{LABELS[one.field]}</a>' if one.field in LABELS else ""
        items.append(f'<li class="{one.level}"><b>{word}</b> {field}<p>{html.escape(one.sentence)}</p></li>')
    return f"<h3>Worth a look</h3><ul>{''.join(items)}</ul>"
