"""A chat as HTML: messages with their tools, the answer under way, what was measured, and notes. Everything is escaped.

Buttons carry their action in data-do; assets/chat_log.js hands it to the room. Pure functions of a Scene.
"""

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from engine.base.known_models import SMALL, KnownModel
from engine.base.looping import is_looping
from engine.cards.card import Card
from engine.cards.speaking import has_assistant_phrase
from studio.figures import words
from studio.labels import FINISHES
from studio.store.chats import Chat, Message
from studio.tabs.answers import BASIS, CURSOR, lore_html, measures_words, memory_html, text_html, waiting_bar, waiting_words
from studio.tabs.models import Voice
from studio.workers.speech import Reply

SHOWN = 40  # messages; earlier ones on request
FEWEST = 3  # answers from which a drift can be seen
_DRIFTS = {"own": "neither", "assistant": "talks like an assistant", "loops": "runs in circles"}
NO_GREETING = -1  # instead of a greeting's number: the player speaks first

Kind = Literal["new", "swipe", "more"]


@dataclass(frozen=True)
class UnderWay:
    """An answer that is being made: a new message, another swipe of `message`, or more of its swipe `index`.

    `speaker`: what its measures will keep of the model that speaks.
    """

    reply: Reply
    kind: Kind
    message: str = ""
    index: int = 0
    speaker: Mapping[str, Any] = field(default_factory=dict)


def speakers_of(measures: Mapping[str, Any]) -> list[str]:
    """The models that said an answer, in their order: a run's id, or a dense model's name. [] for a greeting."""
    last = measures.get("run") or measures.get("model")
    return [*measures.get("begun_by", []), last] if last else []


@dataclass(frozen=True)
class Scene:
    """One chat as it is now. `fault`: why the card cannot speak; `newest`: number of a newer card that the page mentions,
    else 0; `undo`: how many messages can be put back.

    `voice`: the model that speaks next, one of `voices` (label, id); `speakers`: names of those that have spoken, by what
    `speakers_of` says, where there are several; `preparing`: reading in advance, while it fetches a
    model or makes its file, which can be stopped; `unfetched`: the model, where it would have to be fetched first; `larger`: bytes
    to fetch (0: none) of the larger model that is proposed, None where none is.
    """

    character: str
    chat: Chat | None
    char: str
    card: Card | None
    fault: str
    player: str
    messages: list[Message]
    under: UnderWay | None
    newest: int
    notes: list[str]
    failure: str = ""
    undo: int = 0
    chats: list[Chat] = field(default_factory=list)
    seed: int = 0
    voice: Voice | None = None
    voices: list[tuple[str, str]] = field(default_factory=list)
    speakers: dict[str, str] = field(default_factory=dict)
    preparing: Reply | None = None
    unfetched: KnownModel | None = None
    larger: int | None = None

    @property
    def id(self) -> str:
        """The chat's id; "" before it begins."""
        return self.chat.id if self.chat else ""


def chat_contents(scene: Scene, editing: str = "", shown: int = SHOWN) -> dict[str, Any]:
    """The live contents of a chat. The growing answer is one of its own, so that the rest is not sent again with each word."""
    begun = scene.chat is not None
    return {"preview-top": _top(scene), "preview-said": _said(scene, editing, shown), "preview-growing": _growing(scene),
            "preview-foot": _foot(scene), "preview-rename": begun, "preview-delete": begun,
            "preview-save": begun, "preview-greeting": not begun,
            "preview-voices": len(scene.voices) > 1}


def nobody_contents() -> dict[str, Any]:
    """The live contents while no character is chosen."""
    return {**dict.fromkeys(("preview-top", "preview-growing", "preview-foot"), ""), "preview-voices": False, "preview-said":
            '<p class="chat-empty">Choose a character in the sidebar.</p>'}


def _said(scene: Scene, editing: str, shown: int) -> str:
    said = scene.messages
    hidden = max(0, len(said) - shown)
    rows = []
    if hidden:
        rows.append(f'<p class="chat-earlier">{_button("earlier", f"Show {hidden:,} earlier messages")}</p>')
    if not said and not scene.under:
        rows.append(f'<p class="chat-empty">Say something to {html.escape(scene.char)}.</p>')
    for place in range(hidden, len(said)):
        message = said[place]
        if not (scene.under and message.id == scene.under.message):
            rows.append(_message(scene, message, place == len(said) - 1, editing))
    return f'<div class="chat-lines" data-chat="{html.escape(scene.id)}">{"".join(rows)}</div>'


def _message(scene: Scene, message: Message, last: bool, editing: str) -> str:
    if message.id and message.id == editing:
        words = (f'<textarea class="chat-edit" id="preview-edit-text" aria-label="Text of the message" rows="4">'
                 f'{html.escape(message.text)}</textarea>')
        tools = (f'{_button("save", "Save", message.id, "preview-edit-save", "strong")}'
                 f'{_button("cancel", "Cancel", "", "preview-edit-cancel")}'
                 '<span class="quiet">Ctrl+Enter saves, Esc cancels.</span>')
        return _bubble(scene, message.role, words, f'<div class="chat-tools stay">{tools}</div>')
    words = text_html(message.text, scene.card, scene.player, scene.seed)
    tools = "" if scene.under else _tools(scene, message, last and not editing)
    measures = message.swipes[message.chosen].measures
    lore = memory_html(measures) + lore_html(measures) if message.role == "assistant" else ""
    return _bubble(scene, message.role, f'<div class="chat-words">{words}</div>{lore}', tools, message.id, measures)


def _tools(scene: Scene, message: Message, last: bool) -> str:
    swipes, found = len(message.swipes), []
    answer = message.role == "assistant"
    if last and answer and swipes > 1:
        found.append(f'<span class="swipes">{_swipe(message, -1, "‹", "Previous")}<span id="preview-swipe-count">'
                     f'{message.chosen + 1} of {swipes}</span>{_swipe(message, 1, "›", "Next")}</span>')
    if last and (message.position or not answer) and not scene.fault:
        word = "Regenerate" if answer else "Ask for the answer"
        found.append(_button("regenerate", word, "", "preview-regenerate", hint="Ctrl+Enter"))
    if last and answer and scene.chat and not scene.fault:
        found.append(_button("continue", "Continue", "", "preview-continue", hint="The character goes on with this answer"))
    found.append(_button("edit", "Edit", message.id, kind="later"))
    if answer and message.position and not scene.fault:
        found.append(_button("example", "Use as example", message.id, kind="later",
                             hint="Adds this question and reply to the example dialogue of the card"))
    if message.id:
        found.append(_button("cut", "Delete from here on", message.id, kind="later"))
    return f'<div class="chat-tools{" stay" if last else ""}">{"".join(found)}</div>'


def _swipe(message: Message, step: int, sign: str, word: str) -> str:
    reachable = 0 <= message.chosen + step < len(message.swipes)
    return (f'<button type="button" data-do="swipe" data-message="{message.id}" data-text="{message.chosen + step}" '
            f'id="preview-swipe-{word.lower()}" aria-label="{word} answer"{"" if reachable else " disabled"}>{sign}</button>')


def _growing(scene: Scene) -> str:
    under = scene.under
    if under is None:
        return ""
    before, count = "", 0
    for message in scene.messages:
        if message.id == under.message:
            before, count = (message.swipes[under.index].text.rstrip() if under.kind == "more" else ""), len(message.swipes)
    text = before + under.reply.text
    waiting = "" if under.reply.text else html.escape(waiting_words(under.reply))
    words = text_html(text, scene.card, scene.player, scene.seed)
    note = f'<p class="quiet chat-waiting" id="preview-waiting">{waiting}</p>{waiting_bar(under.reply)}' if waiting else ""
    place = f'<span class="quiet">{count + 1} of {count + 1}</span>' if under.kind == "swipe" else ""
    return _bubble(scene, "assistant", f'<div class="chat-words" id="preview-live" data-speaks>{words}{CURSOR}</div>{note}',
                   f'<div class="chat-tools stay">{place}</div>' if place else "", measures=under.speaker)


def _bubble(scene: Scene, role: str, words: str, tools: str, id: str = "", measures: Mapping[str, Any] | None = None) -> str:
    name = html.escape(scene.char if role == "assistant" else scene.player)
    speakers = [scene.speakers[one] for one in speakers_of(measures or {}) if one in scene.speakers]
    mark = f' <span class="chat-voice">{html.escape(", then ".join(speakers))}</span>' if speakers else ""
    return (f'<article class="chat-said {role}" data-key="{html.escape(id)}" aria-label="{name} says">'
            f'<h4 class="chat-who">{name}{mark}</h4>{words}{tools}</article>')


def _top(scene: Scene) -> str:
    found = []
    if scene.fault:
        found.append(f'<div class="chat-note warn" id="preview-fault">{html.escape(scene.fault)} Correct it in Draft.</div>')
    if scene.newest and scene.chat:
        old = scene.chat.version
        found.append('<div class="chat-note" id="preview-version">'
                     f'This chat began with version {old} of the card; the newest is {scene.newest}. '
                     f'{_button("newest", "Use the newest", "", "preview-newest", "strong")}'
                     f'{_button("keep", f"Keep version {old}", "", "preview-keep")}</div>')
    return "".join(found)


def _foot(scene: Scene) -> str:
    found = [f'<div class="chat-note quiet" role="status">{html.escape(note)}</div>' for note in scene.notes]
    if scene.unfetched and not scene.preparing:
        found.append(f'<div class="chat-note">{html.escape(scene.unfetched.label)} is not on this machine yet: '
                     f"{words.size(scene.unfetched.download_bytes)}, fetched once. "
                     f'{_button("fetch", "Fetch it", "", "preview-fetch", "strong")}</div>')
    if scene.preparing:
        found.append(f'<div class="chat-note quiet">{waiting_bar(scene.preparing)}'
                     f'{_button("unprepare", "Stop preparing", "", "preview-unprepare")}</div>')
    if scene.under:
        return "".join(found)
    if scene.larger is not None and any(one.role == "assistant" and one.position for one in scene.messages):
        fetched = f" ({words.size(scene.larger)}, fetched once)" if scene.larger else ""
        found.append(f'<div class="chat-note">This is the starter: tiny, enough to try everything, but it rambles. '
                     f"{html.escape(SMALL.label)} is nearly five times as large and stays in character much better{fetched}. "
                     f'{_button("larger", "Talk with it", "", "preview-larger", "strong")}{_button("stay", "Not now")}</div>')
    last = scene.messages[-1] if scene.messages else None
    if last and last.role == "assistant":
        swipe = last.swipes[last.chosen]
        if line := measures_words(swipe.measures):
            found.insert(0, '<details id="preview-measures" class="chat-measures" data-key="measures"><summary>About this answer'
                            f'<span class="measure">: {html.escape(line)}</span></summary><p>{html.escape(BASIS)}</p>'
                            f'{drift_html(scene)}</details>')
        if reason := FINISHES.get(swipe.reason):
            found.insert(0, f'<div class="chat-measures" id="preview-reason">{reason}</div>')
    if scene.failure:
        found.append(f'<div class="chat-note warn" role="alert" id="preview-failure">{html.escape(scene.failure)}</div>')
    if scene.undo:
        word = "1 message was" if scene.undo == 1 else f"{scene.undo:,} messages were"
        found.append(f'<div class="chat-note" id="preview-cut">{word} deleted. '
                     f'{_button("undo", "Undo", "", "preview-undo", "strong")}</div>')
    return "".join(found)


def drift_html(scene: Scene) -> str:
    """A mark for each answer of a chat: does it talk like an assistant, or run in circles? By its words; "" for few answers.

    The assistant axis needs a model's states, which neither the studio nor llama.cpp gives.
    """
    answers = [message.text for message in scene.messages if message.role == "assistant" and message.position]
    if len(answers) < FEWEST:
        return ""
    kinds = ["assistant" if has_assistant_phrase(text) else "loops" if is_looping(text) else "own" for text in answers]
    marks = "".join(f'<i class="{kind}" title="Answer {number}: {_DRIFTS[kind]}"></i>'
                    for number, kind in enumerate(kinds, start=1))
    said = (f"Of {len(kinds):,} answers {kinds.count('assistant'):,} have an assistant's phrases (English ones are known) and "
            f"{kinds.count('loops'):,} run in circles. That is read from their words; how far the model itself drifts, an "
            "evaluation measures.")
    return f'<div class="chat-drift" id="preview-drift" role="img" aria-label="{said}">{marks}</div><p>{said}</p>'


def _button(do: str, word: str, message: str = "", id: str = "", kind: str = "", hint: str = "") -> str:
    return (f'<button type="button" data-do="{do}" data-message="{html.escape(message)}"{f" id={id!r}" if id else ""}'
            f'{f" class={kind!r}" if kind else ""}{f" title={hint!r}" if hint else ""}>{html.escape(word)}</button>')
