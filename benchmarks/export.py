"""python -m benchmarks export: what GGUF files of a pruned model cost and are worth, beside the dense model's.

Times and sizes of all types, the proof of each, and tokens a second of the dense and the pruned model in llama.cpp and in
transformers, in turn within one run. Without a pruned folder it cuts the quarter of channels with the smallest weights:
a poor character, and as fast a one as any.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.meter import drain
from benchmarks.speed import CONTEXT, decode_seconds
from engine.base.files import folder_size, write_json
from engine.base.ids import StageId
from engine.cards.card import bundled_files
from engine.export.gguf_proof import ask, prove_files
from engine.export.gguf_tensors import parse_types
from engine.export.gguf_writer import write_gguf
from engine.models.ffn import feed_forwards
from engine.models.loading import load_model, load_tokenizer, locate
from engine.pruning.cutting import cut
from engine.pruning.importance import magnitude_scores, top_channels
from engine.running import print_table

WANTED_SECONDS = 180  # for all types with their proofs, of the starter
CHARACTER = "pim-tuckett"


def run(options: argparse.Namespace) -> int:
    """Measure, print the tables, and write the figures if asked to."""
    types = parse_types(options.types)
    source = drain(locate(options.model))
    with tempfile.TemporaryDirectory(prefix="bench-export-") as name:
        work = Path(name)
        folder = Path(options.folder) if options.folder else make_cut(source, work / "pruned")
        figures: dict[str, Any] = {"model": options.model, "pruned": options.folder or "quick cut",
                                   "threads": torch.get_num_threads()}
        figures |= measure_files(folder, types, work)
        _say("the dense model's files")
        dense = {type: work / f"dense-{type}.gguf" for type in types}
        for type, file in dense.items():
            drain(write_gguf(source.folder, file, type))
            figures["types"][type]["dense_bytes"] = file.stat().st_size
        figures["speed"] = {type: measure_pair(dense[type], work / f"{type}.gguf", options.rounds) for type in types}
        _say("transformers")
        figures["transformers"] = measure_transformers(source, drain(locate(str(folder))), options.rounds)
    show(figures)
    if options.json:
        write_json(Path(options.json), figures)
    return 0


def make_cut(source: Any, folder: Path) -> Path:
    """A model folder without a quarter of its FFN channels, with a bundled character's card."""
    model = load_model(source, torch.bfloat16)
    scores = magnitude_scores(model)
    kept = top_channels(scores, feed_forwards(model)[0].size * 3 // 4)
    small: Any = cut(model, [torch.nonzero(row).flatten() for row in kept])
    small.save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)
    (folder / "character.json").write_bytes(bundled_files()[CHARACTER].read_bytes())
    return folder


def measure_files(folder: Path, types: list[str], work: Path) -> dict[str, Any]:
    """Seconds, bytes and proof of every type."""
    start, spent, found = time.perf_counter(), _processor_seconds(), {}
    for type in types:
        _say(f"write {type}")
        report = drain(write_gguf(folder, work / f"{type}.gguf", type))
        found[type] = {"write_seconds": report.seconds, "bytes": report.bytes, "notes": report.notes}
    written = time.perf_counter() - start
    _say("the proofs")
    for type, proof in drain(prove_files(folder, {type: work / f"{type}.gguf" for type in types})).items():
        found[type]["proof"] = vars(proof)
    return {"types": found, "write_seconds": written, "seconds": time.perf_counter() - start,
            "processor_seconds": _processor_seconds() - spent, "folder_bytes": folder_size(folder)}


def measure_pair(dense: Path, pruned: Path, rounds: int) -> dict[str, float]:
    """Tokens a second and memory of two files in llama.cpp, in turn, each time in a fresh process; medians."""
    _say(f"speed of {pruned.stem}")
    prompt = [[number + 100 for number in range(CONTEXT)]]
    read = lambda file: drain(ask("llama_cpp", {"do": "speed", "file": str(file), "prompts": prompt}, StageId.SPEED))
    pairs = [(read(dense), read(pruned)) for _ in range(rounds)]
    median = lambda name, side: statistics.median(pair[side][name] for pair in pairs)
    return {"dense": median("tokens_per_second", 0), "pruned": median("tokens_per_second", 1), "rounds": rounds,
            "speedup": statistics.median(small["tokens_per_second"] / large["tokens_per_second"] for large, small in pairs),
            "dense_memory": median("memory_bytes", 0), "pruned_memory": median("memory_bytes", 1)}


def measure_transformers(dense: Any, pruned: Any, rounds: int) -> dict[str, Any]:
    """Tokens a second of both models as the studio's chats compute them, by number format."""
    found = {}
    for name, dtype in (("F32", torch.float32), ("BF16", torch.bfloat16)):
        models = [load_model(source, dtype) for source in (dense, pruned)]
        pairs = [[decode_seconds(model) for model in models] for _ in range(rounds)]
        found[name] = {"dense": 1 / statistics.median(pair[0] for pair in pairs), "rounds": rounds,
                       "pruned": 1 / statistics.median(pair[1] for pair in pairs),
                       "speedup": statistics.median(pair[0] / pair[1] for pair in pairs)}
    return found


def show(figures: dict[str, Any]) -> None:
    """Print two tables and the whole time beside the one wanted."""
    rows = []
    for type, one in figures["types"].items():
        proof = one["proof"]
        rows.append([type, f"{one['bytes'] / 1e6:,.0f} MB", f"{one['dense_bytes'] / 1e6:,.0f} MB", f"{one['write_seconds']:.1f} s",
                     f"{proof['same']} of {proof['tokens']}", str(proof["ties"]), f"{proof['kl']:.2g}", str(proof["prompts"])])
    print_table(f"{figures['model']}, pruned: {figures['pruned']}, {figures['threads']} threads",
                ["type", "size", "dense", "written in", "same next token", "ties", "KL, nats", "texts"], rows)
    lines = [["llama.cpp", type, *_speeds(one), f"{one['dense_memory'] / 1e6:,.0f} MB", f"{one['pruned_memory'] / 1e6:,.0f} MB",
              str(one["rounds"])] for type, one in figures["speed"].items()]
    lines += [["transformers", type, *_speeds(one), "", "", str(one["rounds"])] for type, one in figures["transformers"].items()]
    print_table("Tokens a second, medians",
                ["by", "type", "dense", "pruned", "pruned / dense", "memory, dense", "pruned", "rounds"], lines)
    print(f"All types with proof: {figures['seconds']:.0f} s (wanted, of the starter: at most {WANTED_SECONDS} s); "
          f"{figures['write_seconds']:.0f} s of it writing; {figures['processor_seconds']:.0f} s of processor time.")


def _speeds(one: dict[str, float]) -> list[str]:
    return [f"{one['dense']:.1f}", f"{one['pruned']:.1f}", f"{one['speedup']:.2f}"]


def _processor_seconds() -> float:
    """What this process and its ended children have computed, over all cores; on a busy machine it says more than the clock."""
    return sum(os.times()[:4])


def _say(what: str) -> None:
    print(f"measuring {what} ...", file=sys.stderr)
