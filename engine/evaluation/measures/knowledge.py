"""What does the character cost in plain knowledge? Small questions by log-probability, with the character's prompt.

Arithmetic by fixed templates, and facts and short texts to read that were written for this (assets/knowledge.jsonl). Of four
answers the speaker's own model should find the right one likeliest, a token. Nothing is said in a chat. It is not the PSS of
the papers on what a persona costs, whose formula is not public.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from engine.base.events import Step, Stream
from engine.base.files import resource
from engine.base.ids import StageId
from engine.cards.prompt import messages
from engine.evaluation.measure import Evidence, Need, Sample, measure

FILE = resource("assets/knowledge.jsonl")
OPTIONS, TOGETHER = 4, 26  # answers to a question; questions that are read between two steps
SUMS = 48  # questions of arithmetic
QUICK_STEP = 4  # a quick evaluation asks every fourth question
_ASK = "Answer in a word or two."
_PLUS = ("What is {a} plus {b}?", "I have {a} apples and buy {b} more. How many apples do I have?")
_MINUS = ("What is {a} minus {b}?", "There were {a} birds on a roof and {b} flew away. How many are left?")
_TIMES = ("What is {a} times {b}?", "There are {a} carts with {b} barrels each. How many barrels are there?")


@dataclass(frozen=True)
class Problem:
    """A question with the right answer first among four. `text`: what is to be read before it."""

    id: str
    topic: str
    question: str
    options: tuple[str, ...]
    text: str = ""

    @property
    def asked(self) -> str:
        """What the player says."""
        return f"{self.text}\n\n{self.question} {_ASK}".strip()


@measure("knowledge", "Plain knowledge", "The share of small plain questions whose right answer it finds likeliest of four.",
         unit="share of questions", margin=0.05, kinds=(), needs=(Need.MODEL,))
def knowledge(evidence: Evidence) -> Stream[list[Sample]]:
    """1 where the right answer is likelier, a token, than the three others, else 0 (a tie is 0). Chance is .25."""
    chosen = problems()[::QUICK_STEP if evidence.quick else 1]
    if evidence.reader is None:
        return [Sample(one.id, 0, None, "The speaker's model is not at hand.") for one in chosen]
    samples: list[Sample] = []
    for begin in range(0, len(chosen), TOGETHER):
        part = chosen[begin:begin + TOGETHER]
        prompts = [messages(evidence.speaker.card, [("user", one.asked)]) for one in part]
        sums, tokens = evidence.reader.log_likelihoods([prompt for prompt in prompts for _ in range(OPTIONS)],
                                                       [option for one in part for option in one.options])
        likely = (sums / tokens.clamp_min(1)).reshape(len(part), OPTIONS).tolist()
        samples += [Sample(one.id, 0, is_right(found)) for one, found in zip(part, likely, strict=True)]
        yield Step(StageId.ASSESS, len(samples), len(chosen))
    return samples


def is_right(likely: Sequence[float]) -> float:
    """1 where the first of the numbers is the largest, else 0."""
    return float(likely[0] > max(likely[1:]))


@cache
def problems() -> tuple[Problem, ...]:
    """All questions, the three topics in turn; always the same ones."""
    written = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]
    groups: dict[str, list[Problem]] = {"arithmetic": arithmetic()}
    for one in written:
        group = groups.setdefault(one["topic"], [])
        group.append(Problem(f"{one['topic']}-{len(group)}", one["topic"], one["question"], (one["right"], *one["wrong"]),
                             one.get("text", "")))
    longest = max(map(len, groups.values()))
    places = sorted((longest * number // len(group), one.id, one) for group in groups.values() for number, one in enumerate(group))
    return tuple(one for _, _, one in places)


def arithmetic() -> list[Problem]:
    """SUMS questions by templates, with wrong answers nearby."""
    dice, found = random.Random(0), dict[str, Problem]()
    while len(found) < SUMS:
        template = dice.choice((*_PLUS, *_MINUS, *_TIMES))
        a, b = (dice.randint(2, 9), dice.randint(2, 9)) if template in _TIMES else (dice.randint(11, 49), dice.randint(2, 10))
        right = a + b if template in _PLUS else a - b if template in _MINUS else a * b
        wrong = dice.sample([right + step for step in (-10, -3, -2, -1, 1, 2, 3, 10) if right + step > 0], 3)
        question = template.format(a=a, b=b)
        found.setdefault(question, Problem(f"arithmetic-{len(found)}", "arithmetic", question, tuple(map(str, (right, *wrong)))))
    return list(found.values())
