"""The importance matrix: made with a job, in llama.cpp's format, and used for every GGUF file below 8 bit."""

from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
import torch
from small_job import copy_of, run_job, work_of
from test_gguf import result_of
from test_gguf_export import proves_here  # noqa: F401 - a fixture
from tiny import find, make_tiny, random_examples

from benchmarks.__main__ import main as benchmark
from engine.__main__ import main
from engine.base.errors import UserError
from engine.base.files import check_manifest, read_json, write_manifest
from engine.export import gguf_tensors
from engine.export.copying import copy_folder
from engine.export.gguf_tensors import Weight, plan_weights
from engine.export.gguf_writer import GgufReport, write_gguf
from engine.export.importance_matrix import MATRIX, ColumnSums, read_matrix
from engine.export.quantized_model import as_quantized
from engine.models.loading import load_config, load_model
from engine.models.packing import pack

# Rows of whole blocks of 256.
FITS: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64, "num_hidden_layers": 3}


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a whole job wrote."""
    folder = tmp_path_factory.mktemp("pruned")
    run_job(make_tiny(folder / "llama"), folder / "out")
    return folder / "out"


def matrix_of(folder: Path, file: Path) -> Path:
    """Write the matrix of a model over random text, whose inputs differ in size from column to column."""
    model = load_model(find(folder), torch.float32)
    sums = ColumnSums(model.config)
    assert list(sums.read(model, pack(random_examples([9, 12, 30]), 64))) == [1, 2]
    sums.write(file, "random text")
    return file


def weights_of(folder: Path) -> list[Weight]:
    return plan_weights(folder, load_config(find(folder)), "Q4_0")


def read_tensors(file: Path) -> dict[str, Any]:
    return {one.name: one for one in gguf.GGUFReader(file).tensors}


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text"])
def test_it_is_the_mean_square_of_each_input_column(family: str, tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model", family)
    model: Any = load_model(find(folder), torch.float32)
    rows = pack(random_examples([9, 12, 30]), 10_000)
    sums = ColumnSums(model.config)
    seen: list[torch.Tensor] = []
    handle = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0][0]))
    list(sums.read(model, rows))
    handle.remove()
    expected = seen[0].square().mean(0)
    assert torch.allclose(torch.from_numpy(sums.columns()["blk.1.ffn_down.weight"]), expected, rtol=1e-4)
    sums.write(tmp_path / "imatrix.gguf", "random text")
    found = read_matrix(tmp_path / "imatrix.gguf", weights_of(folder))
    linear = {one.name for one in weights_of(folder) if len(one.shape) > 1 and one.name.startswith("blk.")}
    assert set(found) == linear and numpy.allclose(found["blk.1.ffn_down.weight"], expected, rtol=1e-4)
    fields = gguf.GGUFReader(tmp_path / "imatrix.gguf").fields  # as llama.cpp's tools write it
    assert fields["general.type"].contents() == "imatrix" and fields["imatrix.chunk_count"].contents() == 1
    assert fields["imatrix.datasets"].contents() == ["random text"] and fields["imatrix.chunk_size"].contents() == sums.tokens


@pytest.mark.usefixtures("proves_here")
def test_a_job_leaves_one_and_exports_use_it(pruned: Path, tmp_path: Path) -> None:
    assert MATRIX in read_json(pruned / "manifest.json")["files"]
    list(copy_folder(copy_of(pruned, tmp_path / "out", gguf=["Q8_0", "Q4_0"])))
    files = read_json(tmp_path / "out" / "report.json")["gguf"]
    assert files["Q4_0"]["importance_matrix"] and not files["Q8_0"]["importance_matrix"]
    assert not any("without" in note for note in files["Q4_0"]["notes"])
    assert "importance matrix of its own lines" in (tmp_path / "out" / "README.md").read_text()
    assert check_manifest(tmp_path / "out") == [] and (tmp_path / "out" / MATRIX).read_bytes() == (pruned / MATRIX).read_bytes()


@pytest.mark.usefixtures("proves_here")
def test_a_folder_of_an_earlier_version_is_exported_plain_and_that_is_said(pruned: Path, tmp_path: Path) -> None:
    list(copy_folder(copy_of(pruned, tmp_path / "old")))
    (tmp_path / "old" / MATRIX).unlink()
    write_manifest(tmp_path / "old")
    list(copy_folder(copy_of(tmp_path / "old", tmp_path / "out", gguf=["Q4_0", "F16"])))
    files = read_json(tmp_path / "out" / "report.json")["gguf"]
    assert not files["Q4_0"]["importance_matrix"] and files["F16"]["notes"] == []
    assert [note for note in files["Q4_0"]["notes"] if "without an importance matrix" in note]


@pytest.mark.parametrize("type", ["Q5_1", "Q5_0", "Q4_1", "IQ4_NL", "Q4_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "IQ3_S",
                                  "IQ2_XS"])
def test_errors_in_columns_that_matter_are_smaller(type: str, tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model", tie_word_embeddings=False, **FITS)
    matrix = matrix_of(folder, tmp_path / "imatrix.gguf")
    report: GgufReport = result_of(write_gguf(folder, tmp_path / "with.gguf", type, matrix=matrix))
    assert report.importance_matrix and report.notes == []
    columns = read_matrix(matrix, weights_of(folder))
    exact = read_tensors(_written(folder, tmp_path / "exact.gguf", "F32"))
    found = read_tensors(tmp_path / "with.gguf")
    own = type.removesuffix("_M")
    assert found["blk.1.ffn_down.weight"].tensor_type.name == own
    if type == "IQ2_XS":  # there is none without
        with pytest.raises(UserError, match="IQ2_XS needs an importance matrix"):
            result_of(write_gguf(folder, tmp_path / "without.gguf", type))
        assert found["token_embd.weight"].tensor_type.name == "IQ3_S"
        return
    plain = read_tensors(_written(folder, tmp_path / "without.gguf", type))
    assert (tmp_path / "with.gguf").stat().st_size == (tmp_path / "without.gguf").stat().st_size

    def error(tensors: dict[str, Any]) -> float:
        """The mean square of errors, weighted by their columns' importance."""
        squares = {one.name: numpy.square(gguf.dequantize(one.data, one.tensor_type) - exact[one.name].data)
                   for one in tensors.values() if one.name in columns and one.tensor_type.name == own}
        return sum(float((errors * columns[name]).mean()) for name, errors in squares.items())

    assert error(found) < error(plain)


@pytest.mark.parametrize("type", ["Q8_0", "Q4_1", "IQ4_NL", "Q4_K_M"])
def test_a_model_in_memory_has_the_weights_of_the_file(type: str, tmp_path: Path) -> None:
    folder = make_tiny(tmp_path / "model", "qwen2", **FITS)
    matrix = matrix_of(folder, tmp_path / "imatrix.gguf")
    result_of(write_gguf(folder, tmp_path / "x.gguf", type, matrix=matrix))
    held = {one.name: gguf.dequantize(one.data, one.tensor_type) for one in gguf.GGUFReader(tmp_path / "x.gguf").tensors}
    model: Any = load_model(find(folder), torch.float32)
    before = model.model.layers[1].mlp.down_proj.weight.clone()
    with as_quantized(model, type, read_matrix(matrix, weights_of(folder))):
        layer = model.model.layers[1]
        for name, weight in (("blk.1.ffn_down", layer.mlp.down_proj), ("blk.1.attn_q", layer.self_attn.q_proj),
                             ("token_embd", model.model.embed_tokens)):
            assert numpy.array_equal(held[f"{name}.weight"], weight.weight.detach().numpy())
        assert not torch.equal(layer.mlp.down_proj.weight, before)
    assert torch.equal(model.model.layers[1].mlp.down_proj.weight, before)


def _written(folder: Path, file: Path, type: str) -> Path:
    result_of(write_gguf(folder, file, type))
    return file


def test_a_matrix_of_another_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, wider = make_tiny(tmp_path / "model"), make_tiny(tmp_path / "wider", intermediate_size=96)
    deeper = make_tiny(tmp_path / "deeper", num_hidden_layers=3)
    (tmp_path / "text.gguf").write_bytes(b"no matrix")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(matrix_of(folder, tmp_path / "own.gguf").read_bytes()[:3000])
    for file, words in ((matrix_of(wider, tmp_path / "wider.gguf"), "blk.0.ffn_down.weight has 64 columns here, and 96 there"),
                        (tmp_path / "none.gguf", "There is no file"), (tmp_path / "text.gguf", "is not an importance matrix"),
                        (cut, "is not an importance matrix"), (_written(folder, tmp_path / "model.gguf", "F16"), "is not an imp")):
        arguments = ["gguf", str(folder), "--type", "Q4_0", "--imatrix", str(file), "--out", str(tmp_path / "x.gguf")]
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1 and not (tmp_path / "x.gguf").exists()
    with pytest.raises(UserError, match="and none there"):
        read_matrix(tmp_path / "own.gguf", weights_of(deeper))
    arguments = ["gguf", str(folder), "--type", "Q4_0", "--imatrix", str(tmp_path / "own.gguf")]
    assert main(arguments) == 2 and "Add --out" in capsys.readouterr().err
    assert main([*arguments, "--out", str(tmp_path / "x.gguf")]) == 0


def test_a_system_without_the_quantizer_writes_plain_files(pruned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_tensors, "_quantizer", lambda: None)
    report: GgufReport = result_of(write_gguf(pruned, tmp_path / "x.gguf", "Q4_0"))
    assert not report.importance_matrix


def test_the_benchmark_compares_matrices_at_the_same_bytes(pruned: Path, tmp_path: Path,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    json = tmp_path / "rows.json"
    arguments = ["squeeze", "--run", str(pruned), str(work_of(pruned)), "--types", "q4_0", "Q8_0", "--json", str(json)]
    assert benchmark(arguments) == 0 and "Zoë" in capsys.readouterr().out
    found = read_json(json)["out"]["types"]
    kinds = ("none", "neutral text", "own lines")
    assert {type: len({one[name]["kl"] for name in kinds}) for type, one in found.items()} == {"Q8_0": 1, "Q4_0": 3}
    assert benchmark([*arguments, "--name", "again"]) == 0 and set(read_json(json)) == {"out", "again"}
    assert benchmark(["squeeze", "--run", str(tmp_path), str(tmp_path)]) == 2
