"""One model for a cast: one mask and one reconstruction from all characters' lines, then an adapter for each."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from cast_job import NAMES, make_cast, run_cast, write_character, write_job
from safetensors.torch import load_file
from small_job import Story, prove_here, refused, same_tensors, weights_of
from tiny import find

from engine.base.cast_folder import check_place, place_of, places
from engine.base.errors import UserError
from engine.base.events import Event, Finished, Stage
from engine.base.files import check_manifest, read_json, sha256
from engine.base.ids import ReadingId, StageId
from engine.base.pruning_events import Measured
from engine.cards.baked import is_baked
from engine.cards.card import parse_card
from engine.models.packing import Example, pack, run_row
from engine.pipeline import prune
from engine.pruning.importance import rank_normalised, top_channels, wanda_scores
from engine.pruning.masks import Lessons, Target
from engine.stages import finish


@pytest.fixture(scope="module")
def cast(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Event]]:
    """A finished cast of two, in `out`, and its events."""
    folder = tmp_path_factory.mktemp("cast")
    return folder, run_cast(llama, folder)


def test_rows_of_several_characters_mix(llama: Path) -> None:
    """Each in rows with its own prompt; every state is what it is alone."""
    from engine.models.loading import load_model

    model = load_model(find(llama), torch.float32)
    ann, bob = tuple(range(10, 30)), tuple(range(40, 70))
    examples = [Example((*(ann if number % 2 else bob), 100 + number), (200 + number, 300)) for number in range(6)]
    lessons = Lessons(examples, [Target(torch.full((2, 1), number), torch.zeros(2, 1)) for number in range(6)],
                      [len(ann) if number % 2 else len(bob) for number in range(6)])
    rows, targets = lessons.step([5, 0, 3, 2], 500)
    assert [row.size for row in rows] == [20 + 2 * 2, 30 + 2 * 2] and targets is not None
    assert [int(one) for target in targets for one in target.tokens[::2]] == [5, 3, 0, 2]
    for row, taught in zip(rows, targets, strict=True):
        states = run_row(model, row)[row.predict]
        for number, state, label in zip(taught.tokens[:, 0].tolist(), states, row.labels.tolist(), strict=True):
            own = examples[number]
            alone = run_row(model, pack([own], 500)[0])[len(own.prompt) - 1 + own.answer.index(label)]
            assert torch.allclose(state, alone, atol=1e-5)


def test_one_mask_from_all_characters_and_each_is_measured(llama: Path, cast: tuple[Path, list[Event]]) -> None:
    from engine.models.loading import load_model

    folder, events = cast
    assert isinstance(events[-1], Finished)
    work, out = folder / "work", folder / "out"
    model = load_model(find(llama), torch.float32)
    norms = [load_file(work / name.lower() / "dense.safetensors")["norms"] for name in NAMES]
    wanted = top_channels(sum(rank_normalised(wanda_scores(model, one)) for one in norms), 32)  # type: ignore[arg-type]
    assert torch.equal(load_file(work / "cast.model" / "mask.safetensors")["mask"].float(), wanted)
    assert read_json(out / "config.json")["intermediate_size"] == 32 and not check_manifest(out)
    report = read_json(out / "report.json")
    assert list(report["characters"]) == ["ann", "bob"] and report["lines"]["train"] == sum(
        one["lines"]["train"] for one in report["characters"].values())
    for place in places(out):
        own = read_json(place.own / "report.json")
        assert own["readings"][ReadingId.SHARED]["lines"] == own["lines"]["test"] > 0
        assert own["model"] == sha256(out / "model.safetensors") and own["readings"] == report["characters"][place.id]["readings"]
        check_place(place)
    assert load_file(work / "cast.model" / "own-ann.safetensors")  # her own answers, as the dense model reads them
    told = {event.subject for event in events if isinstance(event, Measured) and event.what == ReadingId.ADAPTED}
    assert told == {"ann", "bob"} and '"Ann", "Bob"' in (out / "README.md").read_text()


def test_adapters_load_in_plain_peft_and_read_as_measured(cast: tuple[Path, list[Event]]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder, _ = cast
    place = places(folder / "out")[0]
    base = AutoModelForCausalLM.from_pretrained(place.folder, dtype=torch.float32)
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        plain = base(tokens).logits.clone()
        assert place.peft
        adapted = PeftModel.from_pretrained(base, place.peft)
        assert not torch.allclose(adapted(tokens).logits, plain, atol=1e-6)
    files = {file.name for file in (folder / "out" / "gguf").rglob("*.gguf")}
    assert files == {"town-F16.gguf", "town-Q8_0.gguf", "ann.gguf", "bob.gguf"}


@pytest.mark.slow
def test_a_cast_that_is_killed_at_any_moment_comes_out_with_the_same_bits(llama: Path, tmp_path: Path) -> None:
    """Each process is killed so many events after its start, and up to 50 ms later. The last ones get as far as the proof, which
    only reads what is there."""
    draw = random.Random(5)

    def kill(process: int) -> None:
        time.sleep(draw.random() / 20)
        os.kill(process, signal.SIGKILL)

    def written(folder: Path, kills: int) -> dict[str, str]:
        story = Story(folder, ["prune", "--job", str(write_job(llama, folder)), "--json"])
        for _ in range(kills):
            wait = iter(range(draw.randint(2, 40)))
            story.live(lambda event, wait=wait: next(wait, None) is None, kill)  # type: ignore[misc]
        story.live(lambda event: event["event"] == "Stage" and event["stage"] == StageId.PROVE, kill)
        assert [life.code for life in story.lives] == [-signal.SIGKILL] * (kills + 1) and not (folder / "out").exists()
        (whole,) = (folder / "work" / "cast.model").glob(".proven.*")
        return {str(file.relative_to(whole)): sha256(file) for file in whole.rglob("*.safetensors")}

    once = written(tmp_path / "once", 0)
    assert len(once) >= 4 and written(tmp_path / "killed", 5) == once


def _without_times(folder: Path) -> dict[str, Any]:
    report = read_json(folder / "report.json")
    return {name: value for name, value in report.items() if name not in ("stages", "made", "proof")}


def test_a_cast_that_is_stopped_anywhere_comes_out_with_the_same_bits(llama: Path, tmp_path: Path, cast: tuple[Path, list[Event]],
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "prove", prove_here)
    job, work = make_cast(llama, tmp_path), tmp_path / "work" / "cast.model"
    for stage in (StageId.DENSE, StageId.TUNE, StageId.MEASURE, StageId.ADAPT, StageId.GGUF_FILES, StageId.GGUF_PROVE):
        events = prune(job, work, work.exists())
        for event in events:
            if isinstance(event, Stage) and event.stage == stage and not event.reused:
                next(events)
                break
        else:
            pytest.fail(f"{stage} never came")
        events.close()
        assert not (tmp_path / "out").exists()
    (learning,) = work.glob("learning-ann.safetensors")
    learning.write_bytes(learning.read_bytes()[:-3])  # damage is found, and made again
    assert isinstance([*prune(job, work, True)][-1], Finished)
    whole, again = cast[0] / "out", tmp_path / "out"
    assert all(torch.equal(value, weights_of(again)[name]) for name, value in weights_of(whole).items())
    for name in ("characters/ann/adapter/adapter_model.safetensors", "characters/bob/adapter/adapter_model.safetensors"):
        assert same_tensors(whole / name, again / name)
    assert (whole / "gguf/adapters/bob.gguf").read_bytes() == (again / "gguf/adapters/bob.gguf").read_bytes()
    assert _without_times(whole)["characters"] == _without_times(again)["characters"]


def test_bad_casts_are_refused_in_a_sentence(llama: Path, tmp_path: Path, capsys: Any) -> None:
    ann = str(write_character(tmp_path, "Ann"))
    (tmp_path / "other").mkdir()
    again = tmp_path / "other" / "again.json"
    again.write_text(json.dumps({"name": "Ann", "description": "Another one."}))
    many = [str(write_character(tmp_path / "many", f"N{number}")) for number in range(200)]
    common = ["--model", str(llama), "--out", str(tmp_path / "out")]
    assert "at least two characters" in refused(["prune-cast", ann, *common], capsys)
    assert "at most 100 characters; these are 200" in refused(["prune-cast", *many, *common], capsys)
    assert "Two of the cards are called ann" in refused(["prune-cast", ann, str(again), *common], capsys)
    assert not (tmp_path / "out").exists()


def test_characters_that_do_not_fit_are_refused_in_a_sentence(llama: Path, tmp_path: Path, capsys: Any) -> None:
    file = write_job(llama, tmp_path)
    lines = tmp_path / "ann.json"
    lines.write_text(json.dumps({**read_json(lines), "model": "small"}))
    assert f"were made with small, and the cast is pruned on {llama}" in refused(["prune", "--job", str(file)], capsys)
    with pytest.raises(UserError, match=r"too long for this model: with an answer it has 3,\d\d\d tokens, the model reads 512"):
        make_cast(llama, tmp_path / "long", more=lambda name: {"description": "Clocks. " * 400})


def test_damaged_and_mismatched_casts_are_told_in_a_sentence(cast: tuple[Path, list[Event]], tmp_path: Path) -> None:
    import shutil

    out = tmp_path / "out"
    shutil.copytree(cast[0] / "out", out)
    place = place_of(out / "characters" / "ann")
    assert place is not None and place.id == "ann" and place_of(out) is None
    report = read_json(place.own / "report.json")
    (place.own / "report.json").write_text(json.dumps({**report, "model": "0" * len(report["model"])}, indent=2) + "\n")
    with pytest.raises(UserError, match="made for another model"):
        check_place(place)
    adapter = out / "gguf" / "adapters" / "bob.gguf"
    adapter.write_bytes(adapter.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"damaged: gguf/adapters/bob\.gguf has"):
        check_place(places(out)[1])
    (out / "characters" / "bob" / "character.json").unlink()
    with pytest.raises(UserError, match=r"characters/bob/character\.json is missing"):
        places(out)


def test_a_baked_cast_has_short_prompts(llama: Path, tmp_path: Path) -> None:
    events = run_cast(llama, tmp_path, bake=True, bake_steps=3, bake_step_lines=4, bake_rank=2, bake_own_from=1.0)
    assert isinstance(events[-1], Finished)
    for place in places(tmp_path / "out"):
        assert is_baked(parse_card((place.own / "character.json").read_bytes(), place.id))
        check_place(place)
