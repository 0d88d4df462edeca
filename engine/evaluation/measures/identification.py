"""Who says it? Whether the dense model finds a reply likelier under the character's own prompt than under others'."""

from engine.base.events import Step, Stream
from engine.base.ids import StageId
from engine.cards.prompt import messages
from engine.evaluation.measure import Evidence, ItemKind, Need, Sample, measure
from engine.evaluation.turns import ALONE, EMPTY, beaten, told_from, turns


@measure("identification", "Recognised", "How often the dense model finds a reply likelier from this character than from another.",
         unit="share of others", margin=0.05, kinds=(ItemKind.TALK, ItemKind.TASK), needs=(Need.READER, Need.OTHERS), quick=True,
         source="Persona-Pruner, identification accuracy")
def identification(evidence: Evidence) -> Stream[list[Sample]]:
    """For each answer the share of 5 other characters under whose prompt it is less likely: 0 to 1, chance .5."""
    spoken = list(turns(evidence.replies))
    others = told_from(evidence.others)
    reader = evidence.reader
    if not others or reader is None:
        return [turn.sample(ALONE if not others else "The dense model is not at hand.") for turn in spoken]
    said = [turn for turn in spoken if turn.answer.strip()]
    table = []
    for number, card in enumerate((evidence.card, *others.values()), start=1):
        prompts = [messages(card, [*turn.before, ("user", turn.line)]) for turn in said]
        table.append(reader.log_likelihoods(prompts, [turn.answer for turn in said])[0].tolist())
        yield Step(StageId.ASSESS, number, len(others) + 1)
    found = {(turn.id, turn.seed): beaten(own, rest) for turn, own, *rest in zip(said, *table, strict=True)}
    return [turn.sample(found.get((turn.id, turn.seed), EMPTY)) for turn in spoken]
