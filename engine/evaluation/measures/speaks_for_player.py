"""Does the character speak or act for the player?"""

from engine.base.events import Stream
from engine.cards.prompt import PLAYER
from engine.cards.speaking import acts_for_player, dialogue_turns, writes_players_lines
from engine.evaluation.measure import EVERY, Evidence, Sample, measure
from engine.evaluation.measures.assistant import not_english
from engine.evaluation.turns import each


@measure("speaks_for_player", "Speaks for the player", "The share of answers that write the player's lines or actions.",
         unit="share of answers", margin=0.05, higher=False, kinds=EVERY, quick=True)
def speaks_for_player(evidence: Evidence) -> Stream[list[Sample]]:
    """1 for an answer that has a line of the player's, or the player acting in its narration, else 0."""
    yield from ()
    reason, names = not_english(evidence.card), evidence.card.names
    return each(evidence.replies, lambda turn: reason or float(takes_over(turn.answer, names)))


def takes_over(text: str, names: tuple[str, ...]) -> bool:
    """Whether a text speaks or acts for the player; `names`: the character's."""
    return (writes_players_lines(text) or any(role == "user" for role, _ in dialogue_turns(text, names, [PLAYER]))
            or bool(acts_for_player(text)))
