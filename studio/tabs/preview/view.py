"""A chat as HTML: messages with their tools, the answer under way, what was measured, and notes. Everything is escaped.

Buttons carry their action in data-do; assets/chat_log.js hands it to the room. Pure functions of a Scene.
"""

import hashlib
import html
import json
from dataclasses import dataclass, field
from typing import Literal

from engine.cards.card import Card
from studio.store.chats import Chat, Message
from studio.tabs.answers import BASIS, CURSOR, lore_html, measures_words, reason_words, text_html, waiting_words
from studio.workers.speech import Reply

SHOWN = 40  # messages; earlier ones on request
NO_GREETING = -1  # instead of a greeting's number: the player speaks first

Kind = Literal["new", "swipe", "more"]


@dataclass(frozen=True)
class UnderWay:
    """An answer that is being made: a new message, another swipe of `message`, or more of its swipe `index`."""

    reply: Reply
    kind: Kind
    message: str = ""
    index: int = 0


@dataclass(frozen=True)
class Scene:
    """One chat as it is now. `fault`: why the card cannot speak; `newest`: number of a newer card that the page mentions,
    else 0; `undo`: how many messages can be put back."""

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
    model: str = ""
    chats: list[Chat] = field(default_factory=list)
    seed: int = 0

    @property
    def id(self) -> str:
        """The chat's id; "" before it begins."""
        return self.chat.id if self.chat else ""


def earlier_html(scene: Scene, editing: str, shown: int) -> str:
    """All messages that an answer under way does not change."""
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
    return "".join(rows)


def chat_html(scene: Scene, earlier: str) -> str:
    """The whole chat; `earlier` is what earlier_html gave for this scene."""
    live = _live(scene, scene.under) if scene.under else ""
    busy = "true" if scene.under else "false"
    return (f'<div class="chat" data-chat="{html.escape(scene.id)}">{_top(scene)}'
            f'<div class="chat-log" role="log" tabindex="0" aria-busy="{busy}" '
            f'aria-label="Conversation with {html.escape(scene.char)}">{earlier}{live}</div>{_foot(scene)}</div>')


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
    lore = lore_html(message.swipes[message.chosen].measures) if message.role == "assistant" else ""
    return _bubble(scene, message.role, f'<div class="chat-words">{words}</div>{lore}', tools, message.id)


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
    if message.id:
        found.append(_button("cut", "Delete from here on", message.id, kind="later"))
    return f'<div class="chat-tools{" stay" if last else ""}">{"".join(found)}</div>'


def _swipe(message: Message, step: int, sign: str, word: str) -> str:
    reachable = 0 <= message.chosen + step < len(message.swipes)
    return (f'<button type="button" data-do="swipe" data-message="{message.id}" data-text="{message.chosen + step}" '
            f'id="preview-swipe-{word.lower()}" aria-label="{word} answer"{"" if reachable else " disabled"}>{sign}</button>')


def _live(scene: Scene, under: UnderWay) -> str:
    before, count = "", 0
    for message in scene.messages:
        if message.id == under.message:
            before, count = (message.swipes[under.index].text.rstrip() if under.kind == "more" else ""), len(message.swipes)
    text = before + under.reply.text
    waiting = "" if under.reply.text else html.escape(waiting_words(under.reply))
    words = text_html(text, scene.card, scene.player, scene.seed)
    note = f'<p class="quiet chat-waiting" id="preview-waiting">{waiting}</p>' if waiting else ""
    place = f'<span class="quiet">{count + 1} of {count + 1}</span>' if under.kind == "swipe" else ""
    return _bubble(scene, "assistant", f'<div class="chat-words" id="preview-live">{words}{CURSOR}</div>{note}',
                   f'<div class="chat-tools stay">{place}</div>' if place else "")


def _bubble(scene: Scene, role: str, words: str, tools: str, id: str = "") -> str:
    name = html.escape(scene.char if role == "assistant" else scene.player)
    return (f'<article class="chat-said {role}" data-id="{html.escape(id)}" aria-label="{name} says">'
            f'<h4 class="chat-who">{name}</h4>{words}{tools}</article>')


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
    return f'<div class="chat-top">{"".join(found)}</div>'


def _foot(scene: Scene) -> str:
    found = [f'<div class="chat-note quiet" role="status">{html.escape(note)}</div>' for note in scene.notes]
    last = scene.messages[-1] if scene.messages else None
    if last and last.role == "assistant" and not scene.under:
        swipe = last.swipes[last.chosen]
        if line := measures_words(swipe.measures):
            found.insert(0, f'<details class="chat-measures"><summary id="preview-measures" class="measure">{html.escape(line)}'
                            f'</summary><p>{html.escape(BASIS)}</p></details>')
        if reason := reason_words(swipe.reason):
            found.insert(0, f'<div class="chat-measures" id="preview-reason">{html.escape(reason)}</div>')
    if scene.failure and not scene.under:
        found.append(f'<div class="chat-note warn" role="alert" id="preview-failure">{html.escape(scene.failure)}</div>')
    if scene.undo and not scene.under:
        word = "1 message was" if scene.undo == 1 else f"{scene.undo:,} messages were"
        found.append(f'<div class="chat-note" id="preview-cut">{word} deleted. '
                     f'{_button("undo", "Undo", "", "preview-undo", "strong")}</div>')
    return f'<div class="chat-foot">{"".join(found)}</div>'


def _button(do: str, word: str, message: str = "", id: str = "", kind: str = "", hint: str = "") -> str:
    return (f'<button type="button" data-do="{do}" data-message="{html.escape(message)}"{f" id={id!r}" if id else ""}'
            f'{f" class={kind!r}" if kind else ""}{f" title={hint!r}" if hint else ""}>{html.escape(word)}</button>')


def stamp(scene: Scene) -> str:
    """Changes whenever something else is to be shown."""
    under = scene.under.reply.id if scene.under else ""
    shown = [repr(scene.chat), scene.char, scene.fault, scene.newest, scene.notes, scene.failure, scene.undo, under, scene.model,
             scene.player, [(chat.id, chat.title) for chat in scene.chats], [repr(message) for message in scene.messages]]
    return hashlib.sha256(json.dumps(shown).encode("utf-8", "replace")).hexdigest()
