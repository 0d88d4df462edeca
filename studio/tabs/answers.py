"""What rooms with answers share: sampling controls, following answers while they grow, words for measures, text as safe HTML."""

import html
import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from engine.base.errors import UserError
from engine.base.sampling import DEFAULTS, KNOBS, Knob, read_params
from engine.cards.card import Card, parse_card
from engine.cards.macros import expand_macros
from studio.store import chats, runs, values
from studio.store.characters import Version
from studio.store.database import Store
from studio.workers.speech import Reply

log = logging.getLogger(__name__)
PAUSE = 0.06  # seconds between two looks at an answer
PACE = 0.2  # seconds between two pictures of it: the page is not asked whether it keeps up, and a slow one would fall behind
HEARTBEAT = 1.0  # seconds after which `follow` yields without news, so that whoever follows can leave
QUIET = 1.0  # seconds without a sign of the chat engine, before that is worth a word
PLAYER = "Player"  # before the player gives a name
BUSY = "Press Stop first, or wait for the end."
CURSOR = '<span class="chat-cursor" aria-hidden="true"></span>'
SLOWER = "A job is running on this machine, so answers come more slowly."
BASIS = ("A token is a word or a part of one. All of this was measured on this one answer. Speed counts the tokens after the "
         "first; time counts only what this answer itself took, without loading the model and without other answers made "
         "meanwhile. Text that the model had read before is not read again.")
_REASONS = {"limit": "Cut off at the longest answer allowed; Continue goes on.", "stopped": "Stopped by you.",
            "loop": "Ended because the model began to repeat itself; Regenerate asks again.",
            "edited": "Edited by hand.", "failed": "Broken off before the end."}
_TRIES = 3  # of writing an answer down
_ACTION = re.compile(r"(?<![\w*])(\*{1,3})(?=[^\s*])([^*\n]+?)(?<=\S)\1(?![\w*])")
_UNFINISHED = re.compile(r"(?<![\w*])\*(?=[^\s*])([^*\n]+)\Z")  # an action that is still being written


def card_of(version: Version) -> Card:
    """The card of a version, ready for a chat. Raises UserError when it cannot speak yet (it has no description, say)."""
    return parse_card(json.dumps(version.card).encode(), "This card")


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


def follow(*replies: Reply, pause: float = PAUSE) -> Iterator[None]:
    """Yield when one of the replies has news (and each HEARTBEAT without), until all are done; the last time then.

    A reply's first words are told at once, what follows no more often than each PACE.
    """
    seen: list[int] = []
    spoke: list[bool] = []
    last = 0.0
    while True:
        done = all(reply.done for reply in replies)  # before the revisions: what comes in between is seen next time
        now = [reply.revision for reply in replies]
        spoken, waited = [bool(reply.tokens) for reply in replies], time.monotonic() - last
        if done or spoken != spoke or (now != seen and waited >= PACE) or waited > HEARTBEAT:
            spoke = spoken
            seen, last = now, time.monotonic()
            yield
        if done:
            return
        time.sleep(pause)


def waiting_words(reply: Reply) -> str:
    """What the reply waits for, for a reader; "" once it speaks or is done. A model that is fetched is told in MB."""
    if reply.done or reply.tokens:
        return ""
    last = reply.events[-1] if reply.events else {}
    if last.get("event") == "Loading" and last.get("total"):
        if last["total"] == 1:  # a step without a size: what was fetched is being converted
            return "Preparing the model. This happens only once."
        return f"Fetching the model: {last.get('done', 0):,.0f} of {last['total']:,.0f} MB. This happens only once."
    if last.get("event") == "Loading":
        return "Loading the model…"
    return "Reading the conversation…" if last else "Waiting for the chat engine…"


def warming_words(reply: Reply) -> str:
    """What keeps a reading in advance, for a reader; "" where that is only the reading, which nobody has to wait for."""
    if reply.events[-1:] and reply.events[-1].get("event") == "Loading":
        return waiting_words(reply)
    return "Starting the chat engine…" if not reply.events and reply.silent_seconds > QUIET else ""


def measures_of(reply: Reply) -> dict[str, Any]:
    """What is kept of a reply's measures: the worker's own, the model's name, and the seconds that loading it took."""
    loading = sum(event.get("seconds", 0.0) for event in reply.events if event.get("event") == "Loaded")
    return {**reply.measures, "model": reply.request["model"], **({"loading": loading} if loading else {})}


def measures_words(measures: dict[str, Any]) -> str:
    """One line on how an answer came about, with what each figure rests on; "" where nothing was measured."""
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
             f"seed {measures['seed']}" if measures.get("seed") is not None else ""]
    return " · ".join(filter(None, parts))


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.01 else "under 0.01 s"


def reason_words(reason: str) -> str:
    """Why an answer ended as it did; "" where it simply ended."""
    return _REASONS.get(reason, "")


def about_of(store: Store, character: str) -> str:
    """What this character was told of the player last, in any room; another character's chats do not count."""
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
