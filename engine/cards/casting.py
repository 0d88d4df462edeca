"""The cards of a cast: what a model is asked for each row of a plan, and what of its answers makes a card.

Who it is, and how it speaks, are asked for as JSON, which llama.cpp holds to a schema; the other fields one by one, as a writer's
own drafts are (writing.py). Every description is to say what a usual day is like: that tells characters apart better than traits or
groups do (SPeCtrum, arXiv 2502.08599). What a model did not write, or hardly, is named and never made up.
"""

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.base.errors import UserError
from engine.base.looping import is_looping
from engine.base.questions import count_words, normalise
from engine.base.sampling import SamplingParams
from engine.cards import writing
from engine.cards.advice import DESCRIPTION_WORDS
from engine.cards.card import Card, unfinished
from engine.cards.cast_plan import Row, words_of
from engine.cards.fields import blank_card, with_fields
from engine.cards.prompt import PLAYER, Message
from engine.cards.speaking import START, has_assistant_phrase

WHO, VOICE = "who", "voice"
STEPS = (WHO, "description", "personality", "scenario", VOICE)  # what is asked for, in this order
# Words below which a field is called thin: about half of what it is asked for.
_ENOUGH = {"description": DESCRIPTION_WORDS, "personality": 5, "scenario": 15, "first_mes": 10, "mes_example": 25}
_LINE = (4, 40)  # words of the one line, at least and at most
_INITIALS = "ABCDEFGHIJKLMNOPRSTVWYZ"
_SYSTEM = "You invent characters for a story. Write in the language in which the place is described."
_WHO = ("Invent one more person of this place.{row}{initial} Nobody above has the same name.{unlike} Answer with JSON: “name”, and "
        "“line”, one sentence on what this person does, wants and hides.")
_VOICE = ("In the story {char} meets {player}. Write what {char} does and says, and how {char} answers two questions of {player}. "
          "{char} speaks as “I”, in short sentences, with words and habits that nobody else has. Answer with JSON of these keys: "
          "{keys}.")


@dataclass(frozen=True)
class Member:
    """A character of the cast so far: where in the plan, its card (any version) and the one line that says who it is."""

    position: int
    card: dict[str, Any]
    line: str

    @property
    def name(self) -> str:
        """Its name."""
        return unfinished(self.card).name


@dataclass(frozen=True)
class Asked:
    """A question to a model: the messages, how the answer is drawn, and the schema that it should satisfy, where it is JSON."""

    messages: list[Message]
    sampling: SamplingParams
    schema: dict[str, Any] | None = None


@dataclass
class Draft:
    """A card that is being drafted. `others`: those before it; `unlike`: what it must not be again, after a near-twin; `seed`
    chooses the initial of its name."""

    place: str
    row: Row
    others: Sequence[Member]
    unlike: str = ""
    seed: int = 0
    raw: dict[str, Any] = field(default_factory=dict)
    line: str = ""

    def ask(self, step: str) -> Asked:
        """What is asked for a step of STEPS; the first is who it is."""
        if step == WHO:
            return self._ask_who()
        card = unfinished(self.raw)
        if step == VOICE:
            keys = ", ".join(f"“{one}”" for one in _voice_keys(card))
            asked = f"{writing.about(card, 'mes_example')}\n\n{_VOICE.format(char=card.char, player=PLAYER, keys=keys)}"
            return Asked(self._messages(_SYSTEM, asked), SamplingParams(temperature=0.8, max_tokens=500, repeat_penalty=1.05),
                         _voice_schema(card))
        wish = self._wish(step)
        system, user = writing.chat(card, wish)
        return Asked(self._messages(system["content"], user["content"]), writing.sampling(wish))

    def take(self, step: str, said: str) -> None:
        """Put what a model said for a step into the card. Raises UserError where it should be asked again."""
        if step == WHO:
            self._take_who(_json_in(said))
            return
        card = unfinished(self.raw)
        if step == VOICE:
            greeting, dialogue = _voice(_json_in(said), card)
            self.raw = with_fields(self.raw, first_mes=greeting, mes_example=dialogue)
            return
        text = writing.finished(card, self._wish(step), said)
        changed: dict[str, Any] = {step: text}
        self.raw = with_fields(self.raw, **changed)
        if step == "description" and self.unsaid:
            raise UserError(f"The description does not say {', '.join(self.unsaid)}.")  # kept, if no other try does

    def go_nameless(self, number: int) -> None:
        """Begin the card without a name of its own, where the model gave none; `thin` says so."""
        value = next(filter(None, self.row.values()), "character")
        self.raw = with_fields(blank_card(f"{value[:1].upper()}{value[1:]} {number}"), tags=self._values())
        self.line = words_of(self.row)

    @property
    def thin(self) -> list[str]:
        """The fields in which there is nothing, or hardly anything."""
        values = self.raw["data"]
        nameless = ["name"] if self.line == words_of(self.row) else []
        return nameless + [key for key, enough in _ENOUGH.items() if count_words(START.sub("", values[key])) < enough]

    @property
    def unsaid(self) -> list[str]:
        """The values of the row of which no word is in the texts on who it is."""
        card = unfinished(self.raw)
        said = normalise(f"{self.line} {card.description} {card.personality}")
        return [value for value in self._values() if not any(word in said for word in normalise(value).split() if len(word) > 2)]

    def _values(self) -> list[str]:
        return [value for value in self.row.values() if value]

    def _wish(self, key: str) -> writing.Wish:
        if key != "description":
            return writing.Wish("draft", key, wish=words_of(self.row) if key == "personality" else "")
        char = unfinished(self.raw).char
        parts = [f"It says of {char}: {words_of(self.row)}" if self._values() else "", f"how a usual day of {char} goes",
                 f"what {char} likes", f"what {char} thinks of {self.others[-1].name}" if self.others else ""]
        return writing.Wish("draft", key, self.line, wish="; ".join(filter(None, parts)) + f". {self.unlike}")

    def _ask_who(self) -> Asked:
        there = [f"- {one.name}: {one.line}" for one in self.others]
        taken = {one.name[:1].upper() for one in self.others}
        initial = random.Random(self.seed).choice([one for one in _INITIALS if one not in taken]) if self.place.isascii() else ""
        asked = _WHO.format(row=f" Of this person: {words_of(self.row)}." if self._values() else "",
                            initial=f" The first name begins with {initial}." if initial else "",
                            unlike=f" {self.unlike}" if self.unlike else "")
        text = "\n".join([*(["Who is there already:", *there, ""] if there else []), asked])
        return Asked(self._messages(_SYSTEM, text), SamplingParams(temperature=0.9, max_tokens=150, repeat_penalty=1.05),
                     _who_schema(initial))

    def _take_who(self, found: dict[str, Any]) -> None:
        name, line = (" ".join(str(found.get(part) or "").split()).strip(' "“”*') for part in ("name", "line"))
        if not 2 <= len(name) <= 60 or count_words(name) > 6 or not re.search(r"[^\W\d_]{2}", name):
            raise UserError("The model gave no name.")
        if any(set(normalise(name).split()) & set(normalise(one.name).split()) for one in self.others):
            raise UserError("The model gave a name that another one has.")
        if not _LINE[0] <= count_words(line) <= _LINE[1] or has_assistant_phrase(line) or is_looping(line):
            raise UserError("The model wrote no line on who this is.")
        self.raw = with_fields(blank_card(name), tags=self._values())
        whole = re.match(r".*[.!?。！？]", line)  # without half a sentence at the end
        self.line = whole[0] if whole and count_words(whole[0]) >= _LINE[0] else line

    def _messages(self, system: str, user: str) -> list[Message]:
        return [{"role": "system", "content": system}, {"role": "user", "content": f"The place: {self.place}\n\n{user}"}]


def member(position: int, card: Mapping[str, Any], line: str = "") -> Member:
    """A character whose card is there; without a line, the first sentence of its description."""
    known = unfinished(dict(card))
    return Member(position, dict(card), line or re.split(r"(?<=[.!?])\s", known.description.strip())[0][:200])


def _who_schema(initial: str) -> dict[str, Any]:
    """`initial`: what an English name begins with; "" leaves the name open."""
    name = {"type": "string", "pattern": f"^{initial}[a-z]{{2,9}} [A-Z][a-z]{{2,11}}$"} if initial else {
        "type": "string", "minLength": 2, "maxLength": 40}
    return _object(name=name, line={"type": "string", "minLength": 30, "maxLength": 220})


def _voice_keys(card: Card) -> tuple[str, ...]:
    """What a model is to say of how a character speaks: what it does and says, then questions and answers by turns."""
    turns = (f"{who} {says}{then}" for then in ("", " then") for who, says in ((PLAYER, "asks"), (card.char, "answers")))
    return (f"{card.char} does", f"{card.char} says", *turns)


def _voice_schema(card: Card) -> dict[str, Any]:
    does, says, *turns = _voice_keys(card)
    question = {"type": "string", "pattern": r'^[^?？"\\\n]{8,90}[?？]$'}
    text = {"type": "string", "minLength": 20, "maxLength": 250}
    shapes = [question if number % 2 == 0 else text for number in range(len(turns))]
    action = {"type": "string", "minLength": 8, "maxLength": 80}
    return _object(**{does: action, says: text, **dict(zip(turns, shapes, strict=True))})


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _json_in(said: str) -> dict[str, Any]:
    """The first JSON object in an answer. Raises UserError where there is none."""
    start = said.find("{")
    try:
        found, _ = json.JSONDecoder().raw_decode(said[start:]) if start >= 0 else (None, 0)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError("The model's answer has another form than it was asked for.")
    return found


def _voice(found: dict[str, Any], card: Card) -> tuple[str, str]:
    """Greeting and example dialogue. Raises UserError where there is no dialogue in a model's answer."""
    does, says, *turns = (_spoken(found.get(key), card) for key in _voice_keys(card))
    pairs = [(player, answer) for player, answer in zip(turns[::2], turns[1::2], strict=True)
             if _is_speech(answer, card) and count_words(player) > 1 and normalise(player) != normalise(answer)]
    if not pairs or not _is_speech(says, card):
        raise UserError("The model wrote no dialogue.")
    action = does.strip("*").strip()
    greeting = f"*{action[:1].upper()}{action[1:]}{'' if action[-1] in '.!?' else '.'}* {says}" if action else says
    return greeting, "\n".join(f"<START>\n{{{{user}}}}: {player}\n{{{{char}}}}: {answer}" for player, answer in pairs)


def _is_speech(text: str, card: Card) -> bool:
    """Whether a text can be a character's own words: neither an assistant's, nor a sentence about the character."""
    about = re.match(rf"(?:{'|'.join(map(re.escape, card.names))})\s+[^\W\d_]", text)
    return count_words(text) > 2 and not about and not has_assistant_phrase(text) and not is_looping(text)


def _spoken(said: Any, card: Card) -> str:
    """What somebody says or does, on one line, without a name in front; the player as {{user}}."""
    names = "|".join(map(re.escape, (*card.names, PLAYER)))
    text = re.sub(rf"^(?:{names})\s*:\s*", "", " ".join(str(said or "").split()).strip(' "“”'), flags=re.IGNORECASE)
    return re.sub(rf"\b(?:[Tt]he )?{PLAYER}\b", "{{user}}", text)
