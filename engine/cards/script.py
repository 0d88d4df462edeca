"""The test script of a character: what it is asked, and what a good answer must and must not do.

Most questions follow from the card by themselves (script_questions.py); the writer's own, changes and removals lie
beside the NPC fields in the card's extension, so that they have versions and travel with it. Asks nobody, judges nothing.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine.base.text import normalise
from engine.cards.card import Card
from engine.cards.faults import kind_of
from engine.cards.macros import expand_macros
from engine.cards.npc_fields import SCRIPT, npc_object, read_npc
from engine.cards.script_questions import OWN_LANGUAGE, Question, Rules, derive_questions

__all__ = ["OWN_LANGUAGE", "Question", "Rules", "Script", "fields_of_question", "read_script", "script_lines"]

MOST_QUESTIONS = 200
LONGEST_PATTERN = 500  # characters of a regular expression
Origin = Literal["generated", "changed", "added"]
_LANGUAGE = re.compile(r"(?:card|[a-z]{2,3})?")
_NUMBERS = ("fewest_words", "most_words")


@dataclass(frozen=True)
class Script:
    """A card's questions in the order in which they are asked, and where each comes from (`origins`, by id).

    `removed`: generated questions that the writer took out; `faults`: a sentence for each part that could not be read.
    """

    questions: tuple[Question, ...]
    origins: Mapping[str, Origin]
    removed: tuple[Question, ...] = ()
    faults: tuple[str, ...] = ()


def read_script(card: Card) -> Script:
    """The test script of a card: the generated questions with the writer's changes, then the writer's own.

    Nothing is raised: what is malformed is told in `faults` and passed over. A changed question whose cause is gone from
    the card (a goal that was deleted, say) stays, as the writer's own.
    """
    generated = {question.id: question for question in derive_questions(card, read_npc(card.raw))}
    own = npc_object(card.raw)
    stored = own.get(SCRIPT) if isinstance(own, Mapping) else None
    if not isinstance(stored, Mapping):
        fault = f"The test script in this card is {kind_of(stored)}, where an object should be. It stays, but is not used."
        faults_too = () if stored is None else (fault,)
        return Script(tuple(generated.values()), dict.fromkeys(generated, "generated"), faults=faults_too)
    faults: list[str] = []
    changed, added, removed = _changed(stored, faults), _added(stored, faults), _removed(stored, faults)
    questions = [changed.get(id, question) for id, question in generated.items() if id not in removed][:MOST_QUESTIONS]
    origins: dict[str, Origin] = {one.id: "changed" if one.id in changed else "generated" for one in questions}
    for one in [*(question for id, question in changed.items() if id not in generated), *added]:
        if one.id not in origins and len(questions) < MOST_QUESTIONS:
            questions.append(one)
            origins[one.id] = "added"
    return Script(tuple(questions), origins, tuple(generated[id] for id in generated if id in removed), tuple(faults))


def script_lines(card: Card, player: str = "Player") -> set[str]:
    """All that the player says in a card's test script, normalised, names put in: never to be learned from."""
    return {normalise(expand_macros(line, card, player)) for question in read_script(card).questions for line in question.lines}


def fields_of_question(question: Question) -> dict[str, Any]:
    """A question as the card and the page hold it: one flat object of plain values."""
    return {"id": question.id, "kind": question.kind, "lines": list(question.lines),
            **{name: list(value) if isinstance(value, tuple) else value for name, value in vars(question.rules).items()}}


def _question(value: Any, id: str) -> Question | str:
    """The question of an object, or what is wrong with it."""
    if not isinstance(value, Mapping):
        return f"is {kind_of(value)}"
    lines: Any = value.get("lines")
    if not _are_texts(lines) or not any(line.strip() for line in lines):
        return "has no line of the player"
    rules: dict[str, Any] = {}
    for field in dataclasses.fields(Rules):
        given: Any = value.get(field.name)
        if given is None:
            continue
        wanted = {bool: isinstance(given, bool), str: isinstance(given, str), int: _is_number(given)}.get(
            field.type, _are_texts(given))  # type: ignore[arg-type]
        if not wanted:
            return f"has {kind_of(given)} as {field.name}"
        rules[field.name] = tuple(word.strip() for word in given if word.strip()) if isinstance(given, list) else given
    if len(rules.get("pattern", "")) > LONGEST_PATTERN:
        return f"has a pattern of more than {LONGEST_PATTERN} characters"
    if not _LANGUAGE.fullmatch(rules.get("language", "")):
        return "has a language that is no code of two or three letters"
    kind = value.get("kind")
    return Question(id, kind if isinstance(kind, str) and kind else "own",
                    tuple(line.strip() for line in lines if line.strip()), Rules(**rules))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 100_000


def _changed(stored: Mapping[str, Any], faults: list[str]) -> dict[str, Question]:
    value = stored.get("changed")
    if not isinstance(value, Mapping | None):
        faults.append(f"The changed questions of the test script are {kind_of(value)}, where an object should be.")
        return {}
    return {one.id: one for one in _readable(((id, one) for id, one in (value or {}).items()), "changed", faults)}


def _added(stored: Mapping[str, Any], faults: list[str]) -> list[Question]:
    value = stored.get("added")
    if not isinstance(value, list | None):
        faults.append(f"The added questions of the test script are {kind_of(value)}, where a list should be.")
        return []
    named = ((one.get("id") if isinstance(one, Mapping) else None, one) for one in value or [])
    return list(_readable(((id if isinstance(id, str) and id else f"own-{number}", one)
                           for number, (id, one) in enumerate(named, start=1)), "added", faults))


def _removed(stored: Mapping[str, Any], faults: list[str]) -> set[str]:
    value: Any = stored.get("removed")
    if value is not None and not _are_texts(value):
        faults.append("The removed questions of the test script are no list of names.")
        return set()
    return set(value or [])


def _readable(named: Iterable[tuple[str, Any]], what: str, faults: list[str]) -> Iterable[Question]:
    for number, (id, value) in enumerate(named, start=1):
        found = _question(value, id)
        if isinstance(found, Question):
            yield found
        elif len(faults) < 8:
            faults.append(f"Question {number} of those {what} in the test script {found}; it stays in the card, but is not asked.")
