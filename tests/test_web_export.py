"""The folder of the web page: what is in it, what it forbids, and that a card's words stay words."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from picture_samples import picture
from test_engines import pack_for, write

from engine.base.errors import UserError
from engine.base.files import resource
from engine.export.engines import web
from engine.export.gguf_split import split_gguf
from engine.models import templates

HOSTILE = '</title><script>alert(1)</script><img src=x onerror="alert(2)"> $name ${x} {{char}}'


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A folder as an export has it, with a file that passes for the model."""
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "the-miller-Q8_0.gguf").write_bytes(b"GGUF")
    (tmp_path / "LICENSE").write_text("The model's licence")
    (tmp_path / "NOTICE").write_text("Its notice")
    return tmp_path


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags_of(page: str) -> list[tuple[str, dict[str, str | None]]]:
    reader = Tags()
    reader.feed(page)
    return reader.found


def test_the_folder_has_all_that_the_page_needs(exported: Path, wllama: Path) -> None:
    _, pack = pack_for(templates.CHATML, exported)
    files = set(write(exported, "web", replace(pack, portrait=picture())))
    assert files == {f"web/{name}" for name in (
        "README.md", "character.json", "index.html", "lore.js", "model/LICENSE", "model/NOTICE", "model/the-miller-Q8_0.gguf",
        "offline.js", "page.css", "page.js", "portrait.png", "prompt.js", "wllama/LICENCE", "wllama/LICENCE-llama.cpp",
        "wllama/index.js", "wllama/wllama.wasm")}
    character = json.loads((exported / "web/character.json").read_text())
    assert character["model"]["files"] == [{"name": "model/the-miller-Q8_0.gguf", "bytes": 4}]
    assert character["context"] == web.CONTEXT and character["title"] == "The Miller" and character["portrait"] == "portrait.png"
    assert (character["sampling"]["temperature"], character["sampling"]["n_predict"]) == (0.7, 160)
    worker = (exported / "web/offline.js").read_text()
    kept = json.loads(re.search(r"const FILES = (.*);", worker)[1])  # type: ignore[index]
    assert json.loads(re.search(r"const CACHE = (.*);", worker)[1]) == character["cache"]  # type: ignore[index]
    others = {"README.md", "offline.js", *(name for name in files if "/model/" in name or "LICENCE" in name)}
    assert {f"web/{name}" for name in kept} == files - others - {"web/README.md", "web/offline.js"}


def test_another_character_or_model_is_another_cache(exported: Path, wllama: Path) -> None:
    _, pack = pack_for(templates.CHATML, exported)
    found = set()
    for change in (pack, replace(pack, title="Another"), replace(pack, portrait=picture())):
        write(exported, "web", change)
        found.add(json.loads((exported / "web/character.json").read_text())["cache"])
        (exported / "web").rename(exported / f"web-{len(found)}")
    (exported / "gguf" / pack.gguf).write_bytes(b"GGUG")
    write(exported, "web", pack)
    assert len(found | {json.loads((exported / "web/character.json").read_text())["cache"]}) == 4


def test_the_page_may_ask_nobody_else_for_anything() -> None:
    page = (resource("assets/web") / "index.html").read_text()
    [policy] = [attributes["content"] for tag, attributes in tags_of(page)
                if attributes.get("http-equiv") == "Content-Security-Policy"]
    rules = {rule.split()[0]: rule.split()[1:] for rule in str(policy).split(";")}
    assert rules["default-src"] == ["'none'"] and rules["form-action"] == rules["base-uri"] == ["'none'"]
    allowed = {source for sources in rules.values() for source in sources}
    assert allowed == {"'none'", "'self'", "'wasm-unsafe-eval'", "blob:", "data:"} and "data:" not in rules["script-src"]
    names = {name for _, attributes in tags_of(page) for name in attributes}
    assert not [name for name in names if name.startswith("on")] and "style" not in names
    addresses = [value for _, attributes in tags_of(page) for name, value in attributes.items() if name in ("src", "href")]
    assert not [value for value in addresses if re.match(r"(?!data:)(\w+:|//)", str(value))]


def test_the_scripts_put_in_text_and_never_html() -> None:
    for file in resource("assets/web").glob("*.js"):
        text = file.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|new Function|https?://", text), file.name


def test_a_hostile_card_stays_text(exported: Path, wllama: Path) -> None:
    _, pack = pack_for(templates.CHATML, exported)
    write(exported, "web", replace(pack, title=f"{HOSTILE}\n", char=HOSTILE, conversation={**pack.conversation, "char": HOSTILE}))
    page = (exported / "web/index.html").read_text()
    plain = tags_of((resource("assets/web") / "index.html").read_text())
    assert tags_of(page) == plain and "&lt;/title&gt;&lt;script&gt;" in page
    assert json.loads((exported / "web/character.json").read_text())["char"] == HOSTILE


def test_a_format_that_the_page_cannot_write_is_refused(exported: Path, wllama: Path) -> None:
    numbered = "{% for message in messages %}{{ loop.index }} {{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    _, pack = pack_for(numbered, exported)
    with pytest.raises(UserError, match=r"cannot write this model's chat format.*Export without it"):
        write(exported, "web", pack)


def test_a_file_in_parts_is_the_same_model(tiny_gguf: Path, tmp_path: Path) -> None:
    import gguf

    whole = gguf.GGUFReader(tiny_gguf)
    size = sum(tensor.n_bytes for tensor in whole.tensors) // 3
    writing = split_gguf(tiny_gguf, tmp_path / "parts", size)
    try:
        while True:
            next(writing)
    except StopIteration as end:
        parts = end.value
    count = len(parts)
    assert count >= 3 and [part.name for part in parts] == [
        f"{tiny_gguf.stem}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    readers = [gguf.GGUFReader(part) for part in parts]
    held = [tensor for reader in readers for tensor in reader.tensors]
    assert [tensor.name for tensor in held] == [tensor.name for tensor in whole.tensors]
    assert all((one.data == other.data).all() and one.tensor_type == other.tensor_type
               for one, other in zip(held, whole.tensors, strict=True))
    fields = {name: field.contents() for name, field in whole.fields.items() if not name.startswith("GGUF.")}
    assert {name: readers[0].fields[name].contents() for name in fields} == fields
    assert [[reader.fields[f"split.{name}"].contents() for name in ("no", "count", "tensors.count")] for reader in readers] == [
        [number, count, len(held)] for number in range(count)]
