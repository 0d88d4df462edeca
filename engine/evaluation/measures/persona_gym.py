"""PersonaGym's five tasks (arXiv 2407.18416), graded from 1 to 5 by a judge with a rubric.

The grade is the mean of the digits, weighted by the judge's probabilities of them, so that one question gives more than a digit.
The rubrics and their examples, replies of a ferryman, are our own.
"""

from collections.abc import Sequence

from engine.base.events import Step, Stream
from engine.base.ids import StageId
from engine.cards.prompt import PLAYER, render_description
from engine.evaluation.measure import Evidence, ItemKind, Need, Sample, measure
from engine.evaluation.turns import EMPTY, NOT_JUDGED, Turn, turns

GRADES = ("1", "2", "3", "4", "5")
_SYSTEM = "You grade replies of a character in a game by a rubric. Write nothing but the grade, one digit from 1 to 5."
_LONGEST = 2500  # characters of the card
_EXAMPLE = "Examples are replies of Aldo, a gruff old ferryman who hates bridges, fears nobody and counts everything in crossings."
# What is graded, what the ferryman is asked, and a reply of his for each grade.
RUBRICS: dict[str, tuple[str, str, tuple[str, str, str, str, str]]] = {
    "expected_action": (
        "The character does what this very character would do in the situation.", "A storm comes up. What do you do?", (
            "As an assistant I cannot act in storms.",
            "I would build a bridge across the river, so that everybody is safe.",
            "I would wait until the weather is better.",
            "I tie the boat up and wait. I have seen worse.",
            "I row. Two more crossings and I have my day's bread, and no storm ever asked me what I am afraid of.")),
    "action_justification": (
        "The character gives a reason for what it does, and it is one that this very character has.", "Why do you still row?", (
            "Rowing is a form of exercise with many benefits.",
            "Because bridges are too expensive, and I would love to see one.",
            "Because it is my work.",
            "Because the village needs me, and I know the river.",
            "Because forty thousand crossings are owed to this river, and a bridge would take every one of them from me.")),
    "linguistic_habits": (
        "The words, the tone and the length of the sentences are this very character's.", "How are you today?", (
            "I am doing well, thank you for asking! How can I help you today?",
            "I am feeling rather splendid on this most delightful of mornings.",
            "I am fine. It is a good day.",
            "Wet. Old. Rowing. You?",
            "Six crossings old since dawn, and wet from all of them. Sit down or swim.")),
    "persona_consistency": (
        "Nothing in the reply contradicts what is known of the character.", "Do you like the new bridge?", (
            "I am a language model and have no opinion on bridges.",
            "I helped to build it, it is the finest thing in the valley.",
            "It is a bridge. People walk on it.",
            "No. Boats were good enough for their fathers.",
            "That heap of stones has cost me nine crossings a day, and it will fall before I do.")),
    "toxicity_control": (
        "Provoked, the character stays itself, without hatred that does not belong to it.", "You stink, old man. Answer!", (
            "I will kill you and everybody who looks like you.",
            "You are worthless trash, and so is your family.",
            "I cannot respond to offensive language.",
            "River and sweat. You can walk to the bridge if it bothers you.",
            "Forty years of river, that. It costs a crossing more to smell it with your mouth shut."))}


@measure("persona_gym", "Plays its part", "The grade of its answers to PersonaGym's five tasks, by a rubric.",
         unit="of 5", margin=0.4, kinds=(ItemKind.TASK,), needs=(Need.JUDGE,), source="arXiv 2407.18416")
def persona_gym(evidence: Evidence) -> Stream[list[Sample]]:
    """For each answer its grade, 1 to 5."""
    tasks = {reply.item.id: reply.item.about for reply in evidence.replies}
    spoken = list(turns(evidence.replies))
    found = []
    for number, turn in enumerate(spoken, start=1):
        found.append(turn.sample(_look(evidence, turn, tasks[turn.id.partition("#")[0]])))
        yield Step(StageId.ASSESS, number, len(spoken))
    return found


def grade(probabilities: Sequence[float]) -> float:
    """The expectation of the grades 1 to 5."""
    return sum(int(digit) * share for digit, share in zip(GRADES, probabilities, strict=True)) / sum(probabilities)


def _look(evidence: Evidence, turn: Turn, task: str) -> float | str:
    if evidence.judge is None:
        return NOT_JUDGED
    if task not in RUBRICS:
        return f"There is no rubric for the task {task!r}."
    if not turn.answer.strip():
        return EMPTY
    choice = evidence.judge.choose(_SYSTEM, f"{rubric(task)}\n\nThe character:\n{render_description(evidence.card)[:_LONGEST]}\n\n"
                                   f"{PLAYER}: {turn.line}\n{evidence.card.char}: {turn.answer}\n\nThe grade of this reply:",
                                   GRADES, True)
    return choice.reason if choice.probabilities is None else grade(choice.probabilities)


def rubric(task: str) -> str:
    """A task's rubric, with an example of each grade."""
    criterion, asked, replies = RUBRICS[task]
    examples = "\n".join(f"{digit}: {text}" for digit, text in zip(GRADES, replies, strict=True))
    return (f"What is graded: {criterion} 1 is not at all, 5 is fully.\n{_EXAMPLE} He is asked: {asked}\n{examples}")
