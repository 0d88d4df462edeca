"""python -m benchmarks samples: one answer of Pim by each model, for the shelf of models; the first, whatever it is.

All are asked the same with the same seed, by the weights that speak in Play; assets/samples.json keeps what was answered.
"""

import argparse
import dataclasses
import sys

from engine.base.errors import UserError
from engine.base.files import write_json
from engine.base.sampling import DEFAULTS
from engine.base.shelf import SAMPLES, Sample, read_samples
from engine.cards.card import find_bundled
from engine.serving.requests import Request
from engine.serving.speaking import speak
from engine.serving.steps import Loop
from engine.serving.voices import Voices

CHARACTER, QUESTION, SEED = "pim-tuckett", "Who are you, and what do you do all day?", 0


def run(options: argparse.Namespace) -> int:
    """Ask each model, and put its answer in the place of its former one."""
    found = dict(read_samples())
    for model in options.models:
        print(f"asking {model} ...", file=sys.stderr)
        found[model] = ask(model)
        print(f"{model}, {found[model].type}: {found[model].answer}")
        write_json(SAMPLES, [dataclasses.asdict(found[name]) for name in sorted(found)])
    return 0


def ask(model: str) -> Sample:
    """What a model answers. Raises UserError, also where it answers nothing."""
    card, voices, loop = find_bundled(CHARACTER), Voices(keep=1, slots=1), Loop()
    turns = (("assistant", card.greeting), ("user", QUESTION))
    request = Request("speak", 0, model, card, turns, sampling=dataclasses.replace(DEFAULTS, seed=SEED))
    try:
        *_, ended = filter(None, loop.each(speak(request, voices)))
    finally:
        voices.close()
        loop.close()
    if not ended["text"].strip():
        raise UserError(f"{model} answers nothing.")
    return Sample(model, ended["type"], card.char, QUESTION, SEED, ended["text"].strip())
