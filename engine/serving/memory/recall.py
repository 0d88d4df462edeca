"""Which facts matter for what a player says now: by words, by meaning, and the newer the better; under a budget of tokens."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.base.embedding import embedder
from engine.cards.prompt import rough_tokens
from engine.serving.memory.records import LONGEST_TURN, Fact, whole_text
from engine.serving.memory.store import PlayerMemory
from engine.serving.memory.words import content

BUDGET = 160  # tokens
MOST = 8  # facts in a prompt
NEAR = 16  # turns that are still in a prompt
NEW = 4  # facts that are recalled for being the newest, where the words call up nothing
_K1, _B = 1.2, 0.5  # Okapi BM25; facts are short, so that their length says little
_WORDS, _MEANING, _AGE = 1.0, 0.8, 0.15  # weights
_RELEVANT = 0.15  # of words and meaning together, from which on a fact matters
_ALWAYS = ("name",)  # slots of what is always recalled


@dataclass(frozen=True)
class Recalled:
    """What goes into a prompt. `sentences`: for Setting.memory; `facts`: those used; `summary`: whether it was, too."""

    sentences: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    summary: bool = False
    tokens: int = 0

    def as_dict(self) -> dict[str, object]:
        """For the metadata of a reply."""
        used = [{"id": fact.id, "text": fact.text} for fact in self.facts]
        return {"facts": used, "summary": self.summary, "tokens": self.tokens}


def recall(memory: PlayerMemory, player: str, character: str, said: str, budget: int = BUDGET,
           count: Callable[[str], int] = rough_tokens, most: int = MOST, session: str = "", turn: int = 0) -> Recalled:
    """What the character knows of the player that matters for the words `said`, in at most `budget` tokens by `count`.

    Facts in the order they were found, after the summary, which gets at most half of the budget. `session`, `turn`: which
    conversation this is, and how far: what was said in its last turns is in the prompt anyway. Raises UserError as the store.
    """
    facts, said = memory.facts(player, character), whole_text(said, LONGEST_TURN)
    facts = [fact for fact in facts if fact.session != session or fact.turn <= turn - NEAR]
    sentences: list[str] = []
    left = budget
    for summary in memory.summaries(player, character):
        if summary.session != session and (tokens := count(summary.text)) <= budget // 2:
            sentences.append(summary.text)
            left -= tokens
    chosen: list[Fact] = []
    for fact in ranked(facts, said)[:most]:
        if (tokens := count(fact.text) + 1) <= left:  # one for the space between two of them
            chosen.append(fact)
            left -= tokens
    chosen.sort(key=lambda fact: fact.id)
    return Recalled((*sentences, *(fact.text for fact in chosen)), tuple(chosen), bool(sentences), budget - left)


def ranked(facts: Sequence[Fact], said: str) -> list[Fact]:
    """The facts that matter for the words `said`, the most important first: the player's name, what the words call up by
    their stems (BM25) and their meaning; where that is nothing, the newest few."""
    if not facts:
        return []
    newest = {fact.id: place for place, fact in enumerate(sorted(facts, key=lambda fact: (fact.time, fact.id), reverse=True))}
    relevance = [_WORDS * word + _MEANING * meaning
                 for word, meaning in zip(_by_words(facts, said), _by_meaning(facts, said), strict=True)]
    scored = [(fact.slot in _ALWAYS, score, score + _AGE * 0.9 ** newest[fact.id], fact)
              for fact, score in zip(facts, relevance, strict=True)]
    called = any(one[1] >= _RELEVANT and not one[0] for one in scored)
    # A small model answers from whatever it is given: where something matters, nothing else comes along.
    wanted = [one for one in scored if one[0] or one[1] >= _RELEVANT or (not called and newest[one[3].id] < NEW)]
    return [fact for *_, fact in sorted(wanted, key=lambda one: (not one[0], -one[2], -one[3].id))]


def _by_words(facts: Sequence[Fact], said: str) -> list[float]:
    """BM25 of each fact for the words, as a part of the best possible one: 0 to 1."""
    texts = [Counter(content(f"{fact.text} {fact.slot}")) for fact in facts]
    average = sum(text.total() for text in texts) / len(texts) or 1
    rare = {word: math.log(1 + (len(texts) - there + 0.5) / (there + 0.5))
            for word in set(content(said)) if (there := sum(word in text for text in texts))}
    scores = [sum(weight * text[word] * (_K1 + 1) / (text[word] + _K1 * (1 - _B + _B * text.total() / average))
                  for word, weight in rare.items()) for text in texts]
    best = max(scores)
    return [score / best if best else 0.0 for score in scores]


def _by_meaning(facts: Sequence[Fact], said: str) -> list[float]:
    """Cosine of each fact with the words; 0 where the package for it is not installed."""
    vectors = embedder()
    if vectors is None or not said.strip():
        return [0.0] * len(facts)
    # Without the subject that all of them share, which would make all of them alike.
    texts = vectors([fact.text.removeprefix("The player's ").removeprefix("The player ") for fact in facts])  # (n, d)
    return [max(0.0, float(cosine)) for cosine in texts @ vectors([said])[0]]
