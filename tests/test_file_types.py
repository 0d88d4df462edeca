"""Bytes of a model in each number format, by arithmetic: against files that were really written, and by hand."""

from pathlib import Path

import pytest
from tiny import find, make_tiny

from engine.base.sizes import FILE_TYPES, WRITTEN, count, expected_bytes, odd_rows
from engine.base.weights import count_parameters, known_shapes
from engine.export.gguf_tensors import plan_weights
from engine.models.loading import load_config

BY_HAND = {"model.embed_tokens.weight": (512, 256), "model.norm.weight": (256,), "model.layers.0.mlp.down_proj.weight": (256, 768),
           "model.layers.0.mlp.gate_proj.weight": (768, 256)}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral"])
def test_expected_bytes_are_those_that_are_written(name: str, family: str, tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model", family)
    weights = plan_weights(folder, load_config(find(folder)), name)
    assert expected_bytes(known_shapes(folder), name) == sum(weight.bytes for weight in weights)
    assert count(known_shapes(folder).values()) == count_parameters(folder)


def test_formats_by_hand() -> None:
    matrices = 512 * 256 + 2 * 256 * 768
    assert expected_bytes(BY_HAND, "F16") == 2 * matrices + 4 * 256
    assert expected_bytes(BY_HAND, "Q8_0") == matrices * 34 // 32 + 4 * 256
    assert expected_bytes(BY_HAND, "Q4_0") == 512 * 256 * 34 // 32 + 2 * 256 * 768 * 18 // 32 + 4 * 256
    # Of one layer, the only one is among the better kept; tied logits too.
    better = (512 * 256 + 256 * 768) // 256 * 210
    assert expected_bytes(BY_HAND, "Q4_K_M") == better + 256 * 768 // 256 * 144 + 4 * 256
    assert FILE_TYPES["Q8_0"].bits == 8.5 and FILE_TYPES["Q4_K_M"].bits == 4.5


def test_rows_that_fill_no_block_take_another_format_and_are_reported() -> None:
    shapes = {"model.embed_tokens.weight": (64, 40), "model.layers.0.mlp.up_proj.weight": (96, 576)}
    assert odd_rows(shapes, "Q8_0") == [40] and odd_rows(shapes, "Q4_K_M") == [40, 576] and odd_rows(shapes, "F16") == []
    assert expected_bytes(shapes, "Q8_0") == 64 * 40 * 2 + 96 * 576 * 34 // 32
    assert expected_bytes(shapes, "Q6_K") == 64 * 40 * 2 + 96 * 576 * 34 // 32


def test_a_folder_without_weights_has_no_shapes(tmp_path: Path) -> None:
    assert known_shapes(tmp_path) == {}
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    assert known_shapes(tmp_path) == {}
