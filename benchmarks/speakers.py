"""What speaks, for benchmarks: the chat worker of a checkout, the server, and llama.cpp alone, each in a process of its own.

All of them answer `hear`: a conversation in, and when its first and last words came out. Times are those of the client.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from engine.base.errors import UserError
from engine.base.sampling import SamplingParams
from engine.cards.card import Card
from engine.cards.prompt import render_greeting
from engine.serving.llama import samplers

HERE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Heard:
    """A reply: seconds to its first piece and to its last, tokens, and the text."""

    first: float
    last: float
    tokens: int
    text: str

    @property
    def between(self) -> float:
        """Seconds from the first piece to the last, in which all tokens but one are said."""
        return self.last - self.first


class Process:
    """A child with JSON lines on its standard output; it ends when its standard input does."""

    def __init__(self, arguments: Sequence[str], folder: Path = HERE) -> None:
        self.began, self.name = time.perf_counter(), " ".join(arguments[:2])
        variables = {**os.environ, "PYTHONPATH": str(folder)}
        self.child = subprocess.Popen([sys.executable, "-m", *arguments], cwd=folder, env=variables, stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def lines(self) -> Iterator[dict[str, Any]]:
        """Its answers. Raises UserError at their end."""
        assert self.child.stdout
        for line in self.child.stdout:
            if line.startswith(b"{"):
                yield json.loads(line)
        raise UserError(f"The process {self.name} ended with exit code {self.child.wait()}.")

    def send(self, request: dict[str, Any]) -> None:
        """One line in."""
        assert self.child.stdin
        self.child.stdin.write(json.dumps(request).encode() + b"\n")
        self.child.stdin.flush()

    def close(self) -> None:
        """End it."""
        assert self.child.stdin
        self.child.stdin.close()
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


class Worker:
    """The chat worker; `folder`: another checkout, whose own worker it is."""

    def __init__(self, model: str, folder: Path = HERE) -> None:
        verb = "serve" if (folder / "engine" / "serve.py").exists() else "chat-worker"  # as it was called before
        self.process, self.model, self.count = Process(["engine", verb], folder), model, 0

    def _answers(self, do: str, card: Card, turns: Sequence[tuple[str, str]], **more: Any) -> Iterator[dict[str, Any]]:
        self.count += 1
        self.process.send({"do": do, "id": self.count, "model": self.model, "card": card.raw, "turns": list(turns), **more})
        for answer in self.process.lines():
            if answer["event"] == "Failed":
                raise UserError(f"The chat worker: {answer['sentence']}")
            yield answer

    def hear(self, card: Card, line: str, params: SamplingParams) -> Heard:
        """A reply to a player's first line."""
        start, first, said = time.perf_counter(), 0.0, ""
        for answer in self._answers("speak", card, conversation(card, line), sampling=params.as_dict()):
            if answer["event"] == "Said":
                last = time.perf_counter() - start
                first, said = first or last, said + answer["text"]
            elif answer["event"] == "Ended":
                return Heard(first, last, answer["tokens"], said)
        raise AssertionError

    def prompt(self, card: Card, line: str) -> str:
        """The exact text that the model gets."""
        return next(answer["text"] for answer in self._answers("prompt", card, conversation(card, line))
                    if answer["event"] == "Prompt")

    def close(self) -> None:
        """End it."""
        self.process.close()


class Server:
    """`persona serve`, on a free port."""

    def __init__(self, sources: Sequence[str], *options: str) -> None:
        self.process = Process(["engine", "serve", *sources, "--port", "0", "--json", "--leash", "--rate", "0", *options])
        serving = next(answer for answer in self.process.lines() if answer.get("event") == "Serving")
        self.address, self.pid, self.characters = serving["address"], serving["pid"], serving["characters"]

    def hear(self, card: Card, line: str, params: SamplingParams) -> Heard:
        """A reply to a player's first line, streamed. The card is that of the character which is served first."""
        body = {"model": self.characters[0], "messages": [{"role": "user", "content": line}], "stream": True,
                "stream_options": {"include_usage": True}, **params.as_dict()}
        start, first, last, said, tokens = time.perf_counter(), 0.0, 0.0, "", 0
        with httpx.stream("POST", f"{self.address}/v1/chat/completions", json=body, timeout=600, trust_env=False) as answer:
            for chunk in chunks(answer):
                text = "".join(choice["delta"].get("content") or "" for choice in chunk.get("choices", ()))
                if text:
                    last = time.perf_counter() - start
                    first, said = first or last, said + text
                tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
        return Heard(first, last, tokens, said)

    def close(self) -> None:
        """End it."""
        self.process.close()


def announced_bytes(sources: Sequence[str], *options: str) -> int:
    """The memory that `serve --check` says a server will take."""
    process = Process(["engine", "serve", *sources, "--check", "--json", *options])
    assert process.child.stdout
    found = json.loads(process.child.stdout.read())
    process.close()
    return int(found["bytes"])


class Plain:
    """llama.cpp's own server with one file, as it comes but for the number of threads."""

    def __init__(self, file: Path, threads: int) -> None:
        self.process = Process(["benchmarks.plain_llama", str(file), str(threads)])
        self.address = next(self.process.lines())["address"]

    def hear(self, prompt: str, params: SamplingParams) -> tuple[Heard, float]:
        """What follows a prompt, and llama.cpp's own tokens a second."""
        body = {"prompt": prompt, "n_predict": params.max_tokens, "stream": True, "cache_prompt": True, **samplers(params)}
        done: dict[str, Any] = {}
        start, first, last, said = time.perf_counter(), 0.0, 0.0, ""
        with httpx.stream("POST", f"{self.address}/completion", json=body, timeout=600, trust_env=False) as answer:
            for chunk in chunks(answer):
                if text := chunk.get("content", ""):
                    last = time.perf_counter() - start
                    first, said = first or last, said + text
                done = chunk.get("timings") or done
        return Heard(first, last, done["predicted_n"], said), done["predicted_per_second"]

    def close(self) -> None:
        """End it."""
        self.process.close()


def conversation(card: Card, line: str) -> list[tuple[str, str]]:
    """The greeting and a player's line."""
    greeting = render_greeting(card)
    return [*([("assistant", card.greeting)] if greeting else []), ("user", line)]


def chunks(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """The objects of a stream of server-sent events. Raises UserError where it is refused."""
    if answer.status_code != httpx.codes.OK:
        raise UserError(f"The server refused a request ({answer.status_code}): {answer.read().decode()[:300]}")
    for line in answer.iter_lines():
        data = line.removeprefix("data: ")
        if data != line and data != "[DONE]":
            yield json.loads(data)
