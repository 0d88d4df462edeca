"""The figures: what their bars, curves and lines stand at, what they say, and that they leave their data alone."""

import copy
import itertools
import json
import math
import re
from collections.abc import Callable

import gradio as gr
import numpy as np
import plotly.graph_objects as go
import pytest

from engine.base.events import MaskSnapshot, Measured
from studio import labels
from studio.figures import distances, masks, sizes, theme, votes, words

NAN = float("nan")
FIRST = MaskSnapshot(5, 0.5, [[1.0, 1.0, 0.25, 0.0], [1.0, 0.5, 0.5, 0.0]], [3, 9])
SECOND = MaskSnapshot(10, 0.5, [[1.0, 0.5, 0.5, 0.0], [0.75, 0.5, 0.5, 0.25]], [2, 4])


def measured(what: str, kl: float, lines: int = 48) -> Measured:
    return Measured(what, "test", kl, 0.5, 2.0, lines, 2101)


READINGS = {one.what: one for one in (measured("dense", 0.0), measured("random", 2.01), measured("magnitude", 10.46),
                                      measured("wanda", 0.36), measured("mask", 0.31), measured("mask_reconstructed", 0.23))}
LOSSES = [(step, 0.3 - step / 1000) for step in range(1, 61)]
HELD = [(0, 0.35, 24), (5, 0.30, 24), (10, 0.28, 24), (15, 0.29, 24)]
MASKS = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], bool), np.array([[1, 1, 0, 0], [0, 1, 1, 0]], bool)
RUNS = [votes.RunVotes("Pim, half", 0.5, 0.25, 0.1, 0.5, 12), votes.RunVotes("Pim", 0.25, 0.6, 0.4, 0.8, 20, both_bad=3)]

DRAWN: dict[str, Callable[[], go.Figure]] = {
    "kept": lambda: masks.kept_channels(FIRST), "changes": lambda: masks.mask_changes([FIRST, SECOND]),
    "changed last": lambda: masks.changed_last([FIRST, SECOND]), "rescued": lambda: masks.rescued(FIRST),
    "overlap": lambda: masks.overlap(*MASKS, ("Pim", "Orla")), "learning": lambda: distances.learning(LOSSES, HELD, READINGS, 60),
    "ladder": lambda: distances.ladder(READINGS.values()), "votes": lambda: votes.votes(RUNS),
    "sizes": lambda: sizes.remaining(134_515_008, 79_626_240, 19_906_560)}
EMPTY: dict[str, Callable[[], go.Figure]] = {
    "kept": lambda: masks.kept_channels(None), "kept, no layers": lambda: masks.kept_channels(MaskSnapshot(1, 0.5, [], [])),
    "changes": lambda: masks.mask_changes([]), "changed last": lambda: masks.changed_last([]),
    "rescued": lambda: masks.rescued(None),
    "rescued, nothing removed": lambda: masks.rescued(MaskSnapshot(1, 0.0, [[1.0, 1.0]], [0])),
    "overlap": lambda: masks.overlap(None, MASKS[0], ("", "")), "learning": lambda: distances.learning([], [], READINGS),
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
    snapshots, losses, held, readings = [FIRST, SECOND], list(LOSSES), list(HELD), dict(READINGS)
    pair, runs = [mask.copy() for mask in MASKS], list(RUNS)
    before = copy.deepcopy((snapshots, losses, held, readings, runs))
    masks.kept_channels(snapshots[0])
    masks.mask_changes(snapshots)
    masks.rescued(snapshots[0], 7)
    masks.overlap(pair[0], pair[1], ("a", "b"), of="removed")
    distances.learning(losses, held, readings)
    distances.ladder(readings.values())
    votes.votes(runs)
    assert (snapshots, losses, held, readings, runs) == before
    assert all((mask == original).all() for mask, original in zip(pair, MASKS, strict=True))


def test_kept_channels_show_each_layer_and_where_a_plain_cut_would_end() -> None:
    figure = masks.kept_channels(FIRST)
    trace = figure.data[0]
    assert np.allclose(trace.z, FIRST.kept) and list(trace.y) == [1, 2]
    assert (trace.x0, trace.dx) == (12.5, 25)
    assert figure.layout.shapes[0].x0 == pytest.approx(50)
    assert masks.kept_channels(MaskSnapshot(1, 0.25, FIRST.kept, [])).layout.shapes[0].x0 == pytest.approx(75)
    assert "step 5" in texts(figure) and "2\u00a0layers · 50\u00a0% of the channels removed" in texts(figure)
    assert figure.layout.yaxis.range == (2.5, 0.5), "the first layer is on top"


def test_one_layer_with_one_bin_and_missing_numbers_are_drawn() -> None:
    one = masks.kept_channels(MaskSnapshot(1, NAN, [[NAN]], [1]))
    assert np.asarray(one.data[0].z).shape == (1, 1) and not one.layout.shapes and "unknown share" in texts(one)
    assert np.isnan(masks.kept_channels(MaskSnapshot(1, 0.5, [[1.0, math.inf], [1.0]], [])).data[0].z[:, 1]).all()
    assert list(masks.changed_last([MaskSnapshot(1, 0.5, [[1.0]], [7])]).data[0].y) == [7]
    assert list(masks.rescued(MaskSnapshot(1, 0.5, [[1.0, NAN], [1.0, 0.5]], [])).data[0].y) == [None, 50]
    figure = distances.learning([(1, NAN), (2, 0.2)], [(0, math.inf, 24), (5, 0.3, 24)], {"wanda": measured("wanda", NAN)})
    assert [list(trace.y) for trace in figure.data] == [[0.2], [0.3]] and not figure.layout.shapes


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
    assert len(masks.kept_channels(many[-1]).to_json()) < 20_000
    long = distances.learning([(step, 1.0) for step in range(1, 5001)], [(5000, 1.0, 24)], {})
    assert len(long.data[0].x) == 400 and len(long.to_json()) < 30_000


def test_changed_last_takes_the_newest_step() -> None:
    figure = masks.changed_last([SECOND, FIRST])
    assert list(figure.data[0].y) == [2, 4] and list(figure.data[0].x) == [1, 2]
    assert "Step 10 · 6\u00a0channels in 2\u00a0layers" in texts(figure)


def test_rescued_counts_only_what_a_plain_cut_would_remove() -> None:
    assert list(masks.rescued(FIRST).data[0].y) == pytest.approx([12.5, 25])
    plain = MaskSnapshot(1, 0.4, [[1.0, 1.0, 0.5, 0.0]], [0])  # the cut runs through the third bin
    assert list(masks.rescued(plain).data[0].y) == [0]
    uneven = masks.rescued(MaskSnapshot(1, 0.6, [[1.0, 1.0, 0.5, 1.0]], [0]), channels=5)  # bins of 2, 1, 1, 1
    assert list(uneven.data[0].y) == pytest.approx([100 * 2.5 / 3])
    assert "the least used 60\u00a0%" in texts(uneven)


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


def test_levels_near_the_curves_are_lines_and_far_ones_are_named() -> None:
    figure = distances.learning(LOSSES, HELD, READINGS, 60)
    assert sorted(shape.y0 for shape in figure.layout.shapes) == [0.23, 0.36]
    labels = {note.y: note.text for note in figure.layout.annotations}
    assert "Least used cut" in labels[0.36] and "0.36" in labels[0.36] and "48\u00a0test lines" in labels[0.36]
    assert "Mask, refitted" in labels[0.23]
    assert "Above: random 2.0, smallest weights 10.5 (48\u00a0test lines)" in plain_lines(figure)
    low, high = figure.layout.yaxis.range
    assert low == 0 and 0.36 < high < 0.6
    assert figure.layout.xaxis.range[1] >= 60
    assert distances.learning(LOSSES, HELD, {}).layout.shapes == ()


def test_curves_mark_the_best_step_and_say_on_how_many_lines() -> None:
    learning, held = distances.learning(LOSSES, HELD, {}).data
    assert list(learning.y) == [value for _, value in LOSSES]
    assert list(held.x) == [0, 5, 10, 15] and list(held.y) == [0.35, 0.30, 0.28, 0.29]
    assert held.marker.symbol == ("circle", "circle", "diamond", "circle") and "lowest" in held.text[2] and not held.text[0]
    assert "24\u00a0held-out lines" in held.hovertemplate
    assert "24\u00a0held-out lines" in texts(distances.learning(LOSSES, HELD, {}))


def test_a_cross_entropy_is_not_drawn_as_a_distance() -> None:
    assert [trace.name for trace in distances.learning(LOSSES, HELD, {}, loss="ce").data] == ["held-out lines"]
    assert not distances.learning(LOSSES, [], {}, loss="ce").data


def test_curves_that_fall_far_get_a_logarithmic_scale_with_levels_at_the_right_heights() -> None:
    steep = [(step, 10 * 0.9**step + 0.2) for step in range(60)]
    figure = distances.learning(steep, [], READINGS, 60)
    assert figure.layout.yaxis.type == "log"
    low, high = figure.layout.yaxis.range
    assert low < math.log10(0.2) < math.log10(10.46) < high
    assert sorted(shape.y0 for shape in figure.layout.shapes) == [0.23, 0.36, 2.01, 10.46]  # shapes: data units, labels: their log
    assert sorted(round(10**note.y, 2) for note in figure.layout.annotations) == [0.23, 0.36, 2.01, 10.46]


def test_labels_of_close_levels_are_moved_apart() -> None:
    close = {"wanda": measured("wanda", 0.36), "random": measured("random", 0.362), "mask_reconstructed": measured("mask", 0.358)}
    figure = distances.learning(LOSSES, HELD, close)
    high = figure.layout.yaxis.range[1]
    heights = sorted(note.y / high * (distances.HEIGHT - 42) + note.yshift for note in figure.layout.annotations)
    assert all(after - before >= 27 for before, after in itertools.pairwise(heights))


def test_labels_of_levels_fit_beside_the_curves() -> None:
    every = {name: measured(name, 0.1 + 0.05 * number) for number, name in enumerate(distances.LEVELS)}
    figure = distances.learning(LOSSES, HELD, every)
    said = [line for note in figure.layout.annotations[: len(every)] for line in re.sub("<b>|</b>", "", note.text).split("<br>")]
    assert "Refitted and tuned" in said
    widest = max(len(line) for line in said) * 0.48 * 11  # letters of 11 px, .48 of it wide on average
    assert widest <= figure.layout.margin.r - 6


def test_the_ladder_keeps_its_order_says_every_value_and_cuts_only_far_bars() -> None:
    figure = distances.ladder([*reversed(READINGS.values()), measured("my <own>", 0.2)])
    trace, said = figure.data[0], texts(figure)
    names = [row[0] for row in trace.customdata]
    assert names == [*(labels.READINGS[name] for name in list(READINGS)[1:]), "my &lt;own&gt;"]
    assert [row[1] for row in trace.customdata] == [2.01, 10.46, 0.36, 0.31, 0.23, 0.2]
    limit = 2.5 * 0.31
    assert list(trace.x) == pytest.approx([limit, limit, 0.36, 0.31, 0.23, 0.2])
    assert trace.marker.pattern.shape == ("/", "/", "", "", "", "")
    assert "<b>10.5</b>" in said and "<b>0.23</b>" in said and "On 48\u00a0lines" in said and "Striped" in said
    assert trace.marker.color[-1] == theme.EMBER and set(trace.marker.color[:3]) == {theme.GREY}


def test_the_ladder_says_each_count_where_they_differ_and_is_on_baselines_alone() -> None:
    said = texts(distances.ladder([measured("random", 2.0, 48), measured("mask", 0.3, 12)]))
    assert "48\u00a0lines" in said and "12\u00a0lines" in said
    alone = distances.ladder([measured("random", 2.0)])
    assert list(alone.data[0].x) == [2.0] and "Striped" not in texts(alone)


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
    sent = gr.Plot(render=False).postprocess(DRAWN["learning"]())
    assert sent is not None and sent.type == "plotly"
    plot = json.loads(sent.plot)
    assert plot["config"]["displayModeBar"] is False
    assert {plot["layout"]["template"]["layout"][name] for name in ("paper_bgcolor", "plot_bgcolor")} == {"rgba(0,0,0,0)"}
    assert "height" not in plot["layout"], "plotly.js drops a height given there when the window changes"
    assert [len(trace["y"]) for trace in plot["data"]] == [60, 4]


def test_the_style_finds_the_text_by_its_colour() -> None:
    red, green, blue = (int(theme.INK[place:place + 2], 16) for place in (1, 3, 5))
    assert f"rgb({red}, {green}, {blue})" in theme.STYLE  # the way a browser writes a colour of an element's style
