"""What the studio itself costs: python -m benchmarks studio

Prints raw figures with how many samples they rest on. Speed is measured here and asserted nowhere: whatever else runs on
the machine moves every figure but the bytes.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import psutil

from benchmarks.studio.polling import measure_polling
from benchmarks.studio.tabs import measure_tabs, running_studio
from benchmarks.studio.watching import measure_watching, watching_words
from engine.base.files import data_folder, write_json
from engine.cards.card import bundled_cards
from studio.settings import Settings
from studio.workers.speech import Speech

Figures = dict[str, Any]


def measure_start(samples: int = 3) -> Figures:
    """Seconds from starting `python app.py` until it has answered GET /; the first sample makes the library as well."""
    seconds, loaded = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(samples):
            with running_studio(Path(folder)) as (process, _, took):
                seconds.append(took)
                maps = [one.path for one in psutil.Process(process.pid).memory_maps()]
                loaded.append(any("torch" in path for path in maps))
    return {"seconds": seconds, "torch_is_loaded": any(loaded), "samples": samples}


def measure_speech(pairs: int = 5, limit: int = 12, model: str = "") -> Figures:
    """Seconds to the first token of a chat's first and second answer, each pair by a fresh chat worker.

    The worker's own time: without loading the model. `model`: a folder; "" for the starter, where it is on this machine,
    else a tiny random model.
    """
    found: Figures = {"pairs": []}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        if not model and any((data_folder() / "models").glob("starter*/config.json")):
            (home / "models").symlink_to(data_folder() / "models")
            model = "starter"
        elif not model:
            from tests.tiny import make_tiny

            model = str(make_tiny(home / "tiny", max_position_embeddings=8192))
        found["model"] = model if model == "starter" else f"{Path(model).name} (a random model)"
        card = max((card.raw for card in bundled_cards()), key=lambda raw: len(raw["data"]["description"]))
        for number in range(pairs):
            speech = Speech(Settings(home))
            try:
                found["pairs"].append(_two_turns(speech, model, card, limit, number))
            finally:
                speech.close()
    return found


def _two_turns(speech: Any, model: str, card: dict[str, Any], limit: int, seed: int) -> Figures:
    turns, measures = [("user", "Who are you, and what do you want here?")], []
    for question in ("And what happened then? Tell me everything.", ""):
        reply = speech.ask(model, card, turns, {"temperature": 0.7, "limit": limit, "seed": seed}, "Player")
        if not reply.wait(600) or reply.reason == "failed":
            raise RuntimeError(reply.sentence or "no answer")
        measures.append(reply.measures)
        turns = [*turns, ("assistant", reply.text), ("user", question)]
    return {name: {"first_token": one["first_token"], "prompt": one["prompt_tokens"], "reused": one["reused_tokens"]}
            for name, one in zip(("first", "second"), measures, strict=True)}


def _start_words(found: Figures) -> str:
    seconds = ", ".join(f"{one:.2f}" for one in found["seconds"])
    return (f"start to first page: {seconds} s ({found['samples']} starts, the first one makes the library); "
            f"torch is {'loaded' if found['torch_is_loaded'] else 'not loaded'} in the studio's process")


def _polling_words(found: Figures) -> str:
    rows = [f"polling (sidebar and Prune room, {found['samples']} polls each)"]
    for what, words in (("nothing", "nothing new"), ("one", "one event new")):
        parts = []
        for number, key in (("few", "after_few"), ("many", "after_many")):
            one = found[key][what]
            parts.append(f"after {found[number]:,} events {1e3 * one['median']:.2f} ms (least {1e3 * one['least']:.2f}), "
                         f"{one['bytes']:,} bytes read")
        ratios = found["ratios"][what]
        rows.append(f"  {words}: {'; '.join(parts)}; ratio {ratios['median']:.2f} of the medians, {ratios['least']:.2f} of the "
                    "least, wanted 1")
    return "\n".join(rows)


def _tabs_words(found: Figures) -> str:
    rows = [f"{found['tabs']} tabs in the {found['room'].capitalize()} room watch one job on {found['cores']} cores"]
    for pair in found["pairs"]:
        alone, watched = pair["alone"], pair["watched"]
        rows.append(f"  alone {alone['seconds']:.3f} s a step ({alone['steps']} steps), watched {watched['seconds']:.3f} s "
                    f"({watched['steps']} steps): {pair['slower_percent']:+.1f} %; the studio used {alone['studio_cpu']:.3f} and "
                    f"{watched['studio_cpu']:.3f} processor seconds a second ({watched['tabs_cpu']:.3f} went into playing the "
                    f"tabs); {watched['messages']:.0f} messages and {watched['bytes'] / 1e3:.0f} kB a second")
    slower = [pair["slower_percent"] for pair in found["pairs"]]
    used, idle, played = (statistics.median(pair[when][name] for pair in found["pairs"]) for when, name in (
        ("watched", "studio_cpu"), ("alone", "studio_cpu"), ("watched", "tabs_cpu")))
    rows.append(f"  slower by {statistics.median(slower):.1f} % (median of {len(slower)} pairs, from {min(slower):.1f} to "
                f"{max(slower):.1f}), wanted below 3 %; the studio took {used / found['cores']:.1%} of the machine, "
                f"{idle / found['cores']:.1%} with nobody watching; playing the tabs took {played / found['cores']:.1%}")
    return "\n".join(rows)


def _speech_words(found: Figures) -> str:
    rows = [f"first token in Play, {found['model']}, a fresh worker for each pair, loading left out"]
    for pair in found["pairs"]:
        rows.append("  " + ", ".join(f"{name} turn {one['first_token']:.2f} s ({one['reused']:,} of {one['prompt']:,} tokens "
                                     "reused)" for name, one in pair.items()))
    ratios = [pair["second"]["first_token"] / pair["first"]["first_token"] for pair in found["pairs"]]
    rows.append(f"  second over first {statistics.median(ratios):.2f} (median of {len(ratios)} pairs, from {min(ratios):.2f} to "
                f"{max(ratios):.2f}), wanted .5 at most")
    return "\n".join(rows)


PARTS: dict[str, Any] = {"start": (measure_start, _start_words), "polling": (measure_polling, _polling_words),
                         "tabs": (measure_tabs, _tabs_words), "speech": (measure_speech, _speech_words),
                         "watching": (measure_watching, watching_words)}


def run(options: argparse.Namespace) -> int:
    """Measure, print, and write the JSON file where one is asked for."""
    found: Figures = {"load_before": os.getloadavg()}
    load = ", ".join(f"{one:.1f}" for one in found["load_before"])
    print(f"load of the machine before (1, 5, 15 minutes): {load} on {psutil.cpu_count()} cores", flush=True)
    for name in options.only or PARTS:
        measure, words = PARTS[name]
        found[name] = measure()
        print(words(found[name]), flush=True)
    if options.json:
        write_json(options.json, found)
    return 0
