"""The server for games, started as the page does it: a real process on a tiny model, and the code to paste, run against it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from store_samples import card

from engine.base.errors import UserError
from engine.cards.card import find_bundled
from engine.export.engines.clients import CLIENTS, KEY_NAME, Endpoint
from studio.services import Services
from studio.settings import Settings
from studio.store import characters, runs, values
from studio.tabs.export import serving
from studio.workers import process
from studio.workers.game_server import GameServer, Serving, State

pytestmark = pytest.mark.slow
SECONDS = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a run makes it: a tiny model with its GGUF files, and Pim's card."""
    from tiny import add_files, make_tiny

    made = make_tiny(tmp_path_factory.mktemp("served") / "pim", max_position_embeddings=8192)
    (made / "character.json").write_text(json.dumps(find_bundled("pim-tuckett").raw))
    return add_files(made)


@pytest.fixture
def server(own_home: Path) -> Iterator[GameServer]:
    own_home.mkdir()
    made = GameServer(Settings(own_home))
    yield made
    made.close()


def run(id: str, endpoint: Endpoint, **environment: str) -> str:
    """What the code to paste prints."""
    code = CLIENTS[id].render(endpoint)
    command = [sys.executable, "-c", code] if id == "python" else ["bash", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env={**os.environ, **environment}, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pasted_code_gets_an_answer_and_the_server_ends_when_it_is_told(server: GameServer, folder: Path) -> None:
    if not shutil.which("curl"):
        pytest.skip("needs curl")
    assert server.start([str(folder)], 0) == ""
    with pytest.raises(UserError, match="running already"):
        server.start([str(folder)], 0)
    now = server.wait(State.ON, SECONDS)
    assert now.state is State.ON and now.address.startswith("http://127.0.0.1:") and now.characters == ("pim-tuckett",)
    endpoint = Endpoint(now.address, now.characters[0])
    answer = json.loads(run("curl", endpoint))
    assert answer["choices"][0]["message"]["content"].strip() and answer["persona"]["session"] == "game-1"
    assert run("python", endpoint).strip()
    run("curl", Endpoint(now.address, "nobody"))
    end = time.monotonic() + SECONDS
    while (server.now.answered, server.now.refused) != (2, 1):  # it is asked every few seconds
        assert time.monotonic() < end, server.now
        time.sleep(0.1)
    page = serving.state_html(server.now, server.log_lines())
    assert f"{now.address}/v1" in page and "2 answered, 1 refused" in page and "Who are you?" not in page
    identity = server.identity
    assert identity
    server.stop()
    assert server.wait(State.OFF, SECONDS) == Serving() and not process.is_alive(identity)


def test_other_machines_need_the_key_that_only_the_start_tells(server: GameServer, folder: Path) -> None:
    key = server.start([str(folder)], 0, everyone=True, memory=True)
    now = server.wait(State.ON, SECONDS)
    assert len(key) > 20 and now.key and key not in str(now) and not any(key in line for line in server.log_lines())
    endpoint = Endpoint(now.address, now.characters[0], key=True)
    assert "invalid_api_key" in run("curl", endpoint, **{KEY_NAME: "wrong"})
    assert json.loads(run("curl", endpoint, **{KEY_NAME: key}))["choices"]
    shown = serving.state_html(now, []) + serving.code_html(now, "curl")
    assert key not in shown and KEY_NAME in shown


def test_a_port_in_use_and_a_folder_without_a_character_get_a_sentence(server: GameServer, folder: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server.start([str(folder)], taken.getsockname()[1])
        server.wait(State.OFF, SECONDS)
        assert "in use" in server.now.sentence and "Choose another port, or 0 for any free one." in server.now.sentence
        assert server.now.sentence in serving.state_html(server.now, []).replace("&#x27;", "'")
    server.start([str(tmp_path)], 0)
    assert "no folder of a character" in server.wait(State.OFF, SECONDS).sentence
    with pytest.raises(UserError, match="from 1 to 65535"):
        server.start([str(folder)], 70_000)
    with pytest.raises(UserError, match="No character"):
        server.start([], 0)


def test_making_a_models_file_is_shown_and_can_be_stopped(server: GameServer, folder: Path, tmp_path: Path) -> None:
    from tiny import make_tiny

    made = make_tiny(tmp_path / "pim", intermediate_size=196_608)  # takes a moment to convert
    shutil.copy(folder / "character.json", made)
    server.start([str(made)], 0)
    end = time.monotonic() + SECONDS
    while not server.now.stage[0]:
        assert time.monotonic() < end, server.now
        time.sleep(0.02)
    assert "A model’s file is made only once." in serving.state_html(server.now, [])
    server.stop()
    assert server.wait(State.OFF, SECONDS) == Serving()


def test_a_server_that_dies_says_so(server: GameServer, folder: Path) -> None:
    server.start([str(folder)], 0)
    server.wait(State.ON, SECONDS)
    assert server.identity
    process.kill(server.identity)
    assert "memory ran out" in server.wait(State.OFF, SECONDS).sentence
    server.start([str(folder)], 0)
    assert server.wait(State.ON, SECONDS).sentence == ""


def test_the_room_offers_what_is_there_and_remembers_the_form(own_home: Path, folder: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    own_home.mkdir()
    services = Services.open(Settings(own_home))
    try:
        ann = characters.create(services.store, card("Ann")).id
        made = [runs.add(services.store, ann, 1, "prune", name, {"sparsity": 0.25}) for name in ("Here", "Gone")]
        for one in made:
            runs.update(services.store, one.id, state="done")
        shutil.copytree(folder, services.settings.run_folder(made[0].id) / "model")
        kept = runs.add_export(services.store, made[0].id, "Ann for Godot", str(folder), 1, {})
        assert serving.choices_of(services) == [("Ann · Here · 25\u00a0% removed", made[0].id),
                                               ("Export · Ann for Godot", f"export:{kept.id}")]
        started: list[Any] = []
        monkeypatch.setattr(services.server, "start", lambda *asked: started.append(asked) or "")
        serving.begin(services, [made[0].id, f"export:{kept.id}"], 0, memory=True)
        assert started[0][0] == [str(services.settings.run_folder(made[0].id) / "model"), str(folder)]
        assert values.get_value(services.store, "serve", {}) == {
            "sources": [made[0].id, f"export:{kept.id}"], "port": 0, "everyone": False, "memory": True}
        with pytest.raises(UserError, match="no longer there"):
            serving.begin(services, [made[1].id], 0)
    finally:
        services.close()
