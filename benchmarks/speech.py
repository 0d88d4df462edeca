"""python -m benchmarks speech: what the studio's chats and the server cost beside llama.cpp alone, as ratios from one run.

Each figure is a median of pairs: the same prompts, file, threads and samplers, in turn, timed at the client. `--before` adds the
chat worker of another checkout. Nothing else should run meanwhile: llama.cpp slows down out of all proportion on busy cores.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from benchmarks.speakers import HERE, Plain, Server, Worker
from engine.base.errors import UserError
from engine.base.files import write_json
from engine.base.sampling import DEFAULTS
from engine.cards.actions import read_actions, reply_schema
from engine.cards.card import Card, bundled_files, find_bundled
from engine.cards.npc import read_npc
from engine.running import print_table
from engine.serving.files import gguf_file
from engine.serving.llama import threads
from engine.serving.replies import fault_in

CHARACTER = "pim-tuckett"
LINES = ("Who are you, and what do you do all day?", "Tell me about the last thing you found.", "What are you afraid of, and why?",
         "Where would you hide, if somebody came?", "What would you do with a hundred coins?", "Who taught you what you know?")
AT_ONCE = 4  # replies that are asked for side by side, as many as the server answers
Figures = dict[str, Any]


def run(options: argparse.Namespace) -> int:
    """Measure, print the table, and write the figures if asked to."""
    file = gguf_file(options.model)
    if file is None:
        raise UserError(f"There is no GGUF file for {options.model} yet.", f"python -m engine gguf {options.model}")
    figures: Figures = {"model": options.model, "file": file.name, "threads": threads(), "rounds": options.rounds}
    measures: dict[str, Callable[[], Figures]] = {
        "speed": lambda: measure_speed(options, file), "first": lambda: measure_first(options, file),
        "cold": lambda: measure_cold(options), "replies": lambda: measure_replies(options),
        "page": lambda: measure_page(options)}
    for part in options.only:
        if (part != "replies" or options.replies) and (part != "page" or options.page):
            print(f"measuring {part} ...", file=sys.stderr)
            figures |= measures[part]()
    print_table(f"{options.model} ({file.name}), {figures['threads']} threads", ["figure", "measured", "wanted"], table(figures))
    print(json.dumps(figures, indent=2))
    if options.json:
        write_json(Path(options.json), figures)
    return 0


def table(figures: Figures) -> list[list[str]]:
    """The figures that have a target, and the target."""
    rows = [("tokens a second: chats of the studio / llama.cpp", "worker_speed_ratio", ".95"),
            ("tokens a second: server / llama.cpp", "server_speed_ratio", ".95"),
            ("tokens a second: chats now / before", "before_speed_ratio", "2"),
            ("first token of a known character: chats / llama.cpp", "worker_first_ratio", "at most 1.3"),
            ("first token of a known character: server / llama.cpp", "server_first_ratio", "at most 1.3"),
            ("cold start, seconds to the first word: before / now", "cold_ratio", "2"),
            ("cold start, seconds", "cold_seconds", ""), ("replies that satisfy their schema", "replies_valid", "all"),
            ("replies asked for", "replies", ""), ("page: seconds to load", "page_load_seconds", "at most 5"),
            ("page: seconds from there to the first word", "page_first_seconds", "at most 3"),
            ("page: seconds until the character is read", "page_read_seconds", ""),
            ("page: seconds to the first word, once it is read", "page_known_first_seconds", "at most 3"),
            ("page: tokens a second / llama.cpp", "page_speed_ratio", "")]
    return [[name, f"{figures[key]:.4g}", wanted] for name, key, wanted in rows if key in figures]


@contextlib.contextmanager
def opened(*speakers: Any) -> Iterator[None]:
    """They end with the block."""
    try:
        yield
    finally:
        for speaker in speakers:
            if speaker is not None:
                speaker.close()


def measure_speed(options: argparse.Namespace, file: Path) -> Figures:
    """Tokens a second after the first token of the same replies, by everyone in turn."""
    card, params = find_bundled(CHARACTER), replace(DEFAULTS, max_tokens=options.tokens)
    worker, server, plain = Worker(options.model), Server([CHARACTER], "--model", options.model), Plain(file, threads())
    before = Worker(options.model, options.before) if options.before else None
    names = ("plain", "plain_own", "worker", "server", *(["before"] if before else []))
    rates: dict[str, list[float]] = {name: [] for name in names}
    with opened(worker, server, plain, before):
        prompts = {line: worker.prompt(card, line) for line in LINES}
        for number in range(options.rounds + 1):  # the first round warms up
            heard: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
            for line in LINES:
                seeded = replace(params, seed=number)
                reply, own = plain.hear(prompts[line], seeded)
                replies = {"plain": reply, "worker": worker.hear(card, line, seeded), "server": server.hear(card, line, seeded),
                           **({"before": before.hear(card, line, seeded)} if before else {})}
                for name, one in replies.items():
                    heard[name].append((one.tokens - 1, one.between))
                heard["plain_own"].append((reply.tokens, reply.tokens / own))
            for name, parts in heard.items() if number else ():
                rates[name].append(sum(tokens for tokens, _ in parts) / sum(seconds for _, seconds in parts))
    ratios = lambda one, other: statistics.median(a / b for a, b in zip(rates[one], rates[other], strict=True))
    return {**{f"{name}_tokens_per_second": statistics.median(found) for name, found in rates.items()},
            "worker_speed_ratio": ratios("worker", "plain_own"), "server_speed_ratio": ratios("server", "plain_own"),
            **({"before_speed_ratio": ratios("worker", "before")} if before else {}), "speed_replies": options.rounds * len(LINES)}


def measure_first(options: argparse.Namespace, file: Path) -> Figures:
    """Seconds to the first token of a character whose opening was read: by everyone in turn, medians over lines."""
    card, params = find_bundled(CHARACTER), replace(DEFAULTS, max_tokens=2)
    worker, server, plain = Worker(options.model), Server([CHARACTER], "--model", options.model), Plain(file, threads())
    seconds: dict[str, list[float]] = {"plain": [], "worker": [], "server": []}
    with opened(worker, server, plain):
        prompts = {line: worker.prompt(card, line) for line in LINES}
        for number, line in enumerate(itertools.chain(LINES[:1], *[LINES[1:]] * options.rounds)):
            seeded = replace(params, seed=number)
            found = {"plain": plain.hear(prompts[line], seeded)[0], "worker": worker.hear(card, line, seeded),
                     "server": server.hear(card, line, seeded)}
            for name, one in found.items() if number else ():
                seconds[name].append(one.first)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    return {**{f"{name}_first_seconds": found for name, found in medians.items()},
            "worker_first_ratio": medians["worker"] / medians["plain"], "server_first_ratio": medians["server"] / medians["plain"],
            "first_replies": len(seconds["plain"])}


def measure_cold(options: argparse.Namespace) -> Figures:
    """Seconds from starting a chat worker to the first word of its first reply; the file is in the system's cache."""
    def once(folder: Path) -> float:
        worker = Worker(options.model, folder)
        with opened(worker):
            start = time.perf_counter()
            heard = worker.hear(find_bundled(CHARACTER), LINES[0], replace(DEFAULTS, max_tokens=2, seed=1))
            return start - worker.process.began + heard.first

    pairs = [(once(options.before) if options.before else 0.0, once(HERE)) for _ in range(options.rounds + 1)][1:]
    now, past = statistics.median(pair[1] for pair in pairs), statistics.median(pair[0] for pair in pairs)
    return {"cold_seconds": now, "cold_starts": len(pairs), **({
        "cold_before_seconds": past, "cold_ratio": statistics.median(old / new for old, new in pairs)} if options.before else {})}


def measure_replies(options: argparse.Namespace) -> Figures:
    """How many of so many replies with game actions satisfy the schema of their character."""
    cast = {slug: card for slug in bundled_files() if read_actions(read_npc((card := find_bundled(slug)).raw)).actions}
    server = Server(list(cast), "--model", options.model, "--parallel", str(AT_ONCE))
    with opened(server):
        start = time.perf_counter()
        faults = asyncio.run(_replies(server.address, cast, options.replies))
    wrong = [fault for fault in faults if fault]
    for fault in wrong[:10]:
        print(fault, file=sys.stderr)
    return {"replies": len(faults), "replies_valid": len(faults) - len(wrong), "replies_seconds": time.perf_counter() - start,
            "replies_characters": list(cast), "replies_faults": wrong[:10]}


async def _replies(address: str, cast: dict[str, Card], count: int) -> list[str]:
    """What is wrong with each reply; "" for nothing."""
    numbers = iter(range(count))
    found: list[str] = []

    async def ask(client: httpx.AsyncClient, number: int) -> str:
        slug = list(cast)[number % len(cast)]
        card = cast[slug]
        body = {"model": slug, "messages": [{"role": "user", "content": f"{LINES[number % len(LINES)]} ({number})"}],
                "persona": {"actions": True}, "seed": number}
        answer = await client.post("/v1/chat/completions", json=body)
        if answer.status_code != httpx.codes.OK:
            return f"{number}: status {answer.status_code}: {answer.text[:200]}"
        choice = answer.json()["choices"][0]
        fault = fault_in(choice["message"]["content"], reply_schema(read_npc(card.raw)))
        return f"{number} ({choice['finish_reason']}): {fault} {choice['message']['content']}" if fault else ""

    async def asker(client: httpx.AsyncClient) -> None:
        for number in numbers:
            found.append(await ask(client, number))
            if len(found) % 50 == 0:
                print(f"{len(found)} of {count} replies, {sum(map(bool, found))} wrong", file=sys.stderr)

    async with httpx.AsyncClient(base_url=address, timeout=600, trust_env=False) as client:
        await asyncio.gather(*(asker(client) for _ in range(AT_ONCE)))
    return found


def measure_page(options: argparse.Namespace) -> Figures:
    """The page that speaks, in Chromium, beside llama.cpp with the same file and one conversation."""
    from benchmarks.page import measure

    page = measure(options.page)
    file = sorted((options.page / "model").glob("*.gguf"))[0]  # of several parts llama.cpp finds the others itself
    plain, card = Plain(file, threads()), find_bundled(CHARACTER)
    with opened(plain):
        own = statistics.median(plain.hear(f"{card.description}\n{line}", replace(DEFAULTS, max_tokens=options.tokens, seed=1))[1]
                                for line in LINES)
    return {**page, "page_speed_ratio": page["page_tokens_per_second"] / own}
