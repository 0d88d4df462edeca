"""The voices themselves: tokens as in transformers, schemas, breaking off, damaged files, and transformers in llama.cpp's place."""

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny import add_files, find, make_tiny

from engine.base.errors import UserError
from engine.base.families import FAMILIES
from engine.base.sampling import SamplingParams
from engine.cards.card import parse_card
from engine.models.chat_format import encode_answer, encode_chat, endings
from engine.models.loading import load_tokenizer
from engine.serving.llama import LlamaVoice
from engine.serving.requests import Request
from engine.serving.speaking import answer
from engine.serving.turns import Turns
from engine.serving.voice import Piece, Timings
from engine.serving.voices import Voices

WILD = SamplingParams(temperature=5.0, min_p=0, top_p=1, repeat_penalty=1, dry_multiplier=0, seed=3)  # never repeats itself
AWKWARD = ["Hello there", "It costs 12345 coins; we'll see 12 of 345.\n\nSALT!\r\n", "  two  spaces\n\n\nand\ttabs ",
           "naïve Zoë — “quotes” 日本語 😀", "<|im_end|> <|im_start|>user\nHi", "< |im_end|>", "x" * 300, "", "a\u0301 \u00a0"]


@pytest.fixture
def voice(tiny_gguf: Path) -> Iterator[LlamaVoice]:
    voice = LlamaVoice("tiny", tiny_gguf, Turns(), slots=1)
    yield voice
    voice.close()


def same_tokens(tokenizer: Any, vocabulary: Any) -> None:
    assert endings(vocabulary) == endings(tokenizer) and vocabulary.chat_template == tokenizer.chat_template
    for text in AWKWARD:
        chat = [{"role": "system", "content": f"You are {text}"}, {"role": "assistant", "content": "Hi."},
                {"role": "user", "content": text}]
        assert encode_chat(vocabulary, chat) == encode_chat(tokenizer, chat), text
        assert encode_answer(vocabulary, text, True) == encode_answer(tokenizer, text, True), text
        assert vocabulary.encode(text) == tokenizer.encode(text, add_special_tokens=False), text


@pytest.mark.parametrize("family", [name for name, family in FAMILIES.items() if family.gguf])
def test_a_prompt_has_the_tokens_that_transformers_would_give_it(family: str, tmp_path: Path) -> None:
    folder = add_files(make_tiny(tmp_path / family, family), "F16")
    voice = LlamaVoice(family, next(folder.glob("gguf/*")), Turns(), slots=1)
    assert voice.window == 512 and voice.count("Hello there") == len(voice.vocabulary.encode("Hello there")) > 0
    same_tokens(load_tokenizer(find(folder)), voice.vocabulary)
    voice.close()


@pytest.mark.slow
@pytest.mark.slow
def test_the_prompt_cache_keeps_its_limit(tmp_path: Path) -> None:
    wide = {"num_attention_heads": 16, "num_key_value_heads": 16, "head_dim": 128, "num_hidden_layers": 8}  # 64 KiB a token
    folder = add_files(make_tiny(tmp_path / "tiny", endless=True, max_position_embeddings=1024, **wide), "F16")
    limit, process = 32, psutil.Process()
    voice = LlamaVoice("tiny", next(folder.glob("gguf/*")), Turns(), slots=2, prompt_cache=limit)
    draw, sizes = random.Random(1), []

    async def read() -> None:
        for _ in range(60):
            await voice.read([draw.randrange(20, 200) for _ in range(draw.randrange(60, 120))])
            sizes.append(process.memory_info().rss)

    asyncio.run(read())
    assert max(sizes) - sizes[0] < 1.25 * (limit << 20)


def test_so_it_is_with_the_starter_which_speaks_from_its_own_file(starter: Path) -> None:
    voice = LlamaVoice("starter", next(starter.glob("gguf/*Q4_1.gguf")), Turns(), slots=2)
    same_tokens(load_tokenizer(find(starter)), voice.vocabulary)
    greedy = SamplingParams(temperature=0, repeat_penalty=1, dry_multiplier=0, seed=0)
    known = asyncio.run(all_of(voice.complete(voice.vocabulary.encode("The capital of France is"), greedy, 1)))
    assert known[0].text == " Paris"
    prompt = encode_chat(voice.vocabulary, [{"role": "system", "content": "You are Pim, a miller. You sell flour."},
                                            {"role": "user", "content": "What do you sell?"}])
    said = "".join(piece.text for piece in asyncio.run(all_of(voice.complete(prompt, greedy, 40))))
    assert "flour" in said and "<|" not in said
    again = asyncio.run(all_of(voice.complete([*prompt, *voice.vocabulary.encode(said)], greedy, 3)))
    assert again[-1].timings.reused >= len(prompt), "what was read and said is in memory"
    voice.close()


async def all_of(pieces: AsyncGenerator[Piece, None]) -> list[Piece]:
    return [piece async for piece in pieces]


def test_a_long_prompt_reports_how_far_it_is_read(voice: LlamaVoice) -> None:
    long = [5 + place * 7 % 200 for place in range(400)]
    told = [piece.reading for piece in asyncio.run(all_of(voice.complete(long, WILD, 3))) if piece.reading]
    assert len(told) >= 2 and told == sorted(told) and told[-1] == (400, 400) and 0 < told[-2][0] < 400
    again = asyncio.run(all_of(voice.complete([*long, 9, 9], WILD, 3)))  # most of it is in memory
    assert not any(piece.reading for piece in again)


def test_an_answer_that_is_broken_off_frees_its_slot(voice: LlamaVoice) -> None:
    async def break_off() -> list[Piece]:
        async with aclosing(voice.complete([5, 6, 7], WILD, 400)) as pieces:
            async for piece in pieces:
                if piece.tokens == 3:
                    break
        async with asyncio.timeout(20):
            return await all_of(voice.complete([8, 9, 10], WILD, 5))

    assert asyncio.run(break_off())[-1].tokens == 5


def test_a_schema_holds_whatever_the_model_wants_to_say(voice: LlamaVoice) -> None:
    schema = {"type": "object", "properties": {"mood": {"enum": ["glad", "cross"]}}, "required": ["mood"],
              "additionalProperties": False}
    said = "".join(piece.text for piece in asyncio.run(all_of(voice.complete([5, 6, 7], WILD, 100, schema))))
    assert json.loads(said)["mood"] in ("glad", "cross")


def test_only_whole_characters_are_said(voice: LlamaVoice) -> None:
    pieces = asyncio.run(all_of(voice.complete([5, 6, 7], WILD, 200)))  # random bytes
    for piece in pieces:
        piece.text.encode()


def test_a_damaged_file_is_one_sentence(tiny_gguf: Path, tmp_path: Path) -> None:
    data = tiny_gguf.read_bytes()
    for name, content in (("cut", data[:-500]), ("junk", b"GGUF" + b"\xff" * 100), ("none", b"hello")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as caught:
            LlamaVoice(name, tmp_path / name, Turns())
        assert "\n" not in str(caught.value)


def test_the_same_prompt_and_seed_say_the_same_whatever_was_said_between(voice: LlamaVoice) -> None:
    opening, params = list(range(5, 105)), replace(WILD, temperature=1.0)

    async def say(end: list[int], seed: int) -> str:
        return "".join([piece.text async for piece in voice.complete([*opening, *end], replace(params, seed=seed), 30)])

    async def talk() -> None:
        await voice.read(opening)
        first = await say([9, 8, 7], 1)
        second = await say([9, 8, 7, 5, 5, 5, 6], 2)
        assert await say([9, 8, 7], 3) != first
        assert await say([9, 8, 7], 1) == first and await say([9, 8, 7, 5, 5, 5, 6], 2) == second

    asyncio.run(talk())


def test_more_conversations_than_its_memory_holds_are_all_answered(tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.serving.llama.A_SLOT", 256)
    voice = LlamaVoice("tiny", tiny_gguf, Turns(), slots=4)
    assert voice.tokens == 1024 and voice.window == 512

    async def one(number: int) -> int:
        prompt = [5 + (number * 31 + place * 7) % 200 for place in range((30, 380, 400)[number % 3])]
        async with voice.turn(len(prompt) + 50):
            return [piece async for piece in voice.complete(prompt, WILD, 50)][-1].tokens

    async def all_of_them() -> list[int]:
        return await asyncio.gather(*map(one, range(15)))

    assert min(asyncio.run(all_of_them())) > 0
    voice.close()


def test_turns_come_in_order_one_model_at_a_time_within_its_memory() -> None:
    log: list[str] = []

    async def work(turns: Turns, who: str, name: str, tokens: int) -> None:
        async with turns.of(who, tokens, 100):
            log.append(f"+{name}")
            await asyncio.sleep(0.01)
            log.append(f"-{name}")

    async def all_at_once() -> None:
        turns = Turns()
        tasks = [asyncio.ensure_future(work(turns, who, name, tokens)) for who, name, tokens in (
            ("a", "1", 50), ("a", "2", 50), ("a", "3", 50), ("b", "4", 1), ("b", "gone", 1), ("a", "5", 500))]
        await asyncio.sleep(0)
        tasks[4].cancel()
        await asyncio.wait(tasks)

    asyncio.run(all_at_once())
    assert log[:2] == ["+1", "+2"] and log.index("+3") > log.index("-1") and "+gone" not in log
    assert log.index("+4") > log.index("-3") and log[-2:] == ["+5", "-5"], "more than all of it is all of it"


def request(model: str = "m", said: str = "Who are you?", **fields: Any) -> Request:
    card = parse_card(b'{"name": "Zo\xc3\xab", "description": "A miller."}', "card")
    return Request("speak", 1, model, card, (("user", said),), **{"sampling": WILD, **fields})


def test_transformers_speaks_where_llama_cpp_cannot(tmp_path: Path) -> None:
    family = next(name for name, one in FAMILIES.items() if one.gguf is None)
    folder, told = str(make_tiny(tmp_path / "other", family)), list[dict[str, Any]]()

    async def ask() -> tuple[list[dict[str, Any]], list[Piece]]:
        voices = Voices()
        async with voices.use(folder, "", told.append) as voice:
            events = [event async for event in answer(request(folder, sampling=SamplingParams(max_tokens=8, seed=3)), voice)]
            async with aclosing(voice.complete([5, 6, 7], WILD, 100_000)) as pieces:
                async for piece in pieces:
                    if piece.tokens == 3:
                        break
            short = [piece async for piece in voice.complete([5, 6, 7], WILD, 4)]
            with pytest.raises(UserError, match="schema"):
                await anext(voice.complete([5], WILD, 4, {"type": "object"}))
        voices.close()
        return events, short

    events, short = asyncio.run(ask())
    ended = events[-1]
    assert (ended["engine"], ended["event"]) == ("transformers", "Ended") and ended["type"] in ("float32", "bfloat16")
    assert ended["tokens"] == 8 and ended["prompt_tokens"] > 10 and ended["text"].strip() == ended["text"]
    assert short[-1].tokens == 4 and told[0]["event"] == "Loading" and told[-1]["event"] == "Loaded"


class Reader:
    """A voice that reads out what it is given, a word a token."""

    name, type, engine, window, bytes = "m", "Q8_0", "llama.cpp", 4096, 0

    def __init__(self, vocabulary: Any, words: str) -> None:
        self.vocabulary, self.words, self.turns = vocabulary, words.split(" "), Turns()

    def count(self, text: str) -> int:
        return len(text.split())

    def turn(self, tokens: int, alone: bool = False) -> Any:
        return self.turns.of(self, tokens, tokens)

    async def complete(self, prompt: Sequence[int], params: SamplingParams, limit: int,
                       schema: Any = None) -> AsyncGenerator[Piece, None]:
        for number, word in enumerate(self.words[:limit], start=1):
            yield Piece(word if number == 1 else f" {word}", number, False, Timings(len(prompt)))
        if len(self.words) < limit:
            yield Piece("", len(self.words) + 1, True, Timings(len(prompt)))

    async def read(self, prompt: Sequence[int]) -> int:
        return 0

    def close(self) -> None:
        """Nothing."""


def says(voice: LlamaVoice, words: str, most: int, **fields: Any) -> tuple[dict[str, Any], str]:
    """The end of an answer, and all that was said, of a model that says these words."""
    asked = request(sampling=SamplingParams(max_tokens=most, seed=0), **fields)

    async def ask() -> list[dict[str, Any]]:
        return [event async for event in answer(asked, Reader(voice.vocabulary, words))]

    *said, ended = asyncio.run(ask())
    return ended, "".join(one["text"] for one in said)


GUARD = "You are a guard. "
SAYS = [("I sell flour. " + GUARD * 9, 300, "loop", "I sell flour. You are a guard."),
        ("the doll, " * 30, 300, "loop", "the doll, the doll, the doll, the"),  # no sentence: all that is no loop yet
        ("I sell flour. Salt is in the back of the mill, where my mother keeps", 14, "limit", "I sell flour."),
        ("Salt is in the back of the mill, where my mother keeps", 11, "limit", None),  # no sentence: nothing is cut
        ("It is dear, and so is salt.", 300, "ended", None)]


@pytest.mark.parametrize(("words", "most", "reason", "kept"), SAYS, ids=[words[:20] for words, *_ in SAYS])
def test_circles_and_half_sentences_are_not_kept(words: str, most: int, reason: str, kept: str | None,
                                                 voice: LlamaVoice) -> None:
    ended, said = says(voice, words, most)
    assert ended["reason"] == reason and said.startswith(ended["text"]) and ended["text"]
    assert ended["text"] == (said if kept is None else kept)
    assert ended["tokens"] <= len(words.split(" ")), "it stops, and its ending is no token of the text"


def test_near_the_limit_an_answer_stops_after_a_whole_sentence(voice: LlamaVoice) -> None:
    words = "".join(f"It costs {number} coins. " for number in ("two", "nine", "few", "more", "six", "ten"))
    ended, said = says(voice, words + "But the other sack of it", 27)
    assert ended["text"] == said and words.startswith(said) and said.endswith("coins.") and 21 <= ended["tokens"] < 27
    ended, said = says(voice, "It costs nearly 3. 5 coins a sack", 5)
    assert said != "It costs nearly 3.", "a number is not over at its point"


def test_a_continued_turn_is_judged_with_its_beginning(voice: LlamaVoice) -> None:
    def goes_on(begun: str, words: str, most: int) -> dict[str, Any]:
        one = request(sampling=SamplingParams(max_tokens=most, seed=0), goes_on=True)
        one.turns = (("user", "Who?"), ("assistant", begun))

        async def ask() -> list[dict[str, Any]]:
            return [event async for event in answer(one, Reader(voice.vocabulary, words))]

        return asyncio.run(ask())[-1]

    ended = goes_on("I say: salt. " + GUARD * 2, " " + GUARD * 9, 300)
    assert (ended["reason"], ended["text"]) == ("loop", ""), "it was said twice already"
    assert goes_on(GUARD * 9, " I sell flour. It is", 6)["text"] == " I sell flour.", "of an older chat"


def test_an_answer_by_a_schema_is_neither_cut_nor_guarded(voice: LlamaVoice) -> None:
    ended, said = says(voice, "the doll, " * 30, 40, schema={"type": "string"})
    assert ended["text"] == said and ended["tokens"] == 40 and ended["reason"] == "limit"
