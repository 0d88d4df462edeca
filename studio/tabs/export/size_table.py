"""The truth about a pruned model's size: parameters, bytes on disk, memory, speed, and which ways to run it like its width.

Safe HTML from the shapes of its tensors, its config and what was measured. Expected figures are told from measured ones.
"""

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.base.memory import decoder_of
from engine.base.sizes import TOLD, WRITTEN, Shapes, count, expected_bytes, odd_rows, runtimes_that_like
from studio.figures import words

CONTEXT = 4096  # tokens of the conversation that the memory is told for
NOTHING = "–"


@dataclass(frozen=True)
class Measured:
    """What was measured of one form of the model: bytes on disk, bytes of memory, tokens a second, and on what it rests."""

    bytes: int = 0
    memory: int = 0
    tokens_per_second: float = 0.0
    rests_on: str = ""


@dataclass(frozen=True)
class Truth:
    """A run's figures. `shapes` and `config` are the pruned model's; `measured` by form: "dense", "pruned", or a file type."""

    shapes: Shapes
    config: Mapping[str, Any]
    dense_parameters: int = 0
    dense_channels: int = 0
    measured: Mapping[str, Measured] = field(default_factory=dict)


def table_html(truth: Truth) -> str:
    """The table of sizes, a row a form; "" where the model's files are gone."""
    if not truth.shapes:
        return ""
    parameters = count(truth.shapes.values())
    rows = [_row("Dense, 16 bit", 2 * truth.dense_parameters, _cache(truth), truth.measured.get("dense"))
            ] if truth.dense_parameters else []
    rows.append(_row("Pruned, 16 bit", 2 * parameters, _cache(truth), truth.measured.get("pruned")))
    told = [kind for kind in WRITTEN if kind in TOLD or kind in truth.measured]
    for kind in told:
        note = " *" if odd_rows(truth.shapes, kind) else ""
        rows.append(_row(f'<span class="wide-only">GGUF </span>{kind}{note}', expected_bytes(truth.shapes, kind), _cache(truth),
                         truth.measured.get(kind)))
    odd = {kind: odd_rows(truth.shapes, kind) for kind in told}
    notes = [f"* Rows of {', '.join(f'{size:,}' for size in sizes)} weights do not fill the blocks of {kind}: a larger format is "
             "taken for them." for kind, sizes in odd.items() if sizes]
    rests = sorted({one.rests_on for one in truth.measured.values() if one.rests_on})
    head = "".join(f"<th>{name}</th>" for name in ("", "On disk", "Memory", "Tokens"))
    return (f'<div class="size-scroll"><table class="size-table"><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div>"
            f'<p class="quiet">{_weights(truth, parameters)} Plain figures are expected, by arithmetic: memory is weights and a '
            f"conversation of {CONTEXT:,} tokens. <b>Bold</b> ones were measured on this machine"
            f"{': ' + html.escape('; '.join(rests)) + '; memory is the whole program' if rests else ''}. "
            f"{html.escape(' '.join(notes))}</p>")


def badges_html(truth: Truth) -> str:
    """A badge for each way to run the model: whether it likes the width that was chosen."""
    kept = int(truth.config.get("intermediate_size") or 0)
    if not kept:
        return ""
    badges = "".join(
        f'<li class="{"yes" if fits else "no"}" title="{html.escape(why)}"><i aria-hidden="true">{"✓" if fits else NOTHING}</i>'
        f'{html.escape(name)}<span class="visually-hidden">: {"fits" if fits else "does not fit"}. {html.escape(why)}</span></li>'
        for name, fits, why in runtimes_that_like(kept))
    before = f" of {truth.dense_channels:,}" if truth.dense_channels else ""
    factors = ", ".join(str(size) for size in (8, 32, 64, 128, 256) if kept % size == 0) or "no round number"
    return (f'<p class="prune-label">{kept:,}{before} channels were kept in each layer: a multiple of {factors}</p>'
            f'<ul class="prune-likes">{badges}</ul>')


def measured_of(summary: Mapping[str, Any], proof: Mapping[str, Any]) -> dict[str, Measured]:
    """What an export measured, by form; `summary` is the pruning run's, `proof` the export's as the library keeps it."""
    found: dict[str, Measured] = {}
    if weights := summary.get("before", {}).get("bytes"):
        found["dense"] = Measured(bytes=int(weights))
    if weights := summary.get("after", {}).get("bytes"):
        found["pruned"] = Measured(bytes=int(weights))
    for one in proof.get("timed", []):
        former = found.get(one["what"], Measured())
        found[one["what"]] = Measured(former.bytes, int(one["memory"]), float(one["tokens_per_second"]),
                                      f"transformers, {one['dtype']}, median of {one['rounds']} rounds of {one['tokens']} tokens")
    for one in proof.get("files", []):
        found[one["type"]] = Measured(int(one.get("bytes", 0)), int(one.get("memory", 0)), float(one.get("tokens_per_second", 0)),
                                      f"llama.cpp, {one['prompts']} prompts" if one.get("tokens_per_second") else "")
    return found


def _weights(truth: Truth, parameters: int) -> str:
    """How many weights there are, and were."""
    before = f" of the dense model's {words.millions(truth.dense_parameters)}" if truth.dense_parameters else ""
    return f"{words.millions(parameters)}{before} weights."


def _row(name: str, size: int, cache: int, found: Measured | None) -> str:
    found = found or Measured()
    disk = f"<b>{words.size(found.bytes)}</b>" if found.bytes else words.size(size)
    memory = f"<b>{words.size(found.memory)}</b>" if found.memory else words.size(size + cache)
    speed = f"<b>{found.tokens_per_second:.0f}</b>/s" if found.tokens_per_second else NOTHING
    return f"<tr><th>{name}</th><td>{disk}</td><td>{memory}</td><td>{speed}</td></tr>"


def _cache(truth: Truth) -> int:
    """Bytes of keys and values of CONTEXT tokens in 16 bit; 0 for a config that does not say."""
    try:
        return CONTEXT * decoder_of(truth.config, count(truth.shapes.values())).token_bytes
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return 0
