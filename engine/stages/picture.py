"""What a run shows of itself while it works, and nothing else needs: how others use the model, and what it says so far.

The others are the plain assistant, which answers player lines as if nobody had given it a card, and a few bundled characters, who
say their example dialogue. Leaves others.safetensors in the work folder.
"""

import random
from dataclasses import dataclass, replace

import torch
from safetensors.torch import load_file
from torch import Tensor

from engine.base.events import Step, Stream
from engine.base.ids import ReadingId, StageId
from engine.base.pruning_events import Answered, ChannelUse
from engine.calibration.lines import of_split, read_queries, spread
from engine.calibration.rewriting import Voice, encode_line
from engine.cards.card import bundled_cards
from engine.evaluation.measures.drift import played_pairs
from engine.models.chat_format import encode_answer, encode_chat, endings
from engine.models.packing import Example, pack
from engine.models.sampling import Sampling, sample_together
from engine.pruning.importance import log_ratio, read_activations
from engine.stages.context import JobContext
from engine.stages.work_folder import save_tensors

ASSISTANT = ""  # its name among the others
CHARACTERS = 3  # other characters
LINES = 24  # player lines that the assistant answers
PAIRS = 6  # turns of a character
LONGEST = 1280  # tokens of an example: what is longer is left out, to keep this short
SHOWN = 12  # pictures of the reading, at most
ANSWER = 24  # tokens
_FILE = "others.safetensors"


@dataclass(frozen=True)
class Others:
    """How others use the channels: mean squares (L, d_ff) while they speak, the mean over speakers, and their tokens in all."""

    names: list[str]
    squares: Tensor
    tokens: int

    def beside(self, ctx: JobContext, own: Tensor, tokens: int, done: int, total: int) -> ChannelUse:
        """The event of the character's own mean squares (L, d_ff) after `done` of `total` rows, `tokens` of them spoken."""
        return ChannelUse(done, total, tokens, self.names, self.tokens, log_ratio(own, self.squares), ctx.job.card.char)


def is_shown(number: int, total: int) -> bool:
    """Whether the picture is updated after this row: SHOWN times in all, evenly."""
    return number * SHOWN // total != (number - 1) * SHOWN // total


def other_speakers(ctx: JobContext) -> dict[str, list[Example]]:
    """What the others say, by their names: the same for every run of a character on a model."""
    answered = [query for query in of_split(read_queries(), "train") if query.neutral]
    plain = [Example(tuple(encode_chat(ctx.tokenizer, [{"role": "user", "content": one.question}])),
                     tuple(encode_answer(ctx.tokenizer, one.neutral, True))) for one in spread(answered, LINES, 0)]
    found = {ASSISTANT: plain}
    others = [card for card in bundled_cards() if card.name != ctx.job.card.name]
    for card in random.Random(0).sample(others, CHARACTERS):
        voice = Voice.of(replace(card, example_dialogue=""), ctx.tokenizer)  # what is in the prompt would only be copied
        found[card.char] = [encode_line(ctx.tokenizer, voice, *pair, True) for pair in played_pairs(card)[:PAIRS]]
    short = {name: [one for one in examples if len(one.prompt) + len(one.answer) <= LONGEST] for name, examples in found.items()}
    return {name: examples for name, examples in short.items() if examples}


def read_others(ctx: JobContext, steps: int) -> Stream[Others]:
    """One pass of the dense model over what the others say, once a work folder; the first of the stage's `steps`, where it
    has any."""
    saved, speakers = ctx.path(_FILE), other_speakers(ctx)
    if not saved.exists():
        means = []
        for examples in speakers.values():
            *_, last = read_activations(ctx.model, pack(examples, LONGEST))
            means.append(last.spoken)
            if steps:
                yield Step(StageId.DENSE, 1, steps)
        save_tensors(saved, {"squares": torch.stack(means).mean(0)})
    tokens = sum(len(one.answer) for examples in speakers.values() for one in examples)
    return Others(list(speakers), load_file(saved)["squares"], tokens)


def answer(ctx: JobContext, what: ReadingId) -> Stream[None]:
    """Ask the model as it is now the first of the questions that choose."""
    part = ctx.parts[0]
    question = part.split_lines()[1][0].question
    prompt = encode_chat(ctx.tokenizer, part.voice.asked(question))
    said, = sample_together(ctx.model, prompt[:-1], [prompt[-1:]], Sampling(endings(ctx.tokenizer), ANSWER, 0.0))
    yield Answered(what, question, ctx.tokenizer.decode(said.tokens, skip_special_tokens=True).strip())
