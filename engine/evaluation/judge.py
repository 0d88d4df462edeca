"""A judge for what no rule can decide: any server that speaks OpenAI's chat completions and gives log-probabilities.

One token is asked for at temperature 0, with its 20 likeliest alternatives; the score is the mean of the numbers from 0
to 100 among them, weighted by their probabilities. Where less than a quarter of the probability is on numbers, the
judge did not understand and its answer is rejected. Of a pair both orders are asked, since judges favour a position. Sources:
G-Eval (Liu et al. 2023) for the weighted score, Zheng et al. 2023 for the position bias.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import openai

from engine.base.errors import UserError
from engine.models.server import api_key, check_address, open_client

KEY_VARIABLES = ("PERSONA_STUDIO_JUDGE_KEY", "OPENAI_API_KEY")  # the first that is set counts
LEAST_MASS = 0.25  # of the probability that must be on numbers
ALTERNATIVES = 20
PASSING = 50.0  # points from which a rule counts as kept
_TIMEOUT, _RETRIES = 60.0, 2  # seconds a request; tries after the first
_LONGEST = 8000  # characters of one text of a request
_NUMBER = frozenset("0123456789")

_GRADER = ("You grade replies of a character in a game. You get the character, what was said, and what a good reply does. "
           "Judge only that. Write nothing but one whole number.")
_SCALE = "How well does the character's last reply do this? 0 means not at all, 50 half and half, 100 fully. The number:"
_PAIR = "How much better is reply A than reply B? 0 means B is far better, 50 they are alike, 100 A is far better. The number:"


@dataclass(frozen=True)
class Score:
    """`points`, 0 to 100; None where the judge's answer was rejected, and `reason` says why. `mass`: probability on numbers."""

    points: float | None
    mass: float
    reason: str = ""


class Judge:
    """A model of a server. The key comes from the environment. Raises UserError for an address that cannot be one."""

    def __init__(self, url: str, model: str) -> None:
        check_address(url, "judge", KEY_VARIABLES[0])
        if not model.strip():
            raise UserError("The judge's model has no name.", "Give the name of one that the server offers.")
        self.url, self.model = url, model
        self._client = open_client(url, api_key(KEY_VARIABLES), _TIMEOUT, _RETRIES)

    def score(self, persona: str, said: Sequence[tuple[str, str]], criterion: str) -> Score:
        """How well the last reply does what `criterion` says. `said`: (name, text) in order, the character's reply last.

        Raises UserError where the server cannot be used.
        """
        return self._ask(f"{_setting(persona, said, criterion)}\n\n{_SCALE}")

    def compare(self, persona: str, said: Sequence[tuple[str, str]], first: str, second: str, criterion: str) -> Score:
        """How much better `first` answers than `second`: 50 means alike; the mean of both orders. `said`: what came before."""
        forth, back = (self._ask(f"{_setting(persona, said, criterion)}\n\nReply A:\n{_cut(a)}\n\nReply B:\n{_cut(b)}\n\n{_PAIR}")
                       for a, b in ((first, second), (second, first)))
        if forth.points is None or back.points is None:
            return Score(None, min(forth.mass, back.mass), forth.reason or back.reason)
        return Score((forth.points + 100 - back.points) / 2, min(forth.mass, back.mass))

    def close(self) -> None:
        """End the connections."""
        self._client.close()

    def _ask(self, text: str) -> Score:
        messages: Any = [{"role": "system", "content": _GRADER}, {"role": "user", "content": text}]
        server = f"The judge at {self.url}"
        try:
            reply = self._client.chat.completions.create(model=self.model, messages=messages, temperature=0, max_tokens=1,
                                                         logprobs=True, top_logprobs=ALTERNATIVES)
            logprobs = reply.choices[0].logprobs
            found = logprobs.content[0].top_logprobs if logprobs and logprobs.content else None
            pairs = [(str(one.token), float(one.logprob)) for one in found] if found else []
        except openai.APIError as error:
            raise _explained(server, self.model, error) from None  # the error holds the request, and with it the key
        except (ValueError, AttributeError, LookupError, TypeError):
            raise UserError(f"{server} does not answer like a chat completion server.",
                            "Check the address; it usually ends in /v1.") from None
        if not pairs:
            raise UserError(f"{server} gives no log-probabilities, so it cannot judge.", "Choose a server and model that do.")
        return read_score(pairs)


def read_score(alternatives: Iterable[tuple[str, float]]) -> Score:
    """The score that the alternatives of one token stand for: (token, natural logarithm of its probability).

    Rejected where less than LEAST_MASS of the probability is on whole numbers from 0 to 100, and where all of these have
    a single digit: then the judge writes numbers digit by digit, and its first token is not the number.
    """
    numbers = [(token.strip(), math.exp(min(logprob, 0.0))) for token, logprob in alternatives if _is_points(token.strip())]
    mass = sum(probability for _, probability in numbers)
    if not mass >= LEAST_MASS:
        return Score(None, mass, f"The judge did not answer with a number (only {mass:.0%} of its probability was on one).")
    if all(len(token) == 1 for token, _ in numbers):
        return Score(None, mass, "The judge writes numbers digit by digit, so one token is not a score.")
    return Score(sum(int(token) * probability for token, probability in numbers) / mass, mass)


def _is_points(token: str) -> bool:
    return 0 < len(token) <= 3 and set(token) <= _NUMBER and int(token) <= 100


def _setting(persona: str, said: Sequence[tuple[str, str]], criterion: str) -> str:
    talk = "\n".join(f"{name}: {_cut(text)}" for name, text in said)
    return f"The character:\n{_cut(persona)}\n\nWhat was said:\n{talk}\n\nWhat a good reply does:\n{_cut(criterion)}"


def _cut(text: str) -> str:
    return text.strip()[:_LONGEST]


def _explained(server: str, model: str, error: openai.APIError) -> UserError:
    """The error for a user. The server's own words are left out: careless ones repeat the key."""
    status = getattr(error, "status_code", None)
    if isinstance(error, openai.APITimeoutError):
        return UserError(f"{server} did not answer in {_TIMEOUT:.0f} seconds.")
    if isinstance(error, openai.APIConnectionError):
        return UserError(f"{server} cannot be reached.", "Check that the server runs, and its address and port.")
    if status in (401, 403):
        return UserError(f"{server} refuses the API key.", f"Set the variable {' or '.join(KEY_VARIABLES)}.")
    if status == 404:
        return UserError(f"{server} has no model named {model}.", "Check the model's name, and that the address ends in /v1.")
    return UserError(f"{server} rejects the request (status {status})." if status else f"{server} sent an error.")
