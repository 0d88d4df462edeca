"""The figures: what their bars, curves and lines stand at, what they say, and that they leave their data alone."""

import copy
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace

import gradio as gr
import numpy as np
import plotly.graph_objects as go
import pytest

from engine.base.events import Step
from engine.base.pruning_events import ChannelUse, LayerTuned, LayerTuning, MaskSnapshot, Measured
from studio import labels
from studio.figures import channels, distances, layers, masks, sizes, theme, votes, words
from studio.workers.view import RunView

NAN = float("nan")
FIRST = MaskSnapshot(5, 0.5, [[1.0, 1.0, 0.25, 0.0], [1.0, 0.5, 0.5, 0.0]], [3, 9], [1, 2])
SECOND = MaskSnapshot(10, 0.5, [[1.0, 0.5, 0.5, 0.0], [0.75, 0.5, 0.5, 0.25]], [2, 4])


def measured(what: str, kl: float, lines: int = 48) -> Measured:
    return Measured(what, "test", kl, 0.5, 2.0, lines, 2101)


def held(what: str, kl: float, step: int | None = None) -> Measured:
    """A reading on the lines that choose."""
    return Measured(what, "validation", kl, 0.5, 2.0, 24, 900, step)


def learned(step: int, loss: float) -> Step:
    """A step of mask learning."""
    return Step("learn_mask", step, 60, {"loss": loss})


READINGS = {one.what: one for one in (measured("dense", 0.0), measured("random", 2.01), measured("magnitude", 10.46),
                                      measured("wanda", 0.36), measured("mask", 0.31), measured("mask_reconstructed", 0.23))}
USE = ChannelUse(3, 12, 2310, ["", "Edith", "Bodo"], 1200, [[0.5, -0.2, 0.1, 0.0], [1.0, 0.2, -0.5, 0.3]], "Pim")
TUNED = [LayerTuned("reconstruct_start", 0, 2, 0.2, 0.1, True), LayerTuned("reconstruct_start", 1, 2, 0.4, 0.2, True),
         LayerTuned("tune_layers", 0, 2, 0.1, 0.05, True)]
COURSE = [(30.0, held("start_before_reconstruction", 0.36)), (100.0, learned(1, 0.3)), (110.0, learned(2, 0.25)),
          (90.0, held("start_after_reconstruction", 0.2)), (180.0, held("after_tuning", 0.14))]
MASKS = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool), np.array([[1, 1, 0, 0], [0, 1, 1, 0]], bool)
RUNS = [votes.RunVotes("Pim, half", 0.5, 0.25, 0.1, 0.5, 12), votes.RunVotes("Pim", 0.25, 0.6, 0.4, 0.8, 20, both_bad=3)]

DRAWN: dict[str, Callable[[], go.Figure]] = {
    "used": lambda: channels.used(USE), "cut": lambda: channels.cut(FIRST), "errors": lambda: layers.errors(TUNED),
    "changes": lambda: masks.mask_changes([FIRST, SECOND]),
    "overlap": lambda: masks.overlap(*MASKS, ("Pim", "Orla")), "course": lambda: distances.course(COURSE),
    "ladder": lambda: distances.ladder(READINGS.values()), "votes": lambda: votes.votes(RUNS),
    "sizes": lambda: sizes.remaining(134_515_008, 79_626_240, 19_906_560)}
EMPTY: dict[str, Callable[[], go.Figure]] = {
    "used": lambda: channels.used(None), "used, no layers": lambda: channels.used(replace(USE, ratio=[])),
    "cut": lambda: channels.cut(None), "cut of an earlier version": lambda: channels.cut(replace(FIRST, otherwise=[])),
    "errors": lambda: layers.errors([]), "changes": lambda: masks.mask_changes([]),
    "overlap": lambda: masks.overlap(None, MASKS[0], ("", "")), "course": lambda: distances.course([]),
    "ladder": lambda: distances.ladder([READINGS["dense"], measured("mask", NAN)]),
    "votes": lambda: votes.votes([votes.RunVotes("Pim", 0.25, None, 0, 1, 0)]),
    "sizes": lambda: sizes.remaining(0, 0, 0)}


def texts(figure: go.Figure) -> str:
    """All that a figure says: title, notes, caption."""
    return " | ".join([figure.layout.title.text, *(note.text for note in figure.layout.annotations), theme.caption_of(figure)])


def plain_lines(figure: go.Figure) -> list[str]:
    return [re.sub("<[^>]+>", "", line) for line in figure.layout.title.text.split("<br>")]


@pytest.mark.parametrize("name", DRAWN)
def test_every_figure_is_the_same_twice_compact_and_explained(name: str) -> None:
    figure = DRAWN[name]()
    assert figure.to_json() == DRAWN[name]().to_json()
    assert figure.data and len(theme.caption_of(figure)) > 40
    assert 60 <= figure.layout.template.layout.height <= 400
    assert max(map(len, plain_lines(figure))) <= 60, "too long for 400 px"
    assert "nan" not in texts(figure).lower()


@pytest.mark.parametrize("name", EMPTY)
def test_without_data_there_is_one_quiet_sentence(name: str) -> None:
    figure = EMPTY[name]()
    assert not figure.data
    assert [note.text for note in figure.layout.annotations] == [theme.caption_of(figure)]
    assert theme.caption_of(figure).endswith(".") and figure.layout.xaxis.visible is False


def test_the_data_given_stay_as_they_are() -> None:
    snapshots, use, tuned, points, readings = [FIRST, SECOND], copy.deepcopy(USE), list(TUNED), list(COURSE), dict(READINGS)
    pair, runs = [mask.copy() for mask in MASKS], list(RUNS)
    before = copy.deepcopy((snapshots, use, tuned, points, readings, runs))
    channels.cut(snapshots[0])
    channels.used(use)
    layers.errors(tuned)
    masks.mask_changes(snapshots)
    masks.overlap(pair[0], pair[1], ("a", "b"), of="removed")
    distances.course(points)
    distances.ladder(readings.values())
    votes.votes(runs)
    assert (snapshots, use, tuned, points, readings, runs) == before
    assert all((mask == original).all() for mask, original in zip(pair, MASKS, strict=True))


def test_the_cut_shows_what_a_plain_one_would_have_decided_otherwise() -> None:
    figure = channels.cut(FIRST)
    stays, own = (np.asarray(trace.z, float) for trace in figure.data)
    assert np.allclose(stays, [[1, 1, NAN, NAN], [1, 0.5, NAN, NAN]], equal_nan=True)
    assert np.allclose(own, [[NAN, NAN, 0.25, 0], [NAN, NAN, 0.5, 0]], equal_nan=True)
    assert figure.layout.shapes[0].x0 == pytest.approx(50) and figure.layout.yaxis.range == (2.5, 0.5)  # the first layer on top
    assert theme.says_of(figure).startswith("3\u00a0channels stay for this character") and "layer 2: 2." in theme.says_of(figure)
    assert "step 5" in texts(figure) and "50\u00a0% of the channels go" in texts(figure)
    assert "step" not in texts(channels.cut(replace(FIRST, step=0)))


def test_layers_that_keep_unlike_many_channels_say_their_shares() -> None:
    uneven = MaskSnapshot(0, 0.4, [[1.0, 1.0, 0.5, 0.5], [1.0, 0.5, 0.2, 0.1]], [0, 0], [2, 1])
    assert list(channels.cut(uneven).layout.yaxis.ticktext) == ["1: 75\u00a0%", "2: 45\u00a0%"]
    assert channels.cut(replace(uneven, kept=[[1.0, 0.5, 0.0, 0.0]] * 2)).layout.yaxis.ticktext is None


def test_use_is_told_from_the_others_with_names_and_counts() -> None:
    figure = channels.used(USE)
    assert np.allclose(np.asarray(figure.data[0].z, float), USE.ratio) and figure.data[0].zmin == -figure.data[0].zmax
    assert figure.data[0].customdata[1][0] == "2 times"
    assert theme.says_of(figure) == (
        "The orange groups are used more by Pim than by the plain assistant, Edith and Bodo; most of all one in layer 2, "
        "2 times as much.")
    for words_said in ("3 of 12\u00a0parts", "2,310\u00a0word pieces", "1,200 of the others"):
        assert words_said in texts(figure)
    assert channels.spoken_list([]) == "others"


def test_each_layers_error_is_shown_in_every_state_that_it_has_been_in() -> None:
    assert layers.in_states(TUNED) == ({0: 0.2, 1: 0.4}, {0: 0.1, 1: 0.2}, {0: 0.05})
    figure = layers.errors(TUNED)
    assert figure.layout.title.text.count("<br>") == 2  # the key has a line of its own, which fits into a narrow column
    paths, *dots = figure.data
    assert [(one.name, list(one.x), list(one.y)) for one in dots] == [
        ("cut", [1, 2], [20, 40]), ("refitted", [1, 2], [10, 20]), ("tuned", [1], [5])]
    assert list(paths.y) == [20, 5, None, 40, 20, None]
    assert theme.says_of(figure) == ("The error of a layer, on average: 20.0\u00a0% cut, 10.0\u00a0% refitted, "
                                     "5.0\u00a0% tuned (1 of 2 layers).")


def test_layers_that_tuning_left_as_they_were_and_runs_without_their_refits() -> None:
    spoilt = [LayerTuned("tune_layers", 0, 2, 0.2, 0.3, False), LayerTuned("tune_layers", 1, 2, 0.1, None, False)]
    assert layers.in_states(spoilt) == ({}, {0: 0.2, 1: 0.1}, {0: 0.2, 1: 0.1})
    far = layers.errors([LayerTuned("reconstruct", 0, 2, 0.9, 0.01, True), LayerTuned("reconstruct", 1, 2, math.inf, 0.02, True)])
    assert far.layout.yaxis.type == "log" and [list(one.y) for one in far.data[1:]] == [[90], [1, 2]]


def test_missing_numbers_are_left_out() -> None:
    assert np.isnan(channels.cut(MaskSnapshot(1, 0.5, [[1.0, math.inf], [1.0]], [], [1])).data[0].z).sum() == 2
    assert "unknown share" in texts(channels.cut(MaskSnapshot(1, NAN, [[1.0]], [1], [1]))).lower()
    assert channels.used(replace(USE, ratio=[[NAN, 1.0], [math.inf]])).data[0].customdata[1][0] == "unknown"
    figure = distances.course([(1.0, held("start_before_reconstruction", NAN)), (2.0, held("tuning_step", 0.3, 6))])
    assert [list(trace.y) for trace in figure.data] == [[0.3]]


def test_changes_stand_in_the_order_of_steps_and_a_step_said_twice_counts_once() -> None:
    again = MaskSnapshot(10, 0.5, SECOND.kept, [8, 1])
    trace = masks.mask_changes([SECOND, FIRST, again]).data[0]
    assert list(trace.x) == ["5", "10"]
    assert np.asarray(trace.z).tolist() == [[3, 8], [9, 1]]
    assert trace.zmax == 9 and list(trace.colorbar.tickvals) == [0, 9]
    assert masks.mask_changes([MaskSnapshot(1, 0.5, [[1.0]], [0])]).data[0].zmax == 1


def test_two_hundred_checks_stay_small() -> None:
    many = [MaskSnapshot(5 * step, 0.5, [[0.123] * 64] * 30, [step % 50] * 30) for step in range(1, 201)]
    assert len(masks.mask_changes(many).to_json()) < 50_000
    assert len(channels.cut(replace(many[-1], otherwise=[1] * 30)).to_json()) < 40_000
    long = distances.course([(float(step), learned(step, 1.0)) for step in range(1, 5001)])
    assert len(long.data[0].x) == 400 and len(long.to_json()) < 30_000


def test_overlap_is_of_the_smaller_mask_beside_the_level_of_chance() -> None:
    figure = masks.overlap(*MASKS, ("Pim", "Orla <b>"))
    assert list(figure.data[0].y) == [100, 50]
    assert figure.data[0].customdata == ([2, 2], [1, 2])
    assert figure.layout.shapes[0].y0 == figure.layout.shapes[0].y1 == pytest.approx(100 * (3 / 4 + 2 / 4) / 2)
    assert "by chance 62\u00a0%" in texts(figure) and "75\u00a0% of 4 channels" in texts(figure)
    assert "Orla &lt;b&gt;" in texts(figure)
    with pytest.raises(ValueError, match="different models"):
        masks.overlap(MASKS[0], MASKS[1][:1], ("a", "b"))


def test_the_level_of_chance_is_what_random_masks_share() -> None:
    generator = np.random.default_rng(0)
    drawn = [generator.random((40, 400)).argsort(axis=1) < kept for kept in (300, 200)]
    for of, level in (("kept", 75.0), ("removed", 50.0)):
        figure = masks.overlap(drawn[0], drawn[1], ("a", "b"), of=of)  # type: ignore[arg-type]
        assert figure.layout.shapes[0].y0 == pytest.approx(level)
        assert np.mean(figure.data[0].y) == pytest.approx(level, abs=1.5)
    same = masks.overlap(drawn[0], drawn[0], ("a", "a"))
    assert set(same.data[0].y) == {100}


def test_the_course_is_one_curve_against_the_time_of_work() -> None:
    figure = distances.course(COURSE)
    learning, measured = figure.data
    assert list(learning.x) == [100 / 60, 110 / 60] and list(learning.y) == [0.3, 0.25] and list(learning.customdata) == [1, 2]
    assert list(measured.x) == [0.5, 1.5, 3] and list(measured.y) == [0.36, 0.2, 0.14]
    assert list(measured.text) == ["Cut", "Refitted", "Tuned"] and figure.layout.xaxis.title.text == "Minutes of work"
    assert "24\u00a0held-out lines" in texts(figure) and "24\u00a0held-out lines" in measured.hovertemplate
    assert theme.says_of(figure) == (
        "On 24\u00a0lines that it does not learn from, the model was 0.36 away from the whole one, and is now 0.14 away.")
    assert distances.course(COURSE[:1]).layout.xaxis.title.text == "Seconds of work"


def test_a_cross_entropy_is_not_drawn_as_a_distance() -> None:
    assert [trace.name for trace in distances.course(COURSE, "ce").data] == ["held-out lines"]
    assert not distances.course(COURSE[1:2], "ce").data and distances.course(COURSE[1:2]).data


def test_a_course_that_falls_far_gets_a_logarithmic_scale() -> None:
    steep = distances.course([(float(step), held("mask_step", 10 * 0.9**step + 0.2, step)) for step in range(60)])
    low, high = steep.layout.yaxis.range
    assert steep.layout.yaxis.type == "log" and low < math.log10(0.2) < 1 < high


def test_the_ladder_keeps_its_order_says_every_value_and_cuts_only_far_bars() -> None:
    figure = distances.ladder([*reversed(READINGS.values()), measured("my <own>", 0.2)])
    trace, said = figure.data[0], texts(figure)
    names = [row[0] for row in trace.customdata]
    assert names == [*(labels.READINGS[name] for name in list(READINGS)[1:]), "my &lt;own&gt;"]
    assert [row[1] for row in trace.customdata] == [2.01, 10.46, 0.36, 0.31, 0.23, 0.2]
    limit = 2.5 * 0.31
    assert list(trace.x) == pytest.approx([limit, limit, 0.36, 0.31, 0.23, 0.2])
    assert trace.marker.pattern.shape == ("/", "/", "", "", "", "")
    assert "<b>10.5</b>" in said and "<b>0.23</b>" in said and "On 48\u00a0lines" in said and "striped" in said
    assert trace.marker.color[-1] == theme.EMBER and set(trace.marker.color[:3]) == {theme.GREY}


def test_the_ladder_says_each_count_where_they_differ_and_is_on_baselines_alone() -> None:
    said = texts(distances.ladder([measured("random", 2.0, 48), measured("mask", 0.3, 12)]))
    assert "48\u00a0lines" in said and "12\u00a0lines" in said
    alone = distances.ladder([measured("random", 2.0)])
    assert list(alone.data[0].x) == [2.0] and "striped" not in texts(alone)


def test_votes_stand_at_their_share_with_their_interval_and_count() -> None:
    figure = votes.votes([*RUNS, votes.RunVotes("no votes", 0.4, None, 0, 1, 0)])
    trace = figure.data[0]
    assert list(trace.x) == [25, 50] and list(trace.y) == [60, 25]
    assert list(trace.error_y.array) == pytest.approx([20, 25]) and list(trace.error_y.arrayminus) == pytest.approx([20, 15])
    assert [(note.x, note.y, note.text) for note in figure.layout.annotations[1:]] == [(25, 80, "20"), (50, 50, "12")]
    assert figure.layout.shapes[0].y0 == 50 and "32\u00a0decided votes, 2\u00a0runs" in texts(figure)
    assert trace.customdata[0][:2] == ["Pim", 25] and trace.customdata[0][-1] == 3


def test_runs_that_removed_the_same_stand_side_by_side() -> None:
    xs = votes.votes([votes.RunVotes(str(number), 0.25, 0.5, 0.2, 0.8, 9) for number in range(3)]).data[0].x
    assert list(xs) == [22, 25, 28]


def test_what_remains_adds_up_to_the_model() -> None:
    figure = sizes.remaining(134_515_008, 79_626_240, 19_906_560)
    assert [trace.x[0] for trace in figure.data] == [54_888_768, 59_719_680, 19_906_560]
    assert "85\u00a0% of the model remains" in texts(figure) and "115\u00a0M of 135\u00a0M weights" in texts(figure)
    assert "229\u00a0MB of 269\u00a0MB" in texts(figure) and "removed 15\u00a0%" in plain_lines(figure)[-1]
    assert sizes.remaining(100, 60, 0).data[2].x[0] == 0
    with pytest.raises(ValueError, match="no such cut"):
        sizes.remaining(100, 60, 61)


def test_numbers_as_they_are_said() -> None:
    assert [words.figure(value) for value in (0.0314, 0.357, 2.01, 10.46)] == ["0.031", "0.36", "2.0", "10.5"]
    assert [words.millions(value) for value in (950, 61_000, 1_500_000)] == ["950", "61\u00a0k", "1.5\u00a0M"]
    assert words.millions(7_240_000_000) == "7.2\u00a0B" and words.size(1_400_000_000) == "1.4\u00a0GB"
    assert words.count(1, "line") == "1\u00a0line" and words.count(1024, "line") == "1,024\u00a0lines"
    assert words.shortened("A <very> long name of a run", 9) == "A &lt;very&gt;…"


def luminance(colour: str) -> float:
    parts = [int(colour[place:place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("colour", "least"), [(theme.INK, 4.0), (theme.BLUE, 3.0), (theme.EMBER, 3.0), (theme.GREY, 3.0)])
@pytest.mark.parametrize("page", ["#ffffff", "#1b1a19"])
def test_every_colour_stands_out_in_light_and_dark_pages(colour: str, least: float, page: str) -> None:
    low, high = sorted((luminance(colour), luminance(page)))
    assert (high + 0.05) / (low + 0.05) >= least


def test_the_page_shows_a_figure_without_mode_bar_on_its_own_background() -> None:
    sent = gr.Plot(render=False).postprocess(DRAWN["course"]())
    assert sent is not None and sent.type == "plotly"
    plot = json.loads(sent.plot)
    assert plot["config"]["displayModeBar"] is False
    assert {plot["layout"]["template"]["layout"][name] for name in ("paper_bgcolor", "plot_bgcolor")} == {"rgba(0,0,0,0)"}
    assert "height" not in plot["layout"], "plotly.js drops a height given there when the window changes"
    assert [len(trace["y"]) for trace in plot["data"]] == [2, 3]


def test_the_style_finds_the_text_by_its_colour() -> None:
    red, green, blue = (int(theme.INK[place:place + 2], 16) for place in (1, 3, 5))
    assert f"rgb({red}, {green}, {blue})" in theme.STYLE  # the way a browser writes a colour of an element's style


def test_a_layer_that_is_being_tuned_is_shown_until_it_is_tuned() -> None:
    tuning = LayerTuning("tune_layers", 1, 0.15)
    figure = layers.errors(TUNED, tuning)
    at_work = figure.data[-1]
    assert (list(at_work.x), list(at_work.y)) == ([2], [15.0]) and at_work.name == layers.TUNING
    view = RunView()
    for event in (TUNED[1], tuning, replace(tuning, error=0.12)):
        view.add(event)
    assert [one.event for one in view.moments] == [TUNED[1], replace(tuning, error=0.12)]
    done = LayerTuned("tune_layers", 1, 2, 0.2, 0.1, True)
    view.add(done)
    assert [one.event for one in view.moments] == [TUNED[1], done]


def test_the_learning_lines_of_two_stages_are_two_curves() -> None:
    steps = [learned(1, 0.5), learned(2, 0.4), replace(learned(1, 0.3), stage="recover")]
    curve = distances.course([(60.0 * place, one) for place, one in enumerate(steps)]).data[0]
    assert list(curve.y) == [0.5, 0.4, None, 0.3] and len(curve.x) == len(curve.customdata) == 4
    view = RunView()
    for one in steps:
        view.add(one)
    assert [one.event for one in view.moments] == steps
