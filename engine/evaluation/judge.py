"""A judge for what no rule can decide: any server that speaks OpenAI's chat completions and gives log-probabilities.

One token is asked for at temperature 0, with its 20 likeliest alternatives; the score is the mean of the numbers from 0
to 100 among them, weighted by their probabilities. Where less than a quarter of the probability is on numbers, the
judge did not understand and its answer is rejected. A choice is read from the options' letters or words in the same way. Of a
pair both orders are asked, and of options each is asked at each place once, since judges favour a position. Sources: G-Eval (Liu
et al. 2023) for the weighted score, Zheng et al. 2023 for the position bias, PriDe (arXiv 2309.03882) for the bias of letters: it
adds to the logarithm of a letter's probability, so the mean of the logarithms over all places is free of it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import openai

from engine.base.errors import UserError
from engine.models.server import api_key, base_url, check_address, open_client

KEY_VARIABLES = ("PERSONA_STUDIO_JUDGE_KEY", "OPENAI_API_KEY")  # the first that is set counts
LEAST_MASS = 0.25  # of the probability that must be on numbers, or on options
ALTERNATIVES = 20
PASSING = 50.0  # points from which a rule counts as kept
_TIMEOUT, _RETRIES = 60.0, 2  # seconds a request; tries after the first
_LONGEST = 8000  # characters of one text of a request
_NUMBER = frozenset("0123456789")
_FLOOR = 1e-3  # what is less likely is not among the alternatives of every server
_LETTERS = "ABCDEFGHIJ"
_DRESS = " \n\t*_()[]\"'“”.:,"  # that some models put around a letter or a word

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


@dataclass(frozen=True)
class Choice:
    """A probability for each option, 1 in all; None where the judge's answer was rejected, and `reason` says why.

    `mass`: the probability on options, of the order where it is least."""

    probabilities: tuple[float, ...] | None
    mass: float
    reason: str = ""


class Judge:
    """A model of a server. Raises UserError for an address that cannot be one.

    `name`: for people; `identity`: whose exam counts for it, the model and address unless given; `key`: the server's, else from the
    environment. `answers_as`: the model that the server says it is, "" before its first answer.
    """

    def __init__(self, url: str, model: str, name: str = "", identity: str = "", key: str = "") -> None:
        check_address(url, "judge", KEY_VARIABLES[0])
        if not model.strip():
            raise UserError("The judge's model has no name.", "Give the name of one that the server offers.")
        self.url, self.model, self.answers_as = url, model, ""
        self.name, self.identity = name or model, identity or f"{model} at {base_url(url)}"
        self._client = open_client(url, key or api_key(KEY_VARIABLES), _TIMEOUT, _RETRIES)

    def score(self, persona: str, said: Sequence[tuple[str, str]], criterion: str) -> Score:
        """How well the last reply does what `criterion` says. `said`: (name, text) in order, the character's reply last.

        Raises UserError where the server cannot be used.
        """
        return self._score(f"{_setting(persona, said, criterion)}\n\n{_SCALE}")

    def compare(self, persona: str, said: Sequence[tuple[str, str]], first: str, second: str, criterion: str) -> Score:
        """How much better `first` answers than `second`: 50 means alike; the mean of both orders. `said`: what came before."""
        forth, back = (self._score(f"{_setting(persona, said, criterion)}\n\nReply A:\n{_cut(a)}\n\nReply B:\n{_cut(b)}\n\n{_PAIR}")
                       for a, b in ((first, second), (second, first)))
        if forth.points is None or back.points is None:
            return Score(None, min(forth.mass, back.mass), forth.reason or back.reason)
        return Score((forth.points + 100 - back.points) / 2, min(forth.mass, back.mass))

    def choose(self, system: str, text: str, options: Sequence[str], words: bool = False) -> Choice:
        """Which of 2 to 10 options fits. They are listed with letters after `text`; with `words` they are single words, and the
        answer is one of them.

        As many requests as options: each takes each place once, and the mean of its logarithms counts. Raises UserError where
        the server cannot be used, ValueError for options that cannot be told apart.
        """
        if not 2 <= len(options) <= len(_LETTERS) or len({_bare(one) for one in options}) < len(options):
            raise ValueError("a choice needs 2 to 10 options, no two of them alike")
        sums, least = [0.0] * len(options), 1.0
        for turn in range(len(options)):
            order = [(turn + place) % len(options) for place in range(len(options))]
            listed = [options[one] for one in order]
            found = read_choice(self._ask(system, f"{_cut(text)}\n\n{_question(listed, words)}"), listed if words else
                                _LETTERS[:len(listed)])
            least = min(least, found.mass)
            if found.probabilities is None:
                return Choice(None, least, found.reason)
            for one, share in zip(order, found.probabilities, strict=True):
                sums[one] += math.log(max(share, _FLOOR)) / len(options)
        whole = sum(map(math.exp, sums))
        return Choice(tuple(math.exp(one) / whole for one in sums), least)

    def write(self, system: str, text: str, tokens: int, seed: int = 0) -> str:
        """What the model writes: sampled, at most `tokens` tokens. Raises UserError where the server cannot be used."""
        reply = self._request(system, text, temperature=0.7, top_p=0.9, seed=seed, max_tokens=tokens)
        return str(reply.choices[0].message.content or "")

    def close(self) -> None:
        """End the connections."""
        self._client.close()

    def _score(self, text: str) -> Score:
        return read_score(self._ask(_GRADER, text))

    def _ask(self, system: str, text: str) -> list[tuple[str, float]]:
        """The likeliest first tokens of the answer, with natural logarithms of their probabilities."""
        reply = self._request(system, text, temperature=0, max_tokens=1, logprobs=True, top_logprobs=ALTERNATIVES)
        try:
            logprobs = reply.choices[0].logprobs
            found = logprobs.content[0].top_logprobs if logprobs and logprobs.content else None
            pairs = [(str(one.token), float(one.logprob)) for one in found or () if not math.isnan(one.logprob)]
        except (ValueError, AttributeError, LookupError, TypeError):
            raise self._unlike() from None
        if not pairs:
            raise UserError(f"The judge at {self.url} gives no log-probabilities, so it cannot judge.",
                            "Choose a server and model that do.")
        return pairs

    def _request(self, system: str, text: str, **options: Any) -> Any:
        """The server's reply, which has a choice with a message, from the model that it had before."""
        messages: Any = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        server = f"The judge at {self.url}"
        try:
            reply = self._client.chat.completions.create(model=self.model, messages=messages, **options)
            model = str((reply.choices[0].message and reply.model) or "")
        except openai.APIError as error:
            raise _explained(server, self.model, error) from None  # the error holds the request, and with it the key
        except (ValueError, AttributeError, LookupError, TypeError):
            raise self._unlike() from None
        if model != (self.answers_as or model):
            raise UserError(f"{server} changed its model while it judged: it was {self.answers_as[:80]}, and is {model[:80]} now.",
                            "Judge with one model from beginning to end.")
        self.answers_as = model
        return reply

    def _unlike(self) -> UserError:
        return UserError(f"The judge at {self.url} does not answer like a chat completion server.",
                         "Check the address; it usually ends in /v1.")


def read_choice(alternatives: Iterable[tuple[str, float]], labels: Sequence[str]) -> Choice:
    """The choice that the alternatives of one token stand for: (token, natural logarithm of its probability).

    A token stands for a label of one letter that it equals, and for the one word that begins with it, in any case. Rejected where
    less than LEAST_MASS of the probability is on labels.
    """
    shares = [0.0] * len(labels)
    for token, logprob in alternatives:
        said = token.strip(_DRESS)
        meant = [place for place, label in enumerate(labels) if said == label or (
            len(label) > 1 and len(said) > 1 and label.casefold().startswith(said.casefold()))]
        if len(meant) == 1:
            shares[meant[0]] += math.exp(min(logprob, 0.0))
    mass = sum(shares)
    if not mass >= LEAST_MASS:
        return Choice(None, mass, f"The judge chose none of the options (only {mass:.0%} of its probability was on them).")
    return Choice(tuple(share / mass for share in shares), mass)


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


def _question(options: Sequence[str], words: bool) -> str:
    if words:
        return f"Answer with one word: {', '.join(options[:-1])} or {options[-1]}."
    listed = "\n".join(f"{letter}) {_cut(option)}" for letter, option in zip(_LETTERS, options, strict=False))
    return f"{listed}\n\nAnswer with one letter, {_LETTERS[0]} to {_LETTERS[len(options) - 1]}."


def _bare(option: str) -> str:
    return option.strip(_DRESS).casefold()


def _cut(text: str) -> str:
    return text.strip()[:_LONGEST]


def _explained(server: str, model: str, error: openai.APIError) -> UserError:
    """The error for a user. The server's own words are left out: careless ones repeat the key."""
    status = getattr(error, "status_code", None)
    if isinstance(error, openai.APITimeoutError):
        return UserError(f"{server} did not answer in {_TIMEOUT:.0f} seconds.",
                         "Try again when it is less busy, or take a faster model.")
    if isinstance(error, openai.APIConnectionError):
        return UserError(f"{server} cannot be reached.", "Check that the server runs, and its address and port.")
    if status in (401, 403):
        return UserError(f"{server} refuses the API key.", f"Set the variable {' or '.join(KEY_VARIABLES)}.")
    if status == 404:
        return UserError(f"{server} has no model named {model}.", "Check the model's name, and that the address ends in /v1.")
    if status == 429:
        return UserError(f"{server} takes no more requests now, or its quota is used up (status 429).",
                         "Wait a while, then try again.")
    return UserError(f"{server} rejects the request (status {status})." if status else f"{server} sent an error.",
                     "Look into its log, or take another server or model.")
