"""Words of English texts as recall and the checks of facts compare them: lower case, endings cut, empty words left out."""

import re
import unicodedata

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_ENDING = re.compile(r"(?<=\w{3})(?:'s|’s|ing|ies|ied|ed|es|s|e|y)$")
NEGATION = re.compile(r"\b(?:not|no|never|none|nobody|nothing|without|cannot|neither|nor)\b|n['’]t\b", re.IGNORECASE)
FIRST_PERSON = re.compile(r"\b(?:I|I['’]\w+|my|mine|me|myself|we|our|us)\b", re.IGNORECASE)
_EMPTY = """a about after again all also am an and any are as at be because been before being but by can could did do does
    doing don down for from had has have having he her here hers him his how i if in into is it its just let like me more most my
    no not now of off on once only or other our out over own player said same say says she should so some such than that the their
    theirs them then there these they this those through to too under until up us very was we were what when where which while who
    whom why will with would you your yours yes oh well know known knows remember remembers tell told thing things"""
STOP = frozenset(_EMPTY.split())


def words(text: str) -> list[str]:
    """Every word in lower case, without accents."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode() if not text.isascii() else text
    return [word.lower() for word in _WORD.findall(plain or text)] or [word.lower() for word in _WORD.findall(text)]


def stem(word: str) -> str:
    """A word without its ending, cut alike wherever it is met; not a word of the language."""
    shorter = _ENDING.sub("", word)
    return shorter[:-1] if shorter != word and len(shorter) > 3 and shorter[-1] == shorter[-2] else shorter


def content(text: str) -> list[str]:
    """The stems of the words that say something, in order."""
    return [stem(word) for word in words(text) if word not in STOP and word.removesuffix("n't") not in STOP and "'" not in word[:2]]


def share(text: str, source: str) -> float:
    """Which part of the words of a text, that say something, are in the source too: 0 to 1; 0 where it has none."""
    found = content(text)
    return len([word for word in found if word in set(content(source))]) / len(found) if found else 0.0


def alike(one: str, other: str) -> bool:
    """Whether two facts say the same: the same words, four out of five of both, and both or neither of them a denial."""
    first, second = set(content(one)), set(content(other))
    same = len(first & second) >= 0.8 * len(first | second) if first | second else words(one) == words(other)
    return same and denies(one) == denies(other)


def denies(text: str) -> bool:
    """Whether a text says that something is not so."""
    return bool(NEGATION.search(text))
