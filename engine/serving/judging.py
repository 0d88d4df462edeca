"""Opening a judge: a server that is there already, or a model of this machine, served for the purpose by llama.cpp.

Both are judges over OpenAI's API. A model of this machine is served by a process of its own, on the loopback, with a key that
only the two know; it ends with the block that opened it, or with this process.
"""

import asyncio
import json
import os
import secrets
import selectors
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.events import Event, Finished
from engine.base.files import PACKAGES, is_file, named_path, sha256
from engine.base.job import GgufJob
from engine.base.judges import judge_name
from engine.evaluation.judge import Judge
from engine.serving.files import gguf_file, make_gguf
from engine.serving.gguf_header import Header, read_header
from engine.serving.llama import threads as default_threads

WINDOW = 4096  # tokens of a question with all that belongs to it
_STARTING = 120.0  # seconds, at most
# llama.cpp's own writing of chats, by a token that only its models have: the template in a file, a program by others, is not run.
_TEMPLATES = {"<|im_start|>": "chatml", "<|start_header_id|>": "llama3", "<start_of_turn>": "gemma", "<|start_of_role|>": "granite",
              "<|assistant|>": "phi3", "[INST]": "mistral-v3"}


def fetch_judge(name: str) -> Iterator[Event]:
    """Fetch a model of this machine, and make its GGUF file, where that is still to be done. Raises UserError."""
    if "://" not in name and not _file_of(name):
        from engine.serving.making import make  # imports torch

        yield from (event for event in make(GgufJob(model=name)) if not isinstance(event, Finished))


@contextmanager
def open_judge(name: str, model: str = "") -> Iterator[Judge]:
    """The judge of a name: the address of a server, whose model is called `model`, or a model of this machine.

    Raises UserError where it cannot be one.
    """
    if "://" not in name:
        with local_judge(name) as judge:
            yield judge
        return
    if not model:
        raise UserError("A judge needs the name of its model.", "Add --judge-model NAME.")
    judge = Judge(name, model)
    try:
        yield judge
    finally:
        judge.close()


@contextmanager
def local_judge(name: str, threads: int = 0) -> Iterator[Judge]:
    """A model of this machine as a judge: a known one (fetched where it is not here), a folder, or a GGUF file. `threads` 0:
    as many as OMP_NUM_THREADS says, else one a physical core.

    Raises UserError where there is no such model, or llama.cpp cannot take it.
    """
    file = _file_of(name) or asyncio.run(make_gguf(name))
    key = secrets.token_urlsafe(24)
    short = judge_name(name)
    with _served(file, short, key, threads or default_threads()) as address:
        judge = Judge(address, short, short, f"{short} {sha256(file)}", key)
        try:
            yield judge
        finally:
            judge.close()


def _file_of(name: str) -> Path | None:
    """The file of a model of this machine: what was named, or what speaks for it; None: it is still to be made."""
    file = named_path(name)
    return file if file.suffix == ".gguf" and is_file(file) else gguf_file(name)


def template_of(header: Header) -> str:
    """llama.cpp's name for the way in which a model's chats are written; ChatML where its tokens do not say."""
    return next((name for token, name in _TEMPLATES.items() if token in {**header.control, **header.user_defined}), "chatml")


@contextmanager
def _served(file: Path, name: str, key: str, threads: int) -> Iterator[str]:
    """The address of a process that serves the file while the block lasts."""
    header = read_header(file)
    window = min(header.context_length, WINDOW)
    settings = {"file": str(file), "threads": threads, "template": template_of(header), "window": window, "name": name}
    command = [sys.executable, "-m", "engine.serving.judging", json.dumps(settings)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=PACKAGES)
    assert process.stdin and process.stdout
    try:
        process.stdin.write(f"{key}\n".encode())  # not in the command, which every user of the machine can read
        process.stdin.flush()
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            line = process.stdout.readline() if selector.select(_STARTING) else b""
        if not line:
            raise UserError(f"llama.cpp cannot load {file}: it is damaged, or the memory is not enough.",
                            "Close other programs, or choose a smaller model as the judge.")
        yield str(json.loads(line)["address"])
    finally:
        with suppress(OSError):
            process.stdin.close()
        process.stdout.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _serve(file: str, threads: int, template: str, window: int, name: str) -> None:
    """What the process does: print the server's address, and end when standard input does."""
    import xllamacpp

    output = os.dup(1)
    os.dup2(2, 1)  # llama.cpp prints on standard output
    settings: Any = xllamacpp.CommonParams()
    settings.model.path, settings.port, settings.api_keys = file, 0, [sys.stdin.readline().strip()]
    settings.model_alias = {name}  # what it calls itself: without, the path of the file
    settings.n_ctx, settings.n_parallel, settings.warmup, settings.verbosity = window, 1, False, -1
    settings.cache_ram_mib = 0  # what the next request shares with the last one is still in the slot
    settings.use_jinja, settings.chat_template = False, template
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = threads
    settings.cpuparams.poll = settings.cpuparams_batch.poll = 0
    settings.endpoint_slots = settings.endpoint_props = settings.endpoint_metrics = settings.ui = False
    server = xllamacpp.Server(settings)
    os.write(output, json.dumps({"address": server.listening_address}).encode() + b"\n")
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    _serve(**json.loads(sys.argv[1]))
