"""The characters that are served: each an id, a card, and the model that speaks for it. Imports no torch.

They come from exported and run folders (character.json beside the model), from folders of a cast, and from character cards,
which all share one model. Their files are looked at before every answer: what was changed or removed since is not answered from.
"""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from engine.base.cast_folder import ADAPTER, is_cast, places
from engine.base.errors import UserError
from engine.base.files import is_file, named_path, slug
from engine.cards.actions import read_actions, reply_schema
from engine.cards.card import Card, parse_card
from engine.cards.files import read_card
from engine.cards.npc import read_npc
from engine.cards.prompt import PLAYER, Setting, render_greeting
from engine.server.errors import ApiError, unavailable

CARD = "character.json"
_NAMED = 12  # characters that an error names
Signature = tuple[int, int, int]


@dataclass(frozen=True)
class Character:
    """A character that is served. `model` and `type`: what engine/serving/voices.py loads; `file_type`: the type of the
    file that speaks, once it is known; `fault`: why it cannot speak.

    `seen`: the files that it depends on, as they were when it was read.
    """

    id: str
    card: Card
    source: str
    model: str = ""
    type: str = ""
    file_type: str = ""
    fault: str = ""
    seen: tuple[tuple[Path, Signature], ...] = field(default=(), repr=False)

    @cached_property
    def greeting(self) -> str:
        """The greeting as the card has it; "" where it says nothing."""
        return self.card.greeting if render_greeting(self.card) else ""

    @cached_property
    def has_actions(self) -> bool:
        """Whether the card has game actions."""
        return bool(read_actions(read_npc(self.card.raw)).actions)

    def actions_schema(self) -> dict[str, Any] | None:
        """The schema of a reply with the character's own game actions; None where it has none."""
        return reply_schema(read_npc(self.card.raw)) if self.has_actions else None

    def described(self, player: str = PLAYER) -> dict[str, Any]:
        """What GET /v1/models says of it."""
        return {"name": self.card.name, "greeting": render_greeting(self.card, Setting(player)), "actions": self.has_actions,
                "type": self.file_type or self.type, "fault": self.fault or self.changed()}

    def changed(self) -> str:
        """What happened to its files since it was read, as a sentence; "" where they are the same."""
        for file, signature in self.seen:
            if (now := sign(file)) != signature:
                what = "was changed" if now else "is gone"
                return f"{file} {what} since the server started, so {self.id} does not answer. Restart the server."
        return ""

    def check(self) -> None:
        """Raise ApiError (503) where it cannot speak."""
        if fault := self.fault or self.changed():
            raise unavailable(UserError(fault))

    def watching(self, *files: Path) -> "Character":
        """The same, which does not answer once one of these files is another."""
        return replace(self, seen=tuple((file, signature) for file in files if (signature := sign(file))))


def sign(file: Path) -> Signature | None:
    """A file's signature: another one means that the file was changed; None where it is gone."""
    try:
        status = file.stat()
    except (OSError, ValueError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


class Cast:
    """The characters by their ids."""

    def __init__(self, characters: Sequence[Character]) -> None:
        self.characters: dict[str, Character] = {}
        for one in characters:
            free = next(id for id in _ids(one.id) if id not in self.characters)
            self.characters[free] = replace(one, id=free)

    def __iter__(self) -> Iterator[Character]:
        return iter(self.characters.values())

    def __len__(self) -> int:
        return len(self.characters)

    def find(self, id: str) -> Character:
        """A character. Raises ApiError (404) that names others."""
        if found := self.characters.get(id):
            return found
        near = difflib.get_close_matches(id[:200].lower(), self.characters, 1)
        names = ", ".join([*self.characters][:_NAMED]) + (", ..." if len(self) > _NAMED else "")
        hint = f"Did you mean {near[0]}?" if near else f"There are: {names}."
        raise ApiError(404, f"There is no character {id[:80]!r}. {hint}", "model_not_found", "model")

    def models(self) -> set[tuple[str, str]]:
        """The models that speak, each with its type."""
        return {(one.model, one.type) for one in self if one.model and not one.fault}


def _ids(wanted: str) -> Iterator[str]:
    yield wanted
    number = 2
    while True:
        yield f"{wanted}-{number}"
        number += 1


def read_cast(sources: Sequence[str], model: str = "starter", type: str = "") -> Cast:
    """The characters of all sources; `model` speaks for those that are cards. Raises UserError: all that cannot be
    read."""
    found: list[Character] = []
    faults: list[UserError] = []
    for source in sources:
        try:
            found += _of(source, model, type)
        except UserError as error:
            faults.append(error)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise UserError(" ".join(error.sentence for error in faults))
    if not found:
        raise UserError("There is no character to serve.", "Name a folder or a character card.")
    return Cast(found)


def _of(source: str, model: str, type: str) -> list[Character]:
    path = named_path(source)
    try:
        if is_cast(path):
            return [_of_folder(one.own, source, type) for one in places(path)]
        if path.is_dir():
            return [_of_folder(path, source, type)]
    except OSError as error:
        raise UserError(f"{source} cannot be read ({error.strerror or error}).") from error
    card = read_card(path if is_file(path) else source)
    return [Character(slug(card.name), card, source, model, type)]


def _of_folder(folder: Path, source: str, type: str) -> Character:
    file = folder / CARD
    if not is_file(file):
        raise UserError(f"{source} is no folder of a character: it has no {CARD}.",
                        "Name a folder that prune or export wrote, or serve its card with --model.")
    card = parse_card(file.read_bytes(), str(file))
    adapters = sorted((folder / ADAPTER).glob("*"))  # of a cast's character
    return Character(slug(card.name), card, source, str(folder.resolve()), type).watching(file, *adapters)
