"""Every curl of the docs is answered, and the errors that docs/server.md lists are those that the server knows."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from server_samples import Running, cast_of, running
from tiny import add_files, make_tiny

from engine.cards.card import find_bundled

ROOT = Path(__file__).resolve().parents[1]
DOCS = ("docs/server.md", "README.md")


def curls() -> list[tuple[str, list[str]]]:
    """Each curl command of the docs as words, with its file."""
    texts = [(file, (ROOT / file).read_text("utf-8")) for file in DOCS]
    blocks = [(file, block) for file, text in texts for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)]
    commands = [(file, command) for file, block in blocks for command in re.split(r"\n(?=curl )", block.strip())]
    return [(file, shlex.split(command.replace("\\\n", " "))) for file, command in commands if command.startswith("curl ")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    model = add_files(make_tiny(tmp_path_factory.mktemp("docs") / "tiny", max_position_embeddings=8192))
    with running(cast_of(model, find_bundled("pim-tuckett"), find_bundled("vessaline-korr"))) as found:
        yield found


def test_every_curl_is_answered(server: Running) -> None:
    found = curls()
    assert len([file for file, _ in found if file == "docs/server.md"]) == 8 and len({file for file, _ in found}) == 2
    for file, words in found:
        where = words[1].replace("http://127.0.0.1:8080", server.url)
        assert where != words[1], file
        if "-d" not in words:
            assert httpx.get(where).status_code == 200, words
            continue
        assert words[2:4] == ["-H", "Content-Type: application/json"]
        answer = httpx.post(where, json={"max_tokens": 32, **json.loads(words[words.index("-d") + 1])}, timeout=60)
        assert answer.status_code == 200, answer.text


def test_the_codes_of_errors_are_listed() -> None:
    listed = set(re.findall(r"`([a-z_]+)`", (ROOT / "docs/server.md").read_text("utf-8").split("## Errors")[1].split("## Load")[0]))
    source = "".join(file.read_text("utf-8") for file in sorted((ROOT / "engine/server").glob("*.py")))
    for code in listed - {"param"}:
        assert f'"{code}"' in source, code
