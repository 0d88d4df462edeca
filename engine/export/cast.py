"""What the folder of a cast has beside its one model: characters/ID/, with the card, the adapter and the report of each.

  characters/ID/character.json      the card as it came
  characters/ID/adapter/            a folder that peft loads, where it has one (adapters.py)
  characters/ID/report.json         its readings, and the sha256 of the weights that its adapter was made for
  gguf/adapters/ID.gguf             the same adapter for llama.cpp, beside the model's own files in gguf/
"""

import shutil
import tempfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import load_file

from engine.base.cast_folder import ADAPTER, CARD, CHARACTERS, GGUF_ADAPTERS, REPORT, CastPlace, weights_digest
from engine.base.errors import UserError
from engine.base.events import Event, Stage, Step
from engine.base.families import FAMILIES
from engine.base.files import MANIFEST, read_json, update_manifest, write_json
from engine.base.ids import StageId
from engine.cards.card import parse_card
from engine.cards.prompt import messages
from engine.export.adapters import write_gguf_adapter
from engine.export.gguf_proof import QUESTIONS, TIE, ask
from engine.models.chat_format import render_chat
from engine.models.loading import ModelSource, load_tokenizer, locate

ASKED, TOKENS = 2, 16  # questions to each character in the proof, and tokens of each answer


@dataclass(frozen=True)
class CastCharacter:
    """A character of a cast: the card as parsed JSON, its report so far, and peft's folder of its adapter."""

    id: str
    card: dict[str, Any]
    report: dict[str, Any]
    adapter: Path | None = None


def write_characters(folder: Path, characters: Sequence[CastCharacter]) -> None:
    """Write characters/ into the folder of their model, whose weights are there already."""
    digest = weights_digest(folder) if characters else ""
    for one in characters:
        place = folder / CHARACTERS / one.id
        place.mkdir(parents=True)
        write_json(place / CARD, one.card)
        if one.adapter:
            shutil.copytree(one.adapter, place / ADAPTER)
        write_json(place / REPORT, {**one.report, "model": digest})


def write_gguf_adapters(folder: Path, file: Path, characters: Sequence[CastPlace]) -> Generator[Event, None, None]:
    """Write gguf/adapters/ID.gguf of those that have an adapter, prove them with the model's `file`, and put them into the
    manifest.

    Raises UserError for one that says in llama.cpp what it does not say in peft.
    """
    names = {one.id: f"{GGUF_ADAPTERS}/{one.id}.gguf" for one in characters if one.peft}
    if set(names.values()) <= read_json(folder / MANIFEST)["files"].keys():
        return  # the process that wrote them was killed later
    adapted = [one for one in characters if one.peft]
    source = yield from locate(str(folder))
    made = {id: (folder / name).with_suffix(".new") for id, name in names.items()}
    for one in adapted:
        assert one.peft
        write_gguf_adapter(one.peft, source, made[one.id])
    yield from _prove(source, file, adapted, list(made.values()))
    for id, new in made.items():
        new.replace(folder / names[id])
        update_manifest(folder, names[id])


def _prove(source: ModelSource, file: Path, adapted: Sequence[CastPlace], adapters: Sequence[Path]) -> Generator[Event, None, None]:
    """llama.cpp answers as each character, all adapters loaded; transformers with peft must say the same, token by token."""
    tokenizer = load_tokenizer(source)
    prompts, adapter_of = [], []
    for number, one in enumerate(adapted):
        card = parse_card((one.own / CARD).read_bytes(), str(one.own / CARD))
        for question in QUESTIONS[:ASKED]:
            text = render_chat(tokenizer, messages(card, [("user", question)]))
            prompts.append(tokenizer(text, add_special_tokens=False)["input_ids"])
            adapter_of.append(number)
    with tempfile.TemporaryDirectory() as name:
        banned = sorted({*tokenizer.all_special_ids,
                         *(number for number, token in tokenizer.added_tokens_decoder.items() if token.special)})
        request = {"prompts": prompts, "tokens": TOKENS, "banned": banned, "adapter_of": adapter_of}
        texts = (yield from ask("llama_cpp", {**request, "do": "speak", "file": str(file.resolve()),
                                              "adapters": [str(one.resolve()) for one in adapters]}, StageId.GGUF_DECODE))["texts"]
        out = Path(name) / "reference.safetensors"
        yield from ask("plain_transformers", {
            **request, "do": "read", "folder": str(source.folder), "texts": texts, "out": str(out), "dtype": "float32",
            "adapters": [str(one.peft) for one in adapted], "attention": FAMILIES[source.config["model_type"]].attention},
            StageId.GGUF_REFERENCE)
        found = load_file(out)
    yield Stage(StageId.GGUF_PROVE, len(adapted), subject="adapters")
    at = 0
    for number, text in zip(adapter_of, texts, strict=True):
        for token in text:
            likely = _sayable(found["tokens"][at], found["logprobs"][at], banned)
            if token not in likely or max(likely.values()) - likely[token] > TIE["F16"] * (1 if file.stem.endswith("-F16") else 10):
                raise UserError(f"The adapter of {adapted[number].id} failed its proof, so it was not kept: llama.cpp does not say "
                                "what peft says.", "Please report this with the model's config.json.")
            at += 1
        yield Step(StageId.GGUF_PROVE, number + 1, len(adapted), subject="adapters")


def _sayable(tokens: Any, logprobs: Any, banned: Sequence[int]) -> dict[int, float]:
    """The log-probabilities of the likeliest tokens, without those that may not be said."""
    kept = ~numpy.isin(tokens, banned)
    return dict(zip(tokens[kept].tolist(), logprobs[kept].tolist(), strict=True))
