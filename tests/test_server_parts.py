"""The parts of the server without a model: turns and notes, texts that end a reply, the line, rates, sessions, counters."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server_samples import card_of, cast_of

from engine.cards.prompt import fit
from engine.server.answering import understand
from engine.server.conversation import MOST_TURNS, StopTexts, last_turns, read_messages
from engine.server.errors import ApiError
from engine.server.limits import Line, Rate
from engine.server.metrics import Histogram, Metrics
from engine.server.schema import ChatMessage, ChatRequest
from engine.server.service import Service
from engine.server.sessions import Sessions
from engine.server.settings import Settings


def messages(*given: tuple[str, str]) -> list[ChatMessage]:
    return [ChatMessage(role=role, content=text) for role, text in given]  # type: ignore[arg-type]


def prompt_of(*given: tuple[str, str], **persona: Any) -> list[dict[str, str]]:
    """The messages that the model reads."""
    cast = cast_of("model", card_of("Ann", system_prompt="Rhyme."))
    service = Service(cast, Settings())
    chat = ChatRequest.model_validate({"model": "ann", "persona": persona,
                                       "messages": [{"role": role, "content": text} for role, text in given]})
    asked = understand(chat, cast.find("ann"), service.conversation(chat, cast.find("ann")))
    return fit(cast.find("ann").card, asked.request.turns, asked.request.setting, lambda _: True).messages


def test_the_greeting_is_put_in_front_where_the_client_has_none() -> None:
    said = lambda *given, **persona: [one["content"] for one in prompt_of(*given, **persona)][1:]
    assert said(("user", "Hm?"), player="Kit") == ["Good evening, Kit, says Ann.", "Hm?"]
    assert said(("assistant", "Yes?"), ("user", "Hm?")) == ["Yes?", "Hm?"]
    assert said(("user", "Hm?"), greeting=False) == ["Hm?"]


def test_a_clients_system_messages_are_the_scene_or_notes_and_never_the_card() -> None:
    found = prompt_of(("system", "You are a pirate. {{user}} is ill."), ("user", "A"), ("assistant", "B"),
                      ("developer", "It rains."), ("user", "C"), ("system", "Thunder."), player="Kit", about_player="A thief.")
    assert found[0]["content"] == ("You are Ann.\n\nAnn keeps an inn.\n\nAbout Kit: A thief.\n\n"
                                   "The scene now: You are a pirate. Kit is ill.\n\nRhyme.")
    assert [one["content"] for one in found[2:]] == ["A", "B", "[It rains.]\n\nC\n\n[Thunder.]"]
    assert {one["role"] for one in found[1:]} == {"user", "assistant"}


@pytest.mark.parametrize("given", [[("system", "x")], [("assistant", "x")], [("user", "x"), ("assistant", "y")], [("user", " \n")]])
def test_the_player_speaks_last(given: Sequence[tuple[str, str]]) -> None:
    with pytest.raises(ApiError) as error:
        read_messages(messages(*given))
    assert (error.value.status, error.value.param) == (400, "messages")


def test_a_conversation_without_end_keeps_its_beginning_for_a_while() -> None:
    turns = tuple((("user", "assistant")[number % 2], str(number)) for number in range(3 * MOST_TURNS))
    assert last_turns(turns[:MOST_TURNS]) == (turns[:MOST_TURNS], 0)
    beginnings = {last_turns(turns[:size])[1] for size in range(MOST_TURNS + 1, MOST_TURNS + 65)}
    assert beginnings == {64}
    kept, left_out = last_turns(turns)
    assert kept == turns[left_out:] and len(kept) <= MOST_TURNS


@given(st.text("ab\n", max_size=40), st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3), st.data())
def test_stop_texts_are_found_however_the_text_comes(text: str, stops: list[str], data: Any) -> None:
    found, said, place = StopTexts(stops), "", 0
    while place < len(text):
        size = data.draw(st.integers(1, 5))
        said += found.take(text[place:place + size])
        place += size
    said += found.rest()
    ends = [text.index(stop) + len(stop) for stop in stops if stop in text]
    if not ends:
        assert (said, found.found) == (text, False)
    else:
        assert found.found and any(said + stop == text[:len(said) + len(stop)] for stop in stops)
        assert not any(stop in said for stop in stops)


async def _line(line: Line, who: str, order: list[str], hold: asyncio.Event) -> None:
    async with line.place(who):
        order.append(who)
        await hold.wait()


def test_players_take_turns_in_the_line() -> None:
    async def whole() -> list[str]:
        line, order, hold = Line(1, 10, 5), [], asyncio.Event()
        tasks = []
        for who in ("first", "greedy", "greedy", "greedy", "modest"):
            tasks.append(asyncio.create_task(_line(line, who, order, hold)))
            await asyncio.sleep(0)
        assert (line.taken, line.waiting) == (1, 4)
        hold.set()
        await asyncio.gather(*tasks)
        assert (line.taken, line.waiting) == (0, 0)
        return order

    assert asyncio.run(whole()) == ["first", "greedy", "modest", "greedy", "greedy"]


def test_who_leaves_the_line_takes_no_place_along() -> None:
    async def whole() -> None:
        line, order, hold = Line(1, 2, 0.05), [], asyncio.Event()
        first = asyncio.create_task(_line(line, "first", order, hold))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(_line(line, str(number), order, hold)) for number in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(ApiError) as error:
            async with line.place("late"):
                pass
        assert (error.value.status, error.value.code) == (429, "line_full")
        waiting[0].cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError) and isinstance(results[1], ApiError) and results[1].status == 503
        assert (line.taken, line.waiting) == (1, 0)
        hold.set()
        await first
        # The place comes in the very moment in which the client leaves.
        hold.clear()
        first = asyncio.create_task(_line(line, "first", order, hold))
        await asyncio.sleep(0)
        second = asyncio.create_task(_line(line, "second", order, hold))
        await asyncio.sleep(0)
        line._hand_on()
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        line.taken += 1  # what was handed on by hand
        hold.set()
        await first
        assert (line.taken, line.waiting) == (0, 0)
        # The client leaves in the very moment before the place comes.
        hold.clear()
        first = asyncio.create_task(_line(line, "first", order, hold))
        await asyncio.sleep(0)
        second = asyncio.create_task(_line(line, "second", order, hold))
        await asyncio.sleep(0)
        hold.set()
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert (line.taken, line.waiting) == (0, 0)

    asyncio.run(whole())


def test_rates_are_of_one_address_and_grow_back() -> None:
    now = [0.0]
    rate = Rate(60, lambda: now[0])
    for _ in range(60):
        rate.spend("one")
    for _ in range(3):  # asking more does not make it longer
        with pytest.raises(ApiError) as error:
            rate.spend("one")
    assert error.value.headers["retry-after"] == "2"
    rate.spend("other")
    now[0] = 1.01
    rate.spend("one")
    with pytest.raises(ApiError):
        rate.spend("one")


def test_sessions_stay_within_their_size() -> None:
    sessions = Sessions(most_bytes=10_000)
    for number in range(50):
        sessions.append(("p", "c", str(number)), ("user", "x" * 500), ("assistant", "y" * 500))
        assert sessions.bytes <= 10_000
    assert 1 < len(sessions) < 10 and not sessions.turns(("p", "c", "0")) and len(sessions.turns(("p", "c", "49"))) == 2
    for number in range(50):
        sessions.forget(("p", "c", str(number)))
    assert sessions.bytes == 0


def test_numbers_as_prometheus_reads_them() -> None:
    metrics = Metrics()
    metrics.requests.add('a"b\\c\n', "200")
    assert 'persona_requests_total{route="a\\"b\\\\c\\n",status="200"} 1' in metrics.text()
    seconds = Histogram("s", "Seconds.", (1, 2))
    for value in (0.5, 1, 1.5, 9):
        seconds.add(value)
    assert seconds.lines() == ['s_bucket{le="1"} 2', 's_bucket{le="2"} 3', 's_bucket{le="+Inf"} 4', "s_sum 12", "s_count 4"]
