"""Questions that deepen a thin card: each is about one thing that a description seldom has, and knows where its answer belongs.

The kinds follow what gives a persona depth in research: wants, contradictions, habits, fears (DeepPersona), and beliefs and ways of
coping (Patient-Psi). An answer becomes text of the card word for word, so it should be a whole sentence.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from engine.base.errors import UserError
from engine.cards.fields import fields_of
from engine.cards.npc import npc_values

DESCRIPTION = "description"


@dataclass(frozen=True)
class DeepQuestion:
    """A question to the writer. `field`: of the NPC section, or the description, where the answer goes."""

    id: str
    kind: str
    text: str
    field: str


QUESTIONS = (
    DeepQuestion("want_now", "Want", "What does {{char}} want today, and who stands in the way?", "goals"),
    DeepQuestion("contradiction", "Contradiction", "What does {{char}} do that goes against what they say?", DESCRIPTION),
    DeepQuestion("speech", "Habit", "Which words come back again and again when {{char}} talks?", "speech_habits"),
    DeepQuestion("belief_self", "Belief", "What does {{char}} believe about themself that is not true?", "beliefs"),
    DeepQuestion("coping", "Way of coping", "What does {{char}} do when somebody shouts at them or shames them?", "coping"),
    DeepQuestion("hands", "Habit", "What do the hands of {{char}} do while nobody speaks?", DESCRIPTION),
    DeepQuestion("tie", "Relationship", "Whom would {{char}} miss first, and why?", "relationships"),
    DeepQuestion("want_deep", "Want", "What does {{char}} want most of all, and never says?", "goals"),
    DeepQuestion("belief_others", "Belief", "What does {{char}} believe about other people, and what taught them?", "beliefs"),
    DeepQuestion("fear", "Fear", "What is {{char}} afraid of, and how does one see it?", DESCRIPTION),
    DeepQuestion("secret", "Secret", "What must nobody find out about {{char}}?", "secrets"),
    DeepQuestion("calm", "Way of coping", "How does {{char}} get over a bad day?", "coping"),
    DeepQuestion("limit", "Limit", "What do people ask {{char}} that they cannot know?", "knowledge_limits"),
    DeepQuestion("turn", "Contradiction", "When is {{char}} suddenly someone else?", DESCRIPTION),
)


def open_questions(raw: dict[str, Any], answered: Collection[str] = ()) -> list[DeepQuestion]:
    """The questions that the card leaves open, in order: not those `answered` before (ids), and none for which its NPC section
    has an entry already."""
    said = {field: len(found) for field, found in npc_values(raw).items()}
    for one in QUESTIONS:
        if one.id in answered and one.field != DESCRIPTION:
            said[one.field] -= 1  # the entry is this answer, not one that the writer made elsewhere
    left = []
    for one in QUESTIONS:
        if one.id in answered:
            continue
        if one.field != DESCRIPTION and said[one.field] > 0:
            said[one.field] -= 1
            continue
        left.append(one)
    return left


def with_answer(raw: dict[str, Any], id: str, answer: str) -> dict[str, Any]:
    """What an answer changes: the new content of one field, by "description" or the name of an NPC field. Raises UserError for an
    empty answer, and for an unknown question."""
    question = next((one for one in QUESTIONS if one.id == id), None)
    text = answer.strip()
    if question is None:
        raise UserError("There is no such question.", "Reload the page.")
    if not text:
        raise UserError("There is no answer yet.", "Write one, or let the model propose one.")
    if question.field == DESCRIPTION:
        before = fields_of(raw)[DESCRIPTION].rstrip()
        return {DESCRIPTION: f"{before}\n\n{text}" if before else text}
    return {question.field: [*npc_values(raw)[question.field], {"text": " ".join(text.split())}]}
