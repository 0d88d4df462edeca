"""Random damage to card files of every form, for as long as one likes: not part of the test run.

  python -m tests.fuzz_cards SECONDS [SEED]

Each file is a valid one with bytes, chunks or archive entries changed, checksums put right where that leads further. A
reader must answer with a card, which can then be written and read again in every form, or with one sentence. Prints what
it found, with the file in base64, and ends with 1 if that is anything.
"""

import base64
import io
import json
import random
import struct
import sys
import time
import traceback
import zipfile
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from card_samples import one_sentence
from cards_corpus import CARDS, JSON_FILES, PICTURES, PNG_WITH_FILES, archive
from format_samples import (
    AGNAI,
    AGNAI_BOOK,
    CHUB,
    FARADAY,
    JANITOR,
    KOBOLD,
    KOBOLD_UNITED,
    NOVELAI,
    RISU,
    RISU_BOOK,
    RISU_MODULE,
    TEXTGEN,
    WORLD,
    backyard_archive,
)

from engine.base.errors import UserError
from engine.cards import pictures
from engine.cards.book import parse_book
from engine.cards.card import read_lorebook
from engine.cards.fields import as_v3, to_v2
from engine.cards.files import FORMS, parse_file, write_file

FOREIGN = [AGNAI, AGNAI_BOOK, CHUB, FARADAY, JANITOR, KOBOLD, KOBOLD_UNITED, NOVELAI, RISU, RISU_BOOK, RISU_MODULE, WORLD]
PIECES = [b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b"null", b"NaN", b"1e999", b"-0.0", b"9" * 400, rb"\ud800", b"\0",
          b"\xff", b"PK\5\6", b"PK\1\2", b"PK\3\4", b"PK\6\7", b"IEND", b"tEXtccv3\0", b"embeded://", b"__asset:", b"../",
          b"<START>", b'"assets":', b'"extensions":', b'"persona_studio/v3":', b'"spec":"chara_card_v2",', b"\xff\xff\xff\xff",
          b"\0\0\0\0"]


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Up to five pieces replaced, doubled, moved or cut out."""
    for _ in range(chance.randint(1, 5)):
        place, length = chance.randrange(len(data) + 1), chance.choice([0, 0, 1, 1, 2, 4, 30])
        put_in = chance.choice([b"", chance.randbytes(chance.randint(1, 4)), chance.choice(PIECES), data[place:place + 40]])
        data = data[:place] + put_in + data[place + length:]
    return data if chance.random() < 0.9 else data[:chance.randrange(len(data) + 1)]


def mended_png(data: bytes) -> bytes:
    """Lengths and checksums of a damaged PNG put right, so that what lies behind them is reached."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        chunks.append((kind, data[place + 8:place + 8 + length]))
        place += 12 + length
    return pictures.build(chunks)


def damaged_png(data: bytes, chance: random.Random) -> bytes:
    """Damage in the file, or in the texts of its chunks under their packing."""
    if chance.random() < 0.3:
        return mended_png(damaged(data, chance))
    chunks = []
    for kind, body in pictures.read_chunks(data):
        if kind in (b"tEXt", b"zTXt", b"iTXt", b"IDAT", b"IHDR") and chance.random() < 0.5:
            key, _, text = body.partition(b"\0")
            if kind == b"tEXt" and chance.random() < 0.8:
                body = key + b"\0" + base64.b64encode(damaged(base64.b64decode(text), chance))
            else:
                body = damaged(body, chance)
        chunks.append((kind, body))
    return pictures.build(chunks)


def damaged_archive(data: bytes, chance: random.Random) -> bytes:
    """Damage in the file, or in the card and the names of an archive that is otherwise whole."""
    if chance.random() < 0.5:
        return damaged(data, chance)
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", chance.choice([0, 8, 8, 12, 14])) as new:
        for entry in old.infolist():
            content, name = old.read(entry), entry.filename
            if chance.random() < 0.4:
                content = damaged(content, chance)
            if chance.random() < 0.1:
                name = damaged(name.encode(), chance).decode("utf-8", "replace")
            new.writestr(name if name.partition("\0")[0] else "x", content)
    return stream.getvalue()


def made(chance: random.Random) -> bytes:
    """A damaged file of some form."""
    raw = CARDS[chance.choice(list(CARDS))]
    kind = chance.choice(["json", "png", "charx", "foreign", "foreign"])
    if kind == "foreign":
        whole = chance.choice([TEXTGEN.encode(), backyard_archive(), *(json.dumps(one).encode() for one in FOREIGN)])
        return damaged_archive(whole, chance) if whole.startswith(b"PK") else damaged(whole, chance)
    if kind == "json":
        version = chance.choice([raw, as_v3(raw), to_v2(raw)])
        return damaged(chance.choice([json.dumps(version).encode(), *JSON_FILES.values()]), chance)
    if kind == "png":
        return damaged_png(chance.choice([*PICTURES.values(), PNG_WITH_FILES]), chance)
    return damaged_archive(archive(*chance.choice([(), (raw,), (raw, {})])), chance)


def attempt(data: bytes) -> bool:
    """Whether the file holds a card. Raises whatever is a defect of ours."""
    try:
        parse_book(read_lorebook(data, "x")[0])
    except UserError as error:
        one_sentence(error, "x ")
    try:
        read = parse_file(data, "x")
    except UserError as error:
        one_sentence(error, "x ")
        return False
    for form in FORMS:
        again = parse_file(write_file(form, read.card.raw, read.portrait, read.files), "x")
        if form != "charx":
            assert json.dumps(as_v3(again.card.raw), sort_keys=True) == json.dumps(as_v3(read.card.raw), sort_keys=True)
        else:
            once_more = parse_file(write_file(form, again.card.raw, again.portrait, again.files), "x")
            assert (once_more.card, once_more.portrait, once_more.files) == (again.card, again.portrait, again.files)
            assert again.portrait == read.portrait
    return True


def main() -> int:
    """Run for the given time."""
    end, seed = time.monotonic() + float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**9)
    chance, tried, cards, faults = random.Random(seed), 0, 0, {}
    while time.monotonic() < end:
        data = made(chance)
        tried += 1
        try:
            cards += attempt(data)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            key = f"{type(error).__name__} in {Path(place.filename).name}:{place.lineno}"
            if key not in faults:
                faults[key] = data
                print(key, str(error)[:300], base64.b64encode(zlib.compress(data)).decode(), sep="\n", flush=True)
    print(f"seed {seed}: {tried:,} files, {cards:,} of them cards, {len(faults)} kinds of defects")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
