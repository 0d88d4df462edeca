"""The dense model of a bank: found, known by the hash of its weights, and loaded.

Knows nothing of characters.
"""

import hashlib
from collections.abc import Generator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.events import Event, Stage, Step
from engine.cast.bank import Bank, Base, require_base
from engine.models.checks import WEIGHTS
from engine.models.ffn import feed_forwards
from engine.models.loading import ModelSource, day_of, load_model, load_tokenizer, locate, on_day, parse_dtype

_PIECE = 32 << 20  # bytes hashed between two steps
CHECK = "check the weights"


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
    yield Stage(CHECK, total)
    digests, done = [], 0
    for path in files:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
                done += len(piece)
                yield Step(CHECK, min(total, round(done / 1e6)), total)
        digests.append(digest.hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def load_dense(model: str, dtype: str = "auto") -> Generator[Event, None, Dense]:
    """Find, hash and load a model. Raises UserError where `locate` or `load_model` do."""
    source = yield from locate(model)
    digest = yield from hash_weights(source.folder)
    yield Stage("load the model")
    loaded = load_model(source, parse_dtype(dtype, own=source.own_dtype))
    name = str(source.folder) if source.name not in ("starter",) and not source.revision else source.name
    return Dense(source, Base(name, digest, source.config["model_type"]), loaded, load_tokenizer(source))


def load_dense_of(path: Path, bank: Bank, model: str | None = None, dtype: str = "auto") -> Generator[Event, None, Dense]:
    """The dense model of a bank, or the one that is said to be it. Raises UserError where it is gone, or another by its hash."""
    try:
        source = yield from locate(model or bank.base.name)
    except UserError as error:
        if model:
            raise
        raise UserError(f"The dense model {bank.base.name} of the bank {path} is gone ({error})",
                        "Name it with --model.") from error
    require_base(path, bank, (yield from hash_weights(source.folder)), source.name)
    yield Stage("load the model")
    loaded = load_model(source, parse_dtype(dtype, own=source.own_dtype))
    return Dense(source, bank.base, loaded, load_tokenizer(source))
