"""python -m benchmarks cast: what a character more costs in a bank, and what gather and masked batch bring, as ratios.

Sixteen characters are made in seconds: masks by Wanda on the bundled cards' own
text, and corrections of the rank that a real one has, with random numbers, for
bytes and times do not ask what a number says. How good a correction is tells
--run, an exported folder with the lines of its run: KL to the dense model of the
folder itself, of its character in a bank, and of the mask without a correction.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.memory import drain
from engine.base.errors import UserError
from engine.base.files import write_json
from engine.base.memory import BANK_BYTES, RESIDENT_BYTES, largest_rank
from engine.base.process import return_freed_memory
from engine.base.sizes import ModelShape
from engine.calibration.lines import read_lines
from engine.calibration.queries import held_out
from engine.calibration.rewriting import Voice, encode_line
from engine.cards.card import Card, bundled_cards
from engine.cards.prompt import messages
from engine.cast.bank import Bank, Entry, encode_bank
from engine.cast.building import make_entry, read_run
from engine.cast.delta import Delta, without_correction
from engine.cast.dense import Dense, load_dense
from engine.cast.gather import gather, gathered_weights
from engine.cast.masked_batch import MaskedBatch, StackedDeltas, answer_together
from engine.console import print_table
from engine.evaluation.fidelity import dense_states, measure
from engine.models.chat_format import encode_chat
from engine.models.ffn import feed_forwards
from engine.models.generation import Conversation
from engine.models.loading import load_model, locate
from engine.models.packing import Example, pack
from engine.models.sampling import Sampling
from engine.pruning.importance import read_activations, top_channels, wanda_scores

CHARACTERS = 16
ROUNDS = 3
ANSWER = 24  # tokens
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
                       ("masked batch", lambda: measure_batch(dense, cards, [one.delta for one in entries])),
                       ("fidelity", lambda: measure_fidelity(dense, options))):
        print(f"measuring {what} ...", file=sys.stderr)
        figures |= part()
    speed = figures["tokens_per_second"]
    speed["gather"] = figures["answer_tokens"] / (figures["answer_tokens"] / speed["standalone"]
                                                  + CHARACTERS * figures["gather_milliseconds"] / 1000)
    _print(figures)
    if options.json:
        write_json(Path(options.json), figures)
    return 0


def _print(figures: dict[str, Any]) -> None:
    resident = f"at most {RESIDENT_BYTES / 1e6:g}"
    rows = [["a character on disk, MB", figures["bank_bytes"] / 1e6, f"at most {BANK_BYTES / 1e6:g}"],
            ["a character in a masked batch, MB, by its tensors", figures["resident_bytes"] / 1e6, resident],
            ["the same, by the process's memory", figures["resident_measured_bytes"] / 1e6, resident],
            ["gather, over copying its bytes: time", figures["gather_ratio"], "at most 2"],
            ["the same, processors' time", figures["gather_processor_ratio"], "at most 2"],
            [f"{CHARACTERS} characters' tokens a second, batch over one by one", figures["batch_ratio"], "at least 6"],
            ["the same, processors' time", figures["batch_processor_ratio"], "at least 6"],
            [f"the same with the question read, {ANSWER} tokens of answer", figures["batch_with_question_ratio"], ""],
            ["rows with the same greedy text", figures["same_text"], f"{CHARACTERS}"]]
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
    """What the last of the characters costs in the file, in the masked batch's tensors, and of the process's memory."""
    size = lambda count: len(encode_bank(Bank(dense.base, dense.shape, tuple(entries[:count]))))
    stacked = lambda count: StackedDeltas([one.delta for one in entries[:count]], torch.device("cpu"))
    process = psutil.Process()
    return_freed_memory()  # or what was freed is used again, and the process does not grow
    before = process.memory_info().rss
    held = stacked(CHARACTERS)
    grown = process.memory_info().rss - before
    config = dense.model.config
    heads = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {"rank": entries[0].delta.rank, "bank_bytes": size(CHARACTERS) - size(CHARACTERS - 1),
            "resident_bytes": held.bytes - stacked(CHARACTERS - 1).bytes, "resident_measured_bytes": grown / CHARACTERS,
            "key_value_bytes_a_token": 2 * dense.shape[0] * config.num_key_value_heads * heads * 4}


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

    def __add__(self, other: "Took") -> "Took":
        return Took(self.wall + other.wall, self.processor + other.processor)


def ratios(name: str, pairs: Sequence[tuple[Took, Took]]) -> dict[str, float]:
    """The medians of the pairs' ratios, by the clock and by the processors."""
    return {f"{name}_ratio": statistics.median(one.wall / other.wall for one, other in pairs),
            f"{name}_processor_ratio": statistics.median(one.processor / other.processor for one, other in pairs)}


def measure_gather(dense: Dense, entries: Sequence[Entry]) -> dict[str, float]:
    """Milliseconds of gathering a character and of copying the bytes that this makes, in turn, and the ratios."""
    ready = [gathered_weights(ffn, entries[0].delta) for ffn in feed_forwards(dense.model)]
    pairs = []
    for entry in entries[: 2 * ROUNDS + 1]:
        copied = Took.of(lambda: [[weights.clone() for weights in layer] for layer in ready])
        pairs.append((Took.of(partial(gather, dense.model, entry.delta)), copied))
    pairs = pairs[1:]
    gathered, copied_wall = (1000 * statistics.median(pair[side].wall for pair in pairs) for side in (0, 1))
    return {**ratios("gather", pairs), "gather_milliseconds": gathered, "copy_milliseconds": copied_wall,
            "gather_bytes": sum(weights.nbytes for layer in ready for weights in layer), "gather_pairs": len(pairs)}


def measure_batch(dense: Dense, cards: Sequence[Card], deltas: Sequence[Delta]) -> dict[str, Any]:
    """Answers of all characters in one masked batch, and of their cut models one after the other, in turn.

    On both sides the personas' prompts are read before. Reading the question, with the first token, is timed apart from
    the tokens that follow.
    """
    opening = [encode_chat(dense.tokenizer, messages(card, []), False) for card in cards]
    prompts = [encode_chat(dense.tokenizer, messages(card, [("user", QUESTION)])) for card in cards]
    sampling = Sampling(frozenset(), ANSWER, 0.0)
    batch = MaskedBatch(dense.model, deltas)
    talks = [Conversation(gather(dense.model, delta)) for delta in deltas]
    for number, beginning in enumerate(opening):
        batch.keep_prefix(number, beginning)
    first: list[tuple[Took, Took]] = []
    rest: list[tuple[Took, Took]] = []
    same = len(cards)
    for _ in range(ROUNDS):
        for talk, beginning in zip(talks, opening, strict=True):
            talk.advance(beginning)  # forgets the former answer
        alone = [_timed_stream(talk.stream(prompt, sampling)) for talk, prompt in zip(talks, prompts, strict=True)]
        together = _timed_stream(answer_together(batch, list(enumerate(prompts)), [sampling] * len(prompts)))
        first.append((sum((one.first for one in alone), Took(0, 0)), together.first))
        rest.append((sum((one.rest for one in alone), Took(0, 0)), together.rest))
        said = [[step[number] for step in together.told] for number in range(len(cards))]
        same = min(same, sum(one.told == other for one, other in zip(alone, said, strict=True)))
    tokens = len(cards) * (ANSWER - 1)
    slow, fast = (statistics.median(pair[side].wall for pair in rest) for side in (0, 1))
    whole = [(one[0] + two[0], one[1] + two[1]) for one, two in zip(first, rest, strict=True)]
    return {**ratios("batch", rest), **ratios("batch_with_question", whole), "same_text": same,
            "tokens_per_second": {"standalone": tokens / slow, "masked batch": tokens / fast}, "answer_tokens": tokens,
            "question_tokens": sum(len(prompt) - len(beginning) for prompt, beginning in zip(prompts, opening, strict=True)),
            "prompt_tokens": sum(map(len, prompts)), "batch_rounds": ROUNDS}


@dataclass(frozen=True)
class _Timed:
    """What a stream yielded, and what its first value and the others took."""

    told: list[Any]
    first: Took
    rest: Took


def _timed_stream(stream: Iterator[Any]) -> _Timed:
    told: list[Any] = []
    first = Took.of(lambda: told.append(next(stream)))
    return _Timed(told, first, Took.of(lambda: told.extend(stream)))


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
