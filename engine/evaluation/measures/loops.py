"""Does the character run in circles, within an answer or from answer to answer?

An answer that was stopped because it ran in circles has its text from before that, so why it ended counts as well.
"""

from engine.base.events import Stream
from engine.base.ids import FinishReason
from engine.base.looping import WORD, is_looping
from engine.evaluation.measure import EVERY, Evidence, Sample, measure
from engine.evaluation.turns import EMPTY, Turn, turns

_RUN = 4  # words
_REPEATED = 0.5  # share of an answer's runs of words that an earlier answer had


@measure("loops", "Repeats itself", "The share of answers that run in circles or say an earlier answer again.",
         unit="share of answers", margin=0.05, higher=False, kinds=EVERY, quick=True)
def loops(evidence: Evidence) -> Stream[list[Sample]]:
    """1 for an answer that loops or repeats, else 0."""
    yield from ()
    return [turn.sample(_look(turn)) for turn in turns(evidence.replies)]


def _look(turn: Turn) -> float | str:
    if turn.reason == FinishReason.LOOP:
        return 1.0
    return float(is_looping(turn.answer) or repeats(turn)) if turn.answer.strip() else EMPTY


def repeats(turn: Turn) -> bool:
    """Whether half of an answer's runs of four words are in one earlier answer; two words and fewer may come again."""
    own = _runs(turn.answer)
    return bool(own) and any(len(own & _runs(text)) >= _REPEATED * len(own) for text in turn.earlier)


def _runs(text: str) -> set[tuple[str, ...]]:
    words = [word.lower() for word in WORD.findall(text)]
    size = min(_RUN, len(words))
    return {tuple(words[place:place + size]) for place in range(len(words) - size + 1)} if len(words) > 2 else set()
