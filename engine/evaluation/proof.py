"""What was proved of each measure: on which models it tells the dense model from a bad cut (python -m benchmarks measures).

A measure that tells nothing on a model must not be read as a number there. The table has what was measured on the bundled
characters: an AUC of the dense model against a 75 % cut, against another character under its name, and against a plain assistant.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from engine.base.files import read_json, resource, write_json

TABLE = resource("assets/measure_proofs.json")
CUT, IMPOSTOR, ASSISTANT = "cut", "impostor", "assistant"  # what the dense model is told from
CONTRAST_WORDS = {CUT: "a 75 % cut", IMPOSTOR: "another character", ASSISTANT: "an assistant"}
Key = tuple[str, str, str]  # measure, model, contrast


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
    def tells(self) -> bool:
        """Whether the whole interval is above .5, which is chance."""
        return self.low > 0.5


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
    unknown = [label for name, label in measures.items() if (name, model, CUT) not in read_proofs()]
    which = "these measures" if len(unknown) == len(measures) else ", ".join(unknown)
    return [f"It was never tried what {which} can tell with {Path(model).name} (docs/evidence.md)."] if unknown else []


def doubt(measure: str, model: str) -> str:
    """Why a measure's number says nothing with this dense model, as a sentence; "" where it says something, or nobody tried.

    It says something where it tells the dense model from a cut that has lost the character.
    """
    proof = read_proofs().get((measure, model, CUT))
    if proof is None or proof.tells:
        return ""
    return (f"cannot tell here: with {model} it does not tell the dense model from {CONTRAST_WORDS[CUT]} (AUC {proof.auc:.2f}, "
            f"{proof.low:.2f} to {proof.high:.2f}, {proof.characters} characters)")
