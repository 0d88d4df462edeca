"""A cast on one model, served: one llama.cpp server with all adapters, each request under its own, nothing read under another's."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from cast_job import write_character
from small_job import refused
from test_adapters import adapted_model
from tiny import find

from engine.__main__ import main
from engine.base.cast_folder import CHARACTERS, GGUF_ADAPTERS, REPORT
from engine.base.files import read_json, sha256, write_json, write_manifest
from engine.base.sampling import SamplingParams
from engine.export.adapters import write_adapter, write_gguf_adapter
from engine.models.loading import load_model
from engine.serving.llama import LlamaVoice
from engine.serving.slots import ANY, Slots
from engine.serving.turns import Turns
from engine.serving.voices import Voices

GREEDY = SamplingParams(temperature=0.0).with_seed()
PROMPTS = [[5, 6, 7, 8, 9, 10, 11] * 6, [5, 6, 7, 8, 9, 10, 11] * 3 + [40, 41, 42] * 7]  # they begin alike


def write_cast(folder: Path, model: Path, names: tuple[str, ...] = ("Ann", "Bob", "Cid")) -> Path:
    """The folder of a cast: a tiny model with its GGUF files, and characters whose adapters say unlike things."""
    shutil.copytree(model, folder)
    digest = sha256(folder / "model.safetensors")
    for seed, name in enumerate(names):
        place = folder / CHARACTERS / name.lower()
        place.mkdir(parents=True)
        write_character(place, name).rename(place / "character.json")
        adapted = adapted_model(load_model(find(folder), torch.float32))
        draw = torch.Generator().manual_seed(seed)
        for part in (one for one in adapted.parameters() if one.requires_grad):
            part.data = (torch.randn(part.shape, generator=draw) * 0.2).half().float()
        write_adapter(adapted, place / "adapter", "tiny")
        write_gguf_adapter(place / "adapter", find(folder), folder / GGUF_ADAPTERS / f"{name.lower()}.gguf")
        write_json(place / REPORT, {"model": digest})
    write_manifest(folder)
    return folder


@pytest.fixture(scope="module")
def cast(speaking: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cast of three."""
    return write_cast(tmp_path_factory.mktemp("cast") / "town", speaking)


async def said(voice: Any, prompt: list[int]) -> tuple[str, int]:
    """The greedy answer to a prompt, and how many of its tokens were in memory."""
    pieces = [piece async for piece in voice.complete(prompt, GREEDY, 12)]
    return "".join(piece.text for piece in pieces), pieces[-1].timings.reused


def test_each_character_says_its_own_and_nothing_of_anothers_is_reused(cast: Path) -> None:
    """On fewer slots than there are characters, in every order; compared with a server that has just one adapter."""
    ids, file = ["ann", "bob", "cid", ""], cast / "gguf" / "tiny-F16.gguf"

    async def alone(id: str, prompt: list[int]) -> str:
        adapters = {id: cast / GGUF_ADAPTERS / f"{id}.gguf"} if id else {}
        voice = LlamaVoice("x", file, Turns(), 1, adapters=adapters)
        try:
            return (await said(voice.adapted(id), prompt))[0]
        finally:
            voice.close()

    async def together() -> None:
        expected = {(id, number): await alone(id, prompt) for id in ids for number, prompt in enumerate(PROMPTS)}
        assert len({expected[id, 0] for id in ids}) == len(ids)
        everyone = {id: cast / GGUF_ADAPTERS / f"{id}.gguf" for id in ids if id}
        voice = LlamaVoice("x", file, Turns(), 1, adapters=everyone)  # three slots, four that speak
        for turn in range(3):
            for id in ids if turn % 2 else reversed(ids):
                for number, prompt in enumerate(PROMPTS):
                    assert (await said(voice.adapted(id), prompt))[0] == expected[id, number], (turn, id, number)
        assert [(await said(voice.adapted("ann"), PROMPTS[1]))[1] for _ in range(2)][1] == len(PROMPTS[1]) - 1  # its own are
        answers = await asyncio.gather(*(said(voice.adapted(id), prompt) for id in ids for prompt in PROMPTS))
        assert [text for text, _ in answers] == [expected[id, number] for id in ids for number in range(len(PROMPTS))]
        voice.close()

    asyncio.run(together())


def test_a_character_keeps_its_slot() -> None:
    slots = Slots(2)
    with slots.of("ann", [1, 2, 3]) as first, slots.of("bob", [1, 2, 3]) as second, slots.of("cid", [1]) as third:
        assert {first, second} == {0, 1} and third == ANY
    with slots.of("bob", [1, 2]) as again:
        assert again == second
    with slots.of("cid", [1]) as taken:  # nobody's is left: the one that has rested longest
        assert taken == first
    with slots.of("bob", [1, 2]) as again:
        assert again == second


def test_characters_of_a_cast_share_one_model_in_memory(cast: Path) -> None:
    async def run() -> None:
        voices = Voices(keep=1)
        texts = [(await said(await voices.get(str(cast / CHARACTERS / id)), PROMPTS[0]))[0] for id in ("ann", "bob")]
        assert texts[0] != texts[1] and voices.names == [str(cast)]
        assert await voices.forget(str(cast / CHARACTERS / "bob")) > 0 and voices.names == []
        voices.close()

    asyncio.run(run())


def test_a_character_is_chosen_by_name_or_by_its_place(cast: Path, capsys: Any) -> None:
    ask = ["--message", "Who are you?", "--json", "--temperature", "0", "--max-tokens", "8"]
    replies = []
    for arguments in ([str(cast), "--character", "Bob"], [str(cast / CHARACTERS / "bob")], [str(cast), "--character", "ann"]):
        assert main(["chat", *arguments, *ask]) == 0
        replies.append(json.loads(capsys.readouterr().out))
    assert replies[0]["reply"] == replies[1]["reply"] != replies[2]["reply"]
    assert [one["character"] for one in replies] == ["Bob", "Bob", "Ann"]
    assert "ann, bob, cid" in refused(["chat", str(cast), *ask], capsys)
    assert "has no character 'Zoe'" in refused(["chat", str(cast), "--character", "Zoe", *ask], capsys)


def test_what_is_wrong_with_a_cast_is_said_of_the_character(cast: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "town"
    shutil.copytree(cast, folder)
    report = folder / CHARACTERS / "ann" / REPORT
    report.write_text(report.read_text().replace(read_json(report)["model"], "f" * 64))
    (folder / GGUF_ADAPTERS / "bob.gguf").write_bytes(b"GGUF")
    error = refused(["serve", str(folder), "--check"], capsys)
    assert "ann: The adapter of ann was made for another model" in error and "bob.gguf has 4 bytes" in error and "cid:" not in error
    (folder / CHARACTERS / "cid" / "character.json").unlink()
    assert "characters/cid/character.json is missing" in refused(["serve", str(folder)], capsys)
    (folder / "manifest.json").unlink()
    assert "its manifest.json is missing" in refused(["serve", str(folder)], capsys)
