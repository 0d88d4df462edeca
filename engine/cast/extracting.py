"""One character of a bank as a standalone folder, verified like any other export.

The folder holds the dense model cut to the character, with W_down scaled, corrected and rounded to 16 bit; the proof compares
it with the dense model under the mask and that W_down.
"""

import json
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.base import migrate
from engine.base.errors import UserError
from engine.base.events import Event, Finished, Saved, Stage
from engine.base.files import explain_write_errors, folder_size, remove_leftovers, require_space, staged_folder
from engine.base.ids import ArtifactId, ReadingId, StageId
from engine.cards.card import Card, parse_card
from engine.cards.prompt import messages
from engine.cast.bank import Entry, read_bank
from engine.cast.dense import Dense, load_dense
from engine.export.copying import QUESTION
from engine.export.folder import Contents, write_folder
from engine.export.verify import prove, write_reference
from engine.models.chat_format import encode_chat
from engine.models.ffn import feed_forwards
from engine.models.packing import Example, pack
from engine.pruning.cutting import as_if_cut, cut, kept_indices


def card_of(entry: Entry) -> Card:
    """The card of a character of a bank."""
    return parse_card(json.dumps(entry.card).encode(), entry.name)


def extract(path: Path, name: str, out: Path, model: str | None = None, dtype: str = "auto") -> Iterator[Event]:
    """Write a character's folder under a hidden name, prove it, then give it its name `out`, which must not exist.

    Raises UserError for an unknown or damaged character, another dense model, and a folder that fails its proof.
    """
    start = time.perf_counter()
    (entry,) = read_bank(path, [name]).entries
    if out.is_symlink() or out.exists():
        raise UserError(f"{out} exists already.", "Name another folder, or remove it first.")
    dense = yield from load_dense(model, dtype, (path, read_bank(path, [])))
    with explain_write_errors(out, "try again"):
        require_space(out.parent, int(2.2 * sum(weights.numel() for weights in dense.model.parameters()) + 50e6))
        remove_leftovers(out)
        with staged_folder(out) as staging:
            yield from _write(dense, entry, staging, out)
    yield Saved(ArtifactId.MODEL, str(out), folder_size(out))
    yield Finished(str(out), time.perf_counter() - start)


def _write(dense: Dense, entry: Entry, staging: Path, out: Path) -> Generator[Event, None, None]:
    yield Stage(StageId.CUT)
    tokenizer = dense.tokenizer_of(entry.report)
    kind = torch.float16 if entry.report.get("weights") == "float16" else torch.bfloat16
    mask, columns = entry.delta.mask.float(), _shipped(dense.model, entry, kind)
    reference = staging.with_name(f"{staging.name}.reference")
    try:
        with as_if_cut(dense.model, mask, columns):
            tokens = encode_chat(tokenizer, messages(card_of(entry), [("user", QUESTION)]))
            write_reference(dense.model, pack([Example(tuple(tokens))], len(tokens))[0], reference)
        arithmetic = dense.model.dtype
        cut(dense.model, kept_indices(mask), columns)
        yield Stage(StageId.EXPORT)
        contents = Contents(entry.card, report_of(entry))
        write_folder(staging, dense.model.to(kind), tokenizer, mask, contents)
        dense.model = None  # the proof needs the memory
        yield Stage(StageId.PROVE)
        contents.finish(staging, prove(staging, reference, arithmetic))
    finally:
        reference.unlink(missing_ok=True)


@torch.no_grad()
def _shipped(model: Any, entry: Entry, kind: torch.dtype) -> list[Tensor]:
    """W_down (d, k) a layer as it will be written; the dense model's weights are rounded on the way."""
    for weights in model.parameters():
        weights.copy_(weights.to(kind))
    return [entry.delta.columns(ffn.index, ffn.down.weight).to(kind) for ffn in feed_forwards(model)]


def report_of(entry: Entry) -> dict[str, Any]:
    """The report of a folder from the bank. Readings that depend on the run's own W_down move to `run_readings`."""
    found = migrate.report(entry.report)
    readings = {id: found["readings"][id] for id in ReadingId if id in found["readings"]}  # a bank sorts them by name
    own = (ReadingId.DENSE, ReadingId.RANDOM, ReadingId.MAGNITUDE, ReadingId.WANDA, ReadingId.MASK)
    return {**found, "readings": {id: one for id, one in readings.items() if id in own},
            "run_readings": {id: one for id, one in readings.items() if id not in own},
            "stages": {}, "learning": [], "after": {"intermediate_size": entry.delta.kept}}
