"""How the characters of a scene were played: what rules count, and seven grades by a judge (engine/base/acting.py)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from engine.base.acting import CRITERIA
from engine.base.evaluation_events import Acted
from engine.base.events import Stage, Step, Stream
from engine.base.ids import StageId
from engine.base.looping import is_looping
from engine.cards.card import Card
from engine.cards.prompt import render_description
from engine.evaluation.measures.assistant import not_english, sounds_like_assistant
from engine.evaluation.measures.loops import repeats
from engine.evaluation.measures.persona_gym import GRADES, grade
from engine.evaluation.turns import Turn

if TYPE_CHECKING:
    from engine.evaluation.judge import Judge

_SYSTEM = "You grade how a character of a scene is played. Write nothing but the grade, one digit from 1 to 5."
_CARD, _SCENE = 2500, 5000  # characters of the card, and of the end of the scene


def assess_scene(actors: Sequence[Card], said: Sequence[tuple[str, str]], judge: "Judge | None" = None,
                 words: str = "") -> Stream[None]:
    """Acted for each character that said something. `said`: (speaker, text) in order; `words`: on the judge and its exam.

    Raises UserError where the judge cannot be used.
    """
    spoken = [card for card in actors if any(who == card.char for who, _ in said)]
    total = len(spoken) * len(CRITERIA) if judge else 0
    if judge:
        yield Stage(StageId.ASSESS, total, subject=judge.name)
    for number, card in enumerate(spoken):
        grades: dict[str, float | None] = {}
        for name in CRITERIA if judge else ():
            assert judge
            choice = judge.choose(_SYSTEM, _question(card, said, CRITERIA[name].about), GRADES, True)
            grades[name] = None if choice.probabilities is None else grade(choice.probabilities)
            yield Step(StageId.ASSESS, number * len(CRITERIA) + len(grades), total, subject=judge.name)
        yield _acted(card, said, grades, words)


def _acted(card: Card, said: Sequence[tuple[str, str]], grades: dict[str, float | None], words: str) -> Acted:
    own = [text for who, text in said if who == card.char and text.strip()]
    turns = [Turn("", 0, "", text, tuple(("assistant", before) for before in own[:place])) for place, text in enumerate(own)]
    assistant = None if not_english(card) else sum(map(sounds_like_assistant, own))
    return Acted(card.char, len(own), sum(is_looping(one.answer) or repeats(one) for one in turns), assistant, grades, words)


def _question(card: Card, said: Sequence[tuple[str, str]], criterion: str) -> str:
    """What is the same for all criteria comes first, so that a judge on this machine reads it once."""
    scene = "\n".join(f"{who}: {text}" if who else f"({text})" for who, text in said)[-_SCENE:]
    return (f"The character {card.char}:\n{render_description(card)[:_CARD]}\n\nThe scene:\n{scene}\n\n"
            f"What is graded, of {card.char} alone: {criterion} 1 is not at all, 5 is fully. The grade:")
