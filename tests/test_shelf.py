"""The shelf of models: its facts, what other programs have here, and what its buttons do."""

from pathlib import Path
from typing import Any

import pytest

from engine.base.errors import UserError
from engine.base.families import FAMILIES
from engine.base.shelf import SHELF
from studio import shelf
from studio.services import Services
from studio.settings import Settings
from studio.store import values
from studio.workers.speech import Reply

# Vocabulary, hidden size, layers, query and key heads, head size, FFN size: as in each model's config.json. Then what differs.
CONFIGS: dict[str, tuple[tuple[int, ...], dict[str, int]]] = {
    "SmolLM2-135M-Instruct": ((49152, 576, 30, 9, 3, 64, 1536), {}),
    "SmolLM2-360M-Instruct": ((49152, 960, 32, 15, 5, 64, 2560), {}),
    "SmolLM2-1.7B-Instruct": ((49152, 2048, 24, 32, 32, 64, 8192), {}),
    "Qwen2.5-0.5B-Instruct": ((151936, 896, 24, 14, 2, 64, 4864), {"biases": 1}),
    "Qwen2.5-1.5B-Instruct": ((151936, 1536, 28, 12, 2, 128, 8960), {"biases": 1}),
    "Llama-3.2-1B-Instruct": ((128256, 2048, 16, 32, 8, 64, 8192), {}),
    "Llama-3.2-3B-Instruct": ((128256, 3072, 28, 24, 8, 128, 8192), {}),
    "gemma-3-1b-it": ((262144, 1152, 26, 4, 1, 256, 6912), {"norms": 4, "head_norms": 2}),
    "SmolLM3-3B": ((128256, 2048, 36, 16, 4, 128, 11008), {}),
    "Mistral-7B-Instruct-v0.3": ((32768, 4096, 32, 32, 8, 128, 14336), {"heads": 2}),
    "Llama-3.1-8B-Instruct": ((128256, 4096, 32, 32, 8, 128, 14336), {"heads": 2})}


@pytest.mark.parametrize("one", SHELF, ids=lambda one: one.label)
def test_each_has_as_many_parameters_as_its_config_says_and_a_family_that_is_supported(one: Any) -> None:
    (vocabulary, hidden, layers, queries, keys, head, ffn), more = CONFIGS[one.label]
    attention = 2 * hidden * head * (queries + keys) + more.get("biases", 0) * head * (queries + 2 * keys)
    layer = attention + 3 * hidden * ffn + more.get("norms", 2) * hidden + more.get("head_norms", 0) * head
    assert one.parameters == more.get("heads", 1) * vocabulary * hidden + hidden + layers * layer
    assert one.family in FAMILIES and one.talking_bytes < one.bytes


def test_what_other_programs_have_is_named_with_its_original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    assert shelf.found_elsewhere() == []
    library = tmp_path / ".ollama" / "models" / "manifests" / "registry.ollama.ai" / "library"
    for name, tag in (("llama3.2", "1b"), ("other", "latest")):
        (library / name).mkdir(parents=True)
        (library / name / tag).touch()
    place = tmp_path / ".lmstudio" / "models" / "bartowski" / "SmolLM2-360M-Instruct-GGUF"
    place.mkdir(parents=True)
    for file in ("a-Q4.gguf", "a-Q8.gguf"):
        (place / file).touch()
    assert shelf.found_elsewhere() == [
        ("Ollama", "llama3.2:1b", "meta-llama/Llama-3.2-1B-Instruct"), ("Ollama", "other:latest", ""),
        ("LM Studio", "bartowski/SmolLM2-360M-Instruct-GGUF", "HuggingFaceTB/SmolLM2-360M-Instruct")]


class Fetcher:
    """Stands for the chat worker."""

    def __init__(self) -> None:
        self.stopped: list[Reply] = []

    def warm(self, model: str, card: Any, player: str) -> Reply:
        return Reply({"do": "warm", "id": "1", "model": model})

    def stop(self, reply: Reply) -> None:
        self.stopped.append(reply)


def test_a_model_is_fetched_with_its_progress_stopped_used_and_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    services = Services.open(Settings(tmp_path))
    services.speech = Fetcher()  # type: ignore[assignment]
    room, name = shelf.Shelf(services), "HuggingFaceTB/SmolLM2-360M-Instruct"
    row = lambda: room.contents()["side-shelf"].partition(f'data-key="{name}"')[2].partition("</li>")[0]
    assert "shelf-fetch" in row() and "724\u00a0MB" in row() and "on disk" not in row()
    room.fetch(name)
    reply = room._fetching[name]
    room.fetch(name)  # a second click
    assert room._fetching[name] is reply and "shelf-stop" in row()
    reply.take({"event": "Step", "stage": "fetch", "done": 181, "total": 724})
    assert "181 of 724 MB" in row() and "width:25%" in row()
    room.stop(name)
    assert services.speech.stopped == [reply]  # type: ignore[attr-defined]
    reply.fail("The hub cannot be reached.")
    assert "The hub cannot be reached." in row() and "shelf-fetch" in row()
    room.use(name)
    assert values.get_value(services.store, "model", "") == name
    folder = tmp_path / "hub" / "models--HuggingFaceTB--SmolLM2-360M-Instruct"
    for file in ("snapshots/abc/model.safetensors", "blobs/def.incomplete"):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).touch()
    assert "on disk" not in row()  # a shard is still to come
    (folder / "blobs" / "def.incomplete").unlink()
    assert "on disk" in row() and "shelf-delete" in row()
    room.delete(name)
    assert not folder.exists()
    for act in (room.fetch, room.use, room.delete):
        with pytest.raises(UserError, match="not on the shelf"):
            act("../../etc")
