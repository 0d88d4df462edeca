"""The dense model of a bank, known by the hash of its weights; and a character's pruned model, gathered from it in one pass.

A gathered model shares every tensor with the dense model but those of its FFNs, which are the kept rows of gate and up and the
kept columns of W_down, scaled and corrected: those of a standalone pruned model.
"""

import copy
import hashlib
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engine.base.errors import UserError
from engine.base.events import Event, Stage, Step
from engine.base.ids import StageId
from engine.cast.bank import Bank, Base, require_base
from engine.cast.delta import Delta
from engine.models.device import parse_dtype
from engine.models.ffn import FeedForward, feed_forwards
from engine.models.folders import WEIGHTS
from engine.models.loading import ModelSource, day_of, load_model, load_tokenizer, locate, on_day

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


def load_dense(model: str, dtype: str = "auto") -> Generator[Event, None, Dense]:
    """Find, hash and load a model. Raises UserError where `locate` or `load_model` do."""
    source = yield from locate(model)
    digest = yield from hash_weights(source.folder)
    yield Stage(StageId.LOAD)
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
    yield Stage(StageId.LOAD)
    loaded = load_model(source, parse_dtype(dtype, own=source.own_dtype))
    return Dense(source, bank.base, loaded, load_tokenizer(source))


def gathered_weights(ffn: FeedForward, delta: Delta, columns: Tensor | None = None) -> list[Tensor]:
    """Copies of a layer's kept weights: the rows of each of its row projections, their biases if any, and W_down last.

    `columns`: W_down's kept ones, where they were selected before; they are written over.
    """
    index = delta.indices(ffn.index).to(ffn.down.weight.device)
    rows = torch.cat([index, index + ffn.size]) if ffn.fused else index
    found = []
    for projection in ffn.row_projections():
        found.append(projection.weight.data.index_select(0, rows))
        if projection.bias is not None:
            found.append(projection.bias.data.index_select(0, rows))
    return [*found, _corrected(ffn, _columns(ffn, delta) if columns is None else columns, delta)]


def _columns(ffn: FeedForward, delta: Delta) -> Tensor:
    """W_down's kept columns (d, k), as they are."""
    weight = ffn.down.weight.data
    return weight.index_select(1, delta.indices(ffn.index).to(weight.device))


def _corrected(ffn: FeedForward, weight: Tensor, delta: Delta) -> Tensor:
    """W_down (d, k), scaled and corrected, in the weights' dtype; `weight`, its columns, is written over."""
    layer, device = ffn.index, weight.device
    weight = weight.mul_(delta.scales_of(layer).to(weight)) if weight.dtype == torch.float32 else (
        weight.float() * delta.scales_of(layer).to(device))
    if delta.rank:
        left = (delta.left[layer].float() * delta.factor_step[layer, :, None]).to(device)
        weight.addmm_(left.T, delta.right[layer].float().to(device))
    return weight.to(ffn.down.weight.dtype)


@torch.no_grad()
def gather(model: nn.Module, delta: Delta) -> Any:
    """The cut model of a character (L layers, k channels). `model` stays as it is, and must stay in memory anyway."""
    shell, ffns = _shell(model), feed_forwards(model)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # torch selects columns on one core only
        waiting = [pool.submit(_columns, ffn, delta) for ffn in ffns]
        for own, ffn, columns in zip(feed_forwards(shell), ffns, waiting, strict=True):
            _put(own, gathered_weights(ffn, delta, columns.result()), delta.kept)
    shell.config.intermediate_size = delta.kept
    return shell


def _shell(model: nn.Module) -> Any:
    """A model of its own whose tensors are those of `model`."""
    memo: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    return copy.deepcopy(model, memo)


def _put(ffn: FeedForward, weights: list[Tensor], kept: int) -> None:
    waiting = iter(weights)
    projections = ffn.row_projections()
    for projection in projections:
        projection.weight = nn.Parameter(next(waiting), requires_grad=False)
        if projection.bias is not None:
            projection.bias = nn.Parameter(next(waiting), requires_grad=False)
        projection.out_features = len(projection.weight)
    ffn.down.weight = nn.Parameter(next(waiting), requires_grad=False)
    ffn.down.in_features = kept
    if hasattr(ffn.module, "intermediate_size"):
        ffn.module.intermediate_size = kept  # type: ignore[assignment]
