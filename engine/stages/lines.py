"""Stage 1, calibration data: from the card to lines.jsonl.

Questions come from the pool (filtered by persona sensitivity), from the
model itself, and from the keys of the card's lorebook; answers from the dense model in character or from a teacher
server. Held-out lines are always answered by the dense model, and their
questions are not filtered: they stand for whatever players ask. Without --lines
this is the paper's stage 1; with it, the user's lines are taken as they are.
What a card's test script asks is in no line, wherever it comes from: a test of
what was learned by heart would say nothing.
"""

import random
from collections import Counter
from collections.abc import Generator, Sequence

from engine.base.events import Event, Lines, Stage, Step, Warned
from engine.base.files import read_json, write_json
from engine.base.questions import normalise, require_enough
from engine.calibration.filtering import tidy
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
from engine.calibration.rewriting import ROUNDS, Voice, answer_questions, make_up_questions
from engine.calibration.sensitivity import divergence, select, states_of
from engine.calibration.teacher import Request, rewrite
from engine.cards.card import bundled_cards
from engine.cards.prompt import render_description
from engine.cards.script import script_lines
from engine.models.chat_format import encode_chat
from engine.stages.workbench import Workbench

IN_SCRIPT = "asked in the test script"  # why a line was left out


def make_lines(bench: Workbench) -> Generator[Event, None, None]:
    """Leave lines.jsonl in the work folder: at least 16 usable lines, or UserError."""
    target = bench.path("lines.jsonl")
    summary = bench.path("rejected.json")
    if not target.exists():
        if bench.job.lines:
            lines, rejected, origin = read_lines(bench.job.lines), Counter[str](), str(bench.job.lines)
        else:
            lines, rejected = yield from _write_lines(bench)
            origin = "The calibration stage"
        lines, tested = _without_script(bench, lines)
        if tested:
            rejected[IN_SCRIPT] += tested
        require_enough([line.question for line in lines], origin)
        write_json(summary, dict(rejected))
        write_lines(target, lines)
    else:
        yield Stage("write answers", reused=True)
        require_enough([line.question for line in read_lines(target)], str(target))
    train, choosing, reporting, shared = bench.split_lines()
    if shared:
        yield Warned("Too few held-out lines to choose on some and report on others: both use the same ones.")
    yield Lines(str(target), len(train), len(choosing), len(reporting), read_json(summary))


def _write_lines(bench: Workbench) -> Generator[Event, None, tuple[list[Line], Counter[str]]]:
    recipe = bench.job.recipe
    tested = script_lines(bench.job.card)
    pool = [query for query in read_queries(bench.job.queries) if normalise(query.question) not in tested]
    spare = 1.15  # some answers will be rejected for good
    held = [query for split, count in (("validation", recipe.validation_lines), ("test", recipe.test_lines))
            for query in spread(of_split(pool, split), round(count * spare), recipe.seed)]  # type: ignore[arg-type]
    candidates = spread(of_split(pool, "train"), recipe.candidates, recipe.seed)
    scores: Sequence[float | None] = [None] * len(candidates)
    chosen = candidates
    if recipe.keep_share < 1:
        scores = ranked = yield from _score(bench, candidates)
        chosen = [candidates[index] for index in select(ranked, recipe.keep_share)]
    made_up = yield from _make_up(bench, [query.question for query in pool])
    rejected: Counter[str] = Counter()
    known = {normalise(query.question) for query in [*chosen, *made_up, *held]} | tested
    lore = [query for query in lore_queries(bench.job.card) if normalise(query.question) not in known]
    teaching = [*chosen, *made_up, *lore]
    yield Stage("write answers", len(held) + len(teaching))
    if bench.job.teacher:
        lines, faults = yield from _ask_teacher(bench, teaching)
    else:
        lines, faults = yield from answer_questions(bench.model, bench.tokenizer, bench.voice, teaching, recipe,
                                                    Journal(bench.path("answers.train.jsonl")))
    rejected += faults
    held_lines, faults = yield from answer_questions(bench.model, bench.tokenizer, bench.voice, held, recipe,
                                                     Journal(bench.path("answers.held-out.jsonl")))
    rejected += faults
    score_of = {normalise(query.question): score for query, score in zip(candidates, scores, strict=True)}
    lines = [Line(**{**vars(line), "sensitivity": score_of.get(normalise(line.question))}) for line in lines]
    return lines + held_lines, rejected


def _without_script(bench: Workbench, lines: Sequence[Line]) -> tuple[list[Line], int]:
    """The lines whose questions the card's test script does not ask, and how many it does."""
    tested = script_lines(bench.job.card)
    kept = [line for line in lines if normalise(line.question) not in tested]
    return kept, len(lines) - len(kept)


def _score(bench: Workbench, candidates: Sequence[Query]) -> Generator[Event, None, list[float]]:
    """The sensitivity of each candidate, against `recipe.references` other bundled characters."""
    saved = bench.path("sensitivity.json")
    if saved.exists():
        yield Stage("score questions", reused=True)
        return list(read_json(saved)["scores"])
    recipe, card = bench.job.recipe, bench.job.card
    others = [other for other in bundled_cards() if other.name != card.name]
    references = random.Random(recipe.seed).sample(others, min(recipe.references, len(others)))
    total = len(candidates) * (1 + len(references))
    yield Stage("score questions", total)
    voices = [Voice.of(one, bench.tokenizer) for one in [card, *references]]
    sums = [0.0] * len(candidates)
    done = 0
    # Group by group, so that the states of one group of queries are all that is held.
    for begin in range(0, len(candidates), 64):
        group = candidates[begin: begin + 64]
        states = []
        for voice in voices:
            encoded = [encode_chat(bench.tokenizer, voice.asked(query.question)) for query in group]
            parts = []
            for members, part in states_of(bench.model, encoded, max(recipe.row_tokens, len(encoded[0]) + 256)):
                parts.append(part)
                done += len(members)
                yield Step("score questions", done, total)
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


def _make_up(bench: Workbench, known: Sequence[str]) -> Generator[Event, None, list[Query]]:
    recipe = bench.job.recipe
    if not recipe.self_asked:
        return []
    yield Stage("make up questions", recipe.self_asked)
    questions, _ = yield from make_up_questions(bench.model, bench.tokenizer, bench.voice, known, recipe,
                                                Journal(bench.path("questions.jsonl")))
    # Made-up questions only teach; those that fall on the held-out side, or that the test script asks, are left out.
    tested = script_lines(bench.job.card)
    return [query for query in questions if split_of(query.question) == "train" and normalise(query.question) not in tested]


def _ask_teacher(bench: Workbench, queries: Sequence[Query]) -> Generator[Event, None, tuple[list[Line], Counter[str]]]:
    """Answers by the teacher server; those that the filter rejects are asked again, as often as our own are."""
    assert bench.job.teacher
    persona, voice = render_description(bench.job.card), bench.voice
    lines: dict[str, Line] = {}
    rejected: Counter[str] = Counter()
    for attempt in range(ROUNDS):
        waiting = [query for query in queries if normalise(query.question) not in lines]
        if not waiting:
            break
        keys = [f"{normalise(query.question)}#{attempt}" for query in waiting]
        requests = [Request(key, voice.said(query.question), query.neutral) for key, query in zip(keys, waiting, strict=True)]
        answers = yield from rewrite(bench.job.teacher, persona, requests, bench.path("answers.teacher.jsonl"))
        for query, key in zip(waiting, keys, strict=True):
            answer, complete = tidy(answers.get(key, ""), bench.voice.names, False)
            fault = bench.voice.fault(answer, complete)
            if fault:
                rejected[fault] += 1
            else:
                lines[normalise(query.question)] = Line(query.question, answer, query.neutral, query.category, query.source)
    return list(lines.values()), rejected
