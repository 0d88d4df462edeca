"""Text compared without its dress: one normal form for questions.

Knows no language: it strips what differs between two spellings of the same
words (case, width, punctuation, spaces) and nothing else.
"""

import re
import unicodedata

# A sign is a word where no spaces are.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_](?:[\w'’-]*[^\W_])?")
_NOT_WORDS = re.compile(r"[\W_]+")
_KEPT_CATEGORIES = frozenset("LNM")  # letters, numbers, and the marks that belong to letters


def count_words(text: str) -> int:
    """How many words a text has: "isn't" and "half-open" are one each, and so is a sign of a script without spaces."""
    return len(_WORD.findall(text))


def normalise(text: str) -> str:
    """The words of a text: NFKC, casefolded, with every run of spaces, punctuation and symbols as one space.

    The same text in another case, width or punctuation gives the same result, so that a hash of it splits
    questions the same way every time. A text without a single letter or digit gives "". Source: method, stage 1
    (questions for evaluation are compared with those for calibration in this form).
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    if folded.isascii():
        return _NOT_WORDS.sub(" ", folded).strip()
    kept = (sign if unicodedata.category(sign)[0] in _KEPT_CATEGORIES else " " for sign in folded)
    return " ".join("".join(kept).split())
