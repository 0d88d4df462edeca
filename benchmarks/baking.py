"""python -m benchmarks baking: what a baked character's short prompt saves in llama.cpp, beside the whole card.

Seconds to the first token of a conversation whose prompt nobody has read yet, and the keys and values that it begins with. Both
follow from the length of the prompt, so that one file serves for both: whole and short in turn, medians of pairs.
"""

import argparse
import json
import statistics
import sys
import time
from typing import Any

from engine.base.errors import UserError
from engine.base.files import write_json
from engine.cards.baked import bake
from engine.cards.card import Card, find_bundled
from engine.cards.prompt import messages
from engine.export.llama_cpp import Server
from engine.models.chat_format import encode_chat
from engine.models.loading import load_tokenizer, locate
from engine.running import print_table
from engine.serving.files import gguf_file
from engine.serving.gguf_header import read_header
from engine.serving.llama import token_bytes

QUESTIONS = ("Who are you, and what do you do all day?", "What are you afraid of, and why?", "Who taught you what you know?",
             "What would you do with a hundred coins?", "Where would you hide, if somebody came?")


def run(options: argparse.Namespace) -> int:
    """Measure, print the table, and write the figures if asked to."""
    file = gguf_file(options.model)
    if file is None:
        raise UserError(f"There is no GGUF file for {options.model} yet.", f"python -m engine gguf {options.model}")
    tokenizer = load_tokenizer(_source(options.model))
    server, bytes_a_token = Server(str(file), 2048, 1, exact=False), token_bytes(read_header(file))
    figures: dict[str, Any] = {"model": options.model, "file": file.name, "rounds": options.rounds, "characters": {}}
    for name in options.characters:
        print(f"measuring {name} ...", file=sys.stderr)
        figures["characters"][name] = measure(server, tokenizer, find_bundled(name), options.rounds, bytes_a_token)
    print_table(f"{options.model} ({file.name})", ["character", "tokens", "first token", "times sooner", "keys and values"], [
        [name, f"{one['whole_tokens']} / {one['short_tokens']}", f"{one['whole_seconds']:.3f} / {one['short_seconds']:.3f} s",
         f"{one['times_sooner']:.1f} (wanted: 5)", f"{one['memory_ratio']:.3f} (wanted: .1)"]
        for name, one in figures["characters"].items()])
    print(json.dumps(figures, indent=2))
    if options.json:
        write_json(options.json, figures)
    return 0


def _source(model: str) -> Any:
    search = locate(model)
    while True:
        try:
            next(search)
        except StopIteration as end:
            return end.value


def measure(server: Server, tokenizer: Any, card: Card, rounds: int, bytes_a_token: int) -> dict[str, float]:
    """The figures of a card: `tokens` before the player's first words, seconds to the first token of a reply to a question."""
    cards = {"whole": card, "short": bake(card)}
    encoded = {(name, question): encode_chat(tokenizer, messages(one, [("user", question)]))
               for name, one in cards.items() for question in QUESTIONS}
    opening = {name: len(encode_chat(tokenizer, messages(one, [("user", "")]))) for name, one in cards.items()}
    seconds: dict[str, list[float]] = {"whole": [], "short": []}
    for number in range(rounds * len(QUESTIONS) + 1):  # the first pair warms up
        for name in cards:
            start = time.perf_counter()
            server.complete(encoded[name, QUESTIONS[number % len(QUESTIONS)]], 1, cache_prompt=False)
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {**{f"{name}_tokens": size for name, size in opening.items()},
            **{f"{name}_seconds": statistics.median(found) for name, found in seconds.items()},
            "times_sooner": statistics.median(one / two for one, two in zip(*seconds.values(), strict=True)),
            "pairs": len(seconds["short"]), "memory_ratio": opening["short"] / opening["whole"],
            **{f"{name}_memory_bytes": size * bytes_a_token for name, size in opening.items()}}
