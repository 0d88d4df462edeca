"""A card as a prompt: messages for chats, calibration, measurements and exported folders; the same input gives the same prompt.

What is the same for every line that is said to a character comes first, word for word: the system prompt, the example dialogue as
turns, the greeting. What a lorebook or the memory of a player adds to a single line goes with the player's last words, so that all
before them need not be read again. Chance comes from a seed, one a chat.

A baked card (baked.py) is all in the model's weights: of it the prompt has the name alone, what the lorebook adds to a single line,
and what a chat brings. Its own greeting goes as well; the player sees it, the model knows it.
"""

import functools
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from engine.cards.actions import reply_instructions
from engine.cards.baked import is_baked, unbake
from engine.cards.book import ROLES, Role
from engine.cards.card import Card, read_book
from engine.cards.fields import extensions_of
from engine.cards.lorebook import Fired, Firing, fire, steady
from engine.cards.macros import expand_macros, hidden_keys
from engine.cards.npc import compile_npc, read_npc
from engine.cards.speaking import START, dialogue_turns

CLOSING = "Stay in character as {{char}}. Answer in one to three short sentences, in {{char}}'s own voice."
# Parts the example dialogue from a chat in which the character speaks first; chat templates want turns to alternate.
NEW_CHAT = "(A new conversation begins.)"
PLAYER = "Player"
REMEMBERED = "{{char}} remembers from earlier conversations with {{user}}:"
NOTE_DEPTH = 4  # messages, where a note does not say
BLOCK = 8  # turns dropped together, so that the prompt's beginning stays the same for a while and need not be read again

Message = dict[str, str]
Turn = tuple[str, str] | Mapping[str, str]

_ORIGINAL = re.compile(r"\{\{original\}\}", re.IGNORECASE | re.ASCII)
_BRACKETED = re.compile(r"[\[(<{*].*", re.DOTALL)


def rough_tokens(text: str) -> int:
    """About how many tokens a text has, where no tokenizer is at hand: four characters each."""
    return -(-len(text) // 4)


@dataclass(frozen=True)
class Setting:
    """What a chat brings to a card. `about_user`: what the character knows of the player; `count`: tokens of a text; `memory`:
    sentences from earlier conversations, already chosen for the player's last words and cut to a budget; `actions`: the reply is
    asked for in the form of `reply_schema` (actions.py), of which the end of the prompt tells; `scene`: what a game says of the
    moment, after all that the card says."""

    user: str = PLAYER
    about_user: str = ""
    seed: int = 0
    count: Callable[[str], int] = rough_tokens
    memory: tuple[str, ...] = ()
    actions: bool = False
    scene: str = ""


USUAL = Setting()  # what calibration, measurements and exported folders use


@dataclass(frozen=True)
class Note:
    """The Character's Note: a text inserted before the last `depth` messages of every conversation (0: at the end)."""

    text: str
    depth: int = NOTE_DEPTH
    role: Role = "system"


@dataclass(frozen=True)
class Fitted:
    """A conversation that fits: how many example dialogues (the last) and turns (the oldest) it leaves out, what lore fired."""

    messages: list[Message]
    examples_dropped: int = 0
    turns_dropped: int = 0
    lore: Firing = field(default_factory=Firing)


def render_system_prompt(card: Card, setting: Setting = USUAL) -> str:
    """The system prompt of a card. Sections are separated by one blank line, empty ones are left out.

    Entries of its lorebook that always fire are placed by their position. The card's own system_prompt replaces CLOSING, and
    {{original}} in it puts CLOSING back in. Example dialogue in which no line says who speaks is here; the rest becomes turns.
    """
    if is_baked(card):
        said = [("About {{user}}: ", setting.about_user), ("The scene now: ", setting.scene)]
        return "\n\n".join([f"You are {card.char}.", *filter(None, (_filled(*one, card, setting) for one in said))])
    full_name = f" Your full name is {card.name}." if card.name != card.char else ""
    loose = [text for text, turns in _dialogues(card, setting) if not turns]
    lore = steady(read_book(card), lambda text: _filled("", text, card, setting), setting.count)
    sections = [
        *(("", one.text) for one in lore if one.entry.place == "before_char"),
        ("", card.description),
        ("Personality: ", card.personality),
        ("Scenario: ", card.scenario),
        ("", compile_npc(card)),
        *(("", one.text) for one in lore if one.entry.place == "after_char"),
        ("About {{user}}: ", setting.about_user),
        ("The scene now: ", setting.scene),
        ("Example dialogue:\n", "\n\n".join(loose)),
        ("", _ORIGINAL.sub(lambda _: CLOSING, card.system_prompt) if card.system_prompt.strip() else CLOSING),
    ]
    filled = [tidy for heading, text in sections if (tidy := _filled(heading, text, card, setting))]
    return "\n\n".join([f"You are {card.char}.{full_name}", *filled])


def messages(card: Card, history: Sequence[Turn], setting: Setting = USUAL) -> list[Message]:
    """The chat messages of a conversation: system prompt, example dialogues as turns, the greeting, then `history`.

    `history`: turns as (role, content) or {"role", "content"}, role "user" or "assistant" (else ValueError); macros in them are
    carried out. Memory of the player and lore that fires go in brackets before the player's last words, the post-history
    instructions after them: a form that every chat template takes.
    """
    opening = [("assistant", card.greeting)] if render_greeting(card, setting) else []  # the lorebook searches it, baked or not
    return _Prompt(card, [*opening, *history], setting).messages()


def fired_in(card: Card, history: Sequence[Turn], setting: Setting = USUAL) -> Firing:
    """What of the card's lorebook fires in a conversation (`history` with the greeting), searched as "Name: text"."""
    raw = [_parts(turn) for turn in history]
    spell = functools.partial(expand_macros, card=card, user=setting.user, seed=setting.seed)
    said = [f"{setting.user if role == 'user' else card.char}: {spell(text)} {hidden_keys(text)}" for role, text in raw]
    return fire(read_book(card), said, sum(role == "assistant" for role, _ in raw), setting.seed,
                lambda text: _filled("", text, card, setting), setting.count, spell)


class _Prompt:
    """A conversation whose parts are made once, so that shorter forms of it cost little."""

    def __init__(self, card: Card, history: Sequence[Turn], setting: Setting) -> None:
        self.card, self.setting = card, replace(setting, count=functools.cache(setting.count))
        self.lore = fired_in(card, history, self.setting)
        self.dialogues = [turns for _, turns in _dialogues(card, setting) if turns]
        self._system = _message("system", render_system_prompt(card, self.setting))
        self._talk = [_message(role, _filled("", text, card, setting)) for role, text in map(_parts, history)]
        greeting = _message("assistant", render_greeting(card, setting))
        self._known = int(is_baked(card) and self._talk[:1] == [greeting])  # turns that the weights hold
        self._inserts = _inserts(self.lore.kept, card, setting)

    def messages(self, examples_dropped: int = 0, turns_dropped: int = 0) -> list[Message]:
        """The messages without the last example dialogues and the oldest turns."""
        talk = self._talk[max(turns_dropped, self._known):]
        examples = example_turns(self.card, self.setting, examples_dropped)
        if examples and talk and talk[0]["role"] == "assistant":
            examples.append(_message("user", NEW_CHAT))
        return [self._system, *examples, *_with_instructions(_with_inserts(talk, self._inserts), self.card, self.setting)]


def _parts(turn: Turn) -> tuple[str, str]:
    role, content = (turn["role"], turn["content"]) if isinstance(turn, Mapping) else turn
    if role not in ("user", "assistant"):
        raise ValueError(f"a turn of a conversation cannot have the role {role!r}")
    return role, content


def note_of(card: Card) -> Note | None:
    """The card's note (`depth_prompt`), macros still in it; None where it has none, or is baked."""
    if is_baked(card):
        return None
    note = extensions_of(card.raw).get("depth_prompt")
    text = note.get("prompt") if isinstance(note, Mapping) else None
    if not isinstance(note, Mapping) or not isinstance(text, str) or not text.strip():
        return None
    depth, role = str(note.get("depth")), note.get("role")
    return Note(text, int(depth) if depth.isascii() and depth.isdecimal() and len(depth) < 6 else NOTE_DEPTH,
                role if role in ROLES else ROLES[role] if type(role) is int and 0 <= role < len(ROLES) else "system")


def render_greeting(card: Card, setting: Setting = USUAL) -> str:
    """The character's first words; "" where it has none."""
    return _filled("", card.greeting, card, setting)


def render_instructions(card: Card, setting: Setting = USUAL) -> str:
    """What comes after the player's last words: the post-history instructions, then the form of a reply that holds actions.

    We have no others of our own; "" for neither.
    """
    own = "" if is_baked(card) else render_text(_ORIGINAL.sub("", card.post_history_instructions), card, setting)
    form = render_text(reply_instructions(read_npc(card.raw)), card, setting) if setting.actions else ""
    return "\n\n".join(bracketed(text) for text in (own, form) if text)


def render_text(text: str, card: Card, setting: Setting = USUAL) -> str:
    """A text of a card, tidied, with its macros carried out."""
    return _filled("", text, card, setting)


def render_dialogues(card: Card, setting: Setting) -> list[list[Message]]:
    """Each example dialogue that says who speaks, as messages; NEW_CHAT before one that {{char}} begins."""
    return [[*([_message("user", NEW_CHAT)] if turns[0][0] == "assistant" else []),
             *(_message(role, tidy) for role, text in turns if (tidy := _filled("", text, card, setting)))]
            for _, turns in _dialogues(card, setting) if turns]


def example_turns(card: Card, setting: Setting, dropped: int = 0) -> list[Message]:
    """The example dialogues as messages, without the last `dropped`."""
    spoken = render_dialogues(card, setting)
    return [turn for dialogue in spoken[:max(0, len(spoken) - dropped)] for turn in dialogue]


def render_description(card: Card, setting: Setting = USUAL) -> str:
    """The character as one text, for a reader who does not play it: the whole system prompt, then the example dialogue."""
    card = unbake(card)
    spoken = [f"{setting.user if turn['role'] == 'user' else card.char}: {turn['content']}"
              for turn in example_turns(card, setting) if turn["content"] != NEW_CHAT]
    dialogue = ["Example dialogue:\n" + "\n".join(spoken)] if spoken else []
    return "\n\n".join([render_system_prompt(card, setting), *dialogue])


def fit(card: Card, history: Sequence[Turn], setting: Setting, fits: Callable[[list[Message]], bool]) -> Fitted:
    """The longest conversation for which `fits(messages)` is true; `history` holds the greeting where there was one.

    The last example dialogues are dropped first, then the oldest turns, BLOCK at a time where so many are left, never the last.
    """
    prompt = _Prompt(card, history, setting)
    dialogues, last = len(prompt.dialogues), max(0, len(history) - 1)

    def build(steps: int) -> Fitted:
        examples, turns = min(steps, dialogues), max(0, steps - dialogues)
        return Fitted(prompt.messages(examples, turns), examples, turns, prompt.lore)

    whole = build(0)
    if fits(whole.messages):
        return whole
    low, high = 1, dialogues + last
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(build(middle).messages) else (middle + 1, high)
    turns = low - dialogues
    if turns > 0 and (whole_blocks := -(-turns // BLOCK) * BLOCK) <= last - BLOCK:
        low = dialogues + whole_blocks
    return build(min(low, dialogues + last))


def bracketed(text: str) -> str:
    """Text that nobody said, as it appears inside a player's turn: in brackets, unless its writer put it into some."""
    return text if _BRACKETED.fullmatch(text) else f"[{text}]"


def _inserts(fired: list[Fired], card: Card, setting: Setting) -> list[tuple[str, int | None]]:
    """Texts for the player's turns, with their depths: memory, lore that is not in the system prompt, and the Character's Note."""
    inserts: list[tuple[str, int | None]] = [(text, None)] if (text := _remembered(card, setting)) else []
    inserts += [(as_said(one.text, one.entry.role, card), one.entry.depth)
                for one in sorted(fired, key=lambda one: one.entry.place == "after_char") if not one.entry.steady]
    if (note := note_of(card)) and (text := _filled("", note.text, card, setting)):
        inserts.append((as_said(text, note.role, card), note.depth))
    return inserts


def _remembered(card: Card, setting: Setting) -> str:
    """The memory of the player as one text in brackets; macros are not carried out in what a player once said."""
    said = " ".join(tidy for one in setting.memory if (tidy := _tidy(one)))
    return f"[{expand_macros(REMEMBERED, card, setting.user)} {said}]" if said else ""


def as_said(text: str, role: Role, card: Card) -> str:
    """A rendered text of this role inside a player's turn; what is the character's says so."""
    return text if role == "user" else bracketed(text if role == "system" else f"{card.char}: {text}")


def _with_inserts(talk: list[Message], inserts: Sequence[tuple[str, int | None]]) -> list[Message]:
    """The turns with each text before the player's last one or, with a depth, before that many messages from the end, else in the
    player's next turn; with the depth 0 after the last one."""
    users = [index for index, message in enumerate(talk) if message["role"] == "user"]
    if not users:
        return talk
    before: dict[int, list[str]] = {}
    after: list[str] = []
    for text, depth in inserts:
        if depth == 0:
            after.append(text)
        else:
            following = bisect_left(users, len(talk) - depth) if depth else len(users) - 1
            before.setdefault(users[min(following, len(users) - 1)], []).append(text)
    result = [_message(message["role"], "\n\n".join([*before.get(index, []), message["content"]]))
              for index, message in enumerate(talk)]
    result[users[-1]] = _message("user", "\n\n".join([result[users[-1]]["content"], *after]))
    return result


def _with_instructions(talk: list[Message], card: Card, setting: Setting) -> list[Message]:
    """The turns with the instructions after the player's last."""
    place = max((index for index, message in enumerate(talk) if message["role"] == "user"), default=-1)
    text = render_instructions(card, setting)
    if not text or place < 0:
        return talk
    changed = _message("user", f"{talk[place]['content']}\n\n{text}")
    return [*talk[:place], changed, *talk[place + 1:]]


def _dialogues(card: Card, setting: Setting) -> list[tuple[str, list[tuple[str, str]]]]:
    """Each example dialogue as text and as turns; no turns where no label says who speaks. None of a baked card."""
    if is_baked(card):
        return []
    texts = filter(None, map(_tidy, START.split(card.example_dialogue)))
    return [(text, dialogue_turns(text, card.names, [setting.user])) for text in texts]


def _filled(heading: str, text: str, card: Card, setting: Setting) -> str:
    """Heading and text with their macros carried out; "" where the text has nothing to say."""
    said = _tidy(expand_macros(_tidy(text), card, setting.user, setting.seed))
    return expand_macros(heading, card, setting.user) + said if said else ""


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _tidy(text: str) -> str:
    """Unix line ends, no white space at line ends or around the text, at most one blank line in a row."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(map(str.rstrip, lines))).strip()
