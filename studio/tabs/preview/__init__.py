"""Preview: chatting with the dense base model in character, before anything is pruned.

Everything shown is painted by `paint`, from the library and the answer under way. Listeners change the library or what
this page looks at, and then paint, or give the pulse that does. A timer gives it too when something changed elsewhere: in
another tab, or in a thread that wrote an answer down.
"""

import html
from collections.abc import Iterator
from typing import Any

import gradio as gr

from studio.page import NameForm, Page, beat, guarded, listen_to_renaming, only_while_shown
from studio.services import Services
from studio.sight import is_lost, marked
from studio.sight import look as look_at_page
from studio.tabs.answers import follow as follow_replies
from studio.tabs.preview.controller import Controller, Draft, ViewState, chosen_sampling
from studio.tabs.preview.controls import Controls, Newest, settings_of, updates
from studio.tabs.preview.view import SHOWN, chat_html, earlier_html, stamp

ROOM = "preview"
_NOBODY = '<div class="chat"><div class="chat-log"><p class="chat-empty">Choose a character on the left.</p></div></div>'


def build(services: Services, page: Page, tab: gr.Tab) -> None:
    """The room with its listeners."""
    room, controls = Controller(services), Controls()
    _painting(room, page, controls)
    _opening(room, page, tab, controls)
    _talking(room, page, controls)
    _keeping(room, page, controls)


def paint(room: Controller, controls: Controls, character: str, look: ViewState, model: str, player: str,
          seen: dict[str, Any]) -> Iterator[dict[Any, Any]]:
    """Component updates: the chat as it is now, then an answer under way until its end, then the chat again."""
    if not character:
        yield {controls.log: _NOBODY, controls.seen: {}}
        return
    scene = room.scene(character, look, model, player)
    while True:
        earlier = earlier_html(scene, look.editing, look.shown)
        settings = settings_of(room, scene)
        speaks = scene.under is not None
        now = stamp(scene)
        yield {controls.log: marked(chat_html(scene, earlier), ROOM, now, speaks),
               **updates(controls, settings, seen.get("settings", {})),
               controls.seen: (seen := {"stamp": now, "settings": settings})}
        if scene.under is None:
            return
        for _ in follow_replies(scene.under.reply):
            yield {controls.log: marked(chat_html(scene, earlier), ROOM, now, speaks)}
        scene = room.scene(character, look, model, player)
        if not scene.failure:
            room.warm(character, scene.id, model)  # the next answer comes sooner when this one was read while one types


def _stream(newest: Newest, painting: Iterator[dict[Any, Any]], first: dict[Any, Any]) -> Iterator[dict[Any, Any]]:
    """What is painted, `first` with the first of it, until the page turns to something else."""
    mine = newest.number
    for painted in painting:
        yield {**first, **painted}
        if newest.number != mine:  # the next one paints what the page looks at by now
            return
        first = {}


def _painting(room: Controller, page: Page, controls: Controls) -> None:
    asked = [controls.newest, page.character, page.model, controls.player, controls.seen, *controls.look()]

    @guarded
    def follow(newest: Newest, character: str, model: str, player: str, seen: dict[str, Any], *look: Any) -> Any:
        yield from _stream(newest, paint(room, controls, character, _look(*look), model, player, seen), {})

    @guarded
    def look_for_news(_: Newest, character: str, model: str, player: str, seen: dict[str, Any], *look: Any) -> Any:
        *looked, sight = look
        if not character:
            return gr.skip()
        scene = room.scene(character, _look(*looked), model, player)
        now = stamp(scene)
        if now != seen.get("stamp"):
            return gr.skip(), beat()
        return ({}, beat()) if is_lost(sight, now) else gr.skip()

    controls.timer.tick(look_for_news, [*asked, controls.sight], [controls.seen, controls.pulse],
                        js=look_at_page(ROOM), **page.poll)
    controls.pulse.change(follow, asked, controls.painted, concurrency_limit=None, **page.private)


def _opening(room: Controller, page: Page, tab: gr.Tab, controls: Controls) -> None:
    opened = [controls.chat, controls.editing, controls.shown, controls.pulse]

    @guarded
    def open_room(newest: Newest, character: str, model: str, chat: str, owner: str) -> Any:
        newest.begin()
        found = chat if owner == character and not chat else room.latest(character, chat)
        if character and newest.visited:
            room.warm(character, found, model)
        same = owner == character and found == chat  # what is being edited stays
        return found, gr.skip() if same else "", gr.skip() if same else SHOWN, newest.number, character

    @guarded
    def visit(newest: Newest, *opened_with: Any) -> Any:
        newest.visited = True
        return open_room(newest, *opened_with)

    @guarded
    def choose(newest: Newest, character: str, model: str, chat: str | None) -> Any:
        newest.begin()
        room.warm(character, chat or "", model)
        return chat or "", "", SHOWN, newest.number

    @guarded
    def begin_anew(newest: Newest) -> Any:
        newest.begin()
        return "", "", SHOWN, newest.number

    @guarded
    def greet(chat: str) -> Any:
        return gr.skip() if chat else beat()

    inputs = [controls.newest, page.character, page.model, controls.chat, controls.owner]
    for begin in (page.character.change, page.model.change, page.revision.change):
        begin(open_room, inputs, [*opened, controls.owner], **page.private)
    only_while_shown(page, tab, controls.timer)
    tab.select(visit, inputs, [*opened, controls.owner], **page.private)
    controls.choice.input(choose, [controls.newest, page.character, page.model, controls.choice], opened, **page.private)
    controls.new.click(begin_anew, controls.newest, opened, **page.private)
    controls.opening.change(greet, controls.chat, controls.pulse, **page.private)


def _talking(room: Controller, page: Page, controls: Controls) -> None:
    # These two paint by themselves, which spares the page a round trip before it sees what was asked for.
    @guarded
    def send(newest: Newest, seen: dict[str, Any], character: str, model: str, text: str, chat: str, editing: str, shown: int,
             opening: int | None, *draft: Any) -> Any:
        begun = room.send(character, chat, model, text, _draft(*draft))
        newest.begin()
        look = _look(begun, editing, shown, opening)
        yield from _stream(newest, paint(room, controls, character, look, model, "", seen),
                           {controls.chat: begun, controls.message: ""})

    @guarded
    def act(event: gr.EventData, newest: Newest, seen: dict[str, Any], character: str, model: str, chat: str, editing: str,
            shown: int, opening: int | None, *draft: Any) -> Any:
        said = event._data if isinstance(event._data, dict) else {}
        what, message, text = (str(said.get(name, "")) for name in ("do", "message", "text"))
        after = room.act(character, _look(chat, editing, shown, opening), model, _draft(*draft), what, message, text)
        newest.begin()
        turned: dict[Any, Any] = {controls.chat: after.chat, controls.editing: after.editing, controls.shown: after.shown}
        if after.opening != opening:
            turned[controls.opening] = after.opening
        yield from _stream(newest, paint(room, controls, character, after, model, str(draft[0]), seen), turned)

    page_state = [controls.newest, controls.seen, page.character, page.model]
    for begin in (controls.message.submit, controls.send.click):
        begin(send, [*page_state, controls.message, *controls.look(), *controls.draft],
              [controls.chat, controls.message, *controls.painted], trigger_mode="once", concurrency_limit=None, **page.private)
    controls.log.click(act, [*page_state, *controls.look(), *controls.draft],
                       [controls.chat, controls.editing, controls.shown, *controls.painted], trigger_mode="multiple",
                       concurrency_limit=None, **page.private)
    controls.stop.click(guarded(room.answers.stop), controls.chat, None, **page.poll)


def _keeping(room: Controller, page: Page, controls: Controls) -> None:
    @guarded
    def change(seen: dict[str, Any], player: str, about: str, *sampling: Any) -> None:
        shown = seen.get("settings", {})  # those of the chat that the controls show
        room.change_settings(shown.get("character", ""), shown.get("chat", ""), player, about, chosen_sampling(*sampling))

    changed = [controls.seen, controls.player, controls.about, *controls.sampling]
    for control in controls.sampling:
        control.change(change, changed, None, trigger_mode="always_last", **page.private)
    for begin in (controls.player.blur, controls.player.submit, controls.about.blur):
        begin(change, changed, None, **page.private).then(beat, None, controls.pulse, **page.private)
    controls.fresh.change(lambda fresh: gr.Number(visible=not fresh), controls.fresh, controls.seed, **page.private)
    form = NameForm(controls.rename_box, controls.title, controls.rename_yes, controls.rename_no, controls.named)
    listen_to_renaming(page, form, controls.rename, controls.chat, controls.pulse, room.title, room.rename)
    _deleting(room, page, controls)


def _deleting(room: Controller, page: Page, controls: Controls) -> None:
    opened = [controls.chat, controls.editing, controls.shown, controls.pulse]

    @guarded
    def delete(newest: Newest, character: str, chat: str) -> Any:
        title = room.delete(chat)
        newest.begin()
        said = f"“{html.escape(title)}” was deleted."
        return room.latest(character), "", SHOWN, newest.number, chat, gr.Column(visible=True), said

    @guarded
    def undelete(newest: Newest, gone: str) -> Any:
        newest.begin()
        return room.undelete(gone), "", SHOWN, newest.number, gr.Column(visible=False)

    controls.delete.click(delete, [controls.newest, page.character, controls.chat],
                          [*opened, controls.gone, controls.gone_box, controls.gone_text], **page.private)
    controls.undelete.click(undelete, [controls.newest, controls.gone], [*opened, controls.gone_box], **page.private)
    page.character.change(lambda: [gr.Column(visible=False)] * 2, None, [controls.gone_box, controls.rename_box], **page.private)


def _look(chat: str, editing: str, shown: int, opening: int | None) -> ViewState:
    return ViewState(chat, editing, shown, opening or 0)


def _draft(player: str, about: str, opening: int | None, *sampling: Any) -> Draft:
    return Draft(player, about, chosen_sampling(*sampling), opening or 0)
