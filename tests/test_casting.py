"""A cast at once: plans that meet their quotas, cards that say what they lack, near-twins, and what the model is told."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cast_writer import NAMES, cast_writer, voice

from engine.__main__ import main
from engine.base.errors import UserError
from engine.base.evaluation_events import Drafted
from engine.base.events import Event
from engine.base.job import DraftCastJob
from engine.cards import twins
from engine.cards.card import bundled_cards, find_bundled, unfinished
from engine.cards.cast_plan import checked_plan, make_plan, read_quotas
from engine.cards.casting import STEPS, VOICE, WHO, Draft, Member
from engine.cards.fields import blank_card, with_fields
from engine.casting import AGAIN, PLAN, perform
from engine.serving.schemas import check_schema

PLACE = "A harbour town at the end of a railway that stopped running."
NOBODY = "http://127.0.0.1:1"
QUOTAS = "role: 2 traders, 1 guard, 3 fishers\nage: 2 old, 4 young"


@pytest.mark.parametrize("seed", range(40))
def test_every_quota_is_met_exactly_and_rows_differ_as_far_as_they_can(seed: int) -> None:
    plan = make_plan(6, read_quotas(QUOTAS), seed)
    assert Counter(row["role"] for row in plan) == {"trader": 2, "guard": 1, "fisher": 3}
    assert Counter(row["age"] for row in plan) == {"old": 2, "young": 4}
    assert len({tuple(row.items()) for row in plan}) >= 4
    assert plan == make_plan(6, read_quotas(QUOTAS), seed)


def test_another_seed_gives_another_plan() -> None:
    assert len({str(make_plan(6, read_quotas(QUOTAS), seed)) for seed in range(10)}) > 1


def test_the_rest_is_open_or_shares_the_values_without_a_number() -> None:
    plan = make_plan(7, read_quotas("role: 2 witches\ntemper: 1 sour, calm, quick"), 3)
    assert Counter(row["role"] for row in plan) == {"witch": 2, "": 5}
    assert Counter(row["temper"] for row in plan) == {"sour": 1, "calm": 3, "quick": 3}
    assert make_plan(3, [], 0) == [{}, {}, {}]


def test_several_of_a_kind_are_named_as_one() -> None:
    [quota] = read_quotas("role: 2 allies, 3 bosses, 2 dress, 2 Händler, 1 boss, 2 x wolves, 2 thieves, 2 knaves")
    assert dict(quota.counts) == {"ally": 2, "boss": 4, "dress": 2, "Händler": 2, "wolf": 2, "thief": 2, "knave": 2}


@pytest.mark.parametrize(("count", "quotas", "sentence"), [
    (4, QUOTAS, "“role” asks for 6 characters, and the cast has 4"), (6, "two traders", "“two traders” is not a quota"),
    (6, "role:", "is not a quota"), (6, "role: 0 guards", "0 of “0 guards”"),
    (6, "role: a\nRole: b", "two lines for “role”"), (1, "", "A cast has 2 to 12 characters, not 1"), (13, "", "not 13"),
    (6, "\n".join(f"p{one}: x" for one in range(7)), "There are 7 quotas"), (6, f"role: {'x' * 61}", "too long")])
def test_what_cannot_be_met_gets_one_sentence(count: int, quotas: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make_plan(count, read_quotas(quotas))


def test_a_changed_plan_is_checked() -> None:
    assert checked_plan([{"role": " a \n b "}, {"role": ""}]) == [{"role": "a b"}, {"role": ""}]
    for rows in ([{"role": "x"}], [{"role": "x" * 61}, {}]):
        with pytest.raises(UserError):
            checked_plan(rows)


def begun(row: dict[str, str] | None = None) -> Draft:
    draft = Draft(PLACE, {"role": "guard"} if row is None else row, [Member(0, blank_card("Mara Vell"), "She mends nets.")])
    draft.take(WHO, 'Sure! {"name": "Bert Ost", "line": "Bert guards the gate and wants to be left alone."}')
    return draft


def test_a_model_is_told_the_row_the_place_and_who_is_there() -> None:
    draft = begun({"role": "guard", "age": ""})
    draft.take(WHO, '{"name": "Bert Ost", "line": "Bert guards the gate and wants to be left alone. His work incl"}')
    assert draft.line == "Bert guards the gate and wants to be left alone."
    who = draft.ask(WHO)
    assert all(part in who.messages[1]["content"] for part in (PLACE, "Mara Vell: She mends nets.", "role: guard"))
    assert "age" not in who.messages[1]["content"]
    asked = draft.ask("description").messages[1]["content"]
    assert all(part in asked for part in (PLACE, "Bert Ost", "guards the gate", "role: guard", "Mara Vell", "usual day"))
    for step in STEPS:
        if schema := draft.ask(step).schema:
            check_schema(schema)
    assert draft.ask(WHO).schema and draft.ask(VOICE).schema
    assert unfinished(draft.raw).raw["data"]["tags"] == ["guard"]


@pytest.mark.parametrize("said", ["", "Bert Ost, a guard", '{"name": "Bert"', "[1]",
                                  '{"name": "Mara Oster", "line": "She is a guard too."}',
                                  '{"name": "", "line": "He is a guard of the gate."}', '{"name": "Bert Ost", "line": "Guard."}',
                                  '{"name": "7", "line": "He is a guard of the gate."}',
                                  '{"name": "Bert", "line": "How can I help you today, dear user?"}'])
def test_what_gives_no_new_name_and_line_is_asked_again(said: str) -> None:
    draft = Draft(PLACE, {}, [Member(0, blank_card("Mara Vell"), "She mends nets.")])
    with pytest.raises(UserError):
        draft.take(WHO, said)
    assert not draft.raw


def test_fields_that_the_model_left_thin_are_named_and_never_made_up() -> None:
    draft = begun()
    assert draft.thin == ["description", "personality", "scenario", "first_mes", "mes_example"] and not draft.unsaid
    for said in ("{}", '{"Bert Ost says": "I am here, stranger."}', voice("Bert Ost").replace("answers", "dreams"),
                 voice("Bert Ost").replace("You are late", "Bert likes it here, and is late")):
        with pytest.raises(UserError):
            draft.take(VOICE, said)
    draft.take(VOICE, voice("Bert Ost"))
    assert "first_mes" not in draft.thin and "mes_example" not in draft.thin
    card = unfinished(draft.raw)
    assert card.greeting == "*Looks up from the work.* You are late, {{user}}, and the kettle is cold. Sit."
    assert card.example_dialogue == (
        "<START>\n{{user}}: What do you sell?\n{{char}}: Nothing that you need, and all that you want.\n"
        "<START>\n{{user}}: Who lives up there?\n{{char}}: Nobody, and I am paid to say it.")
    nameless = Draft(PLACE, {"role": "guard"}, [])
    nameless.go_nameless(3)
    assert unfinished(nameless.raw).name == "Guard 3" and nameless.thin[0] == "name"


def test_a_description_without_the_values_of_its_row_is_asked_again_and_then_kept() -> None:
    draft = Draft(PLACE, {"role": "fisher"}, [])
    draft.take(WHO, '{"name": "Lucy Ames", "line": "Lucy builds engines and hides her maps."}')
    with pytest.raises(UserError, match="does not say fisher"):
        draft.take("description", "Lucy is an engineer of the railway. She builds ships from what she finds.")
    assert "engineer" in unfinished(draft.raw).description and draft.unsaid == ["fisher"]
    draft.take("description", "Lucy is a fisher of the old kind. She builds ships from what she finds.")
    assert not draft.unsaid


@pytest.mark.parametrize("by_words", [False, True])
def test_a_near_twin_is_found_and_those_who_were_written_to_differ_are_none(by_words: bool, monkeypatch: Any) -> None:
    if by_words:
        monkeypatch.setattr(twins, "embedder", lambda: None)
    twins.highest.cache_clear()
    cards = bundled_cards()
    for card in cards:
        assert twins.find_twin(card, [one for one in cards if one is not card]) is None
    pim = find_bundled("pim-tuckett")
    copy = unfinished(with_fields(pim.raw, name="Tom Reed", description=pim.description.replace("Pim Tuckett", "Tom Reed")
                                  .replace("eight", "nine").replace("chalk", "charcoal")))
    found = twins.find_twin(copy, cards)
    assert found and found.name == pim.name and found.likeness > found.bar and found.shared
    twins.highest.cache_clear()


def test_what_the_whole_cast_shares_makes_no_twins() -> None:
    shared = "the harbour town where the railway stopped, between brick warehouses, cranes and rusting locomotives"

    def card(name: str, own: str) -> Any:
        return unfinished(with_fields(blank_card(name), description=f"{name} lives in {shared}. {own}"))

    one = card("Bert", "He repairs clocks and hums hymns.")
    other = card("Cleo", "She grows mushrooms and whispers to moths.")
    assert twins.find_twin(one, [other], f"{shared} lives") is None and twins.find_twin(one, [other])
    assert twins.find_twin(one, []) is None


def job(url: str, out: Path | str = "", **more: Any) -> DraftCastJob:
    return DraftCastJob(**{"place": PLACE, "count": 3, "quota": ["role: 1 guard, 2 traders"], "teacher": url, "teacher_model": "m",
                           "out": str(out), **more})


def run(url: str, out: Path | str = "", **more: Any) -> list[Event]:
    return list(perform(job(url, out, **more)))


def drafted(events: list[Event]) -> list[Drafted]:
    return [one for one in events if isinstance(one, Drafted)]


def test_a_cast_is_drafted_one_after_another_and_goes_on_in_its_folder(tmp_path: Path) -> None:
    out = tmp_path / "cast"
    with cast_writer() as server:
        stream = perform(job(server.url, out))
        first = next(one for one in stream if isinstance(one, Drafted))
        stream.close()
        asked = len(server.bodies)
        assert first.tries == 1 and not first.thin and not first.twin and asked == len(STEPS)
        assert [file.name for file in sorted(out.iterdir())] == ["01-mara-vell.json", PLAN]
        plan = json.loads((out / PLAN).read_text())
        plan["rows"][2]["role"] = "bell ringer"  # the writer's own idea
        (out / PLAN).write_text(json.dumps(plan))
        rest = drafted(run(server.url, out))
        told = [body["messages"][-1]["content"] for body in server.bodies[asked:]]
    assert [one.position for one in rest] == [1, 2] and len(sorted(out.glob("0*.json"))) == 3
    assert any("Mara Vell" in one and "“line”" in one for one in told) and any("bell ringer" in one for one in told)
    with pytest.raises(UserError, match="another place"):
        run(NOBODY, out, place="Elsewhere.")
    with pytest.raises(UserError, match="holds no cast"):
        run(NOBODY, tmp_path)


def test_a_near_twin_is_drafted_again_with_what_was_alike_named_then_kept_and_marked() -> None:
    with cast_writer(twins=NAMES) as server:  # whoever it names is the same person
        events = drafted(run(server.url, count=2, quota=[]))
        told = [body["messages"][-1]["content"] for body in server.bodies if "“line”" in body["messages"][-1]["content"]]
    first, second = events
    assert (first.twin, first.tries) == ("", 1)
    assert (second.twin, second.tries) == (NAMES[0], AGAIN + 1) and second.shared
    assert len(told) == 1 + second.tries and "quite unlike" not in told[1]
    assert all(f"quite unlike {NAMES[0]}" in one and second.shared[0] in one for one in told[2:])


def test_a_server_without_a_model_and_a_row_that_is_not_there_get_a_sentence() -> None:
    with pytest.raises(UserError, match="name of its model"):
        run(NOBODY, teacher_model="")
    with pytest.raises(UserError, match="no row 9"):
        run(NOBODY, draft=[8])
    with pytest.raises(UserError, match="The place is not described"):
        run(NOBODY, place="  ")


def test_the_plan_can_be_had_alone_and_cards_that_would_be_lost_are_not_drafted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draft-cast", PLACE, "--count", "6", "--quota", "role: 2 traders, 1 guard", "--plan-only", "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)
    assert kept["place"] == PLACE and Counter(row["role"] for row in kept["rows"]) == {"trader": 2, "guard": 1, "": 3}
    assert main(["draft-cast", PLACE]) == 2 and "--out FOLDER" in capsys.readouterr().err
