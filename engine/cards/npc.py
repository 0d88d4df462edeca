"""What the NPC fields of a card write into its prompt: pure, and not one byte for a card without them.

Texts hold {{char}} and {{user}} as a card's do; whoever builds the prompt puts the names in. Bare lines rather than
prose: small models keep to what stands on a line of its own.
"""

from collections.abc import Iterator, Sequence

from engine.base.text import normalise
from engine.cards.card import Card
from engine.cards.npc_fields import Habit, Npc, Relationship, Secret, read_npc

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
