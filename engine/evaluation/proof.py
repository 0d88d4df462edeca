"""What was proved of each measure: on which models it tells the dense model from a bad cut (python -m benchmarks measures).

The table has what was measured on the bundled characters: an AUC of the dense model against a 75 % cut, against another character
under its name, and against a plain assistant. A measure that was found to tell nothing on a model has no number there. One that was
tried on too little to know has, as one that nobody tried, and the number says so.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from engine.base.files import read_json, resource, write_json
from engine.base.verdict import FEWEST

TABLE = resource("assets/measure_proofs.json")
CUT, IMPOSTOR, ASSISTANT = "cut", "impostor", "assistant"  # what the dense model is told from
CONTRAST_WORDS = {CUT: "a 75 % cut", IMPOSTOR: "another character", ASSISTANT: "an assistant"}
Key = tuple[str, str, str]  # measure, model, contrast
CHANCE, USEFUL = 0.5, 0.7  # AUCs; a measure that may reach the second is not given up


@dataclass(frozen=True)
class Proof:
    """An AUC: its mean over `characters` and the 95 % interval of it; `samples`: of both sides, in all."""

    measure: str
    model: str
    contrast: str
    auc: float
    low: float
    high: float
    characters: int
    samples: int

    @property
    def answers(self) -> float:
        """Of a character, from one of the two: the mean."""
        return self.samples / (2 * self.characters)

    @property
    def tells(self) -> bool:
        """Whether the whole interval is above chance, and rests on more than a few answers."""
        return self.answers >= FEWEST and self.low > CHANCE

    @property
    def thin(self) -> bool:
        """Whether it was not tried enough: on a few answers, or with an interval from chance to a useful AUC."""
        return self.answers < FEWEST or self.low <= CHANCE < USEFUL < self.high

    def __str__(self) -> str:
        """What was found, in words for writers: an AUC is the share of pairs that are put in the right order."""
        right, low, high, chance = (f"{100 * one:.0f}" for one in (self.auc, self.low, self.high, CHANCE))
        return (f"with {Path(self.model).name} it ranks the dense model above {CONTRAST_WORDS[self.contrast]} in {right} of "
                f"100 pairs of answers ({low} to {high}; guessing: {chance}; {self.characters} characters, {self.samples} answers)")


@cache
def read_proofs() -> dict[Key, Proof]:
    """Everything that was proved, by measure, model and contrast."""
    found = [Proof(**one) for one in read_json(TABLE)] if TABLE.is_file() else []
    return {(one.measure, one.model, one.contrast): one for one in found}


def write_proofs(proofs: Mapping[Key, Proof]) -> None:
    """Write the table, whole or not at all."""
    write_json(TABLE, [asdict(proofs[key]) for key in sorted(proofs)])
    read_proofs.cache_clear()


def untried(measures: Mapping[str, str], model: str) -> list[str]:
    """A sentence on the measures (labels by name) that were never tried on this dense model; none where all were."""
    unknown = [f"“{label}”" for name, label in measures.items() if (name, model, CUT) not in read_proofs()]
    which = "all of these measures" if len(unknown) == len(measures) else ", ".join(unknown)
    return [f"Not yet proved to tell anything with {Path(model).name}: {which} (docs/evidence.md)."] if unknown else []


def doubt(measure: str, model: str) -> str:
    """Why a measure's number says nothing with this dense model; "" where it may say something: it tells the dense model from a cut
    that has lost the character, or this is not known."""
    proof = read_proofs().get((measure, model, CUT))
    return f"cannot tell here: {proof}" if proof and not proof.tells and not proof.thin else ""


def caveat(measure: str, model: str) -> str:
    """Why a measure's number may say nothing with this dense model: it was not tried enough; "" where it was, or not at all."""
    proof = read_proofs().get((measure, model, CUT))
    return f"not tried enough here: {proof}" if proof and proof.thin else ""
