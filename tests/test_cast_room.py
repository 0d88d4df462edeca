"""A cast at once in the studio: the plan, cards as they come, what is kept and dropped, and that nothing is lost."""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from cast_writer import NAMES, cast_writer
from teacher_server import TeacherServer

from engine.base import event_file
from engine.base.errors import UserError
from engine.base.evaluation_events import Drafted
from studio.services import Services
from studio.store import casts, characters
from studio.tabs.draft.cast import CastRoom
from studio.tabs.draft.writer import Writer
from tests.store_samples import card

PLACE = "A harbour town <b>at the end</b> of a railway."
QUOTAS = "role: 2 traders, 1 guard"


def room_of(services: Services, server: TeacherServer | None = None) -> CastRoom:
    one = Writer(services)
    if server:
        one.use("server", f"{server.url}/v1", "m")
    return CastRoom(services, one)


def shown(room: CastRoom, cast: str = "") -> str:
    return str(room.contents({"cast": cast})["cast-shown"])


def until(found: Callable[[], Any], seconds: float = 120) -> Any:
    last = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < last
        time.sleep(0.1)
    return value


def test_a_plan_is_kept_shown_and_changed(services: Services) -> None:
    room = room_of(services)
    assert shown(room) == ""
    cast = room.make_plan(PLACE, 4, QUOTAS)
    page = shown(room)
    assert page.count("<input") == 4 and "at the end" in page and "<b>at" not in page and "Draft these characters" in page
    assert sorted(row["role"] for row in cast.rows) == ["", "guard", "trader", "trader"]
    room.change({"cast": cast.id, "0-0": "bell <ringer>"})
    assert casts.get(services.store, cast.id).rows[0]["role"] == "bell <ringer>" and "&lt;ringer&gt;" in shown(room)  # type: ignore[union-attr]
    with pytest.raises(UserError, match="more than 60"):
        room.change({"cast": cast.id, "0-0": "x" * 61})
    with pytest.raises(UserError, match="asks for 3"):
        room.make_plan(PLACE, 2, QUOTAS)
    other = room.make_plan("Elsewhere.", 2, "")
    assert "Elsewhere." in shown(room) and "<option" in shown(room) and "bell" in shown(room, cast.id)
    assert casts.every(services.store)[0] == other


@pytest.mark.slow
def test_cards_come_one_after_another_and_are_kept_dropped_and_drafted_again(services: Services) -> None:
    store = services.store
    with cast_writer(slow=0.05) as server:
        room = room_of(services, server)
        cast = room.make_plan(PLACE, 3, QUOTAS)
        room.draft({"cast": cast.id})
        with pytest.raises(UserError, match="under way already"):
            room.draft({"cast": cast.id})
        until(lambda: casts.drafts(store, cast.id))
        page = shown(room)
        assert "Stop" in page and NAMES[0] in page and 'role="progressbar"' in page
        services.casting.stop()
        assert services.casting.wait(60)
        there = casts.drafts(store, cast.id)
        assert 0 < len(there) < 3 and f"Go on: {3 - len(there)} left" in shown(room) and "Stopped." in shown(room)
        room.draft({"cast": cast.id})  # takes it up from there
        assert services.casting.wait(120)
        there = casts.drafts(store, cast.id)
        assert [one.line[:4] for one in there.values()] and len(there) == 3
        assert len({one.card["data"]["name"] for one in there.values()}) == 3
        assert room.keep(there[0].id) == 1 and room.keep(there[0].id) == 1
        casts.drop(store, there[1].id)
        page = shown(room)
        assert "Keep all" not in page and "Take back" in page and "Open" in page
        found = [one for one in characters.list_characters(store) if one.name == there[0].card["data"]["name"]]
        assert len(found) == 1  # kept once
        data = characters.head(store, found[0].id).card["data"]
        assert data["first_mes"].startswith("*Looks up") and data["mes_example"].count("<START>") == 2
        assert data["tags"] == [casts.get(store, cast.id).rows[0]["role"]]  # type: ignore[union-attr]
        with pytest.raises(UserError, match="character of the library"):
            casts.drop(store, there[0].id)
        casts.drop(store, there[1].id, back=True)
        room.draft({"cast": cast.id, "position": "2"})
        assert "this one stays until the new one is there" in shown(room)
        assert services.casting.wait(60)
        assert casts.drafts(store, cast.id)[2].card["data"]["name"] not in [one.card["data"]["name"] for one in there.values()]
        assert room.keep(cast.id) == 2 and len(re.findall("In the library", shown(room))) == 3
        characters.delete(store, found[0].id)
        assert "Was kept, and deleted" in shown(room)


def test_what_a_killed_studio_did_not_take_in_is_there_at_the_next_start(services: Services) -> None:
    cast = room_of(services).make_plan(PLACE, 2, "")
    folder = services.casting.folder(cast.id)
    folder.mkdir(parents=True)
    for _ in range(2):
        event_file.append(folder / "events.jsonl", Drafted(1, card("Bo"), "Bo is here.", twin="Ann", shared=["rope"], tries=3))
    services.casting.start()
    services.casting.start()
    assert [one.position for one in casts.former(services.store, cast.id, 1)] == [1]
    page = shown(room_of(services)).replace("\xa0", " ")
    assert "Still too like Ann after 3 drafts. Both have: rope." in page and "Go on: 1 left" in page


def test_who_writes_is_whom_the_page_has_set(services: Services) -> None:
    room = room_of(services)
    room.make_plan(PLACE, 2, "")
    assert Writer(services).who()["note"] in shown(room)
