"""python -m benchmarks loops: how often an answer runs in circles in a long conversation, model by model.

Each conversation asks 20 lines of the test side of the pool, one after the other, and hears all answers so far; the same lines and
seeds for every model, without samplers against repetition. What counts is what the measure of that name counts: an answer that
runs in circles, or of which half was in an earlier answer.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.files import is_file, write_json
from engine.base.looping import is_looping
from engine.base.sampling import SamplingParams
from engine.calibration.lines import of_split, read_queries, spread
from engine.cards.card import Card, parse_card
from engine.evaluation.measures.loops import repeats
from engine.evaluation.turns import Turn
from engine.running import print_table
from engine.serving.requests import Request
from engine.serving.speaking import speak
from engine.serving.steps import Loop
from engine.serving.voices import Voices

TURNS = 20
PLAIN = SamplingParams(max_tokens=80, repeat_penalty=1.0, dry_multiplier=0.0)  # samplers would hide loops


def run(options: argparse.Namespace) -> int:
    """Measure, print the table, and write the figures if asked to."""
    first = next((Path(one) / "character.json" for one in options.models if is_file(Path(one) / "character.json")), None)
    if first is None:
        raise UserError("None of the models is a folder that prune wrote.", "Name at least one; the others may be dense models.")
    card = parse_card(first.read_bytes(), str(first))
    figures: dict[str, Any] = {"character": card.name, "turns": TURNS, "conversations": options.conversations, "models": {}}
    for model in options.models:
        print(f"measuring {model} ...", file=sys.stderr)
        figures["models"][model] = measure(model, card, options.conversations)
    print_table(f"{card.name}: answers that loop, of {options.conversations} conversations of {TURNS} turns",
                ["model", "answers", "run in circles", "said before", "either", "tokens"], [
        [name, one["answers"], one["circles"], one["again"], f"{one['share']:.1%}", f"{one['tokens']:,}"]
        for name, one in figures["models"].items()])
    print(json.dumps(figures, indent=2))
    if options.json:
        write_json(options.json, figures)
    return 0


def measure(model: str, card: Card, conversations: int) -> dict[str, Any]:
    """How many answers of a model loop, over all conversations."""
    asked = [one.question for one in spread(of_split(read_queries(), "test"), TURNS * conversations, 0)]
    found = {"answers": 0, "circles": 0, "again": 0, "loops": 0, "tokens": 0}
    voices, loop = Voices(keep=1, slots=1), Loop()
    try:
        for number in range(conversations):
            turns: list[tuple[str, str]] = [("assistant", card.greeting)] if card.greeting.strip() else []
            for turn in range(TURNS):
                turns.append(("user", asked[(number * TURNS + turn) % len(asked)]))
                sampling = replace(PLAIN, seed=1 + number * TURNS + turn)
                request = Request("speak", turn, model, card, tuple(turns), sampling=sampling)
                *pieces, ended = filter(None, loop.each(speak(request, voices)))
                text = ended["text"].strip()
                circles = is_looping("".join(piece["text"] for piece in pieces))  # the whole answer: its text ends before a loop
                again = repeats(Turn(str(turn), 0, turns[-1][1], text, tuple(turns[:-1])))
                found["answers"] += 1
                found["circles"] += circles
                found["again"] += again
                found["loops"] += circles or again
                found["tokens"] += ended["tokens"]
                turns.append(("assistant", text or "..."))
    finally:
        voices.close()
        loop.close()
    return {**found, "share": found["loops"] / found["answers"]}
