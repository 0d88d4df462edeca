"""Scenes in Play: the character with one or two others and a narrator; watched, stopped, and a word put in."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from engine.base.acting import CRITERIA
from engine.base.cast_folder import place_of, places
from engine.base.errors import UserError
from engine.base.evaluation_events import Acted, Spoken
from studio.figures.words import count
from studio.page import Page, guarded, live_html
from studio.services import Services
from studio.store import characters
from studio.tabs.answers import PLAYER, card_of, changing, text_html
from studio.tabs.judges import JudgeFields, check, chosen, says_html
from studio.tabs.models import finished, voice_of

ROOM = "preview"
OTHERS, TURNS, MOST = 2, 12, 40  # characters beside the first; turns at first and at most
NARRATOR = ""
_LOG = ('<div class="chat"><div class="chat-log scene-log" role="log" tabindex="0" aria-label="Scene">'
        '<div data-live="scene-said"></div></div></div>')


class ScenePanel:
    """The components."""

    def __init__(self) -> None:
        with gr.Column(elem_id="preview-scene"):
            with gr.Row():
                self.others = gr.Dropdown([], multiselect=True, max_choices=OTHERS, label="Together with", elem_id="scene-others",
                                          info="One or two others, by the chat's model.", min_width=260)
                self.narrator = gr.Textbox(label="The narrator begins", max_length=1000, lines=1, max_lines=4, min_width=260,
                                           elem_id="scene-narrator", info="Left empty: the card's scenario, and who is there.")
                self.turns = gr.Slider(2, MOST, TURNS, step=1, label="Turns", elem_id="scene-turns", min_width=160)
            with gr.Row(elem_classes="tight"):
                self.begin = gr.Button("New scene", variant="primary", scale=0, min_width=130, elem_id="scene-begin",
                                       elem_classes="live-shown")
                self.stop = gr.Button("Stop", variant="stop", scale=0, min_width=90, elem_id="scene-stop",
                                      elem_classes="live-shown")
                self.go_on = gr.Button("Go on", scale=0, min_width=90, elem_id="scene-go-on", elem_classes="live-shown")
            gr.HTML(_LOG, elem_id="scene-log", apply_default_css=False)
            live_html("scene-foot")
            with gr.Row(elem_id="scene-put-in", elem_classes="live-shown"):
                self.who = gr.Radio([(PLAYER, PLAYER), ("Narrator", NARRATOR)], value=PLAYER, show_label=False, container=False,
                                    label="Who says it", scale=0, min_width=220, elem_id="scene-who")
                self.words = gr.Textbox(show_label=False, label="Put a word in", placeholder="Put a word in", container=False,
                                        max_length=1000, elem_id="scene-words", min_width=200, scale=3)
                self.put_in = gr.Button("Say it", scale=0, min_width=90, elem_id="scene-say")
            live_html("scene-grades")
            self.judge = JudgeFields("scene")
            self.grade = gr.Button("Grade the scene", size="sm", scale=0, min_width=150, elem_id="scene-grade",
                                   elem_classes="live-shown")


def contents(services: Services, look: Mapping[str, str]) -> dict[str, Any]:
    """The live contents: the last scene of a character, as it is now."""
    scenes, found = services.scenes, characters.get(services.store, look["character"])
    if found is None:
        return {"scene-said": "", "scene-foot": "", "scene-grades": "", "scene-begin": False, "scene-stop": False,
                "scene-go-on": False, "scene-put-in": False, "scene-grade": False}
    character = found.id
    said, busy = scenes.said(character), scenes.character()
    mine = busy == character
    stage, done, total = scenes.progress
    waiting = f"{stage or 'Starting'}{f': {done:,} of {total:,}' if total else '…'}" if mine else ""
    ending = waiting or scenes.endings.get(character, "") or ("Another character's scene is being played." if busy else "")
    warned = scenes.warnings if mine else []
    return {"scene-said": said_html(said), "scene-grades": grades_html(scenes.acted(character)),
            "scene-foot": "".join(f'<p class="quiet" role="status">{html.escape(one)}</p>' for one in (*warned, ending) if one),
            "scene-begin": not busy, "scene-stop": mine, "scene-go-on": bool(said) and not busy,
            "scene-put-in": bool(said) and (mine or not busy), "scene-judge-says": says_html(services),
            "scene-grade": bool(said) and not busy and bool(chosen(services).judge)}


def said_html(said: Sequence[Spoken]) -> str:
    """A scene as HTML; each character has a colour of its own."""
    if not said:
        return '<p class="chat-empty">Choose one or two others above, and watch them talk.</p>'
    names = list(dict.fromkeys(one.speaker for one in said if one.speaker not in (NARRATOR, PLAYER)))
    rows = []
    for one in said:
        words = text_html(one.text) or '<span class="quiet">Says nothing.</span>'
        if one.speaker == NARRATOR:
            rows.append(f'<p class="scene-narrator">{words}</p>')
            continue
        kind = "user" if one.speaker == PLAYER else f"assistant actor-{names.index(one.speaker)}"
        name = html.escape(one.speaker)
        rows.append(f'<article class="chat-said {kind}" aria-label="{name} says"><h4 class="chat-who">{name}</h4>'
                    f'<div class="chat-words">{words}</div></article>')
    return f'<div class="chat-lines">{"".join(rows)}</div>'


def grades_html(acted: Sequence[Acted]) -> str:
    """How the characters were played: what rules count, and a judge's seven grades."""
    if not acted:
        return ""
    heads = "".join(f'<th scope="col">{html.escape(one.speaker)}</th>' for one in acted)
    graded = [name for name in CRITERIA if any(name in one.grades for one in acted)]
    rows = [_row(CRITERIA[name].label, CRITERIA[name].about, [_grade(one.grades.get(name)) for one in acted]) for name in graded]
    rows.append(_row("Repeats itself", "Turns that run in circles or say an earlier one again.",
                     [f"{one.loops:,} of {count(one.turns, 'turn')}" for one in acted]))
    rows.append(_row("Like an assistant", "Turns that offer help, refuse by policy or admit to be an AI; English cards only.",
                     ["–" if one.assistant is None else f"{one.assistant:,} of {count(one.turns, 'turn')}" for one in acted]))
    title = "How they were played, of 5" if graded else "How they were played"
    judge = f'<p class="quiet">{html.escape(acted[0].judge)}</p>' if acted[0].judge else ""
    return (f'<table class="plain-table scene-grades"><caption>{title}</caption><thead><tr><td></td>{heads}</tr></thead>'
            f'<tbody>{"".join(rows)}</tbody></table>{judge}')


def _row(label: str, about: str, cells: Sequence[str]) -> str:
    return (f'<tr><th scope="row" title="{html.escape(about)}">{html.escape(label)}</th>'
            f'{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>')


def _grade(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def companions(services: Services, character: str, model: str) -> list[tuple[str, str]]:
    """(name, id) of those who can be in a scene with a character: the others of its cast, where a cast's model speaks for it,
    else all other characters."""
    voice = Path(voice_of(services, character, model, finished(services, character)).contender.model)
    if place := place_of(voice):
        return [(one.id, str(one.own)) for one in places(place.folder) if one.id != place.id]
    return [(one.char, one.id) for one in characters.list_characters(services.store) if one.id != character]


def begin(services: Services, character: str, model: str, others: Sequence[str], narrator: str, turns: int) -> None:
    """Play a new scene. Raises UserError."""
    if not others:
        raise UserError("Nobody else is in this scene.", "Choose one or two others above.")
    voice = voice_of(services, character, model, finished(services, character)).contender.model
    known = [id for _, id in companions(services, character, model)]
    if gone := [one for one in others if one not in known]:
        raise UserError(f"{Path(gone[0]).name} cannot be in this scene.", "Choose the others again.")
    actors: list[dict[str, Any] | str]
    if place_of(Path(voice)):
        actors = [voice, *others]
    else:
        versions = [characters.head(services.store, one) for one in (character, *others)]
        names = {card_of(one).char.casefold() for one in versions}  # raises for one that cannot speak
        if len(names) < len(versions):  # before the last scene gives way to one that cannot be played
            raise UserError("Two characters of this scene have the same name.", "Give one of them another name or nickname.")
        actors = [one.card for one in versions]
    services.scenes.begin(character, actors, voice, narrator, int(turns), check(chosen(services)))


def put_in(services: Services, character: str, who: str, words: str) -> None:
    """Say something in the scene; one that is not under way goes on, so that everybody can answer. Raises UserError."""
    if not services.scenes.put_in(character, who, words):
        present = {one.speaker for one in services.scenes.said(character)} - {NARRATOR, PLAYER}
        services.scenes.go_on(character, max(len(present), 1))


def connect(services: Services, panel: ScenePanel, page: Page, tab: gr.Tab) -> None:
    """The listeners."""
    live = services.live

    @guarded
    def paint(character: str, model: str, others: list[str]) -> dict[Any, Any]:
        choices = companions(services, character, model) if character else []
        known = [id for _, id in choices]
        return {panel.others: gr.Dropdown(choices, value=[one for one in others or [] if one in known]),
                **panel.judge.shown(services)}

    def play(character: str, model: str, others: list[str], narrator: str, turns: int) -> None:
        begin(services, character, model, others, narrator, turns)

    def go_on(character: str, turns: int) -> None:
        services.scenes.go_on(character, int(turns), check(chosen(services)))

    def grade(character: str) -> None:
        services.scenes.go_on(character, 0, check(chosen(services)))

    def say(character: str, who: str, words: str) -> str:
        put_in(services, character, who, words)
        return ""

    for event in (tab.select, page.character.change, page.model.change):
        event(paint, [page.character, page.model, panel.others], [panel.others, *panel.judge.inputs], **page.private)
    panel.begin.click(changing(live, ROOM, play), [page.character, page.model, panel.others, panel.narrator, panel.turns], None,
                      trigger_mode="once", **page.private)
    panel.go_on.click(changing(live, ROOM, go_on), [page.character, panel.turns], None, trigger_mode="once", **page.private)
    panel.grade.click(changing(live, ROOM, grade), page.character, None, trigger_mode="once", **page.private)
    panel.stop.click(guarded(services.scenes.stop), None, None, **page.poll)
    for event in (panel.put_in.click, panel.words.submit):
        event(changing(live, ROOM, say), [page.character, panel.who, panel.words], panel.words, trigger_mode="once", **page.private)
    panel.judge.listen(services, page)
