"""What rooms with answers share: sampling controls, following answers while they grow, words for measures, text as safe HTML."""

import functools
import hashlib
import html
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import gradio as gr

from engine.base.errors import UserError
from engine.base.ids import StageId
from engine.base.sampling import DEFAULTS, KNOBS, Knob, read_params
from engine.cards.card import Card, parse_card
from engine.cards.macros import expand_macros
from studio.figures.words import percent
from studio.live import Live
from studio.page import guarded
from studio.store import characters, chats, runs, values
from studio.store.characters import Version
from studio.store.database import Store
from studio.theme import ASSETS
from studio.workers.speech import Reply

log = logging.getLogger(__name__)
QUIET = 1.0  # seconds without a sign of the chat engine, before that is worth a word
PLAYER = "Player"  # before the player gives a name
BUSY = "Press Stop first, or wait for the end."
CURSOR = '<span class="chat-cursor" aria-hidden="true"></span>'
SLOWER = "A job is running on this machine, so answers come more slowly."
BASIS = ("A token is a word or a part of one. All of this was measured on this one answer. Speed counts the tokens after the "
         "first; time is counted from this answer’s turn on, without loading the model. Text that the model had read before is "
         "not read again. The last words are the type of the weights and the program that ran them.")
_TRIES = 3  # of writing an answer down
_ACTION = re.compile(r"(?<![\w*])(\*{1,3})(?=[^\s*])([^*\n]+?)(?<=\S)\1(?![\w*])")
_LOOK = re.compile(r'data-look="([^"]*)"')
_UNFINISHED = re.compile(r"(?<![\w*])\*(?=[^\s*])([^*\n]+)\Z")  # an action that is still being written


def card_of(version: Version) -> Card:
    """The card of a version, ready for a chat. Raises UserError when it cannot speak yet (it has no description, say)."""
    return parse_card(json.dumps(version.card).encode(), "This card")


def spoken_card(version: Version) -> tuple[Card | None, str]:
    """The card of a version and "", or None and why it cannot speak."""
    try:
        return card_of(version), ""
    except UserError as error:
        return None, str(error)


def message_of(text: str) -> str:
    """What a player sends, without space around it. Raises UserError for nothing."""
    if not text.strip():
        raise UserError("There is nothing to send yet.", "Write a message first.")
    return text.strip()


def write_down(write: Callable[[], Any]) -> str:
    """Write an answer into the library, as patiently as the library is, a few times over; why it could not be done, or ""."""
    fault = ""
    for _ in range(_TRIES):
        try:
            write()
            return ""
        except UserError as error:
            fault = str(error)
            log.warning("an answer could not be written down: %s", error)
    return fault


def player_of(store: Store) -> str:
    """The player's name that was used last, in any room."""
    return str(values.get_value(store, "player", PLAYER))


def sampling_of(kept: dict[str, Any] | None) -> dict[str, Any]:
    """Settings from the library with every field present: what an older chat does not know, or cannot be, gets its default."""
    try:
        return read_params(kept or {}).as_dict()
    except UserError:
        return DEFAULTS.as_dict()


def greetings(card: Card) -> list[str]:
    """The card's greeting and its alternates, macros still in them, blank ones left out."""
    return [text for text in (card.greeting, *card.alternate_greetings) if text.strip()]


def text_html(text: str, card: Card | None = None, player: str = "", seed: int = 0) -> str:
    """Text of a card, a model or a player as HTML: escaped, *actions* in italics, line breaks kept. With `card`: its
    macros carried out, by the seed of the chat.

    Nothing else is formatted: no link, no picture, no tag can come of it.
    """
    named = expand_macros(text, card, player, seed) if card else text
    safe = html.escape(named.strip())
    return _UNFINISHED.sub(r"<em>\1</em>", _ACTION.sub(r"<em>\2</em>", safe)).replace("\n", "<br>")


def lore_html(measures: dict[str, Any], opened: bool = False) -> str:
    """Which lorebook entries fired for an answer and why; "" where none did. `opened`: without a click."""
    fired, faults = measures.get("lore", []), measures.get("lore_faults", [])
    if not fired and not faults:
        return ""
    kept = sum(one["outcome"] == "fired" for one in fired)
    rows = []
    for one in fired:
        level = f" Step {one['level']} of recursion." if one["level"] else ""
        budget = "" if one["outcome"] == "fired" else " Left out: the book's token budget was full."
        rows.append(f'<li><b>{html.escape(one["name"])}</b> {html.escape(one["reason"] + level + budget)} '
                    f'<span class="quiet">{one["tokens"]:,} tokens</span></li>')
    rows += [f'<li class="warn">{html.escape(fault)}</li>' for fault in faults]
    word = f"{kept} lorebook {'entry' if kept == 1 else 'entries'} fired"
    if left := len(fired) - kept:
        word += f", {left} left out"
    return (f'<details class="chat-lore"{" open" if opened else ""}><summary>{word}</summary><ul>{"".join(rows)}</ul></details>')


def memory_html(measures: dict[str, Any]) -> str:
    """What of the player was remembered for an answer; "" where nothing was."""
    said = [str(one) for one in measures.get("memory") or []]
    rows = "".join(f"<li>{html.escape(one)}</li>" for one in said)
    word = f"{len(said)} {'memory' if len(said) == 1 else 'memories'} of the player"
    return f'<details class="chat-lore"><summary>{word}</summary><ul>{rows}</ul></details>' if said else ""


class Wait(StrEnum):
    """What an answer waits for before it begins; of several answers, what comes first here is what they all wait for."""

    FETCH = "fetch"
    CONVERT = "convert"
    LOAD = "load"
    ENGINE = "engine"
    READ = "read"
    NOTHING = "nothing"


def wait_of(reply: Reply) -> Wait:
    """What the reply waits for; NOTHING once it speaks or is done."""
    if reply.done or reply.tokens:
        return Wait.NOTHING
    last = reply.events[-1] if reply.events else {}
    if last.get("event") == "Loading":
        stage = last.get("stage", "")
        return Wait.FETCH if stage == StageId.FETCH else Wait.CONVERT if stage else Wait.LOAD
    return Wait.READ if last or reply.engine_is_up else Wait.ENGINE


def waiting_words(*replies: Reply) -> str:
    """What the replies wait for, whichever of them it is, for a reader; "" once they speak. A fetch is counted in MB."""
    order = list(Wait)
    first = min(replies, key=lambda reply: order.index(wait_of(reply)), default=None)
    match wait_of(first) if first else Wait.NOTHING:
        case Wait.FETCH if first:
            last = first.events[-1]
            return f"Fetching the model: {last.get('done', 0):,.0f} of {last['total']:,.0f} MB. This happens only once."
        case Wait.CONVERT if first:
            last = first.events[-1]
            share = f": {percent(last.get('done', 0) / last['total'])}" if last.get("total", 0) > 1 else ""
            return f"Preparing the model{share}. This happens only once."
        case Wait.LOAD:
            return "Loading the model…"
        case Wait.ENGINE:
            return "Waiting for the chat engine…"
        case Wait.READ if first:
            last = first.events[-1] if first.events else {}
            share = percent(last["done"] / last["total"]) if last.get("event") == "Reading" and last["done"] else ""
            return f"Reading the conversation: {share}" if share else "Reading the conversation…"
    return ""


def waiting_bar(reply: Reply) -> str:
    """How far the fetch of a model is, as a bar of HTML; "" where nothing is fetched."""
    if wait_of(reply) is not Wait.FETCH or not (total := reply.events[-1].get("total", 0)):
        return ""
    share = f"{100 * reply.events[-1].get('done', 0) / total:.0f}"
    return (f'<div class="bar" role="progressbar" aria-label="Fetching the model" aria-valuemin="0" aria-valuemax="100" '
            f'aria-valuenow="{share}"><i style="width:{share}%"></i></div>')


def warming_words(reply: Reply) -> str:
    """Why reading in advance takes long, for a reader; "" where it only reads, for which nobody has to wait."""
    if wait_of(reply) in (Wait.FETCH, Wait.CONVERT, Wait.LOAD):
        return waiting_words(reply)
    return "Starting the chat engine…" if wait_of(reply) is Wait.ENGINE and reply.silent_seconds > QUIET else ""


def measures_of(reply: Reply) -> dict[str, Any]:
    """What is kept of a reply's measures: the worker's own, the model's name, and the seconds that loading it took."""
    loading = sum(event.get("seconds", 0.0) for event in reply.events if event.get("event") == "Loaded")
    return {**reply.measures, "model": reply.request["model"], **({"loading": loading} if loading else {})}


def engine_words(measures: Mapping[str, Any]) -> str:
    """The type of the weights that spoke, and the program; "" where an older studio did not keep that."""
    return ", ".join(filter(None, (str(measures.get("type") or ""), str(measures.get("engine") or ""))))


def measures_words(measures: dict[str, Any], engine: bool = True) -> str:
    """One line on how an answer came about, with what each figure rests on; "" where nothing was measured.

    `engine`: with the weights and the program that spoke.
    """
    tokens = measures.get("tokens", 0)
    if not tokens:
        return ""
    speed = measures.get("tokens_per_second", 0.0)
    prompt, reused, dropped = (measures.get(name, 0) for name in ("prompt_tokens", "reused_tokens", "dropped_turns"))
    parts = [f"{tokens:,} {'token' if tokens == 1 else 'tokens'}",
             f"{speed:.1f} tokens/s" if speed else "",
             f"first after {_seconds(measures['first_token'])}" if measures.get("first_token") else "",
             f"{reused:,} of {prompt:,} prompt tokens reused" if prompt else "",
             f"model loaded in {measures['loading']:.1f} s" if measures.get("loading") else "",
             f"{dropped:,} oldest messages no longer fit" if dropped else "",
             f"seed {measures['seed']}" if measures.get("seed") is not None else "", engine_words(measures) if engine else ""]
    return " · ".join(filter(None, parts))


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.01 else "under 0.01 s"


def about_of(store: Store, character: str) -> str:
    """What this character last learned of the player, in any room; another character's chats do not count."""
    kept = values.get_value(store, _about_key(character), None)
    if kept is None:  # said before it was kept for each character
        kept = next((chat.about for chat in chats.chats(store, character)), "")
    return str(kept)


def keep_about(store: Store, character: str, about: str) -> None:
    """Remember what a character's next chat begins with."""
    if about != about_of(store, character):
        values.set_value(store, _about_key(character), about)


def _about_key(character: str) -> str:
    return f"about_player:{character}"


def slower_words(store: Store) -> str:
    """The note for rooms with answers while a job runs; "" else."""
    return SLOWER if runs.list_runs(store, states=runs.ACTIVE) else ""


class ViewLink:
    """Tells the live channel what a page looks at in a room, and paints the room's lists and fields when they have changed.

    Answers and all else that is only read come by the channel. Lists and fields are Gradio's: a listener paints them, and
    the page asks for it (`component.click`) when the channel's content "ROOM-controls" is not the fingerprint of what it shows.
    `seen`: what the lists and fields of the page show.
    """

    def __init__(self, room: str) -> None:
        self.room = room
        script = (ASSETS / "room.js").read_text(encoding="utf-8")
        self.seen = gr.State({})
        self.component = gr.HTML(self._value({}, ""), visible="hidden", elem_id=f"{room}-link", js_on_load=script)

    def shows(self, look: Mapping[str, str], seen: dict[str, Any]) -> dict[Any, Any]:
        """Component updates: the page looks at `look`, and its lists and fields show `seen`."""
        return {self.seen: seen, self.component: self._value(look, fingerprint(seen))}

    def keeps(self, look: Mapping[str, str], seen: dict[str, Any], now: Mapping[str, Any], *fields: str) -> dict[Any, Any]:
        """As shows, once what was entered in `fields` is kept: what else differs from `now` is still to be painted."""
        return self.shows(look, {**seen, **{name: now[name] for name in fields}})

    def look_of(self, value: str) -> dict[str, str]:
        """What the page looked at when it sent the value of `component` and its fields; {} before the first look.

        The session's states are of a later moment, when the listener runs: another chat may have been opened meanwhile.
        """
        found = _LOOK.search(value or "")
        return json.loads(html.unescape(found[1])) if found else {}

    def _value(self, look: Mapping[str, str], painted: str) -> str:
        return f'<i data-room="{self.room}" data-look="{html.escape(json.dumps(look))}" data-painted="{painted}"></i>'


NOBODY = "-"  # what a page looks at where no character is chosen


def looked_at(store: Store, look: Mapping[str, str]) -> str | None:
    """The character that a page looks at in a room: `of`, or "" for none; None before the page has said so."""
    if not look["of"] and characters.get(store, look["character"]):
        return None
    return "" if look["of"] == NOBODY else look["of"]


def fingerprint(controls: Any) -> str:
    """Differs when what the lists and fields of a room are to show differs."""
    return hashlib.sha256(json.dumps(controls, default=repr).encode("utf-8", "replace")).hexdigest()[:16]


def changing(live: Live, room: str, handler: Callable[..., Any]) -> Callable[..., Any]:
    """A guarded handler that changes what a room shows: open pages see it at once."""
    @functools.wraps(handler)
    def change(*arguments: Any, **named: Any) -> Any:
        try:
            return handler(*arguments, **named)
        finally:
            live.touch(room)

    return guarded(change)


class Composer:
    """The row in which the player writes. Style sheets show Send or Stop by whether the room has a [data-speaks]."""

    def __init__(self, room: str) -> None:
        # Shown when the page's own state is filled: what was sent before that would go to nobody.
        with gr.Row(elem_id=f"{room}-composer", elem_classes="tight", visible=False) as self.row:
            self.message = gr.Textbox(placeholder="Write as the player",
                                      label="Your message", show_label=False, lines=1, max_lines=8, scale=5, container=False,
                                      elem_id=f"{room}-message", max_length=20_000)
            self.send = gr.Button("Send", variant="primary", scale=0, min_width=90, elem_id=f"{room}-send")
            self.stop = gr.Button("Stop (Esc)", variant="stop", scale=0, min_width=116, elem_id=f"{room}-stop")


class SamplingControls:
    """One slider a sampler. `sliders`: in the order of KNOBS."""

    def __init__(self, room: str) -> None:
        self.room = room
        with gr.Row():
            common = {knob.name: self._slider(knob) for knob in KNOBS if knob.common}
        self.sliders = common

    def more(self) -> None:
        """The rarely needed ones, where the room wants them."""
        with gr.Accordion("More", open=False, elem_id=f"{self.room}-more"):
            self.sliders |= {knob.name: self._slider(knob) for knob in KNOBS if not knob.common}

    @property
    def components(self) -> list[Any]:
        """In the order of `chosen`."""
        return [self.sliders[knob.name] for knob in KNOBS]

    def shown(self, params: dict[str, Any]) -> dict[Any, Any]:
        """Component updates that show settings."""
        return {slider: params[name] for name, slider in self.sliders.items()}

    def _slider(self, knob: Knob) -> Any:
        least, most, step = knob.slider
        return gr.Slider(least, most, getattr(DEFAULTS, knob.name), step=step, label=knob.label, info=knob.help, buttons=[],
                         elem_id=f"{self.room}-{knob.name.replace('_', '-')}")


def chosen(values: Sequence[Any]) -> dict[str, Any]:
    """What the sliders say, by name."""
    return {knob.name: value for knob, value in zip(KNOBS, values, strict=True)}
