"""What the Export room shows, as text, safe HTML and figures: a run's report, an export under way, a finished export.

Pure functions from the library's records and a run's view; no page.
"""

import html
import time
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from engine.base.events import Measured
from engine.export.engines import TARGETS
from studio import labels
from studio.figures import ladder, words
from studio.store.runs import Export, Run
from studio.workers.view import RunView, StageView

_MARKS = {"done": "✓", "reused": "✓", "running": "…", "failed": "✗", "stopped": "■", "waiting": "·", "skipped": "·"}
NOBODY = '<p class="empty">Choose a character on the left.</p>'
NO_RUN = ('<div class="empty"><h3>Nothing to export yet</h3><p>Prune this character first: the <b>Prune</b> room makes a smaller '
          "model that plays it. When it is done, you can name it and export it here.</p></div>")


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
    final = list(summary.get("readings", {}).values())[-1:]
    for reading in final:
        facts.append(("Says the same next word piece", f"{words.percent(reading['top1'])} of the time, on {reading['lines']} lines "
                                                       f"({reading['tokens']:,} word pieces) that taught nothing"))
    if base:
        licence = html.escape(str(base.get("licence") or "unknown"))
        facts.append(("Carved from", f"{html.escape(str(base.get('name', '')))} · licence {licence}"))
    proof = summary.get("proof", {})
    if proof.get("reply"):
        facts.append(("Proof when it was made", "loaded by plain transformers in a fresh process; asked a line it had not seen, "
                                                f"it said <q>{html.escape(proof['reply'])}</q>"))
    return _facts(facts)


def readings_figure(run: Run) -> go.Figure:
    """The ladder of the run's readings on its test lines."""
    return ladder.ladder([Measured(name, "test", **{field: value for field, value in one.items() if field != "time"})
                          for name, one in run.summary.get("readings", {}).items() if name != "dense"])


def progress_html(run: Run, view: RunView, word: str) -> str:
    """An export under way, or how the last one ended: its stages with what is done, and a log of what was found."""
    rows = "".join(_stage(stage) for stage in view.stages.values() if stage.state != "skipped")
    ending = f"<p>{html.escape(_ending(run, word))}</p>"
    return f'<div class="export-progress" role="status"><b>{html.escape(run.name)}</b><ul>{rows}</ul>{ending}</div>{_log(view)}'


def _log(view: RunView) -> str:
    """What the export said, in the order in which it happened; closed until somebody asks."""
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


def _stage(stage: StageView) -> str:
    share = f" · {words.percent(stage.done / stage.total)}" if stage.state == "running" and stage.total else ""
    seconds = f" · {stage.seconds:.0f} s" if stage.state == "done" and stage.seconds >= 1 else ""
    mark = f'<i aria-hidden="true">{_MARKS[stage.state]}</i>'
    return f'<li class="{stage.state}">{mark} {labels.stage(*stage.key)}{share}{seconds}</li>'


def _ending(run: Run, word: str) -> str:
    if run.state == "done":
        return "Done. It stands in the list of exports."
    if run.state in ("failed", "stopped"):
        return run.sentence or "It was stopped; nothing half-written was kept."
    return f"{word[:1].upper()}{word[1:]}."


def export_label(export: Export) -> str:
    """An export in the list."""
    day = time.strftime("%d %b %H:%M", time.localtime(export.made))
    return f"{export.name} · {words.size(export.bytes)} · {day}"


def export_html(export: Export) -> str:
    """Where an export lies, how to use it, and what it said when it was loaded."""
    folder = Path(export.folder)
    path = html.escape(str(folder))
    facts = [("Folder", f'<code>{path}</code> <button type="button" class="copy" data-copy="{path}">Copy</button>'
                        + ("" if folder.is_dir() else " <b>is not there any more</b>")),
             ("Size", words.size(export.bytes) + (f" · zip {words.size(export.zip_bytes)}" if export.zip else ""))]
    proof: dict[str, Any] = export.proof
    if export.damaged:
        facts.append(("Damaged", "what was proven of this export cannot be read in the library; its files are as they were"))
    if proof.get("text") and proof.keys() >= {"seconds", "tokens"}:
        facts.append(("Proof of loading", "a fresh process loaded this folder with plain transformers, and the character said in "
                                          f"{proof['seconds']:.1f} s ({proof['tokens']} tokens): "
                                          f"<q>{html.escape(proof['text'])}</q>"))
    facts += _engine_facts(export)
    facts.append(("In Python", f"<code>AutoModelForCausalLM.from_pretrained({html.escape(repr(str(folder)))})</code>"))
    facts.append(("In a terminal", f"<code>python -m engine chat {html.escape(str(folder))}</code>"))
    return _facts(facts)


def _engine_facts(export: Export) -> list[tuple[str, str]]:
    """The GGUF files with their proofs, and the engines' folders with the page that each has."""
    facts = []
    for one in export.proof.get("files", []):
        facts.append((f"GGUF {html.escape(one['type'])}", f"{words.size(one['bytes'])} · loaded by llama.cpp, which gave "
                                                          f"{html.escape(_agreement(one))}"))
    for engine in export.proof.get("engines", []):
        target = TARGETS.get(engine)  # the library may have exports for a target that is gone
        text = f"<code>{html.escape(engine)}/{target.start}</code> {target.hint}" if target else html.escape(engine)
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
