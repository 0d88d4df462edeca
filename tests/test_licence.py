"""The model card as the hub's own classes read it, and what each base model's licence asks for."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from test_fidelity import make_report

from engine.base.files import check_manifest
from engine.cards.card import find_bundled
from engine.export.licence import KNOWN, OWN_LICENCE, copy_legal, describe_licence, hub_fields, titled, write_legal
from engine.export.model_card import render_model_card, write_readme


def read_card(report: dict[str, Any], folder: Path | None = None) -> tuple[Any, str]:
    """The metadata and the text of a model card, as the hub's library reads them: it refuses what the hub would not take."""
    card = ModelCard(render_model_card(report, [], folder), ignore_metadata_errors=False)
    return card.data, card.text


def test_the_hub_reads_the_card_and_its_measured_figures() -> None:
    report = make_report("Bodo")
    report["readings"]["mask_reconstructed"] = {"kl": 0.15432, "top1": 0.777, "nll": 2.14, "lines": 40, "tokens": 1243}
    data, text = read_card(report)
    assert (data.base_model, data.base_model_relation, data.license) == ("owner/base", "finetune", "apache-2.0")
    assert data.model_name == '"Bodo" on 83% of base model'
    found = {one.metric_type: one for one in data.eval_results}
    values = {name: one.metric_value for name, one in found.items()}
    assert values == {"kl_divergence": 0.1543, "top1_agreement": 0.777, "nll": 2.14}
    assert found["nll"].dataset_split == "test"
    assert "40 held-out lines" in found["nll"].dataset_name and "1243" in found["nll"].dataset_name
    assert "stays under its licence: Apache License 2.0" in text


def test_a_folders_ancestor_is_named_where_its_own_name_is_unknown() -> None:
    data, text = read_card(make_report("Bodo", hub="", origin="someone/original"))
    assert data.base_model == "someone/original" and "It is someone/original with 25%" in text
    assert read_card(make_report("Bodo", hub="", origin=""))[0].base_model is None


@pytest.mark.parametrize("licence", ["llama3", "llama3.1", "llama3.2", "llama3.3", "llama4"])
def test_llamas_obligations(licence: str, tmp_path: Path) -> None:
    report = make_report("Bodo", licence=licence)
    write_readme(tmp_path, report, find_bundled("bodo-grumm").raw)
    data, text = read_card(report, tmp_path)
    assert data.license == licence and data.model_name.startswith("Llama")
    assert "**Built with " in text and "use-policy" in text and "/license/" in text
    assert text.lstrip().startswith("# Llama")
    notice = (tmp_path / "NOTICE").read_text(encoding="utf-8")
    assert f"{licence.removeprefix('llama')} Community License, Copyright" in notice
    assert "the licence's text is not in this folder" in text and not (tmp_path / "LICENSE").exists()
    (tmp_path / "LICENSE.txt").write_text("the agreement")
    assert "is not in this folder" not in read_card(report, tmp_path)[1] and check_manifest(tmp_path) == []


def test_a_name_that_begins_rightly_stays() -> None:
    assert titled({"licence": "llama3.2"}, "llama-bodo") == "llama-bodo"
    assert titled({"licence": "llama3"}, "Llama Bodo") == "Llama 3 Llama Bodo"
    assert titled({"licence": "apache-2.0"}, "Bodo") == titled({}, "Bodo") == "Bodo"


def test_gemmas_terms_are_named(tmp_path: Path) -> None:
    base = make_report("Bodo", licence="gemma")["base"]
    write_legal(tmp_path, base)
    assert "ai.google.dev/gemma/terms" in (tmp_path / "NOTICE").read_text()
    assert "prohibited_use_policy" in "\n".join(describe_licence(tmp_path, base))


@pytest.mark.parametrize(("base", "fields"), [
    ({"licence": "mit"}, {"license": "mit"}), ({"licence": None}, {}), ({}, {}),
    ({"licence": "other", "licence_name": "qwen-research", "licence_link": "https://a.b/LICENSE"},
     {"license": "other", "license_name": "qwen-research", "license_link": "https://a.b/LICENSE"}),
    ({"licence": "other", "licence_link": "LICENSE", "hub": "a/b"},
     {"license": "other", "license_name": "see-licence-file", "license_link": "https://huggingface.co/a/b"}),
    ({"licence": "My Own", "licence_link": "javascript:x"},
     {"license": "other", "license_name": "my-own", "license_link": "LICENSE"})])
def test_the_licence_as_the_hub_has_it(base: dict[str, Any], fields: dict[str, str]) -> None:
    assert hub_fields(base) == fields


def test_the_bases_own_files_go_along_and_a_notice_is_kept(tmp_path: Path) -> None:
    base, folder = tmp_path / "base", tmp_path / "folder"
    base.mkdir()
    folder.mkdir()
    (base / "NOTICE").write_text("Made by someone.")
    for name in ("LICENSE.txt", "USE_POLICY.md", "README.md"):
        (base / name).write_text(name)
    (base / "LICENSE.huge").write_bytes(bytes(2_000_000))
    copy_legal(base, folder)
    assert sorted(file.name for file in folder.iterdir()) == ["LICENSE.txt", "NOTICE", "USE_POLICY.md"]
    for _ in range(2):  # doing it again changes nothing
        write_legal(folder, {"licence": "gemma"})
    assert (folder / "NOTICE").read_text() == f"{KNOWN['gemma'].notice}\n\nMade by someone.\n"


def test_apaches_text_is_there_even_if_the_base_came_without(tmp_path: Path) -> None:
    write_legal(tmp_path, {"licence": "apache-2.0"})
    assert (tmp_path / "LICENSE").read_text() == OWN_LICENCE.read_text() and not (tmp_path / "NOTICE").exists()
    (tmp_path / "LICENSE").write_text("the base's own copy")
    write_legal(tmp_path, {"licence": "apache-2.0"})
    assert (tmp_path / "LICENSE").read_text() == "the base's own copy"


def test_an_unknown_licence_is_said() -> None:
    (only,) = describe_licence(None, {"name": "x", "licence": None})
    assert "not known" in only
    assert "My Own" in describe_licence(None, {"name": "a [b](c)", "licence": "My Own"})[0]
