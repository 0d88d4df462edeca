"""What refits and layer tuning read: tokens as the model will see them, whoever wrote them.

They need no label. Beside the train lines they read further answers to these, player
lines with their neutral answers behind the persona's prompt, and the last of them
copies of all these rows with their tokens drawn anew (models/resampling.py): two
forward passes each, and nothing to write. Leaves the copies' tokens in resampled.safetensors.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

from safetensors.torch import load_file
from torch import Tensor

from engine.base.events import Event, Step
from engine.calibration.lines import Line, spread
from engine.models.chat_format import endings
from engine.models.packing import Example, Row, pack
from engine.models.resampling import relabelled, resample_tokens
from engine.stages.further_answers import further_lines, unanswered
from engine.stages.mask import save_tensors
from engine.stages.workbench import RESAMPLED, Workbench


@dataclass(frozen=True)
class RefitRows:
    """Packed rows, and what of them are no train lines: `further_answers`, `neutral_lines`, and `copied_rows`."""

    rows: list[Row]
    beside: dict[str, int]


def make_refit_rows(bench: Workbench, train: Sequence[Example], stage: str, copied: bool) -> Generator[Event, None, RefitRows]:
    """The written rows and, where `copied`, `recipe.resampled_copies` copies of them; a Step a row that is drawn anew."""
    recipe = bench.job.recipe
    written = written_rows(bench, train)
    if not copied:
        return written
    copies = written.rows * recipe.resampled_copies
    saved = bench.path(RESAMPLED)
    if not saved.exists():
        control = {*bench.tokenizer.all_special_ids, *endings(bench.tokenizer)}
        drawn: dict[str, Tensor] = {}
        for number, row in enumerate(copies):
            drawn[f"{number:06d}"] = resample_tokens(bench.model, row, control, recipe.seed * 1_000_003 + number)
            yield Step(stage, 1, bench.layers + 2, {"rows drawn anew": number + 1})
        save_tensors(saved, drawn)
    found = load_file(saved)
    fresh = [relabelled(row, found[f"{number:06d}"]) for number, row in enumerate(copies)]
    return RefitRows([*written.rows, *fresh], {**written.beside, "copied_rows": len(fresh)})


def written_rows(bench: Workbench, train: Sequence[Example]) -> RefitRows:
    """The rows of train lines, further answers and neutral lines."""
    further, neutral = bench.encode(further_lines(bench)), neutral_examples(bench)
    return RefitRows(pack([*train, *further, *neutral], bench.job.recipe.row_tokens),
                     {"further_answers": len(further), "neutral_lines": len(neutral), "copied_rows": 0})


def neutral_lines(bench: Workbench) -> list[Line]:
    """Player lines that no train line answers, with their neutral answers, up to `recipe.neutral_lines`."""
    left = [query for query in unanswered(bench) if query.neutral.strip()]
    return [Line(query.question, query.neutral, query.neutral, query.category, query.source, True)
            for query in spread(left, bench.job.recipe.neutral_lines, bench.job.recipe.seed)]


def neutral_examples(bench: Workbench) -> list[Example]:
    """The neutral lines as tokens, no answer longer than the character's own may be."""
    recipe = bench.job.recipe
    examples = (replace(example, answer=example.answer[: recipe.answer_tokens]) for example in bench.encode(neutral_lines(bench)))
    return [example for example in examples if len(example.prompt) + len(example.answer) <= recipe.row_tokens]
