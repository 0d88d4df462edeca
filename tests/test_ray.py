"""Serving and pruning on a real Ray cluster of two nodes on this machine, one of which is killed under way."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import openai
import psutil
import pytest
import torch
from server_samples import Running, card_of, cast_of, running, until
from small_job import QUICK, prove_here, write_lines
from tiny import add_files, make_tiny

from engine.base.errors import UserError
from engine.base.files import sha256
from engine.base.job import make_recipe
from engine.cards.files import read_card
from engine.cluster.connection import check_ray, connected, places
from engine.cluster.speakers import replicas
from engine.pipeline import prune
from engine.server.settings import Scale, Settings
from engine.stages import finish
from engine.stages.context import Job

ROOT = Path(__file__).resolve().parents[1]
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}
pytestmark = pytest.mark.slow


class Nodes:
    """The cluster: a head, which is never removed, and at most one more node."""

    def __init__(self, folder: str) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False, "temp_dir": folder})
        self.second: Any = None

    @property
    def address(self) -> str:
        """Where it is."""
        return str(self.cluster.address)

    def add(self) -> None:
        """Add the second node where it is not there."""
        if self.second is None:
            self.second = self.cluster.add_node(**NODE)
            self.cluster.wait_for_nodes()

    def kill(self) -> None:
        """The second node is gone, with all its processes, without a word."""
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """The cluster. After the tests none of its processes is left."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # Ray's sockets have long paths of their own
    own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.urandom(16).hex(), "RAY_USAGE_STATS_ENABLED": "0"}
    with mock.patch.dict(os.environ, own):
        check_ray("auto")
        Path("/tmp/ray").mkdir(exist_ok=True)  # where Ray notes the address of a cluster, wherever its other files are
        found = Nodes(folder)
        yield found
        found.cluster.shutdown()
    until(lambda: not processes(folder), 60)
    shutil.rmtree(folder)


def processes(folder: str) -> list[psutil.Process]:
    """What runs of the cluster: its programs name its folder, and have children."""
    found: set[psutil.Process] = set()
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(folder in part for part in one.cmdline()):
                found |= {one, *one.children(recursive=True)}
    return [one for one in found if one.is_running() and one.status() != psutil.STATUS_ZOMBIE and one.pid != os.getpid()]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that reads long prompts."""
    return add_files(make_tiny(tmp_path_factory.mktemp("model") / "tiny", max_position_embeddings=4096))


@pytest.fixture
def server(nodes: Nodes, model: Path) -> Iterator[Running]:
    """A server whose characters are spoken by two replicas, one a node."""
    nodes.add()
    cast, settings = cast_of(model, card_of("Ann"), card_of("Bob")), Settings(parallel=2, rate=0)
    with replicas(cast, settings, Scale(nodes.address, 2, 2, 1), "persona-test") as speakers, \
            running(cast, speakers, parallel=2) as found:
        yield found


def say(server: Running, model: str = "ann", **options: Any) -> Any:
    asked = {"max_tokens": 12, "temperature": 0, "seed": 1, **options}
    return server.client(timeout=90).chat.completions.create(model=model, messages=[{"role": "user", "content": "Who are you?"}],
                                                             **asked)


def long_reply(server: Running, number: int) -> str:
    """What came of a long reply: "answered", or the code of its error."""
    try:
        reply = say(server, ("ann", "bob")[number % 2], max_tokens=400, temperature=1, seed=number, stream=number % 4 < 2,
                    extra_body={"repeat_penalty": 1.5})
        if number % 4 < 2:
            reply = list(reply)[-1]
        assert reply.choices[0].finish_reason in ("stop", "length")
        return "answered"
    except openai.APIStatusError as error:
        return str(error.code)
    except openai.APIError as error:  # within a stream
        return str(error.code)


def test_replicas_answer_as_one_process_does(server: Running, model: Path) -> None:
    with running(cast_of(model, card_of("Ann"), card_of("Bob"))) as alone:
        for name in ("ann", "bob"):
            replies = [say(one, name) for one in (alone, server)]
            assert replies[0].choices == replies[1].choices and replies[0].usage.prompt_tokens == replies[1].usage.prompt_tokens
        said = replies[1].choices[0].message.content
    chunks = list(say(server, "bob", stream=True))
    assert "".join(one.choices[0].delta.content or "" for one in chunks).strip() == said and len(chunks) > 5
    stop = said[len(said) // 2:][:2]
    ended = say(server, "bob", stop=stop)
    assert ended.choices[0].message.content == said[:said.index(stop)].strip()
    assert ended.model_extra["persona"]["reason"] == "stop_text"
    for _ in range(4):  # it went where the character is warm
        used = say(server, "ann").usage
        assert used.prompt_tokens_details.cached_tokens > 0.8 * used.prompt_tokens
    for status, body in ((404, {"model": "zoe"}), (400, {"messages": [{"role": "user", "content": "word " * 20_000}]})):
        asked = {"model": "ann", "messages": [{"role": "user", "content": "Hm?"}], **body}
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=asked, timeout=60)
        assert answer.status_code == status and set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert httpx.get(f"{server.url}/health").json()["replicas"] == [2, 2]


def test_who_breaks_off_frees_the_replica(server: Running) -> None:
    for _ in range(6):  # more than the replicas take at a time
        stream = say(server, max_tokens=3_000, temperature=1, stream=True, extra_body={"repeat_penalty": 1.5})
        next(stream)
        stream.close()
    until(lambda: server.service.line.taken == 0)
    assert say(server).choices


def test_a_lost_node_leaves_no_request_without_an_answer_or_an_error(server: Running, nodes: Nodes) -> None:
    say(server, "ann")
    say(server, "bob")
    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(long_reply, server, number) for number in range(32)]
        until(lambda: sum(one.done() for one in asked) >= 2, 60)
        nodes.kill()
        found = [one.result(120) for one in asked]
    whole = [one for number, one in enumerate(found) if number % 4 >= 2]
    assert set(whole) == {"answered"}  # nothing of them had been sent: they were asked again
    assert set(found) <= {"answered", "replica_lost"} and found.count("answered") >= 16
    assert say(server, "ann").choices and say(server, "bob").choices


def plain_run(model: Path, card: Path, lines: Path, out: Path) -> str:
    """The sha256 of the weights that a run of this process makes."""
    recipe = make_recipe("quick", **QUICK)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with mock.patch.object(finish, "prove", prove_here):
            list(prune(Job(read_card(str(card)), str(model), out, recipe, "fp32", lines=lines), out.with_name(f"{out.name}.work")))
    finally:
        torch.set_num_threads(threads)
    return sha256(out / "model.safetensors")


def prune_cast(folder: Path, model: Path, *more: str) -> list[str]:
    """A command line that prunes Ann and Bob in `folder`, whose cards and lines are written there."""
    (folder / "lines").mkdir()
    for name in ("Ann", "Bob"):
        card = {"name": name, "description": f"{name} is a miller.", "first_mes": "Flour?"}
        (folder / f"{name}.json").write_text(json.dumps(card), encoding="utf-8")
        shutil.copy(write_lines(folder, calling=f"{name}! "), folder / "lines" / f"{name.lower()}.jsonl")
    (folder / "job.json").write_text(json.dumps({"preset": "quick", "dtype": "fp32", "model": str(model), **QUICK}))
    return [sys.executable, "-m", "engine", "prune-cast", "Ann.json", "Bob.json", "--job", "job.json", "--lines-in", "lines",
            "--out", "out", "--json", *more]


def follow(arguments: list[str], folder: Path, look: Callable[[dict[str, Any]], None] = lambda event: None) -> tuple[int, Any]:
    """Run it, show each event to `look`; the exit code and the last event."""
    process = subprocess.Popen(arguments, cwd=folder, stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True)
    event = None
    assert process.stdout
    for line in process.stdout:
        assert line.startswith('{'), line
        event = json.loads(line)
        look({**event, "pid": process.pid})
    return process.wait(60), event


def test_a_cast_is_pruned_to_the_same_bits_though_a_node_is_lost(nodes: Nodes, llama: Path, tmp_path: Path) -> None:
    nodes.add()
    arguments = prune_cast(tmp_path, llama, "--separate", "--ray", nodes.address, "--threads", "1")
    begun: set[str] = set()
    killed = threading.Event()
    starts: list[bool] = []

    def look(event: dict[str, Any]) -> None:
        if event["event"] == "Started":
            starts.append(event["resumed"])
        if event["event"] == "Stage" and event["stage"] == "read_dense":
            begun.add(event["of"])
        if len(begun) == 2 and not killed.is_set():
            killed.set()
            nodes.kill()

    code, last = follow(arguments, tmp_path, look)
    assert code == 0 and killed.is_set() and starts.count(True) >= 1
    assert [(one["id"], one["state"]) for one in last["characters"]] == [("ann", "done"), ("bob", "done")]
    for name in ("Ann", "Bob"):
        lines = tmp_path / "lines" / f"{name.lower()}.jsonl"
        plain = plain_run(llama, tmp_path / f"{name}.json", lines, tmp_path / f"plain-{name}")
        assert sha256(tmp_path / "out" / name.lower() / "model.safetensors") == plain
    start = time.monotonic()
    again, last = follow(arguments[:-4], tmp_path)  # all is there: no cluster is needed
    assert again == 0 and all(one["state"] == "done" for one in last["characters"]) and time.monotonic() - start < 60


def test_a_cast_that_was_stopped_on_the_cluster_goes_on_here(nodes: Nodes, llama: Path, tmp_path: Path) -> None:
    nodes.add()
    arguments = prune_cast(tmp_path, llama, "--recovery-steps", "150")  # so many that the stop comes before the end

    stopped = threading.Event()

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "Stage" and event["stage"] == "read_dense" and not stopped.is_set():
            stopped.set()
            os.killpg(event["pid"], signal.SIGINT)  # as Ctrl-C in a terminal does

    code, last = follow([*arguments, "--ray", nodes.address, "--threads", "1"], tmp_path, stop)
    assert code == 130 and [one["state"] for one in last["characters"]] == ["lines written", "lines written", "stopped"]
    resumed = []
    code, last = follow(arguments, tmp_path, lambda event: resumed.append(event.get("resumed")))
    assert code == 0 and True in resumed and [one["state"] for one in last["characters"]] == ["done", "done"]
    assert (tmp_path / "out" / "gguf" / "adapters" / "bob.gguf").is_file()  # one folder for both


def test_what_is_no_cluster_is_refused(nodes: Nodes) -> None:
    for address, sentence in (("ray://host:1", "no address"), ("", "no address"), ("127.0.0.1:1", "Nothing answers at")):
        with pytest.raises(UserError, match=sentence), connected(address):
            pass
    with connected(nodes.address), pytest.raises(UserError, match="No machine of the cluster has 64 cores"):
        places(64)
