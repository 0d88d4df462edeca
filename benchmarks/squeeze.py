"""python -m benchmarks squeeze: what an importance matrix is worth to GGUF files of a pruned character.

KL, in nats a token, of each type to the model's own fp32, on the test lines of its run: without a matrix, with one from neutral
text (player lines with their neutral answers, without a persona), and with one from the character's own train lines, of as many
tokens. The file's bytes are the same three times. Weights are quantised and dequantised as the files' are, see
engine/export/quantized_model.py.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.meter import drain
from engine.base.errors import UserError
from engine.base.files import is_file, read_json, write_json
from engine.base.job import Recipe
from engine.base.questions import split_of
from engine.base.sizes import expected_bytes
from engine.base.weights import known_shapes
from engine.calibration.lines import held_out, read_lines, read_queries
from engine.calibration.rewriting import Voice, encode_line
from engine.cards.card import parse_card
from engine.evaluation.fidelity import compare_lines, dense_states
from engine.export.gguf_tensors import parse_types
from engine.export.importance_matrix import Columns, ColumnSums, some_of
from engine.export.quantized_model import as_quantized
from engine.frontier.reading import Head
from engine.models.chat_format import encode_answer, encode_chat
from engine.models.loading import load_model, load_tokenizer, locate
from engine.models.packing import Example, Row, answer_states, pack, shared_prefix
from engine.running import print_table

WANTED = {"Q4_1": 0.5, "IQ4_NL": 0.5, "Q4_0": 0.35}  # the share of the KL that own lines are to take away


def run(options: argparse.Namespace) -> int:
    """Measure what is missing, print the table, keep the figures."""
    types = parse_types(options.types)
    file = Path(options.json) if options.json else None
    figures: dict[str, Any] = read_json(file) if file and is_file(file) else {}
    for folder, work in options.run or []:
        key = options.name or Path(folder).name
        known = figures.setdefault(key, {"types": {}})
        missing = [type for type in types if type not in known["types"]]
        if missing:
            subject = Subject(Path(folder), Path(work))
            known |= subject.described
            for type in missing:
                known["types"][type] = subject.measure(type)
                if file:
                    write_json(file, figures)
    show(figures)
    return 0


class Subject:
    """A finished folder with the lines of its run, and the two matrices."""

    def __init__(self, folder: Path, work: Path) -> None:
        if not is_file(folder / "report.json") or not is_file(work / "lines.jsonl"):
            raise UserError(f"{folder} is no finished folder, or {work} is no work folder of its run.")
        report = read_json(folder / "report.json")
        recipe = {name: value for name, value in report["recipe"].items() if name in Recipe.model_fields}
        self.shapes = known_shapes(folder)
        source = drain(locate(str(folder)))
        tokenizer, self.model = load_tokenizer(source), load_model(source, torch.float32)
        voice = Voice.of(parse_card((folder / "character.json").read_bytes(), "character.json"), tokenizer)
        lines = read_lines(work / "lines.jsonl")
        _, test, _ = held_out(lines, recipe["validation_lines"], recipe["test_lines"])
        encode = lambda some: [encode_line(tokenizer, voice, one.question, one.answer, one.complete) for one in some]
        train, reporting = encode([line for line in lines if line.split == "train"]), encode(test)
        prefix = shared_prefix([*train, *reporting])
        self.test = pack(reporting, recipe["row_tokens"], prefix)
        self.own_states, self.head = dense_states(self.model, self.test), Head(self.model)
        rows = some_of(pack(train, recipe["row_tokens"], prefix))
        start = time.perf_counter()
        self.matrices: dict[str, Columns] = {"none": {}, "own lines": self._columns(rows)}
        tokens = sum(row.size for row in rows)
        self.described = {"character": report["character"], "base": report["base"]["name"], "sparsity": recipe["sparsity"],
                     "test_lines": len(test), "matrix_tokens": tokens, "matrix_seconds": time.perf_counter() - start}
        neutral = [Example(tuple(encode_chat(tokenizer, [{"role": "user", "content": one.question}])),
                           tuple(encode_answer(tokenizer, one.neutral, True)))
                   for one in read_queries() if one.neutral and split_of(one.question) == "train"]
        self.matrices["neutral text"] = self._columns(_up_to(pack(neutral, recipe["row_tokens"]), tokens))

    def measure(self, type: str) -> dict[str, Any]:
        """KL of a type with each matrix."""
        found: dict[str, Any] = {"bytes": expected_bytes(self.shapes, type)}
        for name, columns in self.matrices.items():
            with as_quantized(self.model, type, columns), torch.inference_mode():
                states = answer_states(self.model, self.test)
                reading = compare_lines(self.model, self.test, states, self.own_states, self.head).reading()
            found[name] = {"kl": reading.kl, "top1": reading.top1, "lines": reading.lines, "tokens": reading.tokens}
            print(f"{type}, {name}: KL {reading.kl:.4f}", file=sys.stderr)
        return found

    def _columns(self, rows: Sequence[Row]) -> Columns:
        sums = ColumnSums(self.model.config)
        for _ in sums.read(self.model, rows):
            pass
        return sums.columns()


def _up_to(rows: Sequence[Row], tokens: int) -> list[Row]:
    """The first rows that have so many tokens together."""
    chosen: list[Row] = []
    while rows[len(chosen):] and sum(row.size for row in chosen) < tokens:
        chosen.append(rows[len(chosen)])
    return chosen


def show(figures: dict[str, Any]) -> None:
    """Print a table a run."""
    for key, one in figures.items():
        rows = []
        for type, found in one["types"].items():
            less = 1 - found["own lines"]["kl"] / found["none"]["kl"] if found["none"]["kl"] else 0.0
            wanted = f"at least {WANTED[type]:.0%}" if type in WANTED else ""
            rows.append([type, f"{found['bytes'] / 1e6:,.1f} MB", *(f"{found[name]['kl']:.4f}"
                         for name in ("none", "neutral text", "own lines")), f"{less:.0%}", wanted])
        first = next(iter(one["types"].values()))["none"]
        print_table(f"{key}: {one['character']} on {one['base']}, {one['sparsity']:.0%} removed; KL to its own fp32 on "
                    f"{first['lines']} test lines ({first['tokens']:,} tokens); matrices of {one['matrix_tokens']:,} tokens",
                    ["type", "weights", "no matrix", "neutral text", "own lines", "less than none", "wanted"], rows)
