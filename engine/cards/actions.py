"""Game actions: what a character can do in a game, as an NPC field, as the schema of a reply, and as a part of the prompt.

A game that asks for actions gets {"say", "action", "mood"} as JSON. `reply_schema` is that form; the server holds the model to it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from engine.cards.npc import Entry, Npc

Kind = Literal["text", "number", "whole number", "yes/no", "choice"]

MOST_ACTIONS = 16
MOST_ARGUMENTS = 6  # of one action
MOST_CHOICES = 24  # of one argument
LONGEST_NAME = 40
LONGEST_SAY = 320  # characters: three short sentences and some more
LONGEST_TEXT = 80  # of an argument, and of a choice
LARGEST = 1_000_000  # of a number without a range, either side
FINEST = 0.001  # of a number that is not whole; without it, a model may write digits until it is cut
# Ekman, "An argument for basic emotions" (1992), and none of them.
MOODS = ("neutral", "happy", "sad", "angry", "afraid", "surprised", "disgusted")

_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_]{{0,{LONGEST_NAME - 1}}}")
_RANGE = re.compile(r"(-?\d{1,7}(?:\.\d{1,3})?)\s*\.\.\s*(-?\d{1,7}(?:\.\d{1,3})?)", re.ASCII)
_KINDS: tuple[Kind, ...] = ("text", "number", "whole number", "yes/no")
_JSON_TYPES = {"text": "string", "number": "number", "whole number": "integer", "yes/no": "boolean"}
KIND_HELP = "text, number, whole number, yes/no, a range such as 1..20, or choices such as guard | smith"


@dataclass(frozen=True)
class Argument:
    """What an action needs to know. `lowest` and `highest` bound a number; `choices` are the values of a choice."""

    name: str
    kind: Kind
    lowest: float = -LARGEST
    highest: float = LARGEST
    choices: tuple[str, ...] = ()

    @property
    def written(self) -> str:
        """As the form and the prompt write it: "coins: 1..20"."""
        if self.kind == "choice":
            return f"{self.name}: {' | '.join(self.choices)}"
        if self.kind in ("number", "whole number") and (self.lowest, self.highest) != (-LARGEST, LARGEST):
            return f"{self.name}: {_number(self.lowest, self.kind)}..{_number(self.highest, self.kind)}"
        return f"{self.name}: {self.kind}"

    def schema(self) -> dict[str, Any]:
        """The JSON schema of its value."""
        if self.kind == "choice":
            return {"type": "string", "enum": list(self.choices)}
        if self.kind == "text":
            return {"type": "string", "maxLength": LONGEST_TEXT}
        if self.kind == "yes/no":
            return {"type": "boolean"}
        whole = self.kind == "whole number"
        bounds = {"minimum": int(self.lowest) if whole else self.lowest, "maximum": int(self.highest) if whole else self.highest}
        return {"type": _JSON_TYPES[self.kind], **bounds, **({} if whole else {"multipleOf": FINEST})}


@dataclass(frozen=True)
class Action:
    """Something that the character can do; `when`: a sentence that says when it does it."""

    name: str
    arguments: tuple[Argument, ...] = ()
    when: str = ""

    @property
    def written(self) -> str:
        """Its line in the prompt, macros still in it."""
        call = f"{self.name}({'; '.join(one.written for one in self.arguments)})"
        return f"{call}: {self.when}" if self.when else call


@dataclass(frozen=True)
class Actions:
    """The actions that can be used, and a sentence for each entry that cannot."""

    actions: tuple[Action, ...] = ()
    faults: tuple[str, ...] = ()


def read_actions(npc: Npc) -> Actions:
    """The game actions of a character. An entry with a fault is left out and described; it stays in the card."""
    found: dict[str, Action] = {}
    faults: list[str] = []
    for number, entry in enumerate(npc.actions, start=1):
        try:
            action = _read(entry)
            if action.name.lower() in found:
                raise ValueError(f"there is already an action {action.name}")
            if len(found) == MOST_ACTIONS:
                raise ValueError(f"a character has at most {MOST_ACTIONS} actions")
        except ValueError as error:
            faults.append(f"Action {number}{f' ({entry.name[:LONGEST_NAME]})' if entry.name else ''} is not used: {error}.")
        else:
            found[action.name.lower()] = action
    return Actions(tuple(found.values()), tuple(faults))


def read_arguments(text: str) -> tuple[Argument, ...]:
    """The arguments of a text like "to: guard | smith; coins: 1..20". Raises ValueError with what is wrong, to follow a colon."""
    arguments = tuple(_argument(*map(str.strip, part.partition(":")[::2])) for part in text.split(";") if part.strip())
    if len(arguments) > MOST_ARGUMENTS:
        raise ValueError(f"an action has at most {MOST_ARGUMENTS} arguments")
    names = [one.name.lower() for one in arguments]
    if twice := next((one.name for one in arguments if names.count(one.name.lower()) > 1), ""):
        raise ValueError(f"it has two arguments {twice}")
    return arguments


def _read(entry: Entry) -> Action:
    if not _NAME.fullmatch(entry.name):
        raise ValueError("its name must be one word of up to 40 letters, digits and underscores that begins with no digit, such "
                         "as give_coins")
    return Action(entry.name, read_arguments(entry.arguments), entry.when)


def _argument(name: str, kind: str) -> Argument:
    if not _NAME.fullmatch(name):
        raise ValueError(f"the argument “{name[:LONGEST_NAME]}” must have a name of letters, digits and underscores, then a colon "
                         "and its kind, as in coins: 1..20; a semicolon goes between two arguments")
    words = " ".join(kind.lower().split()) or "text"
    if words in _KINDS:
        return Argument(name, words)
    if bounds := _RANGE.fullmatch(kind):
        lowest, highest = map(float, bounds.groups())
        if lowest > highest:
            raise ValueError(f"the range of {name} ends before it begins")
        return Argument(name, "number" if "." in bounds[1] + bounds[2] else "whole number", lowest, highest)
    choices = tuple(dict.fromkeys(" ".join(choice.split()) for choice in kind.split("|") if choice.strip()))
    if "|" not in kind or not choices:
        raise ValueError(f"“{kind[:LONGEST_NAME]}” is no kind for {name}; it can be {KIND_HELP}")
    if "{{" in kind:  # filled in differently in every chat, but a game looks for the same words
        raise ValueError(f"the choices of {name} cannot hold macros")
    if len(choices) > MOST_CHOICES or max(map(len, choices)) > LONGEST_TEXT:
        raise ValueError(f"{name} has more than {MOST_CHOICES} choices, or one of more than {LONGEST_TEXT} characters")
    return Argument(name, "choice", choices=choices)


def reply_schema(npc: Npc) -> dict[str, Any]:
    """The JSON schema of a reply: {"say": text, "action": one of the actions or null, "mood": one of MOODS}.

    An action is {"name", "arguments": {...}}. Every text has a longest length, so that a reply fits into its limit of tokens.
    """
    options = [_object({"name": {"const": action.name}, "arguments": _object({one.name: one.schema() for one in action.arguments})})
               for action in read_actions(npc).actions]
    none: dict[str, Any] = {"type": "null"}
    return _object({"say": {"type": "string", "minLength": 1, "maxLength": LONGEST_SAY},
                    "action": {"anyOf": [none, *options]} if options else none,
                    "mood": {"type": "string", "enum": list(MOODS)}})


def reply_instructions(npc: Npc) -> str:
    """What the prompt says of the form of a reply, macros still in it; for the end of a prompt whose reply has `reply_schema`."""
    actions = read_actions(npc).actions
    action = '"action": what {{char}} does now, or null' if actions else '"action": null'
    return "\n".join([f'Answer as JSON with "say": what {{{{char}}}} says, {action}, "mood": how {{{{char}}}} feels.',
                      *(["Actions:"] if actions else []),
                      *(f"- {action.written}" for action in actions)])


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(properties), "additionalProperties": False}


def _number(value: float, kind: Kind) -> str:
    return str(int(value)) if kind == "whole number" else str(value)
