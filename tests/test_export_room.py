"""The Export room without a browser: what it shows when one comes back, which job it tells about, how a zip is served."""

import json
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from store_samples import card

from engine.__main__ import build_parser
from engine.base.errors import UserError
from engine.base.job import ExportJob
from engine.base.options import read_options
from engine.base.sizes import adapter_bytes
from studio import uploads
from studio.page import Page
from studio.services import Services
from studio.store import characters, runs
from studio.tabs import export
from studio.tabs.export import planner, view
from studio.workers.commands import export_spec, prepare


def finished(services: Services, person: str, name: str) -> runs.Run:
    run = runs.add(services.store, person, 1, "prune", name, {"model": "starter", "sparsity": 0.25})
    return runs.update(services.store, run.id, state="done")


def test_the_chosen_model_and_its_name_stay_when_one_comes_back(services: Services, person: str) -> None:
    first, second = finished(services, person, "First"), finished(services, person, "Second")
    _, whole, run, name = export.open_character(services, person, None)
    assert (whole.visible, run.value, name) == (True, second.id, "zoe-25")
    _, _, run, name = export.open_character(services, person, first.id)
    assert run.value == first.id and name == gr.skip()  # what was typed is not overwritten
    other = characters.create(services.store, card("Ann")).id
    empty, whole, run, name = export.open_character(services, other, first.id)
    assert (empty.visible, whole.visible, run.value, name) == (True, False, None, "") and "Nothing to export yet" in empty.value
    runs.add(services.store, other, 1, "prune", "Soon", {}, state="queued")
    empty, whole, *_ = export.open_character(services, other, first.id)
    assert empty.visible and not whole.visible and "on its way" in empty.value


def test_of_two_exports_the_one_under_way_is_shown_and_then_the_other(services: Services, person: str) -> None:
    run = finished(services, person, "First")
    early, late = (runs.add(services.store, person, 1, "export", name, {"run": run.id}) for name in ("Early", "Late"))
    runs.update(services.store, early.id, state="running")
    text = export.progress(services, person)
    assert "Early" in text and f'data-do="stop" data-id="{early.id}"' in text
    runs.update(services.store, early.id, state="done")
    assert "Late" in export.progress(services, person)
    runs.update(services.store, late.id, state="stopped")
    assert "Late" in (text := export.progress(services, person)) and "data-do" not in text


def test_an_export_taken_off_the_list_can_come_back(services: Services, person: str) -> None:
    run = finished(services, person, "First")
    older, newer = (runs.add_export(services.store, run.id, name, "/gone", 5, {}) for name in ("Older", "Newer"))
    look = {"character": person, "run": run.id, "export": ""}
    parts = export.library_parts(services, look)
    assert "Older" in parts["export-past"] and f'data-do="forget" data-id="{newer.id}"' in parts["export-detail"]
    runs.delete_export(services.store, newer.id)
    parts = export.library_parts(services, {**look, "export": newer.id})
    assert "Newer" not in parts["export-past"] and f'data-do="undo" data-id="{newer.id}"' in parts["export-detail"]
    assert f'data-id="{older.id}"' in export.library_parts(services, look)["export-detail"]
    other = characters.create(services.store, card("Ann")).id
    assert export.library_parts(services, {**look, "character": other, "export": older.id})["export-detail"] == ""


def test_a_zip_is_served_without_a_copy_of_it(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "served"))
    packed = tmp_path / "zoe-25.zip"
    packed.write_bytes(b"PK")
    name = uploads.servable(packed)
    assert Path(name).name == "zoe-25.zip" and Path(name).stat().st_ino == packed.stat().st_ino
    assert gr.DownloadButton().move_resource_to_block_cache(name) == name  # as Gradio does before it serves a file
    assert uploads.servable(packed) == name
    Path(name).unlink()  # as Gradio does with what is old
    assert Path(uploads.servable(packed)).read_bytes() == b"PK"


def test_every_listener_is_private(services: Services) -> None:
    with gr.Blocks() as blocks:
        page = Page(gr.State(""), gr.State(0), gr.State("starter"))
        with gr.Tabs(), gr.Tab("Export") as tab:
            export.build(services, page, tab)
    assert {one.api_visibility for one in blocks.fns.values()} == {"private"}


CONFIG = {"num_hidden_layers": 2, "hidden_size": 256, "intermediate_size": 768, "num_attention_heads": 4, "num_key_value_heads": 2,
          "vocab_size": 512}
SHAPES = {"model.embed_tokens.weight": (512, 256), "model.layers.0.mlp.down_proj.weight": (256, 768),
          "model.layers.1.mlp.down_proj.weight": (256, 768)}
PROOF = {"text": "Hi.", "seconds": 1.0, "tokens": 2, "engines": ["ollama", "unity"],
         "files": [{"type": "Q8_0", "prompts": 20, "tokens": 640, "same": 638, "ties": 2, "kl": 0.0012, "tokens_per_second": 81.4,
                    "memory": 3_000_000, "file": "x-Q8_0.gguf", "bytes": 2_000_000}],
         "timed": [{"what": what, "dtype": "float32", "tokens_per_second": speed, "rounds": 3, "tokens": 48, "memory": 5_000_000}
                   for what, speed in (("dense", 20.0), ("pruned", 25.0))]}


def pruned(services: Services, person: str, name: str, base: str = "starter") -> runs.Run:
    """A finished run whose folder has a config; its dense model had 1,024 channels."""
    run = finished(services, person, name)
    folder = services.settings.run_folder(run.id) / "model"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return runs.update(services.store, run.id, summary={
        "before": {"parameters": 3_000_000, "intermediate_size": 1024, "bytes": 6_000_000},
        "after": {"intermediate_size": 768}, "base": {"name": base}})


def test_the_size_table_tells_measured_from_expected() -> None:
    text = view.sizes_html(SHAPES, CONFIG, 3_000_000, view.measured_of({"before": {"bytes": 6_000_000}}, PROOF))
    row = text.partition("GGUF </span>Q8_0")[2].partition("</tr>")[0]
    assert "<b>2\u00a0MB</b>" in row and "<b>3\u00a0MB</b>" in row and "<b>81</b>/s" in row
    assert "<b>" not in text.partition("GGUF </span>Q4_0")[2].partition("</tr>")[0]
    assert "median of 3 rounds of 48 tokens" in text and "20 prompts" in text
    badges = view.badges_html(768, 1024)
    assert badges.count('class="yes"') == 5 and "768 of 1,024 channels" in badges
    assert 'class="no"' in view.badges_html(776, 0) and view.badges_html(0, 0) == ""


def test_a_past_export_shows_its_proofs_and_where_to_begin(services: Services, person: str, tmp_path: Path) -> None:
    run = finished(services, person, "First")
    text = view.export_html(runs.add_export(services.store, run.id, "First", str(tmp_path / '<a "b"'), 5, PROOF), "/tmp/zoe 25.zip")
    assert "638 of 640 times (2 of the others are ties), in 20 texts" in text
    assert "ollama create first -f Modelfile\nollama run first</pre>" in text
    assert "ollama/Modelfile" in text.replace("</code>", "") and "unity/README.md" in text and "1.25 times the dense" in text
    assert 'data-copy="' in text and '<a "b"' not in text and "is no longer there" in text
    assert 'href="gradio_api/file=/tmp/zoe%2025.zip" download' in text


def plotted(figure: str) -> list[Any]:
    """The traces of a figure as a page gets it."""
    return list(json.loads(figure.partition(">")[2].rpartition("<")[0])["data"])


def test_the_planner_counts_with_the_chosen_characters_model(services: Services, person: str) -> None:
    ann = characters.create(services.store, card("Ann")).id
    first, second = pruned(services, person, "First"), pruned(services, ann, "Second")
    figure, ways, basis = planner.show(services, [first.id, second.id], 20, 4, 8, 4096)
    decoder = planner.decoder_for(services, first)
    assert decoder and decoder.shape.intermediate_size == 1024 and decoder.shape.parameters == 3_000_000
    assert "20\u00a0characters" in basis and "4\u00a0conversations" in basis and "Ann, Zoë" in basis
    assert ways.count("<tr>") == 3 and "✓ yes" in ways
    assert [bar["name"] for bar in plotted(figure)] == ["models", "adapters", "conversations"]
    standalone, cast = plotted(figure)[0]["x"]
    assert standalone == pytest.approx(20 * cast)
    assert plotted(figure)[1]["x"] == [0, pytest.approx(20 * adapter_bytes(decoder, 768, 8) / 1e9)]
    assert "rank 8" in basis and 'data-head="Characters at most">100<' in ways  # a cast has no more, however small they are
    alone = planner.show(services, [], 1, 1, 8, 4096)
    assert alone[2].startswith('<p class="quiet">For 1\u00a0character (Ann, Zoë)')


def test_a_cast_of_two_models_is_refused_and_an_empty_library_says_what_to_do(services: Services, person: str) -> None:
    figure, ways, basis = planner.show(services, [], 8, 1, 8, 4096)
    assert ways == planner.NONE and basis == "" and plotted(figure) == []
    first, other = pruned(services, person, "First"), pruned(services, person, "Second", "another")
    with pytest.raises(UserError, match="different models"):
        planner.show(services, [first.id, other.id], 8, 1, 8, 4096)


@pytest.mark.parametrize("name", ["", "   ", "x" * 121])
def test_an_export_needs_a_name_of_some_length(name: str, services: Services, person: str) -> None:
    run = pruned(services, person, "First")
    (services.settings.run_folder(run.id) / "model" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="name"):
        services.jobs.submit_export(run.id, name, False)


@pytest.mark.parametrize(("name", "folder"), [("../../x", "x"), ("CON", "con-1"), ("a\0b", "a-b"), ("ü" * 100, "u" * 60)],
                         ids=["climbs", "reserved", "nul", "long"])
def test_no_name_leads_out_of_the_exports_folder(name: str, folder: str, services: Services, person: str) -> None:
    run = pruned(services, person, "First")
    (services.settings.run_folder(run.id) / "model" / "manifest.json").write_text("{}")
    more = {"engines": ["ollama"], "gguf": [], "measure": True}
    _, spec = export_spec(services.settings, services.store, run.id, name, False, more)
    assert Path(spec["folder"]) == services.settings.exports / folder
    assert spec["engines"] == ["ollama"] and spec["measure"] == "starter" and "gguf" not in spec


def test_what_was_asked_for_reaches_the_command_line(services: Services, person: str) -> None:
    spec = {"run": "r", "source": "/s", "folder": "/f", "zip": True, "engines": ["ollama", "unity"], "gguf": ["F16"],
            "gguf_only": True, "measure": "starter"}
    arguments = prepare(services.settings, services.store, runs.add(services.store, person, 1, "export", "N", spec))
    asked = ExportJob(**read_options(build_parser().parse_args(arguments), ExportJob))
    assert (asked.engines, asked.gguf, asked.measure) == (["ollama", "unity"], ["F16"], "starter")
    assert asked.zip and asked.gguf_only and asked.leash
