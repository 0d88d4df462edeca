"""python -m benchmarks soak: many players on one server, for minutes.

Every character keeps a word, and every player has one; nobody may hear another's. Each player goes from character to character
with a session at each, says something, waits, and says the next thing. With --break-off, some replies are left in the middle or
while waiting. With --kill, the server is killed at the end, in the middle of everything: each player must get an error, and a new
server on the same data folder must know all that was kept.

The server keeps conversations that are not under way up to a limit, which `serve --check` counts. Here it is low, so that it is
reached early: what grows after the first third of the time is not that.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.speakers import Server, announced_bytes
from engine.base.files import data_folder, write_json
from engine.running import print_table
from engine.serving.memory import PlayerMemory
from engine.serving.memory.file import FILE

# Words that a model does not say by itself.
_BEGINNINGS = ("quil", "zeph", "brax", "thorn", "mirz", "olv", "vex", "kesp", "drum", "yarb", "plin", "goss", "wend", "jask",
               "ulm", "fyr")
_ENDINGS = ("ador", "inka", "ombe", "ettle", "axis", "urno", "ywick", "oria")
LINES = ("What is your secret word?", "Tell me the password, please.", "Who are you?", "What do you keep from me?")
PATIENCE = 900  # seconds that a player waits for a reply
SAMPLES = 2.0  # seconds between two looks at the memory of the server
PROMPT_CACHE = 64  # MB, --prompt-cache of the server
SHOWN = 5  # of so many looks one is in the figures
SETTLED = 0.3  # share of the time after which the memory should no longer grow
ERROR_SECONDS = 5  # within which a player must know that the server is gone


def word(number: int) -> str:
    """The word of a character or player: a different one for each number below 16,384."""
    first, rest = divmod(number, len(_ENDINGS))
    turn, first = divmod(first, len(_BEGINNINGS))
    return f"{_BEGINNINGS[first]}{_ENDINGS[rest]}{'abcdefghijklmnop'[turn % 16] * (turn > 0)}"


@dataclass
class Course:
    """What happened so far."""

    waits: list[float] = field(default_factory=list)  # seconds to the first piece
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    kept: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # whole replies by player, character, session
    killed: float = 0.0  # when the server was
    told: list[float] = field(default_factory=list)  # seconds from there to a player's error


def write_cards(folder: Path, count: int) -> list[str]:
    """Cards of so many characters with a word each."""
    files = []
    for number in range(count):
        name = f"Keeper {number}"
        data = {"name": name, "description": f"{name} guards a gate and keeps the secret word “{word(number)}”.",
                "mes_example": f"<START>\n{{{{user}}}}: The word?\n{{{{char}}}}: The secret word is {word(number)}.",
                "first_mes": "Halt.", "extensions": {}}
        file = folder / f"keeper-{number}.json"
        write_json(file, {"spec": "chara_card_v2", "spec_version": "2.0", "data": data})
        files.append(str(file))
    return files


def own_home(folder: Path) -> None:
    """From now on, a data folder with the models of the usual one, and without its memory of players."""
    folder.mkdir(mode=0o700)
    for name in ("models", "cache"):
        if (data_folder() / name).exists():
            (folder / name).symlink_to(data_folder() / name)
    os.environ["PERSONA_STUDIO_HOME"] = str(folder)


def run(options: argparse.Namespace) -> int:
    """Play, print what happened, and write the figures if asked to."""
    with tempfile.TemporaryDirectory() as folder:
        sources = write_cards(Path(folder), options.characters)
        own_home(Path(folder) / "home")
        more = ("--model", options.model, "--prompt-cache", str(PROMPT_CACHE), "--waiting", str(2 * options.players),
                "--patience", str(PATIENCE), *(["--memory"] if options.kill else []))
        announced = announced_bytes(sources, *more)
        server = Server(sources, *more)
        try:
            figures = asyncio.run(_play(server, options))
            figures["memory_share"] = figures["memory_bytes"] / announced
            if options.kill:
                server.close()
                server = Server(sources, *more)
                figures |= asyncio.run(_after(server, figures.pop("kept")))
        finally:
            server.close()
    figures.pop("kept", None)
    _report(figures, options)
    return 0 if not figures["wrong"] and not figures["lost"] and not figures.get("memories_lost") else 1


async def _play(server: Server, options: argparse.Namespace) -> dict[str, Any]:
    course, sizes = Course(), list[tuple[float, int]]()
    end = time.monotonic() + 60 * options.minutes
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.address, timeout=PATIENCE, limits=limits, trust_env=False) as client:
        watching = asyncio.create_task(_watch(server.pid, sizes))
        players = [asyncio.create_task(_player(number, client, server.characters, options, course, end))
                   for number in range(options.players)]
        if options.kill:
            await asyncio.sleep(60 * options.minutes - min(10, 30 * options.minutes))
            course.killed = time.monotonic()
            os.kill(server.pid, signal.SIGKILL)
        await asyncio.gather(*players)
        watching.cancel()
    return _figures(course, sizes, options)


async def _player(number: int, client: httpx.AsyncClient, characters: list[str], options: argparse.Namespace, course: Course,
                  end: float) -> None:
    """One player, until the time is over or the server is gone."""
    draw = random.Random(number)
    own, name = word(options.characters + number), f"player-{number}"
    heard: Counter[str] = Counter()
    while time.monotonic() < end and not course.killed:
        index = draw.randrange(len(characters))
        session = f"s{heard[characters[index]] // 6}"  # a new one after some turns
        line = f"My own word is {own}. {draw.choice(LINES)}" if draw.random() < 0.3 else draw.choice(LINES)
        body = {"model": characters[index], "user": name, "stream": True, "max_tokens": options.tokens,
                "seed": draw.randrange(2**31), "messages": [{"role": "user", "content": line}],
                "persona": {"session": f"{name}-{session}"}}
        breaks = draw.uniform(0, 3) if options.break_off and draw.random() < 0.3 else None
        try:
            said = await asyncio.wait_for(_hear(client, body, course), breaks)
        except TimeoutError:
            course.counts["broken_off"] += 1
        except (httpx.HTTPError, Refused) as error:
            if course.killed:
                course.told.append(time.monotonic() - course.killed)
                return
            if options.break_off and "session_busy" in str(error):  # the reply that was left has not ended yet
                course.counts["busy"] += 1
                await asyncio.sleep(0.2)
                continue
            course.counts["lost"] += 1
            course.wrong.append(f"{name}: {type(error).__name__} {error}"[:300])
        else:
            heard[characters[index]] += 1
            course.counts["whole"] += 1
            course.counts["own_word"] += word(index) in said.lower()
            course.kept[name, characters[index], f"{name}-{session}"] += 1
            others = {word(one) for one in range(options.characters + options.players)} - {word(index), own}
            if found := sorted(one for one in others if one in said.lower()):
                course.counts["anothers_word"] += 1
                course.wrong.append(f"{name} heard {', '.join(found)} from {characters[index]}: {said[:200]}")


class Refused(Exception):
    """A reply that the server did not give."""


async def _hear(client: httpx.AsyncClient, body: dict[str, Any], course: Course) -> str:
    """A streamed reply. Raises Refused where there is an error in the place of one, or no end."""
    start, said, ended = time.monotonic(), "", False
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != httpx.codes.OK:
            raise Refused(f"{answer.status_code} {(await answer.aread()).decode()[:200]}")
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                ended = True
            elif line.startswith("data: "):
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    raise Refused(str(chunk["error"])[:200])
                text = "".join(choice["delta"].get("content") or "" for choice in chunk.get("choices", ()))
                if text and not said:
                    course.waits.append(time.monotonic() - start)
                said += text
    if not ended:
        raise Refused("the stream ended before the reply did")
    if not said.strip():
        course.counts["empty"] += 1
    return said


async def _watch(pid: int, sizes: list[tuple[float, int]]) -> None:
    """The server's own memory, time and again."""
    start, process = time.monotonic(), psutil.Process(pid)
    with suppress(psutil.Error):
        while True:
            if size := process.memory_info().rss:  # none where the process was just killed
                sizes.append((time.monotonic() - start, size))
            await asyncio.sleep(SAMPLES)


async def _after(server: Server, kept: Counter[tuple[str, str, str]]) -> dict[str, Any]:
    """What a new server knows of what the killed one kept."""
    memory = PlayerMemory(data_folder() / FILE)
    lost = sum(max(0, count - sum(turn.role == "assistant" for turn in memory.turns(*key))) for key, count in kept.items())
    async with httpx.AsyncClient(base_url=server.address, timeout=PATIENCE, trust_env=False) as client:
        healthy = (await client.get("/health")).status_code == httpx.codes.OK
    return {"memories": sum(kept.values()), "memories_lost": lost, "restarted": healthy}


def _figures(course: Course, sizes: list[tuple[float, int]], options: argparse.Namespace) -> dict[str, Any]:
    waits = sorted(course.waits) or [0.0]
    whole = sizes[-1][0] if sizes else 0
    settled = [size for at, size in sizes if SETTLED * whole <= at <= (SETTLED + 0.1) * whole]
    last = [size for at, size in sizes if at >= 0.9 * whole]
    growth = statistics.median(last) / statistics.median(settled) - 1 if settled and last else 0.0
    return {"model": options.model, "players": options.players, "characters": options.characters, "minutes": options.minutes,
            "replies": course.counts["whole"],
            **{name: course.counts[name] for name in ("broken_off", "busy", "lost", "empty", "anothers_word", "own_word")},
            "wrong": course.wrong[:20], "wait_p50": waits[len(waits) // 2], "wait_p95": waits[len(waits) * 95 // 100],
            "memory_bytes": max((size for _, size in sizes), default=0), "memory_growth": growth, "kept": course.kept,
            "memory_course": [(round(at), size) for at, size in sizes[::SHOWN]],
            **({"told": len(course.told), "told_slowest": max(course.told, default=0.0)} if options.kill else {})}


def _report(figures: dict[str, Any], options: argparse.Namespace) -> None:
    rows = [("whole replies", "replies", ""), ("left by the player", "broken_off", ""), ("lost", "lost", "0"),
            ("empty", "empty", "0"), ("with another's word", "anothers_word", "0"),
            ("with the character's own word", "own_word", ""),
            ("seconds of waiting, median", "wait_p50", ""), ("seconds of waiting, 95 %", "wait_p95", ""),
            ("growth of the server's memory", "memory_growth", "below 0.05"),
            ("its memory at most / what serve --check says", "memory_share", "at most 1"),
            ("players with an error after the kill", "told", "all"),
            ("seconds until the last of them had it", "told_slowest", f"at most {ERROR_SECONDS}"),
            ("replies that the new server should know", "memories", ""), ("of these unknown", "memories_lost", "0")]
    title = f"{options.players} players, {options.characters} characters, {options.minutes:g} minutes"
    print_table(title, ["figure", "measured", "wanted"],
                [[name, f"{figures[key]:.4g}", wanted] for name, key, wanted in rows if key in figures])
    for sentence in figures["wrong"]:
        print(sentence, file=sys.stderr)
    print(json.dumps(figures, indent=2))
    if options.json:
        write_json(Path(options.json), figures)
