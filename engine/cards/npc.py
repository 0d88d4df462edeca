"""The NPC fields of a card: what a game needs of a character beyond its description, under one key of its extensions.

What cannot be read stays in the card and is reported. `compile_npc` writes the fields into the prompt: lines rather than prose,
since small models follow what has a line of its own. Texts may hold {{char}} and {{user}}.
"""

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.base.errors import UserError
from engine.base.questions import normalise
from engine.cards.card import Card
from engine.cards.fields import as_v3, extensions_of, touched
from engine.cards.reading import kind_of

KEY = "persona_studio/npc"
SCRIPT, DOSSIER = "script", "dossier"  # of our object: see script.py and dossier.py
MOST_ENTRIES = 60  # of one list
MIDDLE = 50  # of a slider, where it writes nothing


@dataclass(frozen=True)
class Part:
    """A part of an entry: a text or, with `many`, texts with commas between them. `wide` and `example` are for the form."""

    key: str
    label: str
    example: str = ""
    many: bool = False
    wide: bool = False


@dataclass(frozen=True)
class ListField:
    """A list of entries, one of which is called `item`. What a bare text means is the first of `parts`. `where` it is written."""

    key: str
    label: str
    item: str
    hint: str
    parts: tuple[Part, ...]
    where: str = "In the prompt"


@dataclass(frozen=True)
class Scale:
    """A number from 0 to 100; `low` and `high` say what its ends mean, after "rather" and "very"."""

    key: str
    label: str
    low: str
    high: str


@dataclass(frozen=True)
class ScaleField:
    key: str
    label: str
    hint: str
    scales: tuple[Scale, ...]


# In the order of the page. To add one, add it here and to `Npc`, and say in `written` what it writes (actions: actions.py).
LIST_FIELDS = (
    ListField("goals", "Goals", "goal", "What the character wants, now and in the end.",
              (Part("text", "Goal", "To be paid before the tide turns", wide=True),)),
    ListField("beliefs", "Beliefs", "belief",
              "What the character holds to be true of itself, of others and of the world, right or wrong.",
              (Part("text", "Belief", "Nobody helps for nothing", wide=True),)),
    ListField("coping", "Ways of coping", "way of coping", "What the character does when something hurts, frightens or shames it.",
              (Part("text", "What it does", "Makes a joke and looks for the door", wide=True), Part("when", "When", "shouted at"))),
    ListField("secrets", "Secrets", "secret",
              "Kept, whatever is asked. The words that give it away never reach the model: the test script looks for them in the "
              "answers.",
              (Part("text", "Secret", "She set the fire herself", wide=True),
               Part("words", "Words that give it away", "i set the fire, arson*", many=True),
               Part("may_learn", "Who may learn it", "nobody"))),
    ListField("knowledge_limits", "Does not know", "limit",
              "Where the character's knowledge ends: it says so instead of making things up.",
              (Part("text", "What", "anything beyond the bridge", wide=True),)),
    ListField("relationships", "Relationships", "relationship", "Who matters, and how.",
              (Part("who", "Who", "Dot"), Part("text", "What they are to the character", "his big sister, gone north", wide=True))),
    ListField("forbidden_topics", "Does not talk about", "topic",
              "Subjects that the character turns away from. The test script looks for the words in the answers.",
              (Part("text", "Subject", "the fire in the archive", wide=True),
               Part("words", "Words to avoid", "burned, ashes", many=True))),
    ListField("speech_habits", "Speech habits", "habit",
              "How the character talks. The test script looks for the words. “a | b” is either, “a*” any ending.",
              (Part("text", "Habit", "Begins with “Hush.”", wide=True), Part("always", "In every answer", "hush", many=True),
               Part("never", "In no answer", "haha, okay", many=True))),
    ListField("actions", "Actions", "action",
              "What the character can do in a game. An argument is text, number, whole number, yes/no, a range, or choices.",
              (Part("name", "Name", "give_coins"), Part("arguments", "Arguments", "to: guard | smith; coins: 1..20", wide=True),
               Part("when", "When", "{{char}} pays for silence or for work", wide=True)),
              "In the prompt, if a game asks for actions"),
)
SCALE_FIELDS = (
    ScaleField("mood", "Mood", "How the character feels as the story begins.",  # the circumplex model of affect (Russell 1980)
               (Scale("valence", "Feeling", "gloomy", "cheerful"), Scale("arousal", "Energy", "calm", "agitated"))),
    ScaleField("big_five", "Temperament", "The Big Five personality traits. In the middle, a slider adds nothing to the prompt.",
               (Scale("openness", "Openness", "set in old ways", "curious about new things"),
                Scale("conscientiousness", "Conscientiousness", "careless and spontaneous", "careful and orderly"),
                Scale("extraversion", "Extraversion", "quiet and reserved", "outgoing and talkative"),
                Scale("agreeableness", "Agreeableness", "distrustful and stubborn", "warm and trusting"),
                Scale("neuroticism", "Neuroticism", "hard to upset", "easily worried and upset"))),
)
LISTS = {field.key: tuple(part.key for part in field.parts) for field in LIST_FIELDS}
SCALES = {field.key: tuple(scale.key for scale in field.scales) for field in SCALE_FIELDS}
FIELDS = (*LISTS, *SCALES)
ENDS = {scale.key: (scale.low, scale.high) for field in SCALE_FIELDS for scale in field.scales}
# Up to and including this level: the side and the strength of the words.
_BANDS: tuple[tuple[int, int, str], ...] = ((19, 0, "very"), (39, 0, "rather"), (60, 0, ""), (80, 1, "rather"), (100, 1, "very"))
_STOPS = tuple(".!?…。！？")


@dataclass(frozen=True)
class Entry:
    """One entry of a list; which parts it has, LISTS says."""

    text: str = ""
    words: tuple[str, ...] = ()  # of a secret: what an answer must not contain; of a topic: what the character does not say
    may_learn: str = ""  # who may learn a secret, "" for nobody
    who: str = ""  # of a relationship
    always: tuple[str, ...] = ()  # words that are in every answer
    never: tuple[str, ...] = ()  # and in none
    name: str = ""  # of an action; see actions.py for how it and its arguments are read
    arguments: str = ""
    when: str = ""  # of an action and a way of coping


@dataclass(frozen=True)
class Npc:
    """The fields that could be read; scales hold whole numbers from 0 to 100. `faults`: a sentence for each part that could not."""

    goals: tuple[Entry, ...] = ()
    beliefs: tuple[Entry, ...] = ()
    coping: tuple[Entry, ...] = ()
    secrets: tuple[Entry, ...] = ()
    knowledge_limits: tuple[Entry, ...] = ()
    relationships: tuple[Entry, ...] = ()
    forbidden_topics: tuple[Entry, ...] = ()
    speech_habits: tuple[Entry, ...] = ()
    actions: tuple[Entry, ...] = ()
    mood: Mapping[str, int] = field(default_factory=dict)
    big_five: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


def npc_object(raw: Mapping[str, Any]) -> Any:
    """Our object in the extensions of a V1, V2 or V3 card, unchecked; None where there is none."""
    return extensions_of(raw).get(KEY)


def read_npc(raw: Mapping[str, Any]) -> Npc:
    """The NPC fields of a card. What is malformed is described in `faults` and left out."""
    found = npc_object(raw)
    if found is None:
        return Npc()
    if not isinstance(found, Mapping):
        return Npc(faults=(f"The NPC fields of this card are {kind_of(found)}, where an object should be. They stay in the "
                           "card, but are not used.",))
    faults: list[str] = []
    read: dict[str, Any] = {name: (_entries if name in LISTS else _levels)(name, found.get(name), faults) for name in FIELDS}
    return Npc(**read, faults=tuple(faults))


def npc_values(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that can be read, as an editor needs them: entries as objects, with all that they hold, and levels."""
    own, read = npc_object(raw), read_npc(raw)
    values: dict[str, Any] = {name: dict(getattr(read, name)) for name in SCALES}
    for name, parts in LISTS.items():
        entries = own.get(name) if isinstance(own, Mapping) else None
        readable = [one for one in entries[:MOST_ENTRIES] if _entry(name, one)] if isinstance(entries, list) else []
        values[name] = [{parts[0]: one} if isinstance(one, str) else copy.deepcopy(one) for one in readable]
    return values


def with_npc(raw: dict[str, Any], changes: Mapping[str, Any], now: float | None = None) -> dict[str, Any]:
    """The V3 form of a card with some NPC fields changed, dated `now` (Unix seconds) if anything differs.

    `changes`: lists of entries (texts or objects), scales as {scale: number} (the middle and None unset one), the test script
    and the dossier as their objects. Entries without a text are left out; old ones that could not be read stay, after the new
    ones. Raises ValueError for what is no such field, UserError where the card has no place for them.
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
        own[name] = _changed(name, own.get(name), value)
        if not own[name]:
            del own[name]
    if own == old or (not own and old is None):
        return card
    if own:
        fields["extensions"][KEY] = own
    else:
        del fields["extensions"][KEY]
    return touched(card, now)


def _entries(name: str, value: Any, faults: list[str]) -> tuple[Entry, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        faults.append(_fault(name, f"{kind_of(value)}, where a list should be"))
        return ()
    entries = [_entry(name, one) for one in value[:MOST_ENTRIES]]
    bad = [str(number) for number, entry in enumerate(entries, start=1) if entry is None]
    if bad:
        faults.append(_fault(name, f"not readable at entry {', '.join(bad[:5])}{' and more' if bad[5:] else ''}"))
    elif len(value) > MOST_ENTRIES:
        faults.append(_fault(name, f"a list of {len(value)} entries, of which the first {MOST_ENTRIES} are used", whole=False))
    return tuple(entry for entry in entries if entry is not None)


def _entry(name: str, value: Any) -> Entry | None:
    parts = LISTS[name]
    if isinstance(value, str):
        value = {parts[0]: value}
    read: dict[str, Any] = {}
    for part in parts if isinstance(value, dict) else ():
        given = value.get(part)
        if part in ("words", "always", "never"):
            if not isinstance(given, list | None) or not all(isinstance(word, str) for word in given or []):
                return None
            read[part] = tuple(" ".join(word.split()) for word in given or [] if word.strip())
        elif isinstance(given, str | None):
            read[part] = " ".join((given or "").split())
        else:
            return None
    return Entry(**read) if any(read.values()) else None


def _levels(name: str, value: Any, faults: list[str]) -> dict[str, int]:
    given = value if isinstance(value, dict) else {}
    bad = [scale for scale in SCALES[name] if given.get(scale) is not None and not _is_level(given[scale])]
    if value is not None and not isinstance(value, dict):
        faults.append(_fault(name, f"{kind_of(value)}, where an object of numbers should be"))
    elif bad:
        faults.append(_fault(name, f"not a number from 0 to 100 at {', '.join(bad)}"))
    return {scale: round(given[scale]) for scale in SCALES[name] if _is_level(given.get(scale))}


def _is_level(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and 0 <= value <= 100


def _fault(name: str, what: str, whole: bool = True) -> str:
    rest = " It stays in the card, but what is wrong in it is not used." if whole else ""
    return f"NPC fields: {name.replace('_', ' ')} is {what}.{rest}"


def _changed(name: str, old: Any, value: Any) -> Any:
    """The new content of one of our fields; something empty removes it."""
    if name in LISTS and isinstance(value, list):
        if not all(isinstance(entry, str | dict) for entry in value):
            raise ValueError(f"{name!r} takes texts and objects")
        former = old if isinstance(old, list) else []
        kept = [*(one for one in former[:MOST_ENTRIES] if one and _entry(name, one) is None), *former[MOST_ENTRIES:]]
        filled = [{key: part for key, part in entry.items() if part not in ("", [], None)} if isinstance(entry, dict) else entry
                  for entry in value]
        short = [entry["text"] if isinstance(entry, dict) and entry.keys() == {"text"} else entry for entry in filled]
        return [entry for entry in short if _entry(name, entry)] + kept
    if name in SCALES and isinstance(value, dict) and value.keys() <= set(SCALES[name]):
        levels = {scale: round(level) if _is_level(level) else None for scale, level in value.items()}
        before = old if isinstance(old, dict) else {}
        return {scale: level for scale, level in {**before, **levels}.items() if scale not in value or level not in (None, MIDDLE)}
    if name in (SCRIPT, DOSSIER) and isinstance(value, dict):
        parts: dict[str, Any] = {**(old if isinstance(old, dict) else {}), **value}
        return {key: part for key, part in parts.items() if part or key not in value}
    raise ValueError(f"{name!r} is no NPC field of this form")


def compile_npc(card: Card) -> str:
    """The NPC fields' section of a card's system prompt, macros still in it, with blank lines between its parts."""
    return "\n\n".join(text for text in written(read_npc(card.raw)).values() if text)


def written(npc: Npc) -> dict[str, str]:
    """What each field writes, in the order of the prompt; "" for one that writes nothing."""
    return {
        "relationships": _listed("People in {{char}}'s life", npc.relationships,
                                 lambda one: ": ".join(filter(None, (one.who, one.text)))),
        "goals": _listed("What {{char}} wants", npc.goals),
        "beliefs": _listed("What {{char}} believes", npc.beliefs),
        "coping": _listed("How {{char}} copes", npc.coping,
                          lambda one: f"When {one.when}: {one.text}" if one.when and one.text else one.text),
        "secrets": _listed("Secrets that {{char}} never tells, hints at or confirms", npc.secrets, lambda one: _ended(one.text) + (
            f" Only {one.may_learn} may learn this." if one.text and one.may_learn else "")),
        "knowledge_limits": _listed("What {{char}} does not know, and says so when asked", npc.knowledge_limits),
        "forbidden_topics": _listed("What {{char}} will not talk about", npc.forbidden_topics),
        "speech_habits": _listed("How {{char}} talks", npc.speech_habits, _habit),
        "big_five": _sentence("{{char}} is", [scale_words(scale, level) for scale, level in npc.big_five.items()]),
        "mood": _sentence("Right now {{char}} is", [scale_words(scale, level) for scale, level in npc.mood.items()]),
    }


def scale_words(scale: str, level: int) -> str:
    """The words for a level from 0 to 100 of a scale; "" around the middle."""
    side, strength = next((side, strength) for most, side, strength in _BANDS if level <= most)
    return f"{strength} {ENDS[scale][side]}" if strength else ""


def _listed(heading: str, entries: Iterable[Entry], words: Callable[[Entry], str] = lambda one: one.text) -> str:
    texts = [text for text in map(words, entries) if text]
    if len(texts) < 2:
        return f"{heading}: {texts[0]}" if texts else ""
    return "\n".join([f"{heading}:", *(f"- {text}" for text in texts)])


def _sentence(beginning: str, parts: Sequence[str]) -> str:
    words = [part for part in parts if part]
    if not words:
        return ""
    return f"{beginning} {', '.join(words[:-1])}{' and ' if words[:-1] else ''}{words[-1]}."


def _habit(habit: Entry) -> str:
    """The habit, and those of its words that it does not name itself."""
    parts = [_ended(habit.text)]
    for verb, words in (("Always says", habit.always), ("Never says", habit.never)):
        plain = [word.split("|")[0].strip(" *") for word in words]  # of alternatives the first
        missing = [f'"{word}"' for word in plain if normalise(word) not in normalise(habit.text)]
        if missing:
            parts.append(f"{verb} {', '.join(missing)}.")
    return " ".join(filter(None, parts))


def _ended(text: str) -> str:
    return f"{text}." if text and text.rstrip("\"'”’»)*")[-1:] not in _STOPS else text
