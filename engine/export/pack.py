"""What every engine is told of a character: its prompt as the model learnt it, its file, and how it answers.

Made from an exported folder by the project's one builder of prompts. Knows no engine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.base.files import read_json, slug
from engine.cards.card import Card, parse_card, read_book
from engine.cards.prompt import Message, messages
from engine.export.go_template import find_pieces
from engine.export.licence import titled

LONGEST_CONTEXT = 8192  # tokens: what an engine sets aside grows with it, and no chat with one character needs more
_MARK = "zqplayermarkqz"


@dataclass(frozen=True)
class Pack:
    """A character for other engines. `talk`: what is said before the player's first words, as the model's format takes it.

    `gguf`: the name of the file, in the folder `gguf`. `behind`: what stands behind each of the player's words. `lore`: entries
    of a lorebook that come up by the player's words, for which the engines have no place. `template`: the chat format in Go's
    template language, "" where it has no translation. `stops`: texts that end an answer.
    """

    slug: str
    title: str
    char: str
    base: str
    gguf: str
    system: str
    talk: Sequence[Message]
    behind: str = ""
    lore: int = 0
    context: int = 4096
    template: str = ""
    stops: tuple[str, ...] = ()
    licence: str = ""


def make_pack(folder: Path, gguf: str, tokenizer: Any) -> Pack:
    """The pack of an exported folder whose GGUF file has the name `gguf`; `tokenizer` is the folder's."""
    from engine.models.chat_format import disarm, endings

    report, card_file = read_json(folder / "report.json"), folder / "character.json"
    card = parse_card(card_file.read_bytes(), str(card_file))
    system, *opening = [{**one, "content": disarm(tokenizer, one["content"])} for one in messages(card, [])]
    talk, template = _shaped(tokenizer, [system, *opening])
    window = read_json(folder / "config.json").get("max_position_embeddings") or 2048
    licence = folder / "LICENSE"
    title = titled(report["base"], report.get("name") or card.char)
    return Pack(slug(title), title, card.char, str(report["base"]["name"]), gguf, system["content"], talk, behind_words(card),
                count_lore(card), min(int(window), LONGEST_CONTEXT), template,
                tuple(tokenizer.convert_ids_to_tokens(sorted(endings(tokenizer)))),
                licence.read_text(encoding="utf-8", errors="replace") if licence.is_file() else "")


def behind_words(card: Card) -> str:
    """What the card's closing instructions put behind the player's words."""
    return messages(card, [("user", _MARK)])[-1]["content"].partition(_MARK)[2]


def count_lore(card: Card) -> int:
    """Entries of the card's lorebook that the conversation has to bring up."""
    return sum(entry.enabled and not entry.steady for entry in read_book(card).entries)


def _shaped(tokenizer: Any, opening: list[Message]) -> tuple[list[Message], str]:
    """The opening turns behind the system text, as the chat format takes them, and the format as a Go template."""
    from engine.models.chat_format import alternate, render_chat

    question = {"role": "user", "content": _MARK}
    text = render_chat(tokenizer, [*opening, question])
    begins = tokenizer.bos_token or ""
    added = begins if begins and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id] else ""
    for shape in (opening, alternate(opening)):
        talk = [*shape, question]
        pieces = find_pieces(lambda turns, asked: render_chat(tokenizer, turns, asked), added, [talk])
        if pieces and render_chat(tokenizer, talk) == text:
            return list(shape[1:]), pieces.to_go()
    return opening[1:], ""
