"""The verb `serve` as a process: address and curl, leash, Ctrl-C under load, a port in use, no torch."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from server_samples import card_of
from tiny import add_files, make_tiny

from engine.__main__ import main
from engine.base.files import PACKAGES
from engine.server.cast import CARD


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a character that says much."""
    made = add_files(make_tiny(tmp_path_factory.mktemp("verb") / "ann", max_position_embeddings=4096))
    (made / CARD).write_text(json.dumps(card_of("Ann").raw))
    return made


@contextmanager
def process(*options: str, **environment: str) -> Iterator[Any]:
    """The server as a child, with its first line of JSON as `told`."""
    child: Any = subprocess.Popen([sys.executable, "-m", "engine", "serve", *options, "--port", "0"], cwd=PACKAGES, text=True,
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  env={**os.environ, **environment})
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout, child.stderr):
            stream.close()


@pytest.mark.slow
def test_on_a_leash_with_json_and_without_torch(folder: Path) -> None:
    with process(str(folder), "--json", "--leash") as child:
        told = json.loads(child.stdout.readline())
        assert (told["event"], told["characters"], told["faults"]) == ("Serving", ["ann"], {})
        client = openai.OpenAI(base_url=f"{told['address']}/v1", api_key="none")
        assert (client.models.retrieve("ann").model_extra or {})["persona"]["type"] == "Q8_0"
        assert client.chat.completions.create(model="ann", messages=[{"role": "user", "content": "Hm?"}], max_tokens=4).choices
        if Path("/proc").is_dir():
            maps = Path(f"/proc/{child.pid}/maps").read_text()
            assert "llama" in maps and "libtorch" not in maps
        child.stdin.close()
        assert child.wait(20) == 0


@pytest.mark.slow
def test_the_curl_that_is_printed_answers_and_ctrl_c_ends_what_is_under_way(folder: Path) -> None:
    with process(str(folder), "--api-key-env", "GAME_KEY", "--parallel", "1", GAME_KEY="geheim") as child:
        lines = [child.stdout.readline() for _ in range(4)]
        assert lines[0].startswith("ann at http://127.0.0.1:") and "/v1 (Ctrl-C ends it)" in lines[0]
        words = shlex.split("".join(lines[2:]).replace("\\\n", " ").replace("$GAME_KEY", "geheim"))
        assert words[0] == "curl"
        headers = dict(words[place + 1].split(": ") for place, word in enumerate(words) if word == "-H")
        answer = httpx.post(words[1], headers=headers, content=words[words.index("-d") + 1])
        assert answer.status_code == 200 and answer.json()["model"] == "ann"
        ended: list[Any] = []

        def ask() -> None:
            client = openai.OpenAI(base_url=words[1].removesuffix("/chat/completions"), api_key="geheim", max_retries=0, timeout=60)
            try:
                while True:  # replies that are whole before the end are no errors
                    list(client.chat.completions.create(model="ann", messages=[{"role": "user", "content": "Hm?"}], stream=True,
                                                        max_tokens=2_000, extra_body={"repeat_penalty": 1.5}))
            except openai.APIError as error:
                ended.append(error)

        askers = [threading.Thread(target=ask) for _ in range(3)]
        for asker in askers:
            asker.start()
        time.sleep(1)
        start = time.monotonic()
        child.send_signal(signal.SIGINT)
        for asker in askers:
            asker.join(20)
        assert len(ended) == 3 and time.monotonic() - start < 15
        assert child.wait(20) == 0
        assert "Traceback" not in child.stderr.read()


def test_what_cannot_start_says_why_in_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str],
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPTY_KEY", " ")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for options, words in ((["--port", port], f"cannot listen at 127.0.0.1:{port} (Address already in use)"),
                               (["--port", "70000"], "a number from 0 to 65535; 70000 is not"),
                               (["--host", "203.0.113.7", "--api-key-env", "PATH"], "cannot listen at 203.0.113.7:8080"),
                               (["--host", "0.0.0.0"], "so it needs a key"),
                               (["--api-key-env", "EMPTY_KEY"], "is not set, or empty"),
                               (["--parallel", "0"], "parallel must be above 0"), (["--patience", "nan"], "patience must be"),
                               (["--patience", "inf"], "patience must be"),
                               (["--parallel", "257"], "at most 256 replies"), (["--rate", "-1"], "must not be below 0")):
            assert main(["serve", str(folder), *options]) == 2
            output = capsys.readouterr()
            assert words in output.err and output.err.count("\n") == 1 and not output.out
