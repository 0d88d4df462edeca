"""The Compare room without a browser: sides are shuffled and unnamed until the vote, votes count for the right model,
answers are kept, and the sentence about the votes claims no more than they say."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from safetensors.numpy import save_file

from engine.base.errors import UserError
from engine.base.rating import rate
from engine.base.verdict import wilson
from studio.services import Services
from studio.settings import Settings
from studio.store import characters, rounds, runs
from studio.store.rounds import Tally
from studio.store.runs import Run
from studio.tabs.compare import Controls, paint
from studio.tabs.compare.asking import history
from studio.tabs.compare.controller import Controller, ViewState
from studio.tabs.compare.grids import grids_html
from studio.tabs.compare.tally import FEWEST, between, needed_words, ranked, tally_html, verdict_words, votes_needed
from studio.tabs.compare.view import pair_html
from studio.workers.speech import Reply, speak_request
from tests.store_samples import card

TELLING = re.compile(r"whole|pruned|dense|\bMB\b|tokens/s|first after|seed|/model|starter|% removed", re.IGNORECASE)


class Talker:
    """Stands for the chat worker: what is asked waits until the test lets it speak."""

    def __init__(self) -> None:
        self.asked: list[Reply] = []
        self.stopped: list[Reply] = []

    def ask(self, model: str, card: dict[str, Any], turns: Any, sampling: dict[str, Any], player: str,
            on_end: Callable[[Reply], None] | None = None, continue_: bool = False, key: str = "", about: str = "",
            type: str = "") -> Reply:
        request = speak_request(str(len(self.asked)), model, card, turns, sampling, player, continue_, type=type)
        self.asked.append(Reply(request, key, on_end))
        return self.asked[-1]

    def pending(self, key: str) -> Reply | None:
        return next((one for one in reversed(self.asked) if one.key == key and not one.done), None)

    def stop(self, reply: Reply) -> None:
        self.stopped.append(reply)
        end(reply, reply.text, "stopped")

    def warm(self, *_: Any, **__: Any) -> None:
        return None


def say(reply: Reply, text: str) -> None:
    reply.take({"event": "Said", "text": text, "tokens": len(reply.text.split()) + 1})


def end(reply: Reply, text: str, reason: str = "ended") -> None:
    reply.take({"event": "Ended", "reason": reason, "text": text, "tokens": 7, "tokens_per_second": 11.5, "first_token": 0.25,
                "seed": reply.request["sampling"]["seed"], "type": reply.request["type"], "engine": "llama.cpp"})


@pytest.fixture
def room(tmp_path: Path) -> Controller:
    services = Services.open(Settings(tmp_path))
    services.speech = Talker()  # type: ignore[assignment]
    return Controller(services)


def finished_run(room: Controller, sparsity: float = 0.25, of: str = "") -> Run:
    store = room.store
    owner = of or characters.create(store, card(first_mes="Well met.")).id
    run = runs.add(store, owner, 1, "prune", f"first {sparsity}", {"model": "big", "sparsity": sparsity})
    folder = room.services.settings.run_folder(run.id) / "model"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return runs.update(store, run.id, state="done", summary={
        "before": {"bytes": 300_000_000}, "after": {"bytes": 200_000_000}, "recipe": {"sparsity": sparsity}})


def talker(room: Controller) -> Any:
    return room.services.speech


def answer_all(room: Controller, dense: str = "Dense says.", pruned: str = "Pruned says.") -> None:
    for reply in [one for one in talker(room).asked if not one.done]:
        end(reply, dense if reply.request["model"] == "big" else pruned)


def on(run: Run, view: str = "pair") -> ViewState:
    return ViewState(run.character, "starter", run.id, view)


def voted(room: Controller, run: Run, verdict: str) -> rounds.Round:
    made = room.send(on(run), "Hi", True)
    answer_all(room)
    room.vote(made.id, verdict)
    return made


def test_both_models_get_the_same_question_with_the_same_seed_and_their_answers_are_kept(room: Controller) -> None:
    run = finished_run(room)
    made = room.send(on(run), " What do you sell? ", True)
    asked = [one.request for one in talker(room).asked]
    assert sorted(one["model"] for one in asked) == sorted(["big", str(room.services.settings.run_folder(run.id) / "model")])
    assert [one["turns"] for one in asked] == [[["assistant", "Well met."], ["user", "What do you sell?"]]] * 2
    assert [one["sampling"]["seed"] for one in asked] == [made.seed] * 2
    answer_all(room)
    kept = rounds.get(room.store, made.id)
    assert kept and [(one.run, one.text, one.reason) for one in kept.answers] == [
        (None, "Dense says.", "ended"), (run.id, "Pruned says.", "ended")]
    assert kept.version == run.version and kept.answers[0].measures["tokens_per_second"] == 11.5


def test_both_models_are_compared_at_the_same_type_which_is_said_once(room: Controller) -> None:
    run = finished_run(room)
    voted(room, run, "tie")
    assert [one.request["type"] for one in talker(room).asked] == ["Q8_0", "Q8_0"]
    page = pair_html(room.scene(on(run)))
    assert page.count("Q8_0") == 1 and "Both answered in the same precision: Q8_0, llama.cpp." in page
    folder = room.services.settings.run_folder(run.id) / "model"
    save_file({"model.layers.0.mlp.down_proj.weight": numpy.zeros((8, 40), numpy.float32)}, folder / "model.safetensors")
    room.ask_grid(on(run, "grid"), [run.id], "Hi")  # rows of 40 weights do not fill blocks of 32
    answer_all(room)
    answer_all(room)
    assert [one.request["type"] for one in talker(room).asked[2:]] == ["F16", "F16"]
    assert grids_html(room.scene(on(run, "grid"))).count("F16, llama.cpp") == 1


def test_sides_are_shuffled_and_stored_only_when_blind(room: Controller) -> None:
    run = finished_run(room)
    swapped = []
    for _ in range(40):
        made = room.send(on(run), "Hi", True)
        first = talker(room).asked[-2].request["model"]
        assert (first == "big") != made.swapped  # asked for from left to right, whoever stands there
        stored = rounds.get(room.store, made.id)
        assert stored and stored.swapped == made.swapped and stored.blind
        swapped.append(made.swapped)
        answer_all(room)
    assert 4 < sum(swapped) < 36  # by chance alone outside this once in more than a million times
    for _ in range(8):
        assert not room.send(on(run), "Hi", False).swapped
        answer_all(room)


@pytest.mark.parametrize("verdict", ["left", "right"])
def test_a_vote_counts_for_the_model_that_stood_there_and_names_it_afterwards(room: Controller, verdict: str) -> None:
    run = finished_run(room)
    for _ in range(6):
        made = voted(room, run, verdict)
        stood = made.answers[(verdict == "right") != made.swapped]
        expected = "pruned" if stood.run else "dense"
        assert [vote.verdict for vote in rounds.votes(room.store, made.id)] == [expected]
        page = pair_html(room.scene(on(run)))
        chosen = page[page.index(f'id="compare-{verdict}"'):]
        assert chosen.index("Your vote") < chosen.index("</header>")
        assert re.search(r"<h3>([^<]*)", chosen)[1].startswith("Pruned" if stood.run else "Dense")  # type: ignore[index]
        assert "200\u00a0MB" in page and "11.5 tokens/s" in page
    assert rounds.tally(room.store, run.id).total == 6


def test_before_the_vote_nothing_on_the_page_tells_the_sides_apart(room: Controller) -> None:
    run = finished_run(room)
    voted(room, run, "left")  # an earlier answer could give a side away
    for _ in range(4):
        room.send(on(run), "And now?", True)
        dense, pruned = sorted(talker(room).asked[-2:], key=lambda one: one.request["model"] != "big")
        dense.take({"event": "Loading", "model": "big", "stage": "fetch_model", "done": 3, "total": 90})
        say(pruned, "One ")
        early = pair_html(room.scene(on(run)))
        assert "One" not in early and "3 of 90" in early  # shown once both have begun
        say(dense, "Two ")
        growing = pair_html(room.scene(on(run)))
        assert "One" in growing and "Two" in growing
        answer_all(room, "Two.", "One.")
        ready = pair_html(room.scene(on(run)))
        for page in (early.replace("3 of 90 MB", ""), growing, ready):
            assert not TELLING.search(page) and "says." not in page
        assert room.scene(on(run)).pair.can_vote  # type: ignore[union-attr]


def test_lore_that_fired_is_shown_once_the_names_are_known_and_in_grids_at_once(room: Controller) -> None:
    run = finished_run(room)
    fired = [{"name": "<b>The gate", "reason": "“gate” is in the last message.", "level": 0, "tokens": 12, "outcome": "fired"},
             {"name": "The moat", "reason": "“moat” is in an entry.", "level": 1, "tokens": 900, "outcome": "over budget"}]
    made = room.send(on(run), "Is the gate open?", True)
    for reply in [one for one in talker(room).asked if not one.done]:
        reply.take({"event": "Ended", "reason": "ended", "text": "No.", "tokens": 1, "lore": fired, "lore_faults": ["Odd <i>."]})
    hidden = pair_html(room.scene(on(run)))
    assert "lorebook" not in hidden and "The gate" not in hidden and "Odd" not in hidden
    room.vote(made.id, "tie")
    page = pair_html(room.scene(on(run)))
    assert page.count("1 lorebook entry fired, 1 left out<") == 2  # one a side
    assert page.count("&lt;b&gt;The gate") == 2 and "<b>The gate" not in page
    assert "“gate” is in the last message." in page and "Odd &lt;i&gt;." in page
    assert "Step 1 of recursion. Left out: the book&#x27;s token budget was full." in page
    room.ask_grid(on(run, "grid"), [run.id], "Is the gate open?")
    for _ in range(2):
        talker(room).asked[-1].take({"event": "Ended", "reason": "ended", "text": "No.", "tokens": 1, "lore": fired})
    assert grids_html(room.scene(on(run, "grid"))).count("1 lorebook entry fired") == 2


def test_votes_that_would_not_be_honest_are_refused(room: Controller) -> None:
    run = finished_run(room)
    made = room.send(on(run), "Hi", True)
    with pytest.raises(UserError, match="two whole answers"):
        room.vote(made.id, "left")
    end(talker(room).asked[0], "Hm.")
    talker(room).asked[1].fail("Memory ran out.")
    with pytest.raises(UserError, match="two whole answers"):
        room.vote(made.id, "left")
    assert "Memory ran out." in pair_html(room.scene(on(run)))
    seen = room.send(on(run), "Hi", False)
    answer_all(room)
    with pytest.raises(UserError, match="not blind"):
        room.vote(seen.id, "left")
    last = voted(room, run, "tie")
    with pytest.raises(UserError, match="voted on this round already"):
        room.vote(last.id, "left")
    assert rounds.tally(room.store, run.id).total == 1


def test_each_side_goes_on_with_its_own_answers(room: Controller) -> None:
    run = finished_run(room)
    room.send(on(run), "First", True)
    with pytest.raises(UserError, match="still being made"):
        room.send(on(run), "Too early", True)
    answer_all(room, "Dense one.", "")
    room.send(on(run), "Second", True)
    turns = {one.request["model"] == "big": one.request["turns"] for one in talker(room).asked[-2:]}
    beginning = [["assistant", "Well met."], ["user", "First"]]
    assert turns == {True: [*beginning, ["assistant", "Dense one."], ["user", "Second"]],
                     False: [beginning[0], ["user", "Second"]]}  # a message that it left without a word is left out
    answer_all(room)
    again = room.regenerate(on(run), True)
    assert again.message == "Second" and talker(room).asked[-1].request["turns"] in turns.values()
    for reply in talker(room).asked[-2:]:
        reply.fail("Broken.")
    room.send(on(run), "Third", True)  # what broke off was never said
    heard = {one.request["model"] == "big": [text for role, text in one.request["turns"] if role == "user"]
             for one in talker(room).asked[-2:]}
    assert heard == {True: ["First", "Third"], False: ["Third"]}
    assert history([["user", "a"], ["side 0", "b"], ["side 1", "c"]], 1) == [("user", "a"), ("assistant", "c")]


def test_an_answer_outlives_its_page_and_a_reload_finds_it(room: Controller) -> None:
    run = finished_run(room)
    made = room.send(on(run), "Hi", True)
    say(talker(room).asked[0], "Half")
    reloaded = Controller(room.services).scene(ViewState(run.character))
    assert reloaded.pair and reloaded.pair.busy and "Half" in [reply.text for reply in reloaded.pair.replies]
    answer_all(room)
    after = Controller(room.services).scene(ViewState(run.character))
    assert after.pair and after.pair.round.id == made.id and after.pair.whole
    room.send(on(run), "Lost", True)
    talker(room).asked.clear()  # the studio was killed
    assert "Interrupted when the studio was closed." in pair_html(room.scene(on(run)))


@pytest.mark.parametrize("blind", [False, True])
def test_a_side_that_is_done_first_just_waits_for_the_other(room: Controller, blind: bool) -> None:
    run = finished_run(room)
    room.send(on(run), "Hi", blind)
    for reply in talker(room).asked:
        say(reply, "Well")
    scene = room.scene(on(run))  # what a page follows from here on
    end(talker(room).asked[0], "Well, yes.", "limit")
    page = pair_html(scene)
    assert "Well, yes." in page and "Cut off at the longest answer allowed." in page and "warn" not in page
    assert ("11.5 tokens/s" in page) != blind and not scene.pair.can_vote  # type: ignore[union-attr]


def test_what_pages_are_sent_of_a_blind_round_is_the_same_whichever_model_is_where(room: Controller) -> None:
    run = finished_run(room)
    sent: dict[bool, list[str]] = {}
    room.send(on(run), "Hi", True)
    answer_all(room)
    for _ in range(40):
        room.clear(on(run))
        made = room.send(on(run), "Hi", True)
        left, right = talker(room).asked[-2:]
        told = []
        for act, *what in ((say, left, "Well"), (say, right, "Well"), (end, left, "Well.", "limit"), (end, right, "Well.")):
            contents = {id: text for id, text in room.contents(on(run).look()).items() if id != "compare-controls"}
            told.append(json.dumps(contents).replace(made.id, "ID"))
            act(*what)
        told.append(pair_html(room.scene(on(run))).replace(made.id, "ID"))
        sent.setdefault(made.swapped, told)
        assert told == sent[made.swapped]
    assert sent[True] == sent[False]


def test_stop_new_conversation_clear_and_undo(room: Controller) -> None:
    run = finished_run(room)
    voted(room, run, "tie")
    room.send(on(run), "Long", True)
    say(talker(room).asked[-1], "So far")
    room.stop(on(run))
    stopped = room.scene(on(run)).pair
    assert stopped and stopped.whole and sorted(cell.text for cell in stopped.cells) == ["", "So far"]
    room.start_conversation(on(run))
    fresh = room.scene(on(run))
    assert fresh.pair is None and fresh.tallies[run.id].total == 1
    room.clear(on(run))
    gone = room.scene(on(run))
    assert gone.undo and gone.tallies[run.id].total == 0
    room.undo(on(run))
    back = room.scene(on(run))
    assert not back.undo and back.tallies[run.id].total == 1


def test_a_grid_asks_one_model_after_another_and_takes_a_vote_in_each_cell(room: Controller) -> None:
    run = finished_run(room, 0.4)
    other = finished_run(room, 0.2, of=run.character)
    with pytest.raises(UserError, match="No pruned model is chosen"):
        room.ask_grid(on(run, "grid"), [], "Hi")
    made = room.ask_grid(on(run, "grid"), [run.id, other.id], "Hi <b>")
    assert [(one.run, one.model == "big") for one in made.answers] == [(None, True), (other.id, False), (run.id, False)]
    for number in range(3):
        assert len(talker(room).asked) == number + 1
        end(talker(room).asked[-1], f"Answer {number}")
    [shown] = room.scene(on(run, "grid")).grids
    assert [cell.text for cell in shown.cells] == ["Answer 0", "Answer 1", "Answer 2"] and not shown.busy
    rounds.vote_cell(room.store, made.answers[1].id, True)
    rounds.vote_cell(room.store, made.answers[2].id, True)
    rounds.vote_cell(room.store, made.answers[2].id, False)
    page = grids_html(room.scene(on(run, "grid")))
    assert re.findall(r'class="versus-side (\w*)"', page) == ["", "good", "bad"] and "Hi &lt;b&gt;" in page
    assert "Pruned, 20\u00a0% removed: <b>1 of 1</b>" in page and "Pruned, 40\u00a0% removed: <b>0 of 1</b>" in page
    room.ask_grid(on(run, "grid"), [run.id, other.id], "Again")
    room.stop(on(run, "grid"))
    assert len(talker(room).asked) == 4  # those that waited are not asked any more
    assert [cell.answer.reason for cell in room.scene(on(run, "grid")).grids[0].cells] == ["stopped"] * 3


def test_a_grid_goes_on_while_the_library_is_busy(room: Controller, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished_run(room)
    room.ask_grid(on(run, "grid"), [run.id], "Hi")

    def busy(*_: Any, **__: Any) -> Any:
        raise UserError("The library is busy; nothing was lost.", "Try again.")

    with monkeypatch.context() as patch:
        for module, name in ((characters, "version"), (rounds, "set_answer")):
            patch.setattr(module, name, busy)
        end(talker(room).asked[0], "Never kept.")
    assert len(talker(room).asked) == 2
    end(talker(room).asked[1], "Kept.")
    [shown] = room.scene(on(run, "grid")).grids
    assert not shown.busy and [cell.text for cell in shown.cells] == ["", "Kept."]


def tally(pruned: int, dense: int, tie: int = 0, both_bad: int = 0) -> Tally:
    decided, points = pruned + dense + tie, pruned + tie / 2
    return Tally(pruned, dense, tie, both_bad, decided + both_bad, points / decided if decided else None, *wilson(points, decided))


@pytest.mark.parametrize(("votes", "expected"), [
    (tally(0, 0), "No votes for either model yet."), (tally(0, 0, 0, 2), "No votes for either model yet. Both were bad in 2"),
    (tally(5, 3), "After 8\u00a0votes you cannot tell them apart yet: 62\u00a0%"),
    (tally(1, 0), "After 1\u00a0vote you cannot tell them apart yet"),
    (tally(0, 6), "After 6\u00a0votes the dense model leads, but that is too few"),
    (tally(20, 4), "After 24\u00a0votes you prefer the pruned model"),
    (tally(2, 20, 1), "After 23\u00a0votes you prefer the dense"),
    (tally(60, 60, 30), "After 150\u00a0votes you cannot tell them apart. If there is a difference, it is small"),
    (tally(20, 4, 0, 3), "Both were bad in 3\u00a0more rounds.")])
def test_the_sentence_about_the_votes_claims_no_more_than_they_say(votes: Tally, expected: str) -> None:
    assert expected in verdict_words(votes)


def test_no_preference_is_claimed_while_the_interval_holds_one_half_or_votes_are_few() -> None:
    for pruned in range(31):
        for dense in range(31):
            votes = tally(pruned, dense)
            claims = "you prefer" in verdict_words(votes)
            assert claims == (pruned + dense >= FEWEST and not votes.low <= 0.5 <= votes.high)


@pytest.mark.parametrize("votes", [tally(0, 0), tally(7, 3), tally(3, 7, 2), tally(5, 5), tally(20, 4), tally(60, 60, 30)])
def test_as_many_votes_as_are_said_to_be_needed_decide_and_one_fewer_does_not(votes: Tally) -> None:
    decided, share = votes.pruned + votes.dense + votes.tie, 1.0 if votes.share is None else votes.share

    def is_decided(count: int) -> bool:
        low, high = wilson(share * count, count)
        return count >= FEWEST and (low > 0.5 or high < 0.5 or high - low <= 0.2)

    more = votes_needed(votes)
    assert is_decided(decided + more) and (more == 0 or not is_decided(decided + more - 1))
    assert needed_words(votes).startswith("It takes" if not decided else "If the votes" if more else "Decided")
    assert ("needs no votes" in needed_words(votes)) == (bool(decided) and more > 30)


def test_all_runs_with_votes_are_set_beside_each_other_those_that_lost_first(room: Controller) -> None:
    light = finished_run(room, 0.1)
    half, quarter = (finished_run(room, sparsity, light.character) for sparsity in (0.5, 0.25))
    scene = room.scene(on(light))
    one = replace(scene, tallies={light.id: tally(8, 7)})
    assert "compare-all-runs" not in tally_html(one)  # a single one has its own words
    voted = {light.id: tally(20, 18), quarter.id: tally(24, 10), half.id: tally(4, 30), "gone": tally(9, 9)}
    order = ranked([(run, voted[run.id]) for run in scene.runs])
    assert [run.id for run, _ in order] == [half.id, light.id, quarter.id]
    shown = tally_html(replace(scene, tallies=voted))
    assert shown.index("worse than dense") < shown.index("cannot tell yet, ") < shown.index("better than dense")
    low, high = between(order)
    found = rate([("", "a", 30), ("a", "", 4), ("", "b", 18), ("b", "", 20)]).preference("b", "a")
    assert low == ("“first 0.1 · 10\u00a0% removed” is preferred to “first 0.5 · 50\u00a0% removed”: "
                   f"{100 * found.share:.0f}\u00a0% ({100 * found.low:.0f} to {100 * found.high:.0f}).")
    assert "cannot be told apart yet" in high and "more votes on the two would tell" in high
    assert "compare-all-runs" not in tally_html(replace(scene, tallies={light.id: tally(3, 2), half.id: tally(0, 0, 0, 2)}))


def test_suggested_questions_come_one_after_the_other_with_the_votes_until_the_reader_writes(room: Controller) -> None:
    run = finished_run(room)
    first, second, *_ = room.scene(on(run)).suggested
    assert first in pair_html(room.scene(on(run)))
    asked = room.suggest(on(run), first)
    answer_all(room)
    assert room.scene(on(run)).suggested == []  # while a vote is asked for
    room.vote(asked.id, "left")
    scene = room.scene(on(run))
    assert scene.pair and (scene.pair.round.message, scene.pair.round.turns) == (second, asked.turns)
    assert "The question before: You chose" in pair_html(scene)
    answer_all(room)
    own = room.send(on(run), "And who are you?", True)
    answer_all(room)
    room.vote(own.id, "tie")
    scene = room.scene(on(run))
    assert scene.pair and scene.pair.round.id == own.id and second not in scene.suggested


def test_another_character_or_a_lost_folder_leaves_no_run_of_the_first_on_the_page(room: Controller) -> None:
    run, elsewhere = finished_run(room), finished_run(room)
    assert room.scene(ViewState(elsewhere.character, run=run.id)).run == elsewhere
    with pytest.raises(UserError, match="no longer exists"):
        room.send(ViewState(elsewhere.character, run=run.id), "Hi", True)
    (room.services.settings.run_folder(run.id) / "model" / "manifest.json").unlink()
    assert room.scene(on(run)).runs == []


def test_card_and_model_text_never_becomes_markup(room: Controller) -> None:
    run = finished_run(room)
    room.send(on(run), "<img src=x>", False)
    answer_all(room, "<script>alert(1)</script>", "*waves* & <b>")
    page = pair_html(room.scene(on(run)))
    assert "<script" not in page and "<img" not in page and "<em>waves</em> &amp; &lt;b&gt;" in page


def test_open_pages_are_shown_what_can_be_done_and_no_name_before_the_vote(room: Controller) -> None:
    run = finished_run(room)
    look = ViewState(run.character, "starter").look()
    done = {"compare-votes", "compare-regenerate", "compare-new", "compare-clear"}
    shown = lambda: {id for id, value in room.contents(look).items() if value is True} & done
    assert room.contents({**look, "of": "", "character": run.character}) == {} and shown() == set()
    made = room.send(on(run), "Hi", True)
    assert shown() == {"compare-new", "compare-clear"} and " data-speaks" in room.contents(look)["compare-arena"]
    answer_all(room, "One.", "Two.")
    whole = room.contents(look)
    assert shown() == done and " data-speaks" not in whole["compare-arena"]
    assert [TELLING.findall(str(whole[id])) for id in ("compare-arena", "compare-controls")] == [[], []]
    room.vote(made.id, "tie")
    assert shown() == done - {"compare-votes"} and b'"data"' in room.contents(look)["compare-figure"]
    script = room.contents({**look, "view": "script"})
    assert script["compare-script"] and not script["compare-talk"] and script["compare-arena"] == ""


def test_lists_and_fields_are_painted_where_they_differ_from_what_the_page_shows(room: Controller) -> None:
    import gradio as gr

    run = finished_run(room)
    with gr.Blocks():
        controls = Controls()
    state = ViewState(run.character, "starter")
    first = paint(room, controls, state, {})
    assert first[controls.run].value == run.id and first[controls.blind] is True
    again = paint(room, controls, state, first[controls.link.seen])
    assert set(again) == {controls.state, controls.link.seen, controls.link.component}
    assert f'data-painted="{room.contents(state.look())["compare-controls"]}"' in again[controls.link.component]
    other = finished_run(room, 0.4, of=run.character)
    assert f'data-painted="{room.contents(state.look())["compare-controls"]}"' not in again[controls.link.component]
    later = paint(room, controls, state, again[controls.link.seen])
    assert [id for _, id in later[controls.run].choices] == [other.id, run.id] and controls.blind not in later


def test_the_ids_that_the_keyboard_and_others_rely_on() -> None:
    import gradio as gr

    with gr.Blocks():
        controls = Controls()
    parts = [*vars(controls).values(), *vars(controls.composer).values(), *controls.votes.values()]
    ids = {one.elem_id for one in parts if getattr(one, "elem_id", None)}
    wanted = "stop regenerate message send vote-left vote-right vote-tie vote-bad blind run"
    assert {f"compare-{name}" for name in wanted.split()} <= ids
