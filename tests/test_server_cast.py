"""Which characters are served, from what, and what is wrong with any: folders and cards; files that change, go or are cut."""

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_samples import card_of, cast_of, running

from engine.__main__ import main
from engine.base.errors import UserError
from engine.cards.files import write_file
from engine.cards.pictures import plain_portrait
from engine.server.cast import CARD, Cast, read_cast
from engine.server.preparing import OWN_BYTES, plan, prepare
from engine.server.settings import Settings


@pytest.fixture
def folder(tmp_path: Path, speaking: Path) -> Callable[..., Path]:
    """A maker of folders of a character, with a tiny model and its GGUF files."""

    def make(name: str) -> Path:
        made = shutil.copytree(speaking, tmp_path / name.lower())
        (made / CARD).write_text(json.dumps(card_of(name).raw))
        return made

    return make


def ready(*sources: Path | str, **options: Any) -> Cast:
    return asyncio.run(prepare(read_cast([str(one) for one in sources], **options)))


def said(url: str, model: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", timeout=60, json={
        "model": model, "messages": [{"role": "user", "content": "Hm?"}], "max_tokens": 4})


def test_ids_are_slugs_and_differ(tmp_path: Path, folder: Callable[..., Path]) -> None:
    card = card_of("Æsa  Strand")
    for form in ("json", "png", "charx"):
        (tmp_path / f"card.{form}").write_bytes(write_file(form, card.raw, plain_portrait("A")))  # type: ignore[arg-type]
    cast = read_cast([*(str(tmp_path / f"card.{form}") for form in ("json", "png", "charx")), str(folder("Bob")), "pim-tuckett"],
                     model="elsewhere/model")
    assert [(one.id, one.model) for one in cast] == [
        ("sa-strand", "elsewhere/model"), ("sa-strand-2", "elsewhere/model"), ("sa-strand-3", "elsewhere/model"),
        ("bob", str(tmp_path / "bob")), ("pim-tuckett", "elsewhere/model")]


def test_all_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(UserError) as error:
        read_cast([str(tmp_path / "empty"), "pim-tuckett", "nobody", str(tmp_path / "bad.png")])
    assert "empty is no folder of a character" in str(error.value) and "nobody is neither a file" in str(error.value)
    assert "bad.png" in str(error.value)


def test_one_file_that_is_cut_short_disturbs_nobody_else(folder: Callable[..., Path],
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = folder("Ann"), folder("Bob")
    file = bad / "gguf" / "tiny-Q8_0.gguf"
    listed = json.loads((bad / "manifest.json").read_text())
    os.truncate(file, file.stat().st_size - 1000)
    listed["files"][f"gguf/{file.name}"]["bytes"] = file.stat().st_size
    (bad / "manifest.json").write_text(json.dumps(listed))
    cast = ready(good, bad, type="Q8_0")
    assert "was cut short" in cast.find("bob").fault and not cast.find("ann").fault
    with running(cast) as server:
        assert said(server.url, "ann").status_code == 200
        answer = said(server.url, "bob")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "character_unavailable")
        assert "was cut short" in answer.json()["error"]["message"]
    assert main(["serve", str(good), str(bad), "--type", "Q8_0", "--check"]) == 2
    output = capsys.readouterr()
    assert "ann" in output.out and "bob: " in output.err and "was cut short" in output.err and "Traceback" not in output.err
    assert main(["serve", str(bad), "--type", "Q8_0", "--port", "0"]) == 2


def test_a_folder_that_changes_or_goes_while_it_is_served(folder: Callable[..., Path]) -> None:
    kept, changed, gone, cut = folder("Ann"), folder("Bob"), folder("Cid"), folder("Dan")
    with running(ready(kept, changed, gone, cut)) as server:
        assert [said(server.url, one).status_code for one in ("ann", "bob", "cid", "dan")] == [200] * 4
        os.truncate(cut / "gguf" / "tiny-Q8_0.gguf", 4096)
        (changed / CARD).write_text(json.dumps(card_of("Bob", description="Someone else.").raw))
        shutil.rmtree(gone)
        for id, word in (("bob", "was changed"), ("cid", "is gone"), ("dan", "was changed")):
            answer = said(server.url, id)
            assert answer.status_code == 503 and word in answer.json()["error"]["message"]
        assert said(server.url, "ann").status_code == 200
        faults = {one["id"]: one["persona"]["fault"] for one in httpx.get(f"{server.url}/v1/models").json()["data"]}
        assert not faults["ann"] and "was changed" in faults["bob"]


def test_a_folder_of_a_card_and_a_gguf_file_is_enough(folder: Callable[..., Path]) -> None:
    shipped = folder("Ann")
    for file in shipped.iterdir():
        if file.is_file() and file.name != CARD:
            file.unlink()
    cast = ready(shipped)
    assert not cast.find("ann").fault
    with running(cast) as server:
        assert said(server.url, "ann").status_code == 200
    shutil.rmtree(shipped / "gguf")
    assert "holds no model" in ready(shipped).find("ann").fault


def test_check_says_what_it_would_take(folder: Callable[..., Path], tiny_gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(folder("Ann")), "--check", "--json", "--parallel", "2", "--prompt-cache", "32"]) == 0
    found = json.loads(capsys.readouterr().out)
    [one], [model] = found["characters"], found["models"]
    assert (one["id"], one["type"], one["state"]) == ("ann", "Q8_0", "ready") and one["file"].endswith("tiny-Q8_0.gguf")
    # Two layers of keys and values, 2 heads of 8 numbers in 16 bit; 512 tokens a reply.
    assert model["slot_bytes"] == 2 * 2 * 2 * 8 * 2 * 512
    assert 0 < model["bytes"] < tiny_gguf.stat().st_size and model["cache_bytes"] == 32 << 20
    parts = model["bytes"] + 2 * model["slot_bytes"] + model["cache_bytes"] + model["working_bytes"]
    assert found["bytes"] == parts + OWN_BYTES


def test_cards_share_one_model_in_memory(speaking: Path) -> None:
    cast = cast_of(speaking, card_of("Ann"), card_of("Bob"))
    with running(cast) as server:
        for one in ("ann", "bob"):
            assert said(server.url, one).status_code == 200
        assert server.service.voices.names == [str(speaking)]
    assert len(plan(cast, Settings()).models) == 1
