"""A page that speaks: the character in a browser, with no server but one for files. wllama runs the model.

The page itself is in assets/web. It writes every prompt from what character.json holds (see conversation.py).
"""

import hashlib
import html
import json
import shutil
import string
from collections.abc import Generator
from pathlib import Path

from engine.base.errors import UserError
from engine.base.events import Event
from engine.base.files import resource, sha256, write_atomic, write_json
from engine.base.sampling import DEFAULTS, llama_samplers
from engine.cards.card import parse_card, read_book
from engine.export.engines.conversation import has_patterns
from engine.export.engines.target import Pack, Target, place

VERSION = "wllama 3.13; Chrome, Edge and Firefox of 2025 and newer"
PART_BYTES = 90_000_000  # of weights in a file: below what hosts of static pages take
CONTEXT = 4096  # tokens at most: a browser has less memory
PAGE = ("index.html", "page.css", "page.js", "prompt.js", "lore.js", "offline.js")
LEGAL = ("LICENSE*", "NOTICE*", "USE_POLICY*")


def render(pack: Pack) -> dict[str, str]:
    """The folder's texts that are the same whatever the model."""
    texts = {name: (resource("assets/web") / name).read_text(encoding="utf-8") for name in PAGE}
    texts["index.html"] = string.Template(texts["index.html"]).substitute(title=html.escape(" ".join(pack.title.split())))
    return {**texts, "README.md": render_guide(pack)}


def add(folder: Path, pack: Pack) -> Generator[None, None, None]:
    """The model in parts, wllama, the picture, the licences, and what the page reads of the character.

    Raises UserError for a model whose chat format the page cannot write.
    """
    if "format" not in pack.conversation:
        raise UserError("The page for browsers cannot write this model's chat format.", "Export without it.")
    from engine.export.gguf_split import split_gguf
    from engine.export.wllama import BINARY, LICENCE, LICENCE_OF_LLAMA, SCRIPT, wllama_folder

    if pack.file.stat().st_size > PART_BYTES:
        parts = yield from split_gguf(pack.file, folder / "model", PART_BYTES)
    else:
        parts = [folder / "model" / pack.gguf]
        place(pack.file, parts[0])
    (folder / "wllama").mkdir()
    for name in (SCRIPT, BINARY, LICENCE, LICENCE_OF_LLAMA):
        shutil.copyfile(wllama_folder() / name, folder / "wllama" / name)
    for legal in sorted(legal for pattern in LEGAL for legal in pack.folder.glob(pattern)):
        shutil.copyfile(legal, folder / "model" / legal.name)
    if pack.portrait:
        write_atomic(folder / "portrait.png", pack.portrait)
    files: list[dict[str, str | int]] = [{"name": f"model/{file.name}", "bytes": file.stat().st_size} for file in parts]
    character = {**pack.conversation, "title": pack.title, "portrait": "portrait.png" if pack.portrait else "",
                 "context": min(pack.context, CONTEXT), "sampling": sampling(), "model": {"files": files}}
    shell = [*PAGE[:-1], f"wllama/{SCRIPT}", f"wllama/{BINARY}", *(["portrait.png"] if pack.portrait else [])]
    worker = string.Template((folder / "offline.js").read_text(encoding="utf-8"))
    digest = hashlib.sha256((json.dumps(character) + worker.template).encode())
    for name in [*shell, *(str(one["name"]) for one in files)]:
        digest.update(sha256(folder / name).encode())
    cache = digest.hexdigest()[:16]
    write_json(folder / "character.json", {**character, "cache": cache})
    kept = json.dumps([*shell, "character.json"])
    write_atomic(folder / "offline.js", worker.safe_substitute(cache=json.dumps(cache), files=kept))


def sampling() -> dict[str, float]:
    """How the page's answers are drawn, by llama.cpp's names."""
    return {"n_predict": DEFAULTS.max_tokens, **llama_samplers(DEFAULTS)}


def render_guide(pack: Pack) -> str:
    """How to put the page up."""
    return f"""# {' '.join(pack.title.split())} in the browser

In this folder:

    python -m http.server 8000 --bind 127.0.0.1

and open <http://localhost:8000>. The page loads the model once, keeps it in the browser, and then works without a network. What a
player says stays in the browser: the page may ask no other server for anything (its Content-Security-Policy forbids it).

- **Where it runs.** Chrome, Edge and Firefox of 2025 and newer, on computers and phones with enough memory for the model. Browsers
  that lack 64-bit WebAssembly say so.
- **On the web.** Put the folder as it is on any host for static files that has HTTPS: without it a browser keeps nothing, and uses
  one thread.
- **Threads.** Browsers allow several only to pages with two headers, Cross-Origin-Opener-Policy: same-origin and
  Cross-Origin-Embedder-Policy: require-corp. The page's service worker adds them, so it is loaded twice the first time. Where that
  does not work, one thread is used.
- **itch.io.** Zip what is in this folder, upload it as an HTML game ("This file will be played in the browser"), and under Embed
  options, Frame options, turn on "SharedArrayBuffer support": in a frame, only itch.io itself can send the headers. The model's
  parts have about 90 MB each, so that each stays below the limits of such hosts; for the folder as a whole, ask them.
- **Prompt.** It is the one that the model was made for, and the answers are drawn as in the studio. `character.json` holds both.
{_lore_note(pack)}
## Licences

The page's scripts come with Persona Studio (Apache-2.0). `wllama/LICENCE` is wllama's and `wllama/LICENCE-llama.cpp` that of
llama.cpp, which is within it (both MIT). The model's own are in `model`.
"""


def _lore_note(pack: Pack) -> str:
    """What the page leaves out of a lorebook."""
    file = pack.folder / "character.json"
    card = parse_card(file.read_bytes(), str(file)) if file.is_file() else None
    entries = read_book(card).entries if card else ()
    notes = []
    if patterns := sum(map(has_patterns, entries)):
        what = "1 entry has" if patterns == 1 else f"{patterns} entries have"
        notes.append(f"{what} regular expressions among the keys. The page looks for plain words only.")
    if any(entry.enabled and entry.probability < 100 for entry in entries):
        notes.append("Entries that fire by chance do so as often as in the studio, but with other dice.")
    return f"- **Lorebook.** {' '.join(notes)}\n" if notes else ""


def fetch() -> Generator[Event, None, Path]:
    """Fetch wllama on first use."""
    from engine.export.wllama import fetch_wllama

    return (yield from fetch_wllama())


TARGET = Target("web", "Web page (the model runs in the browser)", VERSION,
                "a page that speaks, with the model and wllama; any server for files can serve it", render,
                start="index.html", hint="is the page; the README.md beside it says how to serve it", add=add, fetch=fetch,
                needs="wllama")
