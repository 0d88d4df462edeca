"""The shelf of models: its facts, what they say and how long they take, what other programs have, and what its buttons do."""

from pathlib import Path
from typing import Any

import pytest
from store_samples import card

from engine.base import event_file, events
from engine.base.errors import UserError
from engine.base.families import FAMILIES
from engine.base.ids import StageId
from engine.base.job import PRESET_MINUTES
from engine.base.known_models import KNOWN
from engine.base.shelf import SHELF, read_samples
from studio import shelf
from studio.services import Services
from studio.settings import Settings
from studio.store import characters, lines, runs, values
from studio.tabs.prune.cut import Plan
from studio.times import Times
from studio.workers.speech import Reply

# Vocabulary, hidden size, layers, query and key heads, head size, FFN size: as in each model's config.json. Then what differs.
CONFIGS: dict[str, tuple[tuple[int, ...], dict[str, int]]] = {
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


@pytest.mark.parametrize("one", [one for one in SHELF if one.name not in KNOWN], ids=lambda one: one.label)
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
    for name, tag in (("llama3.2", "1b"), ("other", "latest"), ("smollm2", "135m")):
        (library / name).mkdir(parents=True)
        (library / name / tag).touch()
    place = tmp_path / ".lmstudio" / "models" / "bartowski" / "SmolLM2-360M-Instruct-GGUF"
    place.mkdir(parents=True)
    for file in ("a-Q4.gguf", "a-Q8.gguf"):
        (place / file).touch()
    assert shelf.found_elsewhere() == [
        ("Ollama", "llama3.2:1b", "meta-llama/Llama-3.2-1B-Instruct"), ("Ollama", "other:latest", ""),
        ("Ollama", "smollm2:135m", "starter"),
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
    reply.take({"event": "Loading", "model": name, "stage": StageId.FETCH, "done": 181, "total": 724})
    assert "181 of 724 MB" in row() and "width:25%" in row()
    reply.take({"event": "Loading", "model": name, "stage": StageId.GGUF_WRITE, "done": 3, "total": 30})
    assert "Making it ready" in row()
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


def row_of(room: shelf.Shelf, name: str) -> str:
    return room.contents()["side-shelf"].partition(f'data-key="{name}"')[2].partition("</li>")[0]


def test_the_models_with_a_name_show_what_they_said_and_of_what_size_the_download_is(tmp_path: Path) -> None:
    room = shelf.Shelf(Services.open(Settings(tmp_path)))
    for known in KNOWN.values():
        row, sample = row_of(room, known.name), read_samples()[known.name]
        assert f"{known.download_bytes / 1e6:.0f}\u00a0MB to download" in row and "shelf-fetch" in row
        assert sample.question in row and sample.answer.split(".")[0].replace("'", "&#x27;") in row and f" {known.type}," in row
    assert "How it speaks" not in row_of(room, "HuggingFaceTB/SmolLM3-3B")  # nobody has asked it
    folder = KNOWN["starter"].folder_in(tmp_path)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    assert "on disk" in row_of(room, "starter") and "on disk" not in row_of(room, "small")
    room.delete("starter")
    assert not folder.exists()


def test_the_time_of_a_quick_run_is_as_measured_here_else_in_proportion_to_the_size(tmp_path: Path) -> None:
    services = Services.open(Settings(tmp_path))
    room, store = shelf.Shelf(services), services.store
    who = characters.create(store, card("Zoë")).id

    def add(kind: str, stage: StageId, seconds: float, line_set: str | None = None, **spec: Any) -> runs.Run:
        run = runs.add(store, who, 1, kind, kind, {**Plan().spec("starter"), **spec}, line_set, "done")
        log = services.settings.run_events(run.id)
        log.parent.mkdir(parents=True)
        for event in (events.Started("Zoë", "starter", 0.25, [(stage, "")], time=0), events.Stage(stage, time=0),
                      events.Finished("", 0, time=seconds)):
            event_file.append(log, event)
        return runs.update(store, run.id, summary={"before": {"parameters": KNOWN["starter"].parameters}})

    assert "is not known yet" in room.contents()["side-shelf"] and "A quick run" not in row_of(room, "starter")
    made = lines.add_set(store, who, 1, [], {}, run=add("lines", StageId.ANSWERS, 240).id)
    add("prune", StageId.TUNE, 600, made.id, sparsity=0.5)  # a mask is learned
    add("prune", StageId.TUNE, 600, sparsity=0.25)  # nobody knows how long its lines took
    assert "is not known yet" in room.contents()["side-shelf"]
    add("prune", StageId.TUNE, 600, made.id, sparsity=0.25)
    assert "is not known yet" not in room.contents()["side-shelf"]
    assert "A quick run took 14\u00a0min here." in row_of(room, "starter")
    assert "A quick run would take about 1\u00a0h 10\u00a0min here" in row_of(room, "small")  # 4.68 times as large
    times = Times(services)
    assert times.sentence("starter", "Starter", KNOWN["starter"].parameters) == (
        "Lines and pruning together with Starter: First try about 7\u00a0min, Quick about 14\u00a0min, "
        "Standard about 42\u00a0min, going by a quick run here. Persona-Pruner as published takes longer still; "
        "nobody has timed it to its end.")
    said = times.sentence("small", "Small", KNOWN["small"].parameters)
    assert "Small: First try about 33\u00a0min, Quick about 1\u00a0h 10\u00a0min" in said


def test_before_any_run_a_models_size_says_how_long_one_takes(tmp_path: Path) -> None:
    times = Times(Services.open(Settings(tmp_path)))
    said = times.sentence("small", "Small", 2 * KNOWN["starter"].parameters)
    assert f"Quick about {2 * PRESET_MINUTES['quick']}\u00a0min" in said and "the first quick run shows it" in said
