"""From a conversation to memory: the facts that the player stated, and a summary of at most two sentences.

Rules find facts in every conversation. A model may find more; what it says is kept only where the conversation bears it out
(`rules.supported`, `_true_summary`): a small model makes things up, and a summary of the rules is dull but true.
"""

import json
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from engine.base.errors import UserError
from engine.base.looping import is_looping
from engine.base.questions import normalise
from engine.cards.prompt import Message, rough_tokens
from engine.serving.memory.records import LONGEST_FACT, LONGEST_SUMMARY, MODEL, Fact, Found, Session, Turn, one_line
from engine.serving.memory.rules import find_facts, statements, supported
from engine.serving.memory.store import PlayerMemory
from engine.serving.memory.words import FIRST_PERSON, content, share

LIMIT = 320  # tokens of a model's notes
_READ = 1_200  # tokens of a conversation that a model reads; the rules read all of it
_LONGEST_LINE = 400  # characters of a turn that a model reads
_QUOTE = 120  # characters of the player's last words in a summary by rules
_BORNE_OUT = 0.6  # of the words of a summary that must be in the conversation

_SYSTEM = "You take notes on a conversation between a character and a player. You write only what was said, in JSON."
_TASK = ('Note what the player says about themselves: name, home, work, family, tastes, wishes, promises. Each fact is one short '
         'sentence that begins with "The player" and has the number of the line that says it. No facts about {char}. Then sum up '
         "the conversation in one or two short sentences.")


class Ask(Protocol):
    """What a model answers to messages, as JSON that satisfies a schema, within a limit of tokens."""

    def __call__(self, messages: list[Message], schema: dict[str, Any], limit: int) -> Awaitable[str]: ...


async def remember(memory: PlayerMemory, session: Session, ask: Ask | None = None, char: str = "",
                   count: Callable[[str], int] = rough_tokens, window: int = 2_048) -> list[Fact]:
    """Take the turns of a conversation that are not in the memory yet into it; the facts that are new.

    `ask`: the model, with its `count` of tokens and its `window`; None: by rules alone. A model that fails leaves what the rules
    found. All or nothing is written; of two processes that do it at once, one. Raises UserError as the store.
    """
    turns = [turn for turn in memory.turns(session.player, session.character, session.id) if turn.n > session.read]
    if not turns:
        return []
    found, summary = find_facts(turns), summary_by_rules(turns)
    if ask and any(turn.role == "user" for turn in turns):
        before = next((one.text for one in memory.summaries(session.player, session.character)), "")
        more, noted = await _by_model(ask, turns, before, char or "the character", count, min(_READ, window // 2))
        found, summary = [*found, *more], noted or summary
    return memory.keep(session.player, session.character, session.id, found, summary, turns[-1].n, session.read) or []


def summary_by_rules(turns: Sequence[Turn]) -> str:
    """What the player said last, word for word; "" where the player stated nothing."""
    last = next((" ".join(said) for turn in reversed(turns) if turn.role == "user" and (said := statements(turn.text))), "")
    return f"The last time, the player said: “{quote}”" if (quote := one_line(last, _QUOTE)) else ""


async def _by_model(ask: Ask, turns: Sequence[Turn], before: str, char: str, count: Callable[[str], int],
                    budget: int) -> tuple[list[Found], str]:
    """The facts and the summary of a model, as far as the conversation bears them out."""
    lines = _lines(turns, char, count, budget)
    said = {turn.n: turn.text for turn, _ in lines if turn.role == "user"}
    if not said:
        return [], ""
    earlier = f"Before: {before}\n\n" if before else ""
    conversation = "\n".join(line for _, line in lines)
    messages = [{"role": "system", "content": _SYSTEM},
                {"role": "user", "content": f"{earlier}{conversation}\n\n{_TASK.format(char=char)}"}]
    try:
        notes = json.loads(await ask(messages, notes_schema(sorted(said)), LIMIT))
        stated = [(int(one["line"]), one_line(str(one["fact"]), LONGEST_FACT)) for one in notes["facts"]]
        noted = one_line(str(notes["summary"]), LONGEST_SUMMARY)
    except (UserError, ValueError, KeyError, TypeError, RecursionError) as error:
        logging.info("the model wrote no notes (%s); what the rules found is kept", type(error).__name__)
        return [], ""
    found = [fact for line, text in stated if (fact := _borne_out(text, line, said))]
    return found, noted if _true_summary(noted, [before, *said.values()], f"{before} {conversation}") else ""


def _borne_out(text: str, line: int, said: dict[int, str]) -> Found | None:
    """A fact of the model with the turn that bears it out, first the one that it names; None where there is none.

    The smallest models copy the player's words; those become a quotation.
    """
    for n in sorted(said, key=lambda n: n != line):
        if source := supported(text, said[n]):
            if text.startswith("The player "):
                return Found(text, n, source, MODEL)
            if FIRST_PERSON.search(text) and normalise(text) in normalise(said[n]):
                return Found(f"The player said: “{text}”", n, source, MODEL)
    return None


def notes_schema(lines: list[int]) -> dict[str, Any]:
    """The JSON schema of a model's notes; `lines`: the numbers of the player's turns, from which alone facts may come."""
    fact = {"type": "object", "additionalProperties": False, "required": ["line", "fact"],
            "properties": {"line": {"enum": lines}, "fact": {"type": "string", "maxLength": 140}}}
    return {"type": "object", "additionalProperties": False, "required": ["facts", "summary"],
            "properties": {"facts": {"type": "array", "items": fact, "maxItems": 6},
                           "summary": {"type": "string", "maxLength": 240}}}


def _lines(turns: Sequence[Turn], char: str, count: Callable[[str], int], budget: int) -> list[tuple[Turn, str]]:
    """The last turns with their numbers, as many as the budget holds."""
    found: list[tuple[Turn, str]] = []
    for turn in reversed(turns):
        line = f"{turn.n}. {'Player' if turn.role == 'user' else char}: {one_line(turn.text, _LONGEST_LINE)}"
        budget -= count(line) + 1
        if budget < 0:
            break
        found.append((turn, line))
    return found[::-1]


def _true_summary(summary: str, said: Sequence[str], conversation: str) -> bool:
    """Whether a summary has one or two whole sentences in the third person, whose names are in the conversation and most of
    whose words are the player's: what a character supposes of a player must not become true."""
    sentences = [one for one in re.split(r"(?<=[.!?])\s+", summary) if one]
    names = {name for one in sentences for name in re.findall(r"(?<=\s)[A-Z][\w'-]+", one)} - {"Player"}
    return (1 <= len(sentences) <= 2 and all(one[-1] in ".!" and len(content(one)) >= 2 for one in sentences)
            and not is_looping(summary) and not FIRST_PERSON.search(summary)
            and all(share(one, " ".join(said)) >= _BORNE_OUT for one in sentences)
            and all(re.search(rf"\b{re.escape(name)}", conversation, re.IGNORECASE) for name in names))
