"""What an export target is (Target), and what it gets of a character (Pack): prompt, chat format, GGUF file, stop texts.

The prompt comes from an exported folder, by the project's one prompt builder, as the model was calibrated on it.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.base.events import Event
from engine.base.files import read_json, slug
from engine.cards.card import Card, parse_card, read_book
from engine.cards.prompt import Message, messages
from engine.export.engines.conversation import describe, format_of
from engine.export.engines.go_template import ChatPieces, find_pieces
from engine.export.licence import titled

LONGEST_CONTEXT = 8192  # tokens: an engine allocates memory for all of them, and no chat with one character needs more
_MARK = "zqplayermarkqz"
_BREAKS = {ord(sign): f"\\u{ord(sign):04x}" for sign in "\x85\u2028\u2029\u200b\ufeff"}  # would end a line, or hide, in source


@dataclass(frozen=True)
class Pack:
    """A character for other programs.

    `gguf`: the name of the file, in the folder `gguf` of the export, which is `folder`. `opening`: the turns before the
    player's first line, as the model's chat format takes them. `suffix`: text after each of the player's lines. `lore`: number
    of lorebook entries that the player's words trigger, which only the web page supports. `template`: the chat format in
    Go's template language, "" where it has no translation. `stops`: texts that end an answer.
    """

    slug: str
    title: str
    char: str
    gguf: str
    system: str
    opening: Sequence[Message]
    suffix: str = ""
    lore: int = 0
    context: int = 4096
    template: str = ""
    stops: tuple[str, ...] = ()
    licence: str = ""
    folder: Path = Path()
    conversation: Mapping[str, Any] = field(default_factory=dict)
    portrait: bytes = b""

    @property
    def file(self) -> Path:
        """The GGUF file."""
        return self.folder / "gguf" / self.gguf


@dataclass(frozen=True)
class Target:
    """An export target: the folder that one program gets in an export.

    `id`: the folder's name, and the value of --for. `contents` and `written_for` (program and version) are for the docs.
    `render`: names of the folder's files -> text. `start`: the file to open first; `hint`: what it does, as in "README.md
    explains how to use it". `commands`: what to type in the folder, with {name} for the model's. `add`: writes into the folder
    what is no text, or takes time, and yields where it can be stopped. `fetch`: fetches what it needs from elsewhere, called
    `needs`, before anything is exported.
    """

    id: str
    label: str
    written_for: str
    contents: str
    render: Callable[[Pack], dict[str, str]]
    start: str = "README.md"
    hint: str = "explains how to use it"
    commands: tuple[str, ...] = ()
    add: Callable[[Path, Pack], Generator[None, None, None]] | None = None
    fetch: Callable[[], Generator[Event, None, Any]] | None = None
    needs: str = ""


def make_pack(folder: Path, gguf: str, tokenizer: Any, portrait: bytes = b"") -> Pack:
    """The pack of an exported folder whose GGUF file has the name `gguf`; `tokenizer` is the folder's."""
    from engine.models.chat_format import disarm, endings

    report, card_file = read_json(folder / "report.json"), folder / "character.json"
    card = parse_card(card_file.read_bytes(), str(card_file))
    system, *opening = [{**one, "content": disarm(tokenizer, one["content"])} for one in messages(card, [])]
    opening, pieces = _shaped(tokenizer, [system, *opening])
    window = read_json(folder / "config.json").get("max_position_embeddings") or 2048
    licence = folder / "LICENSE"
    title = titled(report["base"], report.get("name") or card.char)
    suffix = messages(card, [("user", _MARK)])[-1]["content"].partition(_MARK)[2]  # what the card's closing instructions add
    return Pack(slug(title), title, card.char, gguf, system["content"], opening, suffix,
                sum(entry.enabled and not entry.steady for entry in read_book(card).entries), min(int(window), LONGEST_CONTEXT),
                pieces.to_go() if pieces else "", tuple(tokenizer.convert_ids_to_tokens(sorted(endings(tokenizer)))),
                licence.read_text(encoding="utf-8", errors="replace") if licence.is_file() else "", folder,
                describe_conversation(card, tokenizer), portrait)


def _shaped(tokenizer: Any, opening: list[Message]) -> tuple[list[Message], ChatPieces | None]:
    """The turns after the system text, as the chat format takes them, and the pieces of the format."""
    from engine.models.chat_format import alternate, render_chat

    question = {"role": "user", "content": _MARK}
    text = render_chat(tokenizer, [*opening, question])
    for shape in (opening, alternate(opening)):
        talk = [*shape, question]
        pieces = find_pieces(lambda turns, asked: render_chat(tokenizer, turns, asked), _begin_added(tokenizer), [talk])
        if pieces and render_chat(tokenizer, talk) == text:
            return list(shape[1:]), pieces
    return opening[1:], None


def describe_conversation(card: Card, tokenizer: Any) -> dict[str, Any]:
    """A character for a program that writes every prompt by itself; "format" is missing where the chat format has no pieces.

    Where the system text goes, and whether turns must alternate, is found out by rendering some that do not.
    """
    from engine.models.chat_format import alternate, control_texts, render_chat, token_counter

    described = describe(card, token_counter(tokenizer))
    odd = [{"role": role, "content": _MARK} for role in ("system", "assistant", "user", "user")]
    render = lambda turns, asked: render_chat(tokenizer, turns, asked)
    for probe in (odd[:3], alternate(odd[:3])):
        if pieces := find_pieces(render, _begin_added(tokenizer), [probe]):
            alternates = not render_chat(tokenizer, odd).endswith(pieces.render(odd))
            begins = "" if pieces.place == "first turn" else alternate(odd[1:2])[0]["content"]
            return {**described, "format": format_of(pieces, control_texts(tokenizer), alternates, begins)}
    return described


def _begin_added(tokenizer: Any) -> str:
    """The token that llama.cpp puts before every text, which stays out of the prompts that it gets; "" for none."""
    begin = tokenizer.bos_token or ""
    return begin if begin and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id] else ""


def place(file: Path, second: Path) -> None:
    """Give a file a second name; a second copy where the file system has no second names."""
    second.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(file, second)
    except OSError:
        shutil.copyfile(file, second)


def literal(text: str, indent: str) -> str:
    """A text as string literals, one a line of it, joined by +; for C# and GDScript, whose escapes are JSON's."""
    parts = text.splitlines(keepends=True) or [""]
    return f" +\n{indent}".join(json.dumps(part, ensure_ascii=False).translate(_BREAKS) for part in parts)


def class_name(slug: str) -> str:
    """A type's name from a slug: "pim-tuckett" as PimTuckett."""
    name = "".join(word[:1].upper() + word[1:] for word in re.split(r"[^a-z0-9]+", slug) if word)
    return name if name[:1].isalpha() else f"Character{name}"


def lore_note(entries: int) -> str:
    """What a guide says of the lorebook entries that the player's words trigger; "" for none."""
    if not entries:
        return ""
    what = "1 entry" if entries == 1 else f"{entries} entries"
    return (f"\nThe player's words trigger {what} of the card's lorebook. The script leaves that to you: look for the keys in the "
            "line, and put the entry's text in brackets before it.\n")
