"""What a model is asked when it helps to write a card, and what of its answer can be used: all prompts for it are here.

A small model is asked for little: one task, a short account of the character, and the text last. What it writes comes back as a
proposal; `finished` refuses what is no text of a card, so that nobody has to read an assistant's talk or a loop.
"""

import re
from dataclasses import dataclass, replace
from typing import Literal, get_args

from engine.base.errors import UserError
from engine.base.looping import is_looping
from engine.base.questions import count_words, normalise
from engine.base.sampling import SamplingParams
from engine.cards.card import Card
from engine.cards.macros import expand_macros, other_macros
from engine.cards.prompt import PLAYER, Message, rough_tokens
from engine.cards.script import telling_words
from engine.cards.speaking import START, has_assistant_phrase

Task = Literal["draft", "lengthen", "tighten", "voice"]
TASKS: tuple[Task, ...] = get_args(Task)
MOST_TEXT, MOST_WISH = 6_000, 600  # characters of a text that can be worked on, and of a wish
_KNOWN = {"description": 1_200, "personality": 300, "scenario": 400, "mes_example": 700}  # characters quoted of each other field
_SAMPLE = 600  # characters of speech that are imitated
_MORE_TOKENS = 110
_DRAFT_TOKENS = {"description": 200, "mes_example": 160, "lore": 120, "question": 60, "npc": 40}
_SHORT_TOKENS = 90  # of the draft of any other field
_DIALOGUE_LINES = 4
_SYSTEM = ("You help a writer with a character for a story. Write only the text that is asked for, in the language of the "
           "character's description: no heading, no remark, no quotation marks around it.")
# What a draft of each field is. {char} is the character's name.
_DRAFTS = {
    "description": "Write a description of {char} in four to six sentences: who that is, how they talk, and what they want now.",
    "personality": "Write the personality of {char} as one sentence with three or four traits.",
    "scenario": f"Write the scene in two or three sentences: where {{char}} and {PLAYER} meet, and what has just happened.",
    "first_mes": f"Write the first words of {{char}} to {PLAYER}: one short action between asterisks, then two or three sentences "
                 "that {char} says.",
    "mes_example": f"Write a talk of {PLAYER} and {{char}}: four lines, and each begins with “{PLAYER}:” or “{{char}}:”.",
    "system_prompt": "Write two or three sentences that tell an actor how to play {char}.",
    "post_history_instructions": "Write one sentence that reminds an actor of what matters most when playing {char}.",
    "creator_notes": "Write two sentences about {char} for somebody who looks for a character to talk to.",
    "question": "Answer this question about {char} in one or two sentences, with something that one can picture: {label}",
    "lore": "Write two or three sentences of facts on the subject, as an entry of a lexicon of the world of {char}.",
}
_DRAFTS |= {"alternate_greetings": _DRAFTS["first_mes"], "group_only_greetings": _DRAFTS["first_mes"]}
_DRAFT = "Write one short sentence about {char}: {label}."  # of a field without a line of its own
_SPOKEN = ("first_mes", "alternate_greetings", "group_only_greetings", "mes_example")
_ASKED: dict[Task, str] = {
    "lengthen": "Write two or three more sentences that go on from this text. Do not repeat it.",
    "tighten": "Write this text again in fewer words. Keep every fact and add none.",
    "voice": "Write this text again so that it sounds like the sample. Keep what it says.",
}
_PREAMBLE = re.compile(r"^(?:sure|certainly|of course|okay|here(?:'s| is| are))\b[^\n:]{0,120}:\s*\n*", re.IGNORECASE)
_LABEL = re.compile(r"^(?:description|personality|scenario|greeting|text|answer|new text|rewritten text)\s*:\s*", re.IGNORECASE)
_SIGN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")  # of a script without spaces
_PARTICLES = re.compile(r"[\u3040-\u309f]")
NAMELESS = "the character"
_QUOTES = {'"': '"', "“": "”", "«": "»"}
_LARGER = "Try again, or choose a larger model: it writes better."


@dataclass(frozen=True)
class Wish:
    """What a writer wants: a `task` for the `text` of a field, or for a part of it. `key` of the field: as in a card, "lore" for
    an entry of the lorebook, "question" for an answer to `label`, else any; `label`: what the page calls it. `wish`: the writer's
    own words, for a voice a sample."""

    task: Task
    key: str
    text: str = ""
    label: str = ""
    wish: str = ""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"there is no task {self.task!r}")
        if len(self.text) > MOST_TEXT:
            raise UserError(f"The text has more than {MOST_TEXT:,} characters.", "Select a part of it.")
        if self.task != "draft" and not self.text.strip():
            raise UserError("There is no text yet.", "Let the model draft one, or write a few words.")
        if self.task in ("tighten", "voice") and (macros := other_macros(self.text)):
            raise UserError(f"The model would write this text again without {macros[0]}.", "Select a part that has no such macro.")


def called(card: Card) -> Card:
    """The card, with NAMELESS as its name where it has none yet."""
    return card if card.char else replace(card, name=NAMELESS)


def chat(card: Card, wish: Wish) -> list[Message]:
    """The messages that ask for it. The text comes last, since small models follow best what they read last."""
    card = called(card)
    text, said = (_plain(one, card) for one in (wish.text, wish.wish[:MOST_WISH]))
    if wish.task == "draft":
        asked = _DRAFTS.get(wish.key, _DRAFT).format(char=card.char, label=_plain(wish.label, card))
        asked += f"\nThe writer wants: {said.strip()}" if said.strip() else ""
        parts = [asked, f"Use these notes:\n{text.strip()}" if text.strip() else ""]
    else:
        sample = (said.strip() or _sample(card)) if wish.task == "voice" else ""
        wanted = f"The writer wants: {said.strip()}" if said.strip() and wish.task != "voice" else ""
        parts = [f"The sample:\n{sample}" if sample else "", f"The text:\n{text.strip()}", _ASKED[wish.task], wanted]
    user = "\n\n".join(filter(None, (about(card, wish.key), *parts)))
    return [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": user}]


def sampling(wish: Wish) -> SamplingParams:
    """How it is drawn, with a limit on its length in tokens that follows the task."""
    own = rough_tokens(wish.text) + (len(wish.text.encode("utf-8", "replace")) - len(wish.text)) // 2  # other scripts take more
    limit = {"draft": _DRAFT_TOKENS.get(wish.key, _SHORT_TOKENS), "lengthen": _MORE_TOKENS, "tighten": max(32, own),
             "voice": max(64, 2 * own)}[wish.task]
    # What is to be kept word for word is written with little chance in it.
    return SamplingParams(temperature=0.3 if wish.task == "tighten" else 0.6, max_tokens=min(limit, 1_000))


def finished(card: Card, wish: Wish, said: str) -> str:
    """The text that is proposed in the place of `wish.text`. Raises UserError where what the model said cannot be one."""
    text, card = _bare(said), called(card)
    if wish.task == "draft":
        text = _asked_for(text, wish.key, card)
    if count_words(text) < 2 or is_looping(text) or has_assistant_phrase(text):
        raise UserError("The model wrote nothing that can be used.", _LARGER)
    before = normalise(wish.text)
    if normalise(text) == before or (wish.task == "lengthen" and before.endswith(normalise(text))):
        raise UserError("The model only repeated the text.", _LARGER)
    if wish.task == "tighten" and count_words(text) >= count_words(wish.text):
        raise UserError("The model could not make it shorter.", _LARGER)
    if wish.task in ("tighten", "voice") and _is_another(_plain(wish.text, card), text, wish.task):
        raise UserError("The model wrote something else, and not this text again.", _LARGER)
    text = _with_macros(text, card, wish)
    if wish.task == "lengthen":
        more = text[len(wish.text.strip()):].strip() if text.startswith(wish.text.strip()) else text
        return f"{wish.text.rstrip()}\n{more}" if "\n" in wish.text.strip() else f"{wish.text.rstrip()} {more}"
    return text


def about(card: Card, key: str) -> str:
    """What the card says beside the field `key` itself, each part cut to a few sentences."""
    texts = {"description": card.description, "personality": card.personality, "scenario": card.scenario,
             "mes_example": card.example_dialogue}
    known = [_shortened(_plain(text, card), _KNOWN[name]) for name, text in texts.items()
             if text.strip() and name != key and (name != "mes_example" or key in _SPOKEN)]
    return "\n".join([f"The character: {card.name}", *known])


def _sample(card: Card) -> str:
    found = _shortened(_plain(card.example_dialogue or card.greeting, card), _SAMPLE)
    if not found:
        raise UserError("There is no sample of how it should sound.",
                        "Write one into the field below the text, or give the card a greeting or example dialogue.")
    return found


def _plain(text: str, card: Card) -> str:
    return START.sub("", expand_macros(text, card, PLAYER)).strip()


def _shortened(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    return f"{text[:most].rsplit(None, 1)[0]} …"


def _bare(said: str) -> str:
    """An answer without what models put around a text."""
    text = _LABEL.sub("", _PREAMBLE.sub("", said.strip())).strip()
    closing = _QUOTES.get(text[:1])
    if closing and text.endswith(closing) and closing not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def _is_another(old: str, new: str, task: Task) -> bool:
    """Whether a text says other things than the one it was made from: in fewer words, more than half of its telling words are new;
    in another voice, none of them is old."""
    known, said = _telling(old), _telling(new)
    return len(said - known) > len(said) / 2 if task == "tighten" else len(known) > 2 and not known & said


def _telling(text: str) -> set[str]:
    """The telling words of a text; in a script without spaces the signs, without those that are mostly particles."""
    return {*_SIGN.findall(_PARTICLES.sub("", text)), *telling_words(_SIGN.sub(" ", text))}


def _asked_for(text: str, key: str, card: Card) -> str:
    """Of a draft what was asked for: a few lines of a dialogue, the first paragraph of a short text. Small models go on and on."""
    if key == "mes_example":
        label = re.compile(rf"(?:\*\*)?({PLAYER}|{_name(card)})(?:\*\*)?\s*[:：](?:\*\*)?\s*")
        labels = [(line, label.match(line)) for line in map(str.strip, text.splitlines())]
        return "\n".join([f"{found[1]}: {line[found.end():]}" for line, found in labels if found][:_DIALOGUE_LINES])
    return text if key in ("description", "lore") else text.split("\n\n")[0].strip()


def _name(card: Card) -> str:
    """A pattern for what the character is called."""
    return re.escape(card.char) if card.char != NAMELESS else "(?i:the character)"


def _with_macros(text: str, card: Card, wish: Wish) -> str:
    """The player as {{user}}; in a dialogue, and where the text had it so, the character as {{char}}."""
    text = re.sub(rf"\b(?:[Tt]he )?{PLAYER}\b", "{{user}}", text)
    if wish.key == "mes_example" or "{{char}}" in wish.text or card.char == NAMELESS:
        text = re.sub(rf"(?<!\w){_name(card)}(?!\w)", "{{char}}", text)
    if wish.key == "mes_example" and wish.task == "draft" and not START.search(text):
        text = f"<START>\n{text}"
    return text
