"""Which answers and questions are fit to learn from, by rules on text: `tidy` first, then `find_fault`; `doubts` is for readers.

In other languages than English, only the rules on emptiness, loops, truncation, names and leaked markup work.
"""

import functools
import re
from collections.abc import Collection, Sequence

from engine.base.ids import Doubt, Rejection
from engine.base.looping import WORD, is_looping
from engine.base.questions import count_words, normalise
from engine.cards.speaking import MANNERS, REFUSAL, names_pattern, plain_text, speaks_of_itself_by_name

ROUNDS = 3  # times that an answer is asked for at most, while it is not fit
_SENTENCE_END = re.compile(r"(?:[.!?\u2026]+[\"'\u201d\u2019\u00bb)*]*(?=\s|$)|[\u3002\uff01\uff1f]+[\u300d\u300f*]*)")
_ABBREVIATION = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Capt|Lt|Sgt|vs|etc|e\.g|i\.e|[A-HJ-Z])|(?:^|[.!?\n])\s*\d{1,2})\.$")
_QUOTES = {'"': '"', "\u201c": "\u201d", "\u00ab": "\u00bb", "'": "'", "\u2018": "\u2019"}

_LEAK = re.compile(r"""
    \{\{|\}\}|<(?:START|BOT|USER)>|<\|[^|>\n]*\|?>|\[/?INST\]|<</?SYS>>|</?s>|<(?:start|end)_of_turn>|</?think>|^\#\#\#
    |(?:^|\n|[.!?\"*\u2026\u201d]\ +)[\[*\ ]*(?:(?:The\ )?(?:User|Player)|Assistant)[\]*\ ]*:
    |(?:^|\n)[\#*\ ]*(?:Personality|Scenario|Persona|Description|Example\ dialogue|Plain\ answer|Neutral\ answer
        |Instructions?|System\ prompt|Human|AI|user|assistant|system)[*\ ]*(?::|\n)
    """, re.VERBOSE | re.MULTILINE)

_TASK = re.compile(r"""
    ^(?:please\ |can\ you\ |could\ you\ )?(?:
        (?:generate|summari[sz]e|classify|paraphrase|rephrase|implement|brainstorm|analy[sz]e|calculate|categori[sz]e)\b
        |(?:write|create|compose|draft|make|design|develop|provide|give\ me|construct|list|translate|edit|rewrite)
            \ (?:[\w-]+\ ){0,7}(?:essays?|stor(?:y|ies)|poems?|articles?|paragraphs?|emails?|blog|posts?|code|functions?
            |programs?|scripts?|sentences?|reviews?|reports?|speech|summary|dialogues?|haiku|outline|slogans?|examples?
            |algorithm|presentation)\b
        |(?:in\ this\ task|given\ (?:the|an?)\ |act\ as\ |you\ are\ an?\ (?:\w+\ )?assistant|answer\ the\ question))
    |\b(?:the|this)\ (?:following|given|above)\ (?:text|sentence|passage|paragraph|article|code|words?|list|dialogue)
    |\b(?:python|javascript|sql|html|json|bullet\ points?|multiple[\ -]choice)\b|https?://|```
    """, re.IGNORECASE | re.VERBOSE)

_CODE = re.compile(r"""
    ```|\bdef\ \w+\(|\bfunction\s*\w*\(|^\s*(?:import|from)\ [\w.]+(?:\ import\b.*)?;?$|\#include\s*<|\bconsole\.log\(|\bprint\(["']
    |</?(?:div|p|span|html|body|head|script|br|li|ul|ol|a|h[1-6]|table|td|tr)\b[^>\n]*>|\bSELECT\b.+\bFROM\b|=>\s*\{
    |"\w+"\s*:\s*["\[{\d]|\bpublic\ (?:static|class|void)\b|^\s*(?:int|const|let|var)\ \w+\ =
    """, re.MULTILINE | re.VERBOSE)
_INTRODUCES = re.compile(r"\b(?:my name is|i(?:'m| am) called|(?:they |people )?call me) ((?-i:[^\W\d_a-z][\w'-]+))", re.IGNORECASE)
MODEL_NAMES = ("Alibaba Cloud", "Anthropic", "DeepSeek", "Gemini", "GPT", "Llama", "Mistral", "Qwen", "SmolLM")
SHORT_WORDS = 4  # an answer of fewer is looked at first


def last_whole_sentence(text: str) -> int:
    """Where the last whole sentence ends (0: nowhere): not after "Mrs.", and not within an open *action* or quote."""
    for match in reversed(list(_SENTENCE_END.finditer(text))):
        head = text[:match.end()]
        if not _ABBREVIATION.search(head) and head.count("*") % 2 == 0 and head.count('"') % 2 == 0:
            return match.end()
    return 0


def before_loop(text: str) -> str:
    """A text up to where it begins to run in circles: its whole sentences before that, without repeated ones at the end.

    Without a whole sentence, the words before that (the signs, in a script without spaces).
    """
    if not is_looping(text):
        return text
    ends = [0, *(end for end in (match.end() for match in _SENTENCE_END.finditer(text)) if last_whole_sentence(text[:end]) == end)]
    while len(ends) > 1:
        before, last = normalise(text[:ends[-2]]), normalise(text[ends[-2]:ends[-1]])
        if last and f" {last} " not in f" {before} " and not is_looping(text[:ends[-1]]):
            break
        ends.pop()
    if ends[-1]:
        return text[:ends[-1]]
    left, looping = 0, len(text)
    while looping - left > 1:  # text[:left] does not loop, text[:looping] does
        middle = (left + looping) // 2
        left, looping = (left, middle) if is_looping(text[:middle]) else (middle, looping)
    word = max(text.rfind(" ", 0, left), text.rfind("\n", 0, left))
    return text[: word if word > 0 and not is_looping(text[:word]) else left]


def _without_wrapping_quotes(text: str) -> str:
    closing = _QUOTES.get(text[:1])
    if closing is None or len(text) < 3 or not text.endswith(closing):
        return text
    inside = re.sub(r"(?<=\w)['\u2019](?=\w)", "", text[1:-1])  # apostrophes are no quotes
    return text if {text[0], closing} & set(inside) else text[1:-1].strip()


def tidy(answer: str, character_names: Sequence[str], complete: bool) -> tuple[str, bool]:
    """The answer without outer spaces, speaker label and wrapping quotes, cut after its last whole sentence unless `complete`;
    and whether it is whole."""
    text = answer.strip()
    label = "|".join(filter(None, [names_pattern(tuple(character_names)), r"\{\{char\}\}"]))
    for _ in range(2):  # a label inside quotes, or quotes after a label
        text = re.sub(rf"^[\[*]{{0,3}}(?:{label})[\]*]{{0,3}}\s*:[*]{{0,2}}\s*", "", text)
        text = _without_wrapping_quotes(text)
    if complete:
        return text, True
    end = last_whole_sentence(text)
    return (text[:end], True) if end else (text, False)


def find_fault(answer: str, character_names: Sequence[str], complete: bool, *,
               speaks_in_third_person: bool = False) -> Rejection | None:
    """The first rule that keeps a (tidied) answer from being learned, or None.

    Empty: fewer than 2 words. `speaks_in_third_person` allows the character's own name as by a narrator (`uses_third_person`).
    """
    text = plain_text(answer)
    own_turn = names_pattern(tuple(character_names))
    rules = {
        Rejection.EMPTY: len(WORD.findall(text)) < 2,
        Rejection.LOOPING: is_looping(text),
        Rejection.TRUNCATED: not complete and not last_whole_sentence(text),
        Rejection.REFUSAL: REFUSAL.search(text) is not None,
        Rejection.ASSISTANT: MANNERS.search(text) is not None,
        Rejection.THIRD_PERSON: not speaks_in_third_person and speaks_of_itself_by_name(text, character_names),
        Rejection.LEAK: _LEAK.search(text) is not None
        or bool(own_turn and re.search(rf"\n[\[*]{{0,3}}(?:{own_turn})[\]*]{{0,3}} ?:", text)),
    }
    return next((reason for reason, applies in rules.items() if applies), None)


@functools.lru_cache(maxsize=16384)
def doubts(question: str, answer: str, names: tuple[str, ...], others: tuple[str, ...] = (), *, complete: bool = True,
           speaks_in_third_person: bool = False) -> tuple[tuple[str, str], ...]:
    """Why a person should look at a line before the rest: (Rejection or Doubt, the name that it is about or ""), gravest first.

    `names`: the character's own; `others`: names that have no place in its lines (`strangers`). A doubt proves nothing.
    """
    text = plain_text(answer)
    fault = find_fault(answer, names, complete, speaks_in_third_person=speaks_in_third_person)
    found: list[tuple[str, str]] = [(fault, "")] if fault else []
    if _CODE.search(question) or _CODE.search(answer):
        found.append((Doubt.CODE, ""))
    if name := _other_name(text, names, others):
        found.append((Doubt.OTHER_NAME, name))
    if fault != Rejection.EMPTY and count_words(text) < SHORT_WORDS:
        found.append((Doubt.SHORT, ""))
    return tuple(found)


def strangers(card_text: str, names: Sequence[str]) -> tuple[str, ...]:
    """Of the names of other characters, and of known models, those that a card does not mention."""
    known = f" {normalise(card_text)} "
    return tuple(sorted(name for name in {*names, *MODEL_NAMES} if normalise(name) and f" {normalise(name)} " not in known))


def _other_name(text: str, names: tuple[str, ...], others: tuple[str, ...]) -> str:
    own = {word for name in names for word in normalise(name).split()}
    for found in _INTRODUCES.finditer(text):
        if normalise(found[1]) not in own:
            return found[1]
    pattern = "|".join(map(re.escape, others))
    other = re.search(rf"(?<!\w)(?:{pattern})(?!\w)", text) if pattern else None
    return other[0] if other else ""


def is_usable_question(text: str) -> bool:
    """Whether a line that a model made up as the player's turn is one: 3 to 40 words without markup, tasks or assistant's talk."""
    plain = plain_text(text)
    rejected = (_LEAK, _TASK, MANNERS, REFUSAL)
    return (3 <= len(WORD.findall(plain)) <= 40 and plain.count("\n") < 3 and not is_looping(plain)
            and not any(pattern.search(plain) for pattern in rejected))


@functools.lru_cache(maxsize=16384)
def _word_set(text: str) -> frozenset[str]:
    return frozenset(normalise(text).split())


def too_similar(question: str, kept: Collection[str]) -> bool:
    """Whether a question is nearly one of `kept`: 0.8 or more of their normalised words are shared (Jaccard)."""
    words = _word_set(question)
    count = len(words)
    for others in map(_word_set, kept):
        if 4 * count <= 5 * len(others) <= 6.25 * count:  # else 0.8 cannot be reached
            shared = len(words & others)
            if 5 * shared >= 4 * (count + len(others) - shared):
                return True
    return False
