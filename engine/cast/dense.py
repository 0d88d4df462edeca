"""The dense model of a bank, known by the hash of its weights; and a character's pruned model, gathered from it in one pass."""

import copy
import hashlib
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.base.errors import UserError
from engine.base.events import Event, Stage, Step
from engine.base.ids import StageId
from engine.base.model_folder import STARTER, WEIGHTS
from engine.cast.bank import Bank, Base, require_base
from engine.cast.delta import Delta
from engine.models.device import parse_dtype
from engine.models.ffn import feed_forwards
from engine.models.loading import ModelSource, day_of, load_model, load_tokenizer, locate, on_day
from engine.pruning.cutting import cut, kept_indices

_PIECE = 32 << 20  # bytes hashed between two steps


@dataclass
class Dense:
    """A dense model in memory, with its tokenizer and what a bank knows it by."""

    source: ModelSource
    base: Base
    model: Any
    tokenizer: Any

    @property
    def shape(self) -> tuple[int, int, int]:
        """L, d, d_ff."""
        ffns = feed_forwards(self.model)
        return len(ffns), ffns[0].down.out_features, ffns[0].size

    def tokenizer_of(self, report: dict[str, Any]) -> Any:
        """The tokenizer for the character of a run's report: where the chat template writes the date, that of the run."""
        return on_day(self.tokenizer, day_of(report) or date.today())


def hash_weights(folder: Path) -> Generator[Event, None, str]:
    """sha256 of a model's weights: of the one file's bytes, or, of shards, over their hashes in the order of their names."""
    files = [folder / WEIGHTS] if (folder / WEIGHTS).is_file() else sorted(folder.glob("model-*.safetensors"))
    total = max(1, round(sum(file.stat().st_size for file in files) / 1e6))
    yield Stage(StageId.CHECK, total)
    digests, done = [], 0
    for path in files:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
                done += len(piece)
                yield Step(StageId.CHECK, min(total, round(done / 1e6)), total)
        digests.append(digest.hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def load_dense(model: str | None, dtype: str = "auto", bank: tuple[Path, Bank] | None = None) -> Generator[Event, None, Dense]:
    """Find, hash and load a model; with `bank` (its path and content) the bank's own, from `model` where it has moved.

    Raises UserError where it cannot be found or loaded, or is not the bank's by its hash.
    """
    try:
        source = yield from locate(model or (bank[1].base.name if bank else ""))
    except UserError as error:
        if model or not bank:
            raise
        raise UserError(f"The dense model {bank[1].base.name} of the bank {bank[0]} is gone ({error})",
                        "Name it with --model.") from error
    digest = yield from hash_weights(source.folder)
    if bank:
        require_base(*bank, digest, source.name)
    yield Stage(StageId.LOAD)
    loaded = load_model(source, parse_dtype(dtype, own=source.own_dtype))
    name = source.name if source.name == STARTER or source.revision else str(source.folder)
    base = bank[1].base if bank else Base(name, digest, source.config["model_type"])
    return Dense(source, base, loaded, load_tokenizer(source))


def gather(model: nn.Module, delta: Delta) -> Any:
    """The pruned model of a character. It shares with `model`, which stays as it is, every tensor but those of its FFNs: the
    kept rows of gate and up, and the kept columns of W_down, scaled and corrected."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # torch selects columns on one core only
        columns = list(pool.map(lambda ffn: delta.columns(ffn.index, ffn.down.weight.detach()), feed_forwards(model)))
    return cut(copy.deepcopy(model, shared), kept_indices(delta.mask), columns)
