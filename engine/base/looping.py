"""Texts that run in circles: what a model that lost its way says."""

import re
from collections import Counter

from engine.base.questions import normalise

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+(?:['\u2019-][^\W_]+)*")  # a sign is a word where no spaces are


def is_looping(text: str) -> bool:
    """Whether a text runs in circles: a syllable 8 times in a row, a phrase again and again, few new words.

    Emphasis passes: a word up to 4 times in a row, a phrase of 2 or 3 words 3 times, of 4 to 7 words twice; a sentence of 3
    words or more in two places.
    """
    if re.search(r"(\S{1,4}?)\1{7,}", text):
        return True
    words = [word.lower() for word in WORD.findall(text)]
    for length in range(1, min(24, len(words) // 2) + 1):
        allowed = 4 if length == 1 else 3 if length <= 3 else 2 if length <= 7 else 1
        run = 0  # words in a row that equal the one `length` places before
        for place in range(length, len(words)):
            run = run + 1 if words[place] == words[place - length] else 0
            if run >= length * allowed:
                return True
    sentences = Counter(normalise(sentence) for sentence in re.split(r"[.!?\u2026\n]+", text))
    if any(times > 2 and sentence.count(" ") > 1 for sentence, times in sentences.items()):
        return True
    grams = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    return grams.total() >= 12 and len(grams) < 0.7 * grams.total()
