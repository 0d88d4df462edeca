"""The NPC fields of a card: what a game needs of a character beyond its description, under one key of its extensions.

Read with care and written with care: what cannot be read stays in the card as it is and is reported in a sentence; keys
that we do not know, ours or others', survive every change. `compile_npc` writes them into the prompt: bare lines rather than
prose, since small models keep to what has a line of its own.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.base.errors import UserError
from engine.base.questions import normalise
from engine.cards.card import Card
from engine.cards.fields import as_v3, extensions_of
from engine.cards.reading import kind_of

KEY = "persona_studio/npc"
SCRIPT = "script"  # of our object: see script.py
MOST_ENTRIES = 60  # of one list
MIDDLE = 50  # of a slider, where it writes nothing
SCALES: dict[str, tuple[str, ...]] = {
    "mood": ("valence", "arousal"),  # the two axes of the circumplex model of affect (Russell 1980)
    "big_five": ("openness", "conscientiousness", "extraversion", "agreeableness", "neuroticism"),
}


@dataclass(frozen=True)
class Goal:
    """What the character wants."""

    text: str


@dataclass(frozen=True)
class Secret:
    """`may_learn`: who may be told ("" for nobody); `words`: what an answer must not contain, for it would give it away."""

    text: str
    words: tuple[str, ...] = ()
    may_learn: str = ""


@dataclass(frozen=True)
class Limit:
    """What the character does not know."""

    text: str


@dataclass(frozen=True)
class Relationship:
    """Who somebody is to the character."""

    who: str
    text: str = ""


@dataclass(frozen=True)
class Topic:
    """What the character does not talk about; `words` that it does not say then."""

    text: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class Habit:
    """How the character talks; words that are in every answer, and in none."""

    text: str
    always: tuple[str, ...] = ()
    never: tuple[str, ...] = ()


LISTS: dict[str, type[Any]] = {"goals": Goal, "secrets": Secret, "knowledge_limits": Limit, "relationships": Relationship,
                               "forbidden_topics": Topic, "speech_habits": Habit}
FIELDS = (*LISTS, *SCALES)


@dataclass(frozen=True)
class Npc:
    """The fields that could be read. Scales hold whole numbers from 0 to 100; one that is not set is missing there.

    `faults`: a sentence for each part of the extension that could not be read, in the order of FIELDS.
    """

    goals: tuple[Goal, ...] = ()
    secrets: tuple[Secret, ...] = ()
    knowledge_limits: tuple[Limit, ...] = ()
    relationships: tuple[Relationship, ...] = ()
    forbidden_topics: tuple[Topic, ...] = ()
    speech_habits: tuple[Habit, ...] = ()
    mood: Mapping[str, int] = field(default_factory=dict)
    big_five: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


def npc_object(raw: Mapping[str, Any]) -> Any:
    """Our object in the extensions of a V1, V2 or V3 card as it stands, whatever it is; None where there is none."""
    return extensions_of(raw).get(KEY)


def read_npc(raw: Mapping[str, Any]) -> Npc:
    """The NPC fields of a card. Nothing is raised: what is malformed is told in `faults` and otherwise passed over."""
    found = npc_object(raw)
    if found is None:
        return Npc()
    if not isinstance(found, Mapping):
        return Npc(faults=(f"The NPC fields of this card are {kind_of(found)}, where an object should be. They stay in the "
                           "card, but are not used.",))
    read: dict[str, Any] = {}
    faults: list[str] = []
    for name, kind in LISTS.items():
        entries, fault = _entries(name, kind, found.get(name))
        read[name] = tuple(entry for entry in entries if entry is not None)
        faults += [fault] if fault else []
    for name, scales in SCALES.items():
        read[name], fault = _levels(name, scales, found.get(name))
        faults += [fault] if fault else []
    return Npc(**read, faults=tuple(faults))


def npc_values(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that can be read, as an editor needs them: entries as objects, with all that they hold, and levels."""
    own = npc_object(raw)
    found = own if isinstance(own, Mapping) else {}
    read = read_npc(raw)
    values: dict[str, Any] = {name: dict(getattr(read, name)) for name in SCALES}
    for name, kind in LISTS.items():
        entries = found.get(name)
        readable = [one for one in (entries[:MOST_ENTRIES] if isinstance(entries, list) else []) if _entry(kind, one) is not None]
        first = dataclasses.fields(kind)[0].name
        values[name] = [{first: one} if isinstance(one, str) else copy.deepcopy(one) for one in readable]
    return values


def with_npc(raw: dict[str, Any], changes: Mapping[str, Any], now: float | None = None) -> dict[str, Any]:
    """The V3 form of a card with some NPC fields changed: lists of entries (texts or objects) by their names, scales as
    {scale: number} (only those named change, the middle and None unset one), the test script as its object.

    Entries without a text are left out; old ones that could not be read stay, behind the new ones. `modification_date`
    becomes `now` (Unix seconds, the present time when left out) if anything differs. Raises ValueError for what is no
    such field, UserError where the card has no place for them.
    """
    card = as_v3(raw)
    fields = card["data"]
    if not isinstance(fields["extensions"], dict):
        raise UserError(f"The extensions of this card are {kind_of(fields['extensions'])}, where an object should be, so that "
                        "NPC fields cannot be kept in it.")
    old = fields["extensions"].get(KEY)
    # Something of another kind was in our place: it is put aside, not thrown away.
    own: dict[str, Any] = copy.deepcopy(old) if isinstance(old, dict) else {} if old is None else {"unreadable": old}
    for name, value in changes.items():
        changed = _changed(name, own.get(name), value)
        if changed:
            own[name] = changed
        else:
            own.pop(name, None)
    if own == old or (not own and old is None):
        return card
    if own:
        fields["extensions"][KEY] = own
    else:
        del fields["extensions"][KEY]
    fields["modification_date"] = int(time.time() if now is None else now)
    return card


def _entries(name: str, kind: type[Any], value: Any) -> tuple[list[Any], str]:
    """An entry, or None, for each of the list's values, and the sentence for what could not be read."""
    if value is None:
        return [], ""
    if not isinstance(value, list):
        return [], _fault(name, f"{kind_of(value)}, where a list should be")
    entries = [_entry(kind, one) for one in value[:MOST_ENTRIES]]
    bad = [number for number, entry in enumerate(entries, start=1) if entry is None]
    if bad:
        return entries, _fault(name, f"not readable at entry {', '.join(map(str, bad[:5]))}{' and more' if bad[5:] else ''}")
    if len(value) > MOST_ENTRIES:
        return entries, _fault(name, f"a list of {len(value)} entries, of which the first {MOST_ENTRIES} are used", whole=False)
    return entries, ""


def _entry(kind: type[Any], value: Any) -> Any:
    """The entry of a text or an object; None for anything else."""
    parts = dataclasses.fields(kind)
    if isinstance(value, str):
        value = {parts[0].name: value}
    if not isinstance(value, dict):
        return None
    read: dict[str, Any] = {}
    for part in parts:
        given = value.get(part.name)
        if part.type is str:
            if not isinstance(given, str | None):
                return None
            read[part.name] = " ".join((given or "").split())
        else:
            if not isinstance(given, list | None) or not all(isinstance(word, str) for word in given or []):
                return None
            read[part.name] = tuple(" ".join(word.split()) for word in given or [] if word.strip())
    return kind(**read) if any(read.values()) else None


def _levels(name: str, scales: Sequence[str], value: Any) -> tuple[dict[str, int], str]:
    if value is None:
        return {}, ""
    if not isinstance(value, dict):
        return {}, _fault(name, f"{kind_of(value)}, where an object of numbers should be")
    read = {scale: round(value[scale]) for scale in scales if _is_level(value.get(scale))}
    bad = [scale for scale in scales if value.get(scale) is not None and not _is_level(value[scale])]
    return read, _fault(name, f"no number from 0 to 100 at {', '.join(bad)}") if bad else ""


def _is_level(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 100


def _fault(name: str, what: str, whole: bool = True) -> str:
    rest = " It stays in the card, but what is wrong in it is not used." if whole else ""
    return f"NPC fields: {name.replace('_', ' ')} is {what}.{rest}"


def _changed(name: str, old: Any, value: Any) -> Any:
    """The new content of one of our fields; something empty removes it."""
    if name in LISTS and isinstance(value, list):
        kind = LISTS[name]
        given = [entry for entry in value if isinstance(entry, str | dict)]
        if len(given) != len(value):
            raise ValueError(f"{name!r} takes texts and objects")
        former = old if isinstance(old, list) else []
        kept = [*(one for one in former[:MOST_ENTRIES] if _entry(kind, one) is None and one), *former[MOST_ENTRIES:]]
        return [entry for entry in map(_without_empty, given) if _entry(kind, entry) is not None] + kept
    if name in SCALES and isinstance(value, dict) and value.keys() <= set(SCALES[name]):
        before = old if isinstance(old, dict) else {}
        merged: dict[str, Any] = {**before, **{scale: round(level) if _is_level(level) else None for scale, level in value.items()}}
        return {scale: level for scale, level in merged.items()
                if scale not in value or level not in (None, MIDDLE)}
    if name == SCRIPT and isinstance(value, dict):
        parts: dict[str, Any] = {**(old if isinstance(old, dict) else {}), **value}
        return {key: part for key, part in parts.items() if part or key not in value}
    raise ValueError(f"{name!r} is no NPC field of this form")


def _without_empty(entry: Any) -> Any:
    """An object with nothing but a text is the text alone; empty parts are left out."""
    if not isinstance(entry, dict):
        return entry
    filled = {key: value for key, value in entry.items() if value not in ("", [], None)}
    return filled["text"] if filled.keys() == {"text"} else filled


# For each scale: what its low and its high end mean, as they stand behind "rather" and "very".
ENDS: dict[str, tuple[str, str]] = {
    "valence": ("gloomy", "cheerful"),
    "arousal": ("calm", "agitated"),
    "openness": ("set in old ways", "curious about new things"),
    "conscientiousness": ("careless and spontaneous", "careful and orderly"),
    "extraversion": ("quiet and reserved", "outgoing and talkative"),
    "agreeableness": ("distrustful and stubborn", "warm and trusting"),
    "neuroticism": ("hard to upset", "easily worried and upset"),
}
# Up to and with this level: the side and the strength of the words.
_BANDS: tuple[tuple[int, int, str], ...] = ((19, 0, "very"), (39, 0, "rather"), (60, 0, ""), (80, 1, "rather"), (100, 1, "very"))

_STOPS = tuple(".!?…。！？")


def compile_npc(card: Card) -> str:
    """The section of a card's NPC fields for its system prompt, macros still in it, parts parted by a blank line; "" without."""
    return "\n\n".join(text for text in written(read_npc(card.raw)).values() if text)


def written(npc: Npc) -> dict[str, str]:
    """What each field writes, in the order of the prompt; "" for one that writes nothing."""
    return {
        "relationships": _listed("People in {{char}}'s life", map(_relationship, npc.relationships)),
        "goals": _listed("What {{char}} wants", (goal.text for goal in npc.goals)),
        "secrets": _listed("Secrets that {{char}} never tells, hints at or confirms", map(_secret, npc.secrets)),
        "knowledge_limits": _listed("What {{char}} does not know, and says so when asked",
                                    (limit.text for limit in npc.knowledge_limits)),
        "forbidden_topics": _listed("What {{char}} will not talk about", (topic.text for topic in npc.forbidden_topics)),
        "speech_habits": _listed("How {{char}} talks", map(_habit, npc.speech_habits)),
        "big_five": _sentence("{{char}} is", [scale_words(scale, level) for scale, level in npc.big_five.items()]),
        "mood": _sentence("Right now {{char}} is", [scale_words(scale, level) for scale, level in npc.mood.items()]),
    }


def scale_words(scale: str, level: int) -> str:
    """The words for a level from 0 to 100 of a scale; "" around the middle."""
    side, strength = next((side, strength) for most, side, strength in _BANDS if level <= most)
    return f"{strength} {ENDS[scale][side]}" if strength else ""


def _listed(heading: str, entries: Iterator[str]) -> str:
    """One entry beside the heading, several below it, each on a line."""
    texts = [text for text in entries if text]
    if len(texts) < 2:
        return f"{heading}: {texts[0]}" if texts else ""
    return "\n".join([f"{heading}:", *(f"- {text}" for text in texts)])


def _sentence(beginning: str, parts: Sequence[str]) -> str:
    words = [part for part in parts if part]
    if not words:
        return ""
    return f"{beginning} {', '.join(words[:-1])}{' and ' if words[:-1] else ''}{words[-1]}."


def _secret(secret: Secret) -> str:
    only = f"Only {secret.may_learn} may learn this." if secret.text and secret.may_learn else ""
    return " ".join(filter(None, (_ended(secret.text), only)))


def _relationship(one: Relationship) -> str:
    return ": ".join(filter(None, (one.who, one.text)))


def _habit(habit: Habit) -> str:
    """The habit, and those of its words that it does not name itself."""
    told = normalise(habit.text)
    parts = [_ended(habit.text)]
    for verb, words in (("Always says", habit.always), ("Never says", habit.never)):
        plain = [word.split("|")[0].strip(" *") for word in words]  # of alternatives the first
        missing = [f'"{word}"' for word in plain if normalise(word) not in told]
        if missing:
            parts.append(f"{verb} {', '.join(missing)}.")
    return " ".join(filter(None, parts))


def _ended(text: str) -> str:
    """The text as a sentence: with a full stop, where none ends it."""
    return f"{text}." if text and text.rstrip("\"'”’»)*")[-1:] not in _STOPS else text
