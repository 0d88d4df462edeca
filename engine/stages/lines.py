"""Stage 1, calibration data: from the card to lines.jsonl, and the extra samples that reconstruction and recovery read.

Questions come from the pool (filtered by persona sensitivity), from the model itself, and from the keys of the card's lorebook;
answers from the dense model in character or from a teacher server. Held-out lines are always answered by the dense model, and
their questions are not filtered: they stand for whatever players ask. Without --lines this is the paper's stage 1; with it, the
user's lines are taken as they are. What a card's test script asks is in no line, wherever it comes from: a test of what was
learned by heart would say nothing.

Extra samples are more answers to the same questions. Reconstruction and layer tuning need tokens, and no label: what the dense
model says to a question a second and a third time is worth to them nearly what a new line is. Reconstruction's rounds ask the
train lines' questions once more. Recovery needs text that nothing has read: its rounds ask what the pool has beside them, then
all of it again. The mask and the baselines' scores go by the train lines alone."""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from engine.base.events import Stage, Step, Stream, Warned
from engine.base.files import read_json, write_json
from engine.base.ids import Rejection, StageId
from engine.base.pruning_events import Lines
from engine.base.questions import normalise, require_enough
from engine.calibration.lines import (
    Journal,
    Line,
    Query,
    lore_queries,
    of_split,
    read_lines,
    read_queries,
    split_of,
    spread,
    write_lines,
)
from engine.calibration.rewriting import Round, Voice, answer_questions, make_up_questions
from engine.calibration.sensitivity import divergence, select, states_of
from engine.cards.card import bundled_cards
from engine.cards.dossier import asked_lines
from engine.models.chat_format import encode_chat
from engine.stages.context import JobContext


def make_lines(ctx: JobContext) -> Stream[None]:
    """Leave lines.jsonl in the work folder: at least 16 usable lines, or UserError."""
    target = ctx.path("lines.jsonl")
    summary = ctx.path("rejected.json")
    if not target.exists():
        if ctx.job.lines:
            lines, rejected, origin = read_lines(ctx.job.lines), Counter[Rejection](), str(ctx.job.lines)
        else:
            lines, rejected = yield from _write_lines(ctx)
            origin = "The calibration stage"
        lines, tested = _without_script(ctx, lines)
        if tested:
            rejected[Rejection.IN_SCRIPT] += tested
        require_enough([line.question for line in lines], origin)
        write_json(summary, dict(rejected))
        write_lines(target, lines)
    else:
        yield Stage(StageId.ANSWERS, reused=True)
        require_enough([line.question for line in read_lines(target)], str(target))
    train, choosing, reporting, shared = ctx.split_lines()
    if shared:
        yield Warned("There are too few held-out lines to choose with some and report on others: both use the same ones.")
    yield Lines(str(target), len(train), len(choosing), len(reporting), read_json(summary))


def _write_lines(ctx: JobContext) -> Stream[tuple[list[Line], Counter[Rejection]]]:
    recipe = ctx.job.recipe
    tested = asked_lines(ctx.job.card)
    pool = [query for query in read_queries(ctx.job.queries) if normalise(query.question) not in tested]
    spare = 1.15  # some answers will be rejected for good
    held = [query for split, count in (("validation", recipe.validation_lines), ("test", recipe.test_lines))
            for query in spread(of_split(pool, split), round(count * spare), recipe.seed)]  # type: ignore[arg-type]
    candidates = spread(of_split(pool, "train"), recipe.candidates, recipe.seed)
    scores: Sequence[float | None] = [None] * len(candidates)
    chosen = candidates
    if recipe.keep_share < 1:
        scores = ranked = yield from _score(ctx, candidates)
        chosen = [candidates[index] for index in select(ranked, recipe.keep_share)]
    made_up = yield from _make_up(ctx, [query.question for query in pool])
    rejected: Counter[Rejection] = Counter()
    known = {normalise(query.question) for query in [*chosen, *made_up, *held]} | tested
    lore = [query for query in lore_queries(ctx.job.card) if normalise(query.question) not in known]
    teaching = [*chosen, *made_up, *lore]
    yield Stage(StageId.ANSWERS, len(held) + len(teaching))
    lines, faults = yield from ctx.job.teacher.answers(ctx.model, ctx.tokenizer, ctx.voice, teaching, recipe, ctx.folder)
    rejected += faults
    held_lines, faults = yield from answer_questions(ctx.model, ctx.tokenizer, ctx.voice, held, recipe,
                                                     Journal(ctx.path("answers.held-out.jsonl")))
    rejected += faults
    score_of = {normalise(query.question): score for query, score in zip(candidates, scores, strict=True)}
    lines = [Line(**{**vars(line), "sensitivity": score_of.get(normalise(line.question))}) for line in lines]
    return lines + held_lines, rejected


def _without_script(ctx: JobContext, lines: Sequence[Line]) -> tuple[list[Line], int]:
    """The lines whose questions neither the card's test script nor its dossier asks, and how many they do."""
    tested = asked_lines(ctx.job.card)
    kept = [line for line in lines if normalise(line.question) not in tested]
    return kept, len(lines) - len(kept)


def _score(ctx: JobContext, candidates: Sequence[Query]) -> Stream[list[float]]:
    """The sensitivity of each candidate, against `recipe.references` other bundled characters."""
    saved = ctx.path("sensitivity.json")
    if saved.exists():
        yield Stage(StageId.SCORE, reused=True)
        return list(read_json(saved)["scores"])
    recipe, card = ctx.job.recipe, ctx.job.card
    others = [other for other in bundled_cards() if other.name != card.name]
    references = random.Random(recipe.seed).sample(others, min(recipe.references, len(others)))
    total = len(candidates) * (1 + len(references))
    yield Stage(StageId.SCORE, total)
    voices = [Voice.of(one, ctx.tokenizer) for one in [card, *references]]
    sums = [0.0] * len(candidates)
    done = 0
    # Group by group, so that the states of one group of queries are all that is held.
    for begin in range(0, len(candidates), 64):
        group = candidates[begin: begin + 64]
        states = []
        for voice in voices:
            encoded = [encode_chat(ctx.tokenizer, voice.asked(query.question)) for query in group]
            parts = []
            for members, part in states_of(ctx.model, encoded, max(recipe.row_tokens, len(encoded[0]) + 256)):
                parts.append(part)
                done += len(members)
                yield Step(StageId.SCORE, done, total)
            states.append(parts)
        own = states[0]
        for other in states[1:]:
            scored = _joined_divergence(own, other)
            for offset, value in enumerate(scored):
                sums[begin + offset] += value / len(references)
    write_json(saved, {"scores": sums, "questions": [query.question for query in candidates],
                       "references": [one.name for one in references]})
    return sums


def _joined_divergence(own: list, other: list) -> list[float]:
    """Rows of two personas break at different queries: join each persona's parts first."""
    import torch

    return divergence(torch.cat(own, dim=1), torch.cat(other, dim=1)).tolist()


def _make_up(ctx: JobContext, known: Sequence[str]) -> Stream[list[Query]]:
    recipe = ctx.job.recipe
    if not recipe.self_asked:
        return []
    yield Stage(StageId.ASK, recipe.self_asked)
    questions, _ = yield from make_up_questions(ctx.model, ctx.tokenizer, ctx.voice, known, recipe,
                                                Journal(ctx.path("questions.jsonl")))
    # Made-up questions only teach; those that fall on the held-out side, or that the test script asks, are left out.
    tested = asked_lines(ctx.job.card)
    return [query for query in questions if split_of(query.question) == "train" and normalise(query.question) not in tested]


SEEDS = 3  # the first round's; 1 and 2 are those of the lines


def write_extra_samples(ctx: JobContext) -> Stream[None]:
    """Write the rounds of answers that the recipe asks for, without those that the filter rejects."""
    files = answer_files(ctx)
    if all(file.exists() for file in files):
        if files:
            yield Stage(StageId.SAMPLES, reused=True)
        return
    rounds = _sample_questions(ctx, len(files))
    total, done = sum(map(len, rounds)), 0
    yield Stage(StageId.SAMPLES, total)
    for number, (file, queries) in enumerate(zip(files, rounds, strict=True)):
        if not file.exists():
            how = Round(1, SEEDS + number, StageId.SAMPLES, done, total)
            journal = Journal(ctx.path(f"answers.{file.name}"))
            lines, _ = yield from answer_questions(ctx.model, ctx.tokenizer, ctx.voice, queries, ctx.job.recipe,
                                                   journal, how)
            write_lines(file, lines)
        done += len(queries)


def _sample_questions(ctx: JobContext, rounds: int) -> list[list[Query]]:
    """What each of the rounds asks."""
    train, *_ = ctx.split_lines()
    known = [Query(line.question, line.neutral, line.category, line.source) for line in train]
    endless = cycle([*unanswered(ctx), *known])
    return [list(islice(endless, len(known))) if number >= _rounds(ctx) else known for number in range(rounds)]


def unanswered(ctx: JobContext) -> list[Query]:
    """The player lines on the train side of the pool that no train line answers.

    None where the user's own lines have no question in common with the pool: they may be of another world or language.
    """
    train, *_ = ctx.split_lines()
    answered = {normalise(line.question) for line in train}
    pool = of_split(read_queries(ctx.job.queries), "train")
    left = [query for query in pool if normalise(query.question) not in answered]
    return [] if ctx.job.lines and len(left) == len(pool) else left


def extra_lines(ctx: JobContext) -> list[Line]:
    """The extra samples that reconstruction reads, round by round; none where none are wanted."""
    return [line for file in answer_files(ctx)[: _rounds(ctx)] for line in read_lines(file)]


def recovery_lines(ctx: JobContext) -> tuple[list[Line], list[Line]]:
    """The extra samples that only recovery reads: those for tuning the layers again, and those for the fine-tune, as many as
    it has time for and at most half. The two share none: from what has been learned already there is little left to learn."""
    recipe = ctx.job.recipe
    lines = [line for file in answer_files(ctx)[_rounds(ctx):] for line in read_lines(file)]
    kept = len(lines) - min(recipe.recovery_steps * recipe.recovery_step_lines, len(lines) // 2)
    return lines[:kept], lines[kept:]


def answer_files(ctx: JobContext) -> list[Path]:
    """Where the answers of each round are, those of reconstruction before those of recovery; no rounds where nothing reads them."""
    recipe = ctx.job.recipe
    again = recipe.recovery_samples if recipe.recover and ctx.tunes_layers else 0
    return [ctx.path(f"further-{number}.jsonl") for number in range(_rounds(ctx) + again)]


def _rounds(ctx: JobContext) -> int:
    """How many of the rounds are for reconstruction."""
    recipe = ctx.job.recipe
    return recipe.extra_samples if recipe.bake or (recipe.reconstruct and recipe.sparsity) else 0
