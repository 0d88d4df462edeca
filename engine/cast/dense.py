"""The dense model of a bank, and a character taken out of it: gathered in memory, or extracted as a standalone folder.

An extracted folder holds the dense model cut to the character, with W_down scaled, corrected and rounded to 16 bit, and is
verified like any other export: compared with the dense model under the mask and that W_down.
"""

import copy
import hashlib
import json
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from torch import nn

from engine.base import migrate
from engine.base.errors import UserError
from engine.base.events import Event, Finished, Saved, Stage, Step
from engine.base.files import (
    explain_write_errors,
    folder_size,
    megabytes,
    remove_leftovers,
    require_space,
    staged_folder,
)
from engine.base.ids import BASELINES, ArtifactId, ReadingId, StageId
from engine.base.known_models import KNOWN
from engine.base.model_folder import weight_files
from engine.cards.card import Card, parse_card
from engine.cards.prompt import messages
from engine.cast.bank import Bank, Base, Entry, read_bank, require_base
from engine.cast.delta import Delta
from engine.cast.listing import gathered_folder, key_of
from engine.export.copying import QUESTION
from engine.export.folder import Contents, write_folder
from engine.export.verify import prove, write_reference
from engine.models.chat_format import encode_chat
from engine.models.ffn import feed_forwards
from engine.models.loading import ModelSource, day_of, load_model, load_tokenizer, locate, on_day, parse_dtype
from engine.models.packing import Example, pack
from engine.pruning.cutting import as_if_cut, cut, kept_indices

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
    files = weight_files(folder)
    total = megabytes(sum(file.stat().st_size for file in files))
    yield Stage(StageId.CHECK, total)
    digests, done = [], 0
    for path in files:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
                done += len(piece)
                yield Step(StageId.CHECK, min(total, megabytes(done)), total)
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
        raise UserError(f"The dense model {bank[1].base.name} of the bank {bank[0]} is missing ({error})",
                        "Give it with --model.") from error
    digest = yield from hash_weights(source.folder)
    if bank:
        require_base(*bank, digest, source.name)
    yield Stage(StageId.LOAD)
    loaded = load_model(source, parse_dtype(dtype, own=source.own_dtype))
    name = source.name if source.name in KNOWN or source.revision else str(source.folder)
    base = bank[1].base if bank else Base(name, digest, source.config["model_type"])
    return Dense(source, base, loaded, load_tokenizer(source))


def gather(model: nn.Module, delta: Delta) -> Any:
    """The pruned model of a character. It shares with `model`, which stays as it is, every tensor but those of its FFNs: the
    kept rows of gate and up, and the kept columns of W_down, scaled and corrected."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # torch selects columns on one core only
        columns = list(pool.map(lambda ffn: delta.columns(ffn.index, ffn.down.weight.detach()), feed_forwards(model)))
    return cut(copy.deepcopy(model, shared), kept_indices(delta.mask), columns)


def keep_gathered(path: Path, bank: Bank, entries: Sequence[Entry],
                  model: str | None = None) -> Generator[Event, None, list[Path]]:
    """Folders of characters as models of their own, in the data folder; those that are there are used as they are.

    A folder belongs to one character as the bank has it now, and to one dense model. Raises UserError as load_dense does.
    """
    folders = [gathered_folder(key_of(bank.base.sha256, entry.described()["sha256"])) for entry in entries]
    missing = [(folder, entry) for folder, entry in zip(folders, entries, strict=True) if not folder.is_dir()]
    if not missing:
        return folders
    dense = yield from load_dense(model, bank=(path, bank))
    for folder, entry in missing:
        yield Stage(StageId.CUT, subject=entry.name)
        kind = torch.float16 if entry.report.get("weights") == "float16" else torch.bfloat16
        with explain_write_errors(folder, "try again"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            require_space(folder.parent, int(2.2 * sum(weights.numel() for weights in dense.model.parameters()) + 50e6))
            with staged_folder(folder) as staging:
                gather(dense.model, entry.delta).to(kind).save_pretrained(staging)
                dense.tokenizer_of(entry.report).save_pretrained(staging)
    return folders


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
        raise UserError(f"{out} exists already.", "Choose another folder, or remove it first.")
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
    mask = entry.delta.mask.float()
    with torch.no_grad():
        for weights in dense.model.parameters():  # as they will be written
            weights.copy_(weights.to(kind))
        columns = [entry.delta.columns(ffn.index, ffn.down.weight).to(kind) for ffn in feed_forwards(dense.model)]
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


def report_of(entry: Entry) -> dict[str, Any]:
    """The report of a folder from the bank. Readings that depend on the run's own W_down move to `run_readings`."""
    found = migrate.report(entry.report)
    readings = {id: found["readings"][id] for id in ReadingId if id in found["readings"]}  # a bank sorts them by name
    own = (ReadingId.DENSE, *BASELINES, ReadingId.MASK)
    return {**found, "readings": {id: one for id, one in readings.items() if id in own},
            "run_readings": {id: one for id, one in readings.items() if id not in own},
            "stages": {}, "learning": [], "after": {"intermediate_size": entry.delta.kept}}
