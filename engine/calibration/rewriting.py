"""Answers in the character's voice, by the dense model itself.

The model answers each question after the prompt that chats have (engine.cards.prompt), in batches; it also makes up questions by
sampling the player's turn after the same beginning (Magpie, Xu et al. 2024, arXiv 2406.08464). Bad answers are sampled again with
another seed, then dropped and counted. The seed of a batch depends on the job's seed and the batch's number alone, so that a
batch that was interrupted gives the same answers again.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from engine.base.events import UNDER_WAY, Step, Stream
from engine.base.ids import Rejection, StageId
from engine.base.job import Recipe
from engine.base.pruning_events import Writing
from engine.base.questions import normalise
from engine.calibration.filtering import ROUNDS, find_fault, is_usable_question, tidy, too_similar
from engine.calibration.lines import Journal, Line, Query
from engine.cards.card import Card
from engine.cards.prompt import USUAL, Message, Setting, messages
from engine.cards.speaking import uses_third_person
from engine.models.chat_format import encode_answer, encode_chat, endings, token_counter, user_turn_opening
from engine.models.packing import Example, shared_prefix
from engine.models.sampling import Parts, Sampled, Sampling, sample_in_parts, sample_together, to_the_end

QUESTION_TOKENS = 40
QUESTION_TEMPERATURE = 0.9


@dataclass(frozen=True)
class Voice:
    """The character as the sampler needs it: its prompts, and how its answers are judged. `setting`: that of every line."""

    card: Card
    setting: Setting = USUAL

    @classmethod
    def of(cls, card: Card, tokenizer: Any) -> "Voice":
        """The voice of a card, with the token counter of a model."""
        return cls(card, Setting(count=token_counter(tokenizer)))

    @property
    def names(self) -> tuple[str, ...]:
        return self.card.names

    def opening(self) -> list[Message]:
        """What comes before the player's first words, the same for every line."""
        return messages(self.card, [], self.setting)

    def asked(self, question: str) -> list[Message]:
        """The messages of a single question, as in a chat that begins with it."""
        return messages(self.card, [("user", question)], self.setting)

    def said(self, question: str) -> str:
        """The player's turn as the prompt has it: the question, with the lore that it fires and the closing instructions."""
        return self.asked(question)[-1]["content"]

    def fault(self, answer: str, complete: bool) -> Rejection | None:
        own_manner = uses_third_person(self.names, self.card.example_dialogue)
        return find_fault(answer, self.names, complete, speaks_in_third_person=own_manner)


def encode_line(tokenizer: Any, voice: Voice, question: str, answer: str, complete: bool) -> Example:
    """Token ids of a line after the persona's prompt; an answer that was cut short gets no ending token."""
    tokens = encode_chat(tokenizer, voice.asked(question))
    return Example(tuple(tokens), tuple(encode_answer(tokenizer, answer, complete)))


def _seed(recipe: Recipe, purpose: int, number: int) -> int:
    return (recipe.seed * 1_000 + purpose) * 100_000 + number


@dataclass(frozen=True)
class Round:
    """How often and in which stage questions are answered. `seeds`: another for each round; `before` of `total` were there."""

    tries: int = ROUNDS
    seeds: int = 1
    stage: StageId = StageId.ANSWERS
    before: int = 0
    total: int | None = None


def answer_questions(model: nn.Module, tokenizer: Any, voice: Voice, queries: Sequence[Query], recipe: Recipe,
                     journal: Journal, how: Round = Round()) -> Stream[tuple[list[Line], Counter[Rejection]]]:
    """A line for every query whose answer passes the filter within `how.tries`, and a count of rejections."""
    lines: dict[str, Line] = {}
    rejected: Counter[Rejection] = Counter()
    finished = batches(journal, "answers")
    number = 0
    for attempt in range(how.tries):
        waiting = [query for query in queries if normalise(query.question) not in lines]
        while waiting:
            answers = finished.get(number, [])
            if len(answers) > len(waiting) or not all(
                    isinstance(one, list) and list(map(type, one)) == [str, bool] for one in answers):
                answers = []
            size = len(answers) if answers else recipe.batch_lines  # batches may have become smaller since
            batch, waiting = waiting[:size], waiting[size:]
            if not answers:
                prompts = [encode_chat(tokenizer, voice.asked(query.question)) for query in batch]
                parts = begin_answers(model, tokenizer, prompts, recipe, how.seeds, number)
                so_far = how.before + len(lines), how.total or len(queries)
                sampled = yield from _shown(parts, tokenizer, batch, recipe, how.stage, *so_far)
                answers = [list(tidy(tokenizer.decode(answer.tokens, skip_special_tokens=True), voice.names, answer.complete))
                           for answer in sampled]
                journal.add({"batch": number, "answers": answers})
            for query, (answer, complete) in zip(batch, answers, strict=True):
                if fault := voice.fault(answer, complete):
                    rejected[fault] += 1
                else:
                    lines[normalise(query.question)] = Line(query.question, answer, query.neutral, query.category,
                                                            query.source, complete)
            number += 1
            yield Step(how.stage, how.before + len(lines), how.total or len(queries),
                       {"try": attempt + 1, "rejected": sum(rejected.values())})
    return [lines[key] for query in queries if (key := normalise(query.question)) in lines], rejected


def batches(journal: Journal, name: str) -> dict[int, list[Any]]:
    """The lists of a journal's batches by their numbers. The values are unchecked."""
    return {record["batch"]: record[name] for record in journal.records
            if type(record.get("batch")) is int and isinstance(record.get(name), list)}


def sample_answers(model: nn.Module, tokenizer: Any, prompts: Sequence[Sequence[int]], recipe: Recipe, purpose: int,
                   number: int) -> list[Sampled]:
    """An answer to each prompt of token ids. The seed is the job's, for a purpose and the number of a batch."""
    return to_the_end(begin_answers(model, tokenizer, prompts, recipe, purpose, number))


def begin_answers(model: nn.Module, tokenizer: Any, prompts: Sequence[Sequence[int]], recipe: Recipe, purpose: int,
                  number: int) -> Parts:
    """As sample_answers, part by part."""
    prefix = shared_prefix([Example(tuple(tokens)) for tokens in prompts])
    sampling = Sampling(endings(tokenizer), recipe.answer_tokens, recipe.temperature, recipe.top_p, _seed(recipe, purpose, number))
    return sample_in_parts(model, prompts[0][:prefix], [tokens[prefix:] for tokens in prompts], sampling)


def _shown(parts: Parts, tokenizer: Any, batch: Sequence[Query], recipe: Recipe, stage: StageId, done: int,
           total: int) -> Stream[list[Sampled]]:
    """The answers of a batch; on the way one of them as it grows, and how many of the batch that comes to."""
    while True:
        try:
            answers = next(parts)
        except StopIteration as end:
            return end.value
        place = max(range(len(answers)), key=lambda one: len(answers[one].tokens))
        tokens = answers[place].tokens
        yield Writing(stage, batch[place].question, tokenizer.decode(tokens, skip_special_tokens=True).strip())
        yield Step(stage, done, total, {UNDER_WAY: len(batch) * len(tokens) // recipe.answer_tokens})


def make_up_questions(model: nn.Module, tokenizer: Any, voice: Voice, known: Sequence[str], recipe: Recipe,
                      journal: Journal) -> Stream[tuple[list[Query], int]]:
    """Up to `recipe.self_asked` usable questions that the model asks as the player, and how many were rejected.

    None is too similar to a `known` one or to another. At most twice as many as are wanted are sampled.
    """
    questions: list[Query] = []
    kept = {normalise(question) for question in known}
    rejected = number = asked = 0
    opening = user_turn_opening(tokenizer, voice.opening())
    finished = {number: texts for number, texts in batches(journal, "questions").items()
                if 0 < len(texts) <= 2 * recipe.self_asked and all(isinstance(text, str) for text in texts)}
    wanted = recipe.self_asked
    while len(questions) < wanted and asked < 2 * wanted:
        if number not in finished:
            sampling = Sampling(endings(tokenizer), QUESTION_TOKENS, QUESTION_TEMPERATURE, recipe.top_p, _seed(recipe, 2, number))
            sampled = sample_together(model, opening[:-1], [opening[-1:]] * min(recipe.batch_lines, 2 * wanted - asked), sampling)
            texts = [tokenizer.decode(one.tokens, skip_special_tokens=True).strip() if one.complete else "" for one in sampled]
            finished[number] = texts
            journal.add({"batch": number, "questions": texts})
        for text in finished[number]:
            if len(questions) < wanted and is_usable_question(text) and not too_similar(text, kept):
                kept.add(normalise(text))
                questions.append(Query(text, "", "made up", "self-asked"))
            else:
                rejected += 1
        asked += len(finished[number])  # batches may have become smaller since they were written
        number += 1
        yield Step(StageId.ASK, len(questions), wanted, {"rejected": rejected})
    return questions, rejected
