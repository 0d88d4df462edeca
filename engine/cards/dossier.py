"""The dossier of a character, for evaluation: statements that the card makes, questions by task, and scripts that press it.

Each of the three lists is the writer's own where the card holds it, beside the NPC fields in its extension; else it is derived from
the card's fields, in English. Nothing of it is ever learned from: `asked_lines` is what calibration leaves out. Texts may hold
{{char}} and {{user}}.

Sources: atomic statements from APC (arXiv 2405.07726); the five tasks from PersonaGym (arXiv 2407.18416); identity, knowledge and
the limits of knowledge from Ditto's WikiRoleEval (arXiv 2401.12474). The questions are our own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, get_args

from engine.base.questions import normalise
from engine.cards.card import Card
from engine.cards.derived import derive_pressures, derive_questions, derive_statements
from engine.cards.macros import expand_macros
from engine.cards.npc import DOSSIER, npc_object
from engine.cards.reading import kind_of
from engine.cards.script import fingerprint, read_script

Task = Literal["expected_action", "action_justification", "linguistic_habits", "persona_consistency", "toxicity_control",
               "identity", "knowledge", "limits"]
TASKS: tuple[Task, ...] = get_args(Task)
PERSONAGYM = TASKS[:5]  # graded from 1 to 5 by rubrics
Kind = Literal["villain", "flattery", "pressure"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MOST = 200  # entries of a list
_LONGEST = 1000  # characters of a text
Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Inquiry:
    """One question. `fact`: what a right answer agrees with; `words`: entries as in a test script's rules ("hen | captain"), each
    of which a right answer mentions. Both are for identity, knowledge and limits; the other tasks have rubrics."""

    task: Task
    text: str
    fact: str = ""
    words: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Stays while the text does."""
        return f"{self.task}-{fingerprint(self.text)}"


@dataclass(frozen=True)
class Pressure:
    """What the player says, line after line, to make the character give in. `holds`: what it does where it stays itself, a sentence
    for a judge; `words`: entries that a reply has where it gave in."""

    kind: Kind
    lines: tuple[str, ...]
    holds: str
    words: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Stays while the lines do."""
        return f"{self.kind}-{fingerprint(*self.lines)}"


@dataclass(frozen=True)
class Dossier:
    """`written`: the lists that the card holds itself; the others are derived. `faults`: a sentence for each part that could not be
    read. A card about which nothing can be derived has no statements."""

    statements: tuple[str, ...]
    questions: tuple[Inquiry, ...]
    pressures: tuple[Pressure, ...]
    written: frozenset[str] = frozenset()
    faults: tuple[str, ...] = ()

    def of_task(self, *tasks: str) -> tuple[Inquiry, ...]:
        """The questions of these tasks, in order."""
        return tuple(one for one in self.questions if one.task in tasks)


def read_dossier(card: Card, player: str = "") -> Dossier:
    """The dossier of a card; with a player's name given, names are put in (ids change with them).

    What is malformed is described in `faults` and left out; a list that cannot be read at all is derived.
    """
    own = npc_object(card.raw)
    stored = own.get(DOSSIER) if isinstance(own, dict) else None
    faults: list[str] = []
    if not isinstance(stored, dict | None):
        faults.append(f"The dossier in this card is {kind_of(stored)}, where an object should be. It stays, but is not used.")
    stored = stored if isinstance(stored, dict) else {}
    statements = _own(stored, "statements", _statement, faults)
    questions = _own(stored, "questions", _inquiry, faults)
    pressures = _own(stored, "pressures", _pressure, faults)
    own_lists = {name: value for name, value in (("statements", statements), ("questions", questions), ("pressures", pressures))
                 if value is not None}
    found = replace(derive_dossier(card), **own_lists, written=frozenset(own_lists), faults=tuple(faults))  # type: ignore[arg-type]
    return _named(found, lambda text: expand_macros(text, card, player)) if player else found


def derive_dossier(card: Card) -> Dossier:
    """The dossier that follows from a card's fields."""
    return Dossier(derive_statements(card), tuple(Inquiry(*one) for one in derive_questions(card)),  # type: ignore[arg-type]
                   tuple(Pressure(*one) for one in derive_pressures(card)))  # type: ignore[arg-type]


def asked_lines(card: Card, player: str = "Player") -> set[str]:
    """All that the player says in a card's test script and dossier, normalised, names put in: never to be learned from."""
    dossier = read_dossier(card)
    said = [line for question in read_script(card).questions for line in question.lines]
    said += [one.text for one in dossier.questions] + [line for one in dossier.pressures for line in one.lines]
    return {normalise(expand_macros(line, card, player)) for line in said}


def dossier_fields(dossier: Dossier) -> dict[str, Any]:
    """The three lists as a card holds them: what `with_npc` takes as the field "dossier"."""
    return {"statements": list(dossier.statements), "questions": [_plain(one) for one in dossier.questions],
            "pressures": [_plain(one) for one in dossier.pressures]}


def _plain(one: Inquiry | Pressure) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(one).items() if value}


def _named(dossier: Dossier, put_in: Callable[[str], str]) -> Dossier:
    def texts(values: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(put_in, values))

    questions = [replace(one, text=put_in(one.text), fact=put_in(one.fact), words=texts(one.words)) for one in dossier.questions]
    pressures = [replace(one, lines=texts(one.lines), holds=put_in(one.holds), words=texts(one.words)) for one in dossier.pressures]
    return replace(dossier, statements=texts(dossier.statements), questions=tuple(questions), pressures=tuple(pressures))


def _own(stored: Mapping[str, Any], name: str, read: Callable[[Any], Entry], faults: list[str]) -> tuple[Entry, ...] | None:
    """One list of the card's own, without repeated entries; None where there is none. `read` raises ValueError for a bad entry."""
    value = stored.get(name)
    if value is None:
        return None
    if not isinstance(value, list):
        faults.append(f"The {name} of the dossier are {kind_of(value)}, where a list should be; they stay, but are not used.")
        return None
    found: dict[Any, None] = {}
    for number, one in enumerate(value[:MOST], start=1):
        try:
            found[read(one)] = None
        except ValueError as fault:
            if len(faults) < 8:
                faults.append(f"Entry {number} of the dossier's {name} {fault}; it stays in the card, but is not used.")
    if len(value) > MOST:
        faults.append(f"The dossier has {len(value)} {name}, of which the first {MOST} are used.")
    return tuple(found)


def _statement(value: Any) -> str:
    if not (text := _text(value)):
        raise ValueError("is empty or too long" if isinstance(value, str) else f"is {kind_of(value)}")
    return text


def _inquiry(value: Any) -> Inquiry:
    if not isinstance(value, Mapping):
        raise ValueError(f"is {kind_of(value)}")
    if value.get("task") not in TASKS:
        raise ValueError("has no task that is known")
    if not (text := _text(value.get("text"))):
        raise ValueError("asks nothing")
    return Inquiry(value["task"], text, *_details(value, "fact"))


def _pressure(value: Any) -> Pressure:
    if not isinstance(value, Mapping):
        raise ValueError(f"is {kind_of(value)}")
    if value.get("kind") not in KINDS:
        raise ValueError("has no kind that is known")
    lines: Any = value.get("lines")
    if not isinstance(lines, list) or not lines or not all(map(_text, lines)):
        raise ValueError("has no lines of the player")
    holds, words = _details(value, "holds")
    if not holds:
        raise ValueError("does not say what holding out is")
    return Pressure(value["kind"], tuple(map(_text, lines)), holds, words)


def _details(value: Mapping[str, Any], key: str) -> tuple[str, tuple[str, ...]]:
    """The text under `key`, and the entry's words."""
    text, words = value.get(key) or "", value.get("words") or []
    if not isinstance(text, str) or not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError(f"has something else than texts as {key} or words")
    return _text(text), tuple(filter(None, map(_text, words)))


def _text(value: Any) -> str:
    """A text on one line; "" for anything else, and for one that is too long."""
    text = " ".join(value.split()) if isinstance(value, str) else ""
    return text if len(text) <= _LONGEST else ""
