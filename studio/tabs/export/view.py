"""What the Export room shows, as safe HTML and figures: a run's report and sizes, an export under way, a finished export.

Pure functions from the library's records and a run's view. In the table of sizes, expected figures differ from measured ones.
"""

import html
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import plotly.graph_objects as go

from engine.base import pruning_events
from engine.base.files import PROGRAM, slug
from engine.base.sizes import COMMON_TYPES, WRITTEN, Shapes, count, decoder_of, expected_bytes, odd_rows
from engine.export.engines import TARGETS
from studio import labels, trial
from studio.figures import distances, words
from studio.store.runs import Export, Run
from studio.tabs.models import runtimes_html
from studio.tabs.prune.runs_view import stages_html
from studio.workers.view import RunView

CONTEXT = 4096  # tokens of the conversation in the expected memory
NOTHING = "–"
NOBODY = '<p class="empty">Choose a character in the sidebar.</p>'
COMES = ('<div class="empty"><h3>Nearly there</h3><p>A pruned model of this character is on its way. When it is done, come back '
         "here, name it and export it.</p></div>")
NO_RUN = ('<div class="empty"><h3>Nothing to export yet</h3><p>The <b>Prune</b> room makes a smaller model that plays this '
          "character. When it is done, you can name it and export it here.</p>"
          '<div class="live-buttons"><button class="primary large" id="export-to-prune">Go to the Prune room</button></div></div>')


def report_html(run: Run) -> str:
    """What the run made, in sentences and figures that say what they rest on."""
    summary = run.summary
    before, after, base = summary.get("before", {}), summary.get("after", {}), summary.get("base", {})
    facts = []
    if before.get("bytes") and after.get("bytes"):
        facts.append(("Size", f"{words.size(before['bytes'])} → <b>{words.size(after['bytes'])}</b>"))
    if before.get("parameters") and after.get("parameters"):
        share = 1 - after["parameters"] / before["parameters"]
        facts.append(("Parameters", f"{words.millions(before['parameters'])} → {words.millions(after['parameters'])} "
                                    f"({words.percent(share, 1)} of all removed)"))
    for reading in list(summary.get("readings", {}).values())[-1:]:
        facts.append(("Says the same next word piece", f"{words.percent(reading['top1'])} of the time, on {reading['lines']} lines "
                                                       f"({reading['tokens']:,} word pieces) that it did not learn from"))
    if base:
        licence = html.escape(str(base.get("licence") or "unknown"))
        facts.append(("Pruned from", f"{html.escape(str(base.get('name', '')))} · licence {licence}"))
    proof = summary.get("proof", {})
    if proof.get("reply"):
        facts.append(("Proof when it was made", "plain transformers loaded the files in a fresh process, and the model said "
                                                f"<q>{html.escape(proof['reply'])}</q>. Compare shows how well it speaks."))
    return _facts(facts)


def readings_figure(run: Run) -> go.Figure:
    """The ladder of the run's readings on its test lines."""
    return distances.ladder([pruning_events.Measured(name, "test", **{key: value for key, value in one.items() if key != "time"})
                             for name, one in run.summary.get("readings", {}).items() if name != "dense"])


def progress_html(run: Run, view: RunView, state: str) -> str:
    """An export under way, or how the last one ended: its stages with what is done, and a log of what was found."""
    stop = (f'<div class="live-buttons"><button id="export-stop" data-do="stop" data-id="{html.escape(run.id)}">Stop</button></div>'
            if run.state in ("queued", "starting", "running") else "")
    return (f'<div role="status"><b>{html.escape(run.name)}</b>{stages_html(run, view)}<p>{html.escape(_ending(run, state))}</p>'
            f"</div>{stop}{_log(view)}")


def _log(view: RunView) -> str:
    """What the export reported, in order of time; closed at first."""
    said: list[tuple[float, str]] = [
        *((one.time, f"Written: {one.path} ({words.size(one.bytes)})") for one in view.saved),
        *((one.time, f"{one.type}: {_agreement(vars(one))}") for one in view.proved_files),
        *((one.time, f"{one.what}: {one.tokens_per_second:.1f} tokens/s") for one in view.timed),
        *([(view.proof.time, f"It said: {view.proof.text}")] if view.proof else [])]
    lines = [*(f"Note: {one}" for one in view.warnings),
             *(f"{time.strftime('%H:%M:%S', time.localtime(at))}  {text}" for at, text in sorted(said))]
    if not lines:
        return ""
    text = html.escape("\n".join(lines))
    return f'<details class="export-log" data-key="export-log"><summary>Log</summary><pre>{text}</pre></details>'


def _agreement(proof: dict[str, Any]) -> str:
    """How far llama.cpp with a GGUF file agrees with transformers, in words."""
    ties = f" ({proof['ties']} of the others are ties)" if proof.get("ties") else ""
    return (f"the same next word piece {proof['same']:,} of {proof['tokens']:,} times{ties}, in {proof['prompts']} texts; distance "
            f"{proof['kl']:.2g} nats a word piece")


def _ending(run: Run, state: str) -> str:
    if run.state == "done":
        return "Done. The list of past exports says what to do with it."
    if run.state == "stopped":  # an export cannot be resumed
        return "It was stopped; no files were kept. Press Export to begin again."
    if run.state == "failed":
        return run.sentence
    return "" if state in ("queued", "starting", "running") else f"{labels.RUN_STATES[state].capitalize()}."  # its stages say it


def past_html(found: Sequence[Export], chosen: Export | None) -> str:
    """The past exports, each as a button that shows it."""
    rows = "".join(
        f'<tr class="{"chosen" if one == chosen else ""}"><td>{_button(one, "", html.escape(one.name))}</td>'
        f'<td>{words.size(one.bytes)}</td><td>{words.moment(one.made)}</td></tr>' for one in found)
    return f'<p class="prune-label">Past exports</p><table class="prune-runs"><tbody>{rows}</tbody></table>' if found else ""


def export_html(export: Export, archive: str) -> str:
    """Where an export is, how to use it, and what was verified. `archive`: the zip among the files that are served, or ""."""
    if export.deleted is not None:
        return (f"<p>{html.escape(export.name)} was removed from the list; its files are unchanged.</p>"
                f'<div class="live-buttons">{_button(export, "undo", "Undo")}</div>')
    folder = Path(export.folder)
    path = html.escape(str(folder))
    python = (folder / "config.json").is_file()
    twice = python and export.proof.get("files")
    facts = [("Folder", f'<code>{path}</code> <button type="button" class="copy" data-copy="{path}">Copy</button>'
                        + ("" if folder.is_dir() else " <b>is no longer there</b>")),
             ("Size", words.size(export.bytes) + (" in all: the model for Python, and again as GGUF" if twice else "")
              + (f" · zip {words.size(export.zip_bytes)}" if export.zip else ""))]
    proof: dict[str, Any] = export.proof
    if export.damaged:
        facts.append(("Damaged", "the library can no longer read what was verified of this export; its files are unchanged"))
    if proof.get("text") and proof.keys() >= {"seconds", "tokens"}:
        loaded = "this folder" if python else "the model, before its files for Python were left out,"
        facts.append(("Proof of loading", f"a fresh process loaded {loaded} with plain transformers, and the character said in "
                                          f"{proof['seconds']:.1f} s ({proof['tokens']} tokens): "
                                          f"<q>{html.escape(proof['text'])}</q>"))
    facts += _engine_facts(export)
    if python:
        facts.append(("In Python", f"<code>AutoModelForCausalLM.from_pretrained({html.escape(repr(str(folder)))})</code>"))
    facts.append(("In a terminal", f"<code>{PROGRAM} chat {html.escape(str(folder))}</code>"))
    facts.append(("For a game", f"<code>{PROGRAM} serve {html.escape(str(folder))}</code>, or Serve above"))
    download = (f'<a id="export-download" href="gradio_api/file={quote(archive)}" download>Download the zip</a>' if archive else "")
    return f'{_facts(facts)}<div class="live-buttons">{download}{_button(export, "forget", "Remove from the list")}</div>'


def _button(export: Export, do: str, label: str) -> str:
    """A button that shows an export, and, with `do`, does something with it."""
    id = html.escape(export.id)
    action = f' id="export-{do}" data-do="{do}" data-id="{id}"' if do else ""
    return f'<button data-look="export" value="{id}"{action}>{label}</button>'


def _engine_facts(export: Export) -> list[tuple[str, str]]:
    facts = []
    for one in export.proof.get("files", []):
        facts.append((f"GGUF {html.escape(one['type'])}", f"{words.size(one['bytes'])} · loaded by llama.cpp, which gave "
                                                          f"{html.escape(_agreement(one))}"))
    for engine in export.proof.get("engines", []):
        target = TARGETS.get(engine)  # the library may have exports for a target that is gone
        text = f"<code>{html.escape(engine)}/{target.start}</code> {target.hint}" if target else html.escape(engine)
        if target and target.commands:
            typed = [f'cd "{Path(export.folder) / engine}"', *(one.format(name=slug(export.name)) for one in target.commands)]
            copied = html.escape("\n".join(typed))
            text += f'<pre>{copied}</pre><button type="button" class="copy" data-copy="{copied}">Copy</button>'
        if engine == trial.FOLDER and Path(export.folder).is_dir():
            text += f" {trial.link(export.id)}"
        facts.append((target.label if target else html.escape(engine), text))
    speeds = {one["what"]: one for one in export.proof.get("timed", [])}
    if {"dense", "pruned"} <= speeds.keys():
        dense, pruned = speeds["dense"], speeds["pruned"]
        ratio = pruned["tokens_per_second"] / dense["tokens_per_second"]
        facts.append(("Speed here", f"{ratio:.2f} times the dense model's: {pruned['tokens_per_second']:.0f} and "
                                    f"{dense['tokens_per_second']:.0f} tokens/s (medians of {pruned['rounds']} rounds of "
                                    f"{pruned['tokens']} tokens); memory {words.size(pruned['memory'])} and "
                                    f"{words.size(dense['memory'])}"))
    return facts


def _facts(facts: list[tuple[str, str]]) -> str:
    """Names with their (safe) HTML as a description list."""
    return '<dl class="facts">' + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts) + "</dl>"


@dataclass(frozen=True)
class Measured:
    """What was measured of one form of the model: bytes on disk, bytes of memory, tokens a second, and on what it rests."""

    bytes: int = 0
    memory: int = 0
    tokens_per_second: float = 0.0
    rests_on: str = ""


def sizes_html(shapes: Shapes, config: Mapping[str, Any], dense_parameters: int, measured: Mapping[str, Measured]) -> str:
    """The table of sizes, a row a form of the model. `shapes` and `config` are the pruned model's; `measured`: see measured_of."""
    parameters, cache = count(shapes.values()), 0  # bytes of keys and values; 0 for a config that does not say
    with suppress(KeyError, TypeError, ValueError, ZeroDivisionError):
        cache = CONTEXT * decoder_of(config, parameters).token_bytes
    rows = [_row("Dense, 16 bit", 2 * dense_parameters, cache, measured.get("dense"))] if dense_parameters else []
    rows.append(_row("Pruned, 16 bit", 2 * parameters, cache, measured.get("pruned")))
    kinds = [kind for kind in WRITTEN if kind in COMMON_TYPES or kind in measured]
    odd = {kind: odd_rows(shapes, kind) for kind in kinds}
    for kind in kinds:
        rows.append(_row(f'<span class="wide-only">GGUF </span>{kind}{" *" if odd[kind] else ""}', expected_bytes(shapes, kind),
                         cache, measured.get(kind)))
    notes = [f"* Rows of {', '.join(f'{size:,}' for size in lengths)} weights do not fill the blocks of {kind}: a larger format is "
             "used for them." for kind, lengths in odd.items() if lengths]
    rests = sorted({one.rests_on for one in measured.values() if one.rests_on})
    before = f" of the dense model's {words.millions(dense_parameters)}" if dense_parameters else ""
    head = "".join(f"<th>{name}</th>" for name in ("", "On disk", "Memory", "Tokens"))
    return (f'<div class="size-scroll"><table class="size-table"><thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div>"
            f'<p class="quiet">{words.millions(parameters)}{before} weights. Plain figures are expected, by arithmetic: memory is '
            f"weights and a conversation of {CONTEXT:,} tokens. <b>Bold</b> ones were measured on this machine"
            f"{': ' + html.escape('; '.join(rests)) + '; memory is the whole program' if rests else ''}. "
            f"{html.escape(' '.join(notes))}</p>")


def badges_html(kept: int, dense_channels: int) -> str:
    """How many of the dense model's channels (0: unknown) were kept in each layer, and which ways to run the model that suits."""
    if not kept:
        return ""
    before = f" of {dense_channels:,}" if dense_channels else ""
    factors = ", ".join(str(size) for size in (8, 32, 64, 128, 256) if kept % size == 0) or "no round number"
    return (f'<p class="prune-label">{kept:,}{before} channels were kept in each layer: a multiple of {factors}</p>'
            f"{runtimes_html(kept)}")


def measured_of(summary: Mapping[str, Any], proof: Mapping[str, Any]) -> dict[str, Measured]:
    """What an export measured, by form ("dense", "pruned", or a file type).

    `summary` is the pruning run's, `proof` the export's as the library keeps it.
    """
    found = {form: Measured(int(summary[field]["bytes"])) for form, field in (("dense", "before"), ("pruned", "after"))
             if summary.get(field, {}).get("bytes")}
    for one in proof.get("timed", []):
        former = found.get(one["what"], Measured())
        found[one["what"]] = Measured(former.bytes, int(one["memory"]), float(one["tokens_per_second"]),
                                      f"transformers, {one['dtype']}, median of {one['rounds']} rounds of {one['tokens']} tokens")
    for one in proof.get("files", []):
        found[one["type"]] = Measured(int(one.get("bytes", 0)), int(one.get("memory", 0)), float(one.get("tokens_per_second", 0)),
                                      f"llama.cpp, {one['prompts']} prompts" if one.get("tokens_per_second") else "")
    return found


def _row(name: str, size: int, cache: int, found: Measured | None) -> str:
    found = found or Measured()
    disk = f"<b>{words.size(found.bytes)}</b>" if found.bytes else words.size(size)
    memory = f"<b>{words.size(found.memory)}</b>" if found.memory else words.size(size + cache)
    speed = f"<b>{found.tokens_per_second:.0f}</b>/s" if found.tokens_per_second else NOTHING
    return f"<tr><th>{name}</th><td>{disk}</td><td>{memory}</td><td>{speed}</td></tr>"
