"""Models by their hub name, against a hub on loopback: what is asked for, what is refused, what works offline."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ends_its_download
from hub_server import Hub
from huggingface_hub import constants
from tiny import make_tiny

from engine.__main__ import main
from engine.base.errors import UserError
from engine.base.events import Event, Stage, Step
from engine.base.files import data_folder
from engine.models import hub as hub_module
from engine.models.folders import list_models
from engine.models.loading import ModelSource, locate
from engine.serving.files import gguf_file, speaks_by_llama
from engine.serving.gguf_header import read_header


def run(generator: Any) -> tuple[list[Event], Any]:
    """All events of a generator, and its value."""
    events = []
    while True:
        try:
            events.append(next(generator))
        except StopIteration as end:
            return events, end.value


pytestmark = pytest.mark.usefixtures("frequent_polls")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty hub, with an empty cache of the library beside it."""
    with Hub() as server:
        aim_at(monkeypatch, server.address, tmp_path / "cache")
        yield server


def aim_at(monkeypatch: pytest.MonkeyPatch, address: str, cache: Path) -> None:
    """Make the hub's library use this address and cache: it reads its environment only once."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))


def add_model(server: Hub, folder: Path, name: str = "someone/small") -> Path:
    """A repository with a good model, and with things that must not be fetched."""
    make_tiny(folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "code.py").write_text("raise SystemExit(1)")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.safetensors").write_bytes(b"no")
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\nA model.\n")
    server.repositories[name] = folder
    return folder


def test_a_hub_model_speaks_from_a_file_that_is_made_when_it_is_here(hub: Hub, tmp_path: Path) -> None:
    add_model(hub, tmp_path / "repository")
    assert gguf_file("someone/small") is None and speaks_by_llama("someone/small")
    assert main(["gguf", "someone/small", "--json"]) == 0
    file = gguf_file("someone/small")
    assert file and file.is_relative_to(data_folder()) and read_header(file).type == "Q8_0"
    assert hub.delivered.count("model.safetensors") == 1


def test_a_hub_model_is_fetched_without_pickles_and_code(hub: Hub, tmp_path: Path) -> None:
    add_model(hub, tmp_path / "repository")
    events, source = run(locate("someone/small"))
    assert isinstance(source, ModelSource)
    assert (source.name, source.revision, source.licence) == ("someone/small", hub.commit("someone/small"), "mit")
    original = tmp_path / "repository" / "model.safetensors"
    assert (source.folder / "model.safetensors").read_bytes() == original.read_bytes()
    assert (source.folder / "tokenizer.json").is_file() and (source.folder / "chat_template.jinja").is_file()
    assert {"pytorch_model.bin", "code.py"}.isdisjoint(hub.delivered)
    assert hub.delivered.count("model.safetensors") == 1
    assert any(isinstance(event, Stage) for event in events)
    steps = [event for event in events if isinstance(event, Step)]
    assert steps and steps[-1].done == steps[-1].total


def test_a_cached_model_needs_no_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_model(hub, tmp_path / "repository")
    first = run(locate("someone/small"))[1]
    delivered = list(hub.delivered)
    assert run(locate("someone/small"))[1] == first
    assert hub.delivered == delivered  # nothing twice
    aim_at(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    assert run(locate("someone/small"))[1] == first
    assert {"name": "someone/small", "kind": "hub", "family": "llama"}.items() <= list_models()[-1].items()


def test_a_half_fetched_model_is_not_taken_offline(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_model(hub, tmp_path / "repository")
    source = run(locate("someone/small"))[1]
    (source.folder / "model.safetensors").unlink()
    aim_at(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    with pytest.raises(UserError, match="someone/small"):
        run(locate("someone/small"))
    assert all(entry["kind"] != "hub" for entry in list_models())


def test_a_failed_download_is_one_sentence_and_the_next_try_goes_on(hub: Hub, tmp_path: Path) -> None:
    add_model(hub, tmp_path / "repository")
    hub.withheld = {"model.safetensors"}
    with pytest.raises(UserError, match=r"someone/small could not be fetched completely .*try again"):
        run(locate("someone/small"))
    hub.withheld = set()
    assert (run(locate("someone/small"))[1].folder / "model.safetensors").is_file()
    assert hub.delivered.count("tokenizer.json") == 1  # what had arrived was kept


def test_unknown_and_gated_models(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model nobody/nothing"):
        run(locate("nobody/nothing"))
    add_model(hub, tmp_path / "repository", "someone/guarded")
    hub.gated.add("someone/guarded")
    with pytest.raises(UserError, match=r"gated.*HF_TOKEN"):
        run(locate("someone/guarded"))


def test_a_pickle_only_repository_is_refused_before_its_weights(hub: Hub, tmp_path: Path) -> None:
    folder = add_model(hub, tmp_path / "repository")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="Only safetensors are loaded"):
        run(locate("someone/small"))
    assert set(hub.delivered) == {"config.json"}


@pytest.mark.parametrize("change", [{"model_type": "gpt2"}, {"auto_map": {"AutoConfig": "code.Config"}}])
def test_a_refused_config_costs_one_file(hub: Hub, tmp_path: Path, change: dict[str, Any]) -> None:
    config = add_model(hub, tmp_path / "repository") / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    with pytest.raises(UserError, match=r"not supported|auto_map"):
        run(locate("someone/small"))
    assert hub.delivered == ["config.json"]


def test_a_repository_without_config(hub: Hub, tmp_path: Path) -> None:
    folder = add_model(hub, tmp_path / "repository")
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json"):
        run(locate("someone/small"))


def test_no_network_and_nothing_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    aim_at(monkeypatch, "http://127.0.0.1:9", tmp_path / "cache")
    start = time.monotonic()
    with pytest.raises(UserError, match="cannot be reached"):
        run(locate("someone/small"))
    assert time.monotonic() - start < 30


def test_a_closed_generator_stops_the_download(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_model(hub, tmp_path / "repository")
    note, growing = tmp_path / "pid", tmp_path / "cache" / "models--someone--small" / "blobs" / "x"
    monkeypatch.setattr(hub_module, "_DOWNLOAD", f"""
import os, pathlib, time
pathlib.Path({str(note)!r}).write_text(str(os.getpid()))
pathlib.Path({str(growing)!r}).write_bytes(bytes(5_000_000))
time.sleep(60)
""")
    monkeypatch.setattr(hub_module, "_missing", lambda *_: 10_000_000)
    assert ends_its_download(locate("someone/small"), note)


def test_the_endpoint_of_the_environment_is_used(hub: Hub, tmp_path: Path) -> None:
    add_model(hub, tmp_path / "repository")
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    code = ("from engine.models.loading import locate\n"
            "for event in locate('someone/small'): pass\n"
            "import sys; assert 'torch' not in sys.modules\n")
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_CACHE": str(tmp_path / "other")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=Path(__file__).parents[1])
    assert (tmp_path / "other" / "models--someone--small").is_dir()
