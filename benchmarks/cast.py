"""python -m benchmarks cast: what one more character costs in a bank, and gather over copying, as ratios.

Sixteen characters are made in seconds: masks by Wanda on the bundled cards' own
text, and corrections of the rank that a real one has, with random numbers, which
bytes and times do not depend on. How good a correction is, --run measures: an
exported folder, with the lines of its run; KL to the dense model of the
folder itself, of its character in a bank, and of the mask without a correction.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.meter import drain
from engine.base.errors import UserError
from engine.base.files import write_json
from engine.base.sizes import BANK_BYTES, ModelShape, largest_rank
from engine.calibration.lines import held_out, read_lines
from engine.calibration.rewriting import Voice, encode_line
from engine.cards.card import Card, bundled_cards
from engine.cards.prompt import messages
from engine.cast.bank import Bank, Entry, encode_bank
from engine.cast.building import make_entry, read_run
from engine.cast.delta import Delta, without_correction
from engine.cast.dense import Dense, gather, load_dense
from engine.evaluation.fidelity import dense_states, measure
from engine.models.chat_format import encode_chat
from engine.models.ffn import feed_forwards
from engine.models.loading import load_model, locate
from engine.models.packing import Example, pack
from engine.pruning.importance import read_activations, top_channels, wanda_scores
from engine.running import print_table

CHARACTERS = 16
ROUNDS = 3
QUESTION = "Who are you, and what do you want from me?"
STEP = 1e-6  # of a made-up correction's factors: one to two percent of W_down
KEPT = 0.75


def run(options: argparse.Namespace) -> int:
    """Measure, print the table, and write the figures if asked to."""
    if options.run and not options.lines:  # said now rather than after all the work
        raise UserError("The fidelity of a run needs the lines that it did not learn from.",
                        "Add --lines: lines.jsonl of its work folder.")
    dense = drain(load_dense(options.model, "fp32"))  # equal text is asked for
    cards = [bundled_cards()[number % len(bundled_cards())] for number in range(CHARACTERS)]
    entries = [_make_up(dense, card, number) for number, card in enumerate(cards)]
    figures: dict[str, Any] = {"model": options.model, "threads": torch.get_num_threads(), "rows": CHARACTERS}
    for what, part in (("bytes", lambda: measure_bytes(dense, entries)), ("gather", lambda: measure_gather(dense, entries)),
                       ("fidelity", lambda: measure_fidelity(dense, options))):
        print(f"measuring {what} ...", file=sys.stderr)
        figures |= part()
    _print(figures)
    if options.json:
        write_json(Path(options.json), figures)
    return 0


def _print(figures: dict[str, Any]) -> None:
    rows = [["a character on disk, MB", figures["bank_bytes"] / 1e6, f"at most {BANK_BYTES / 1e6:g}"],
            ["gather, over copying its bytes: time", figures["gather_ratio"], "at most 2"],
            ["the same, processors' time", figures["gather_processor_ratio"], "at most 2"]]
    rows += [[f"KL to the dense model: {name}", one["kl"], ""] for name, one in figures.get("fidelity", {}).items()]
    print_table(f"{figures['model']}, {figures['threads']} threads, rank {figures['rank']}", ["figure", "measured", "wanted"],
                [[name, f"{value:.4g}", wanted] for name, value, wanted in rows])
    print(json.dumps(figures, indent=2))


@torch.inference_mode()
def _make_up(dense: Dense, card: Card, number: int) -> Entry:
    """A character in a second: Wanda's mask on the card's own prompt, and a correction of random numbers."""
    opening = messages(card, [("user", f"{QUESTION} {number}")])
    tokens = tuple(encode_chat(dense.tokenizer, opening))
    (_, _, norms), = read_activations(dense.model, pack([Example(tokens)], len(tokens)))
    mask = top_channels(wanda_scores(dense.model, norms), round(KEPT * dense.shape[2]))
    plain = without_correction(mask, dense.shape[1])
    shape = ModelShape(*dense.shape, sum(weights.numel() for weights in dense.model.parameters()))
    rank = largest_rank(shape, plain.kept, len(json.dumps(card.raw)) + 10_000)
    draw = torch.Generator().manual_seed(number)
    numbers = lambda *sizes: torch.randint(-127, 128, sizes, generator=draw).to(torch.int8)
    layers, kept = len(mask), plain.kept
    delta = Delta(plain.mask, numbers(layers, kept), torch.full((layers,), 0.1 / 127), numbers(layers, rank, dense.shape[1]),
                  numbers(layers, rank, kept), torch.full((layers, rank), STEP))
    return Entry(f"character-{number}", card.raw, opening[:-1], {"character": card.char}, delta)


def measure_bytes(dense: Dense, entries: Sequence[Entry]) -> dict[str, float]:
    """What the last of the characters costs in the file."""
    size = lambda count: len(encode_bank(Bank(dense.base, dense.shape, tuple(entries[:count]))))
    return {"rank": entries[0].delta.rank, "bank_bytes": size(CHARACTERS) - size(CHARACTERS - 1)}


@dataclass(frozen=True)
class Took:
    """Seconds on the clock, and of the processors: other programs disturb these less."""

    wall: float
    processor: float

    @staticmethod
    def of(work: Callable[[], Any]) -> "Took":
        """What a call takes."""
        start, busy = time.perf_counter(), time.process_time()
        work()
        return Took(time.perf_counter() - start, time.process_time() - busy)


def ratios(name: str, pairs: Sequence[tuple[Took, Took]]) -> dict[str, float]:
    """The medians of the pairs' ratios, by the clock and by the processors."""
    return {f"{name}_ratio": statistics.median(one.wall / other.wall for one, other in pairs),
            f"{name}_processor_ratio": statistics.median(one.processor / other.processor for one, other in pairs)}


def measure_gather(dense: Dense, entries: Sequence[Entry]) -> dict[str, float]:
    """Milliseconds of gathering a character and of copying the bytes that this makes, in turn, and the ratios."""
    ready = [weights for ffn in feed_forwards(gather(dense.model, entries[0].delta)) for weights in ffn.module.parameters()]
    pairs = []
    for entry in entries[: 2 * ROUNDS + 1]:
        copied = Took.of(lambda: [weights.clone() for weights in ready])
        pairs.append((Took.of(partial(gather, dense.model, entry.delta)), copied))
    pairs = pairs[1:]
    gathered, copied_wall = (1000 * statistics.median(pair[side].wall for pair in pairs) for side in (0, 1))
    return {**ratios("gather", pairs), "gather_milliseconds": gathered, "copy_milliseconds": copied_wall,
            "gather_bytes": sum(weights.nbytes for weights in ready), "gather_pairs": len(pairs)}


def measure_fidelity(dense: Dense, options: argparse.Namespace) -> dict[str, Any]:
    """KL of an exported folder, of its character in a bank, and of its mask alone, on the run's test lines."""
    if not options.run:
        return {}
    made = read_run(Path(options.run))
    own, taken = (drain(make_entry(dense, made, "measured", lines)) for lines in (read_lines(Path(options.lines)), ()))
    rows = _test_rows(dense, made.card, Path(options.lines))
    states = dense_states(dense.model, rows)
    plain = without_correction(own.delta.mask, dense.shape[1])
    readings = {"the exported folder": _folder_model(options.run, dense),
                "in the bank, with the run's lines": gather(dense.model, own.delta),
                "in the bank, without": gather(dense.model, taken.delta),
                "its mask, nothing corrected": gather(dense.model, plain)}
    return {"fidelity": {name: vars(measure(model, rows, states)) for name, model in readings.items()},
            "fidelity_rank": own.delta.rank, "fidelity_left_out": own.report["bank"]["left_out"],
            "fidelity_bank_bytes": own.bytes}


def _test_rows(dense: Dense, card: Card, lines: Path) -> list[Any]:
    voice = Voice.of(card, dense.tokenizer)
    _, test, _ = held_out(read_lines(lines), 16, 40)
    return pack([encode_line(dense.tokenizer, voice, one.question, one.answer, one.complete) for one in test], 1536)


def _folder_model(folder: str, dense: Dense) -> Any:
    return load_model(drain(locate(folder)), dense.model.dtype)
