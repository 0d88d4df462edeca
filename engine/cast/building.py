"""From an exported folder to a character of a bank: does it belong to this dense model, what differs, and the correction.

A bank holds a mask and a correction of W_down, so a folder whose other weights differ from the dense model's (another base, or
a fine-tune after the cut) is refused. Where a run tuned its layers, only its mask is taken, and the correction replaces the
tuning.

With lines of the run the layers are refitted again from the lowest up (pruning/reconstruction.py), each to what its correction
can hold. Without them the folder's own W_down is decomposed, and neutral lines say which activations count (docs/cast.md has
the figures).
"""

import json
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from engine.base.errors import UserError
from engine.base.events import Event, Finished, Saved, Stage, Step, Warned
from engine.base.files import is_file, slug
from engine.base.ids import ArtifactId, StageId
from engine.base.migrate import read_report
from engine.base.sizes import BANK_BYTES, ModelShape, largest_rank
from engine.calibration.lines import Line, of_split, read_lines, read_queries, spread
from engine.calibration.rewriting import Voice, encode_line
from engine.cards.card import Card, parse_card
from engine.cards.prompt import messages
from engine.cast.bank import Entry, add, read_bank, require_base
from engine.cast.delta import Delta, Fitted, fit_layer, stack, without_correction
from engine.cast.dense import Dense, load_dense
from engine.export.folder import MASK, mask_file, read_mask
from engine.models.ffn import feed_forwards
from engine.models.loading import load_model, locate
from engine.models.packing import Example, Row, pack
from engine.pruning.cutting import kept_indices
from engine.pruning.reconstruction import RIDGE, SHARE, can_propagate, gram_matrices, layer_groups, refit_propagated

LINES = 48  # as many as a refit reads in the quick preset
ANSWER = 40  # tokens of an answer at most
ROW = 1536  # tokens
ROWS = 3
_KEPT = ("format", "character", "slug", "base", "recipe", "lines", "readings", "choices", "before", "after", "dtype", "weights",
         "day", "made", "versions")  # of a report


@dataclass(frozen=True)
class Run:
    """An exported folder: its card, its report, and its mask (L, d_ff)."""

    folder: Path
    card: Card
    report: dict[str, Any]
    mask: Tensor

    @property
    def tuned(self) -> bool:
        """Whether the gates of its kept channels are no longer the dense model's."""
        return bool(self.report.get("choices", {}).get(StageId.TUNE, {}).get("used"))


def read_run(folder: Path) -> Run:
    """An exported folder without its weights. Raises UserError for a folder that is none."""
    needed = ("report.json", "character.json", "manifest.json")
    missing = [*(name for name in needed if not is_file(folder / name)), *([] if mask_file(folder).is_file() else [MASK])]
    if missing:
        raise UserError(f"{folder} is not a folder that Persona Studio exported ({missing[0]} is missing).")
    card = parse_card((folder / "character.json").read_bytes(), str(folder / "character.json"))
    try:
        report = read_report(folder / "report.json")
        report["recipe"]["sparsity"], report["base"]["name"], report["before"]["intermediate_size"]
        mask = read_mask(mask_file(folder))
    except (KeyError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise UserError(f"{folder} is damaged: its report or its mask cannot be read.", "Prune the character again.") from error
    if not bool((mask.sum(dim=1) == mask[0].sum()).all()):
        raise UserError(f"The layers of {folder} keep different numbers of channels, which a bank cannot hold.",
                        "Prune the character with one width for all layers.")
    return Run(folder, card, report, mask)


def build(path: Path, model: str, folders: Sequence[Path], dtype: str = "auto", name: str = "",
          lines: Path | None = None) -> Iterator[Event]:
    """Put the characters of exported folders into a bank, made where there is none; each is there once it is whole.

    name: what the only folder's character is called in the bank; lines: those of its run. Raises UserError for a folder
    that does not fit.
    """
    start = time.perf_counter()
    runs = [read_run(folder) for folder in folders]  # says now rather than after all the work
    if (name or lines) and len(runs) > 1:
        raise UserError("--name and --lines can be used with one folder only.", "Build the others with separate commands.")
    own = read_lines(lines) if lines else []
    if lines and not any(line.split == "train" for line in own):
        raise UserError(f"{lines} has no line to learn from.", "Give lines.jsonl of the run's work folder, or none.")
    dense = yield from load_dense(model, dtype)
    bank = read_bank(path) if path.exists() else None
    if bank is not None:
        require_base(path, bank, dense.base.sha256, model)
    known = {entry.name for entry in bank.entries} if bank else set()
    for run in runs:
        entry = yield from make_entry(dense, run, slug(name or run.card.char), own)
        if entry.name in known:
            yield Warned(f"{entry.name} was in the bank already, and is replaced.")
        add(path, dense.base, dense.shape, entry)
        known.add(entry.name)
        yield Saved(ArtifactId.BANK_ENTRY, str(path), entry.bytes, entry.name)
    yield Finished(str(path), time.perf_counter() - start)


def make_entry(dense: Dense, run: Run, name: str, lines: Sequence[Line] = ()) -> Generator[Event, None, Entry]:
    """The character of a run as a bank keeps it; `lines`: the run's own. Raises UserError where it is not of this dense model."""
    yield Stage(StageId.MATCH, subject=name)
    source = yield from locate(str(run.folder))  # checks the folder
    if source.config["model_type"] != dense.base.family or run.mask.shape != (dense.shape[0], dense.shape[2]):
        raise _differs(dense, run, "another family or other sizes")
    cut = load_model(source, dense.model.dtype)
    require_same_base(dense, cut, run)
    if run.tuned:
        yield Warned(f"The layers of {run.folder} were tuned after the cut. A bank holds its mask and a correction, which stays "
                     "less close to the dense model than the folder itself.")
    delta, rank, left_out = without_correction(run.mask, dense.shape[1]), 0, None
    words: dict[str, Any] = {"card": run.card.raw, "prompt": messages(run.card, []),
                             "report": {key: run.report[key] for key in _KEPT if key in run.report}}
    if any(not torch.equal(ffn.down.weight[:, index].to(own.down.weight), own.down.weight) for ffn, own, index in zip(
            feed_forwards(dense.model), feed_forwards(cut), kept_indices(run.mask), strict=True)):  # W_down was refitted
        parameters = sum(weights.numel() for weights in dense.model.parameters())
        rank = largest_rank(ModelShape(*dense.shape, parameters), delta.kept, len(json.dumps(words)) + 2000)
        if not rank:
            yield Warned(f"The card of {name} fills the {BANK_BYTES / 1e6:g} MB of a character: no room is left for factors.")
        yield Stage(StageId.CORRECT)
        rows = correction_rows(dense.tokenizer_of(run.report), run.card, lines, LINES)
        # A tuned W_down goes with tuned gates, and is useless with the dense model's.
        delta, left_out = yield from correct(dense.model, cut, run.mask, rows, rank, bool(lines) or run.tuned)
    words["report"]["bank"] = {"rank": rank, "left_out": left_out}
    return Entry(name, **words, delta=delta)


@torch.no_grad()
def require_same_base(dense: Dense, cut: Any, run: Run) -> None:
    """Raise UserError unless every weight of a cut model but W_down is the dense model's, in the folder's own 16 bit.

    Of a run that tuned its layers, only what lies outside the FFNs is compared.
    """
    kind = torch.float16 if run.report.get("weights") == "float16" else torch.bfloat16
    own = dict(dense.model.named_parameters())
    for name, weights in cut.named_parameters():
        if ".mlp." not in name and not (name in own and torch.equal(own[name].to(kind), weights.to(kind))):
            raise _differs(dense, run, name)
    if run.tuned:
        return
    for ffn, sliced, index in zip(feed_forwards(dense.model), feed_forwards(cut), kept_indices(run.mask), strict=True):
        rows = torch.cat([index, index + ffn.size]) if ffn.fused else index
        for one, other in zip(ffn.row_projections(), sliced.row_projections(), strict=True):
            if not torch.equal(one.weight[rows].to(kind), other.weight.to(kind)):
                raise _differs(dense, run, f"layer {ffn.index}")


def _differs(dense: Dense, run: Run, where: str) -> UserError:
    for knob in ("recover", "bake"):
        if run.report["recipe"].get(knob):
            return UserError(f"{run.folder} was fine-tuned as a whole (--{knob}), and a bank holds a mask and a correction only.",
                             f"Prune the character without --{knob}.")
    return UserError(f"{run.folder} was not cut from {dense.source.name}: their weights differ ({where}).",
                     f"Its report names {str(run.report['base']['name'])[:80]}: give that model with --model.")


def correction_rows(tokenizer: Any, card: Card, own: Sequence[Line], lines: int) -> list[Row]:
    """Up to ROWS packed rows after the card's prompt: the train lines of `own`, else player lines with neutral answers."""
    voice = Voice.of(card, tokenizer)
    if own:
        examples = [encode_line(tokenizer, voice, line.question, line.answer, line.complete)
                    for line in own if line.split == "train"]
    else:
        pool = [query for query in of_split(read_queries(), "train") if query.neutral.strip()]
        examples = [encode_line(tokenizer, voice, query.question, query.neutral, True) for query in spread(pool, lines, 0)]
    return pack([Example(one.prompt, one.answer[:ANSWER]) for one in examples], ROW)[:ROWS]


def correct(dense: Any, cut: Any, mask: Tensor, rows: Sequence[Row], rank: int, again: bool) -> Generator[
        Event, None, tuple[Delta, float]]:
    """The delta of a mask (L, d_ff) at a rank, and the share of what a whole refit changes that it leaves out, over layers.

    cut: the pruned model with its refitted W_down, which is decomposed; again: the layers are refitted, where the family
    allows it.
    """
    if again and can_propagate(dense):
        layers = yield from _refit(dense, mask, rows, rank)
    else:
        layers = yield from _decompose(dense, cut, mask, rows, rank)
    return stack(mask, layers), sum(layer.left_out for layer in layers) / len(layers)


def _refit(dense: Any, mask: Tensor, rows: Sequence[Row], rank: int) -> Generator[Event, None, list[Fitted]]:
    found: list[Fitted] = []
    kept, ffns = kept_indices(mask), feed_forwards(dense)

    def nearest(layer: int, columns: Tensor, gram: Tensor) -> Tensor:
        own = ffns[layer].down.weight[:, kept[layer]].float()
        found.append(fit_layer(columns.float(), own, gram, rank))
        return found[-1].applied(own)

    steps = len(ffns) * (len(rows) + 1)
    for number, _ in enumerate(refit_propagated(dense, rows, kept, RIDGE, SHARE, nearest), start=1):
        yield Step(StageId.CORRECT, number, steps, {"layer": len(found)})
    return found


def _decompose(dense: Any, cut: Any, mask: Tensor, rows: Sequence[Row], rank: int) -> Generator[Event, None, list[Fitted]]:
    ffns, refitted, kept = feed_forwards(dense), feed_forwards(cut), kept_indices(mask)
    found: list[Fitted] = []
    for group in layer_groups(len(ffns), refitted[0].size):
        grams: dict[int, Tensor] = {}
        for sums in gram_matrices(cut, rows, group):
            grams = sums
            yield Step(StageId.CORRECT, len(found), len(ffns))
        for layer in group:
            own = ffns[layer].down_weight()[:, kept[layer]]
            found.append(fit_layer(refitted[layer].down_weight(), own, grams.pop(layer), rank))
            yield Step(StageId.CORRECT, len(found), len(ffns))
    return found
