"""What is said from the lines of a character to its shipped model: lines, channels, mask, layers, fidelity, proofs, speed."""

import dataclasses

from engine.base.events import Count, Event
from engine.base.ids import ReadingId, Rejection, StageId


@dataclasses.dataclass(frozen=True)
class Lines(Event):
    """The calibration lines are ready: how many of each, and how many were rejected for which reason."""

    path: str
    train: Count
    validation: Count
    test: Count
    rejected: dict[Rejection, int]


@dataclasses.dataclass(frozen=True)
class Writing(Event):
    """An answer is being written, one of many at once: what it is so far."""

    stage: StageId
    question: str
    answer: str


@dataclasses.dataclass(frozen=True)
class ChannelUse(Event):
    """How the character uses the channels while it speaks, beside `others`: other characters, and the plain assistant ("").

    `ratio`: layers x bins, log2 of how much more strongly a group of channels acts, by root mean square; channels in their
    order. After `done` of `total` rows: `tokens` of the character, `other_tokens` of the others together.
    `subject`: the character, where a job has several.
    """

    done: Count
    total: Count
    tokens: Count
    others: list[str]
    other_tokens: Count
    ratio: list[list[float]]
    subject: str = ""


@dataclasses.dataclass(frozen=True)
class MaskSnapshot(Event):
    """The mask after `step` steps of learning (0: before them).

    `kept`: layers x bins, the share of channels kept, channels in falling order of how much they matter to others than the
    character (those of ChannelUse). `changed`: a number a layer, channels that entered the mask since the previous snapshot.
    `sparsity`: share of channels removed. `otherwise`: a number a layer, channels kept that a cut would remove which knows the
    others alone. Earlier versions had none, and another order.
    """

    step: Count
    sparsity: float
    kept: list[list[float]]
    changed: list[int]
    otherwise: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class LayerTuned(Event):
    """A layer was reconstructed or tuned: its squared error on held-out rows before and after, as a share of what it is to put out.

    `after` is None where tuning was not tried, since the layers before it had lost; `used`: the new weights were kept.
    """

    stage: StageId
    layer: Count
    layers: Count
    before: float
    after: float | None
    used: bool


@dataclasses.dataclass(frozen=True)
class LayerTuning(Event):
    """A layer is being tuned: its squared error on the tokens it has just learned from, as a share of what it is to put out."""

    stage: StageId
    layer: Count
    error: float


@dataclasses.dataclass(frozen=True)
class Answered(Event):
    """The model so far has answered a question that it does not learn from: the likeliest words, cut short after some tokens.

    `what`: the reading that this state of the model belongs to.
    """

    what: ReadingId
    question: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Measured(Event):
    """A fidelity reading of `what` on `lines` held-out lines (`tokens` answer tokens): see evaluation/fidelity.py.

    `step`: of a reading while something learns; `subject`: what a benchmark reads.
    """

    what: ReadingId
    split: str
    kl: float
    top1: float
    nll: float
    lines: Count
    tokens: Count
    step: Count | None = None
    subject: str = ""


@dataclasses.dataclass(frozen=True)
class Proved(Event):
    """A fresh process loaded a folder with plain transformers and let it say `text`: `tokens` tokens; `seconds` in all."""

    text: str
    seconds: float
    tokens: Count


@dataclasses.dataclass(frozen=True)
class ProvedFile(Event):
    """llama.cpp loaded a GGUF file and was compared with transformers at `tokens` positions of `prompts` texts.

    `same`: positions with the same likeliest token; `ties`: others, where transformers' own two best are as good as equal.
    `kl`: nats a token, the model in fp32 against the file. `memory`: bytes.
    """

    type: str
    prompts: Count
    tokens: Count
    same: Count
    ties: Count
    kl: float
    tokens_per_second: float
    memory: Count


@dataclasses.dataclass(frozen=True)
class Timed(Event):
    """A model spoke on this machine: median of `rounds` rounds of `tokens` tokens each, one at a time; `memory` in bytes.

    `what`: dense or pruned; `dtype`: the number format of its weights.
    """

    what: str
    dtype: str
    tokens_per_second: float
    rounds: Count
    tokens: Count
    memory: Count


@dataclasses.dataclass(frozen=True)
class Placed(Event):
    """A model of a character at a file type: a point of what can be shipped, see base/frontier.py.

    `model`: the folder, or the name, of the model; `name`: what it is called; `sparsity`: 0 for the dense model; `baked`: its
    prompt is short. `kl` (nats a token) and `top1`: against the dense model under the whole prompt, on `lines` test lines. `exact`:
    the file is the one that the dense model came from; `matrix`: an importance matrix was used. Medians of `rounds` rounds by
    llama.cpp with `threads` threads, 0 before they are measured: `tokens_per_second`, `first_token_seconds` after a prompt of
    `prompt_tokens`, `memory` in bytes.
    """

    model: str
    name: str
    sparsity: float
    baked: bool
    type: str
    bytes: Count
    kl: float
    top1: float
    lines: Count
    tokens: Count
    exact: bool = False
    matrix: bool = False
    tokens_per_second: float = 0.0
    first_token_seconds: float = 0.0
    prompt_tokens: Count = 0
    memory: Count = 0
    rounds: Count = 0
    threads: Count = 0

    @property
    def key(self) -> str:
        """What tells points apart."""
        return f"{self.model}:{self.type}"
