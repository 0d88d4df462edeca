"""What a cut makes of a model's size: the starter's real numbers, and laws that hold for every model."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.errors import UserError
from engine.base.sizes import RUNTIMES, ModelShape, after_cut, channels_kept, runtimes_that_like

STARTER = ModelShape(layers=30, hidden_size=576, intermediate_size=1536, parameters=134_515_008)


def test_a_quarter_of_the_starter() -> None:
    cut = after_cut(STARTER, 0.25, 128)
    assert cut.kept == 1152
    assert cut.removed_share_ffn == 0.25
    assert f"{cut.removed_share_all:.1%}" == "14.8%"
    assert cut.parameters == 114_608_448  # 134,515,008 - 30 layers * 3 matrices * 576 * 384
    assert cut.bytes == 229_216_896
    assert cut.expected_speedup == pytest.approx(1.174, abs=5e-4)


def test_nothing_removed_changes_nothing() -> None:
    cut = after_cut(STARTER, 0.0, 128)
    assert (cut.kept, cut.parameters, cut.bytes) == (1536, 134_515_008, STARTER.bytes)
    assert (cut.removed_share_all, cut.expected_speedup) == (0.0, 1.0)


def test_an_impossible_cut_is_explained() -> None:
    with pytest.raises(UserError, match="nothing is left"):
        after_cut(STARTER, 0.9, 1024)


@given(st.integers(1, 40), st.integers(1, 512), st.integers(2, 4096), st.integers(0, 10**9),
       st.floats(0, 0.9), st.sampled_from([1, 8, 32, 128]), st.sampled_from([1, 2, 4]))
def test_laws_of_a_cut(layers: int, hidden: int, channels: int, others: int, sparsity: float, multiple: int, width: int) -> None:
    shape = ModelShape(layers, hidden, channels, others + 3 * layers * hidden * channels, width)
    try:
        kept = channels_kept(channels, sparsity, multiple)
    except UserError:
        with pytest.raises(UserError):
            after_cut(shape, sparsity, multiple)
        return
    cut = after_cut(shape, sparsity, multiple)
    assert cut.kept == kept
    assert cut.parameters == others + 3 * layers * hidden * kept
    assert cut.bytes == cut.parameters * width
    assert 0 <= cut.removed_share_all <= cut.removed_share_ffn < 1
    assert cut.expected_speedup == pytest.approx(shape.bytes / cut.bytes)


def test_a_shape_must_make_sense() -> None:
    for sizes in ((0, 576, 1536, 10**9), (30, 576, 1536, 1000)):
        with pytest.raises(ValueError):
            ModelShape(*sizes)


@pytest.mark.parametrize(("kept", "suited"), [
    (1152, {8, 32, 64, 128}), (6144, {8, 32, 64, 128, 256}), (1160, {8}), (1001, set()),
])
def test_runtimes(kept: int, suited: set[int]) -> None:
    assert {runtime.multiple for runtime in RUNTIMES} == {8, 32, 64, 128, 256}
    said = runtimes_that_like(kept)
    assert [name for name, _, _ in said] == [runtime.name for runtime in RUNTIMES]
    for runtime, (_, suits, why) in zip(RUNTIMES, said, strict=True):
        assert suits is (runtime.multiple in suited)
        assert why.startswith(f"{kept:,} is {'' if suits else 'not '}a multiple of {runtime.multiple}") and why.endswith(".")
