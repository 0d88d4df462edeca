"""Files made to harm, brought into a real library: one sentence each, little memory, no row, and the next one comes in."""

import base64
import json
import random
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from card_samples import FLAT
from cards_corpus import archive, v3
from picture_samples import picture, with_chunks

from engine.cards import pictures
from engine.cards.pictures import MAX_FILE, MAX_PIXELS

MOST_MEGABYTES = 80  # the pixels of the largest picture allowed take 64
CARD = json.dumps(FLAT)
TEXT = pictures.text_chunk("chara", base64.b64encode(CARD.encode()))
END = (b"IEND", b"")


def header(width: int, height: int, colours: int = 2) -> pictures.Chunk:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)


def bomb(megabytes: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1_000_000)) for _ in range(megabytes)) + packer.flush()


def four_gigabytes() -> bytes:
    whole = picture()
    return whole[:33] + b"\xff\xff\xff\xfftEXt" + whole[41:]


def zipped(file: Path, *files: tuple[str, bytes], kind: int = zipfile.ZIP_DEFLATED, lie: int = 0) -> bytes:
    with zipfile.ZipFile(file, "w") as made:
        for name, content in (("card.json", CARD.encode()), *files):
            made.writestr(zipfile.ZipInfo(name), content, compress_type=kind)
            if lie and name != "card.json":
                made.getinfo(name).file_size = lie
    return file.read_bytes()


Make = Callable[[Path], bytes]
# Name: how the file is made (a path to build it in may be used), and words that the sentence must hold.
BAD: dict[str, tuple[Make, str]] = {
    "10-megabytes.json": (lambda _: (CARD[:-1] + ', "x": "' + "x" * 10_000_000 + '"}').encode(), "too large for a character card"),
    "depth-100000.json": (lambda _: (CARD[:-1] + ', "x": ' + "[" * 100_000 + "]" * 100_000 + "}").encode(), "nested too deeply"),
    "5000-digits.json": (lambda _: (CARD[:-1] + ', "x": ' + "7" * 5000 + "}").encode(), "more than 300 digits"),
    "nan.json": (lambda _: (CARD[:-1] + ', "x": NaN}').encode(), "NaN, which is not a finite number"),
    "1e999.json": (lambda _: (CARD[:-1] + ', "x": 1e999}').encode(), "1e999, which is not a finite number"),
    "surrogate.json": (lambda _: (CARD[:-1] + r', "x": "\ud800"}').encode(), "lone surrogate"),
    "twice.json": (lambda _: (CARD[:-1] + ', "name": "Bea"}').encode(), "the key 'name' twice"),
    "many-objects.json": (lambda _: ('{"x": [' + '{"":0},' * 140_000 + "0]}").encode(), 'neither "spec" nor "name"'),
    "60000x60000.png": (lambda _: pictures.build([header(60_000, 60_000), TEXT, (b"IDAT", bomb(100)), END]), "too many pixels"),
    "pixels-that-break-off.png": (lambda _: pictures.build([header(4096, MAX_PIXELS // 4096, 6), TEXT, (b"IDAT", bomb(60)), END]),
                                  "is damaged and cannot be shown"),
    "4-gigabytes.png": (lambda _: four_gigabytes(), "breaks off before its end"),
    "ztxt-bomb.png": (lambda _: with_chunks((b"zTXt", b"ccv3\0\0" + bomb(150))), "a text that is too large"),
    "itxt-bomb.png": (lambda _: with_chunks((b"iTXt", b"chara\0\1\0\0\0" + bomb(100))), "a text that is too large"),
    "20-megabytes.png": (lambda _: with_chunks(pictures.text_chunk("chara", b"A" * 20_000_000)),
                         "too large for a character's picture"),
    "7-megabytes-of-text.png": (lambda _: with_chunks(pictures.text_chunk("chara", b"QUFB" * (MAX_FILE // 4 - 100))), "too large"),
    "truncated.png": (lambda _: with_chunks(TEXT)[:-20], "breaks off before its end"),
    "zip-bomb.charx": (lambda file: zipped(file, ("a.png", bytes(100_000_000))), "unpacks to too much"),
    "zip-bomb-that-lies.charx": (lambda file: zipped(file, ("a.png", bytes(100_000_000)), lie=1000), "cannot be unpacked"),
    "bzip2-bomb.charx": (lambda file: zipped(file, ("a.png", bytes(30_000_000)), kind=zipfile.ZIP_BZIP2), "an unusual way"),
    "20000-files.charx": (lambda file: zipped(file, *((str(number), b"") for number in range(20_000))), "too many files"),
    "big-and-torn.charx": (lambda file: zipped(file, ("a", bytes(31_000_000)), lie=31_000_001),
                           "damaged archive"),
    "big-files-and-a-bad-card.charx": (lambda _: archive({"name": ""}, {"a": bytes(31_000_000)}), "has no name"),
    "path.charx": (lambda file: zipped(file, ("../../evil.sh", b"x")), "path leads elsewhere ('../../evil.sh')"),
    "no-card.charx": (lambda _: archive().replace(b"card.json", b"card.jsox"), "it has no card.json"),
    "photo.jpg": (lambda _: picture(kind="JPEG"), "is a JPEG picture"),
    "empty.json": (lambda _: b"", "is empty"),
    "noise.charx": (lambda _: b"PK\3\4" + random.Random(1).randbytes(1_000_000), "damaged archive"),
}
# Brings each file of a folder into a library in a process of its own, and tells what came of it as JSON.
SCRIPT = r"""
import json, re, sys
from pathlib import Path
from studio.library import import_card
from studio.store import characters
from studio.store.database import open_store

LINUX = sys.platform == "linux"
store = open_store(Path(sys.argv[1]) / "studio.db")

def highest():  # bytes of memory since the mark was taken back
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024 if LINUX else 0

def take_back():
    if LINUX:
        Path("/proc/self/clear_refs").write_text("5")

def rows():
    with store.read() as db:
        return {table: db.table(table).count for table in ("characters", "versions", "portraits", "files")}

import_card(store, Path(sys.argv[2]) / "good.png"), import_card(store, Path(sys.argv[2]) / "good.charx")  # everything is loaded
before, found = rows(), {}
for file in sorted((Path(sys.argv[2]) / "bad").iterdir()):
    take_back()
    start = highest()
    done = import_card(store, file)
    found[file.name] = [done.slug, done.sentence, (highest() - start) / 1e6, rows() == before]
good = import_card(store, Path(sys.argv[2]) / "good.charx")
print(json.dumps({"found": found, "good": good.slug, "others": [str(path) for path in Path(sys.argv[1]).rglob("*")]}))
"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("cards")
    (folder / "bad").mkdir()
    (folder / "home").mkdir()
    for name, (make, _) in BAD.items():
        (folder / "bad" / name).write_bytes(make(folder / "made.zip"))
    (folder / "good.png").write_bytes(with_chunks(TEXT))
    (folder / "good.charx").write_bytes(archive(v3(assets=[{"type": "icon", "uri": uri, "name": "main", "ext": "png"} for uri in
                                                           ("file:///etc/passwd", "http://127.0.0.1:9/a.png")])))
    result = subprocess.run([sys.executable, "-c", SCRIPT, str(folder / "home"), str(folder)], capture_output=True, text=True,
                            cwd=Path(__file__).parents[1])
    assert result.returncode == 0, result.stderr
    return dict(json.loads(result.stdout))


@pytest.mark.parametrize("name", BAD)
def test_one_sentence_and_no_row(name: str, told: dict[str, dict[str, tuple[str, str, float, bool]]]) -> None:
    slug, sentence, _, unchanged = told["found"][name]
    assert slug == "" and unchanged
    assert sentence.startswith(f"{name} ") and BAD[name][1] in sentence
    rest = sentence.removeprefix(name)
    assert rest.endswith(".") and ". " not in rest and "\n" not in rest and len(rest) < 250


@pytest.mark.skipif(sys.platform != "linux", reason="the highest use of memory can only be taken back on Linux")
def test_none_of_them_takes_much_memory(told: dict[str, dict[str, tuple[str, str, float, bool]]]) -> None:
    grown = {name: round(megabytes) for name, (_, _, megabytes, _) in told["found"].items()}
    assert max(grown.values()) < MOST_MEGABYTES and max(grown.values()) > 5, str(grown)  # something was measured


def test_the_next_import_works_and_nothing_lies_about(told: dict[str, object]) -> None:
    assert told["good"]
    others = told["others"]
    assert isinstance(others, list) and all("studio.db" in path for path in others)
