"""Character cards: untrusted bytes in, a `Card` out.

Reads the JSON of V1 (flat), V2 and V3 cards; `Card.raw` keeps the whole, so that
unknown fields survive a round trip. Does not know PNG and CHARX files, books, or
any macro beyond the two names.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.cards import strict_json
from engine.cards.editing import modern_names
from engine.cards.faults import CardFault, kind_of, named, short

CHARACTERS = Path(__file__).resolve().parents[2] / "characters"
MAX_NAME = 200  # characters: a long name times many macros would fill the memory

_NEEDS = "a card needs a name and a description, personality, scenario or example dialogue"
_TITLES = {"the", "a", "an", "mr", "mrs", "ms", "miss", "dr", "sir", "lady", "lord", "captain"}


@dataclass(frozen=True)
class Card:
    """The fields of a card that the engine uses, macros still in them; `raw` is the whole card as it came."""

    name: str
    nickname: str
    description: str
    personality: str
    scenario: str
    greeting: str  # first_mes
    example_dialogue: str  # mes_example, dialogues behind <START>
    system_prompt: str
    post_history_instructions: str
    alternate_greetings: tuple[str, ...]
    tags: tuple[str, ...]
    raw: dict[str, Any] = field(repr=False, hash=False)

    @property
    def char(self) -> str:
        """What {{char}} stands for: the nickname, else the name (V3 specification)."""
        return self.nickname or self.name

    @property
    def names(self) -> tuple[str, ...]:
        """Name, nickname and first name (titles, articles and initials passed over), without duplicates."""
        words = (word.strip(".,") for word in self.name.split())
        first = next((word for word in words if len(word) > 1 and word.casefold() not in _TITLES), "")
        return tuple(dict.fromkeys(name for name in (self.name, self.nickname, first) if name))


def parse_card(data: bytes, origin: str) -> Card:
    """The card in `data`, UTF-8 JSON of at most MAX_BYTES. `origin` names the source in errors.

    Raises UserError, one sentence, for everything that is not a usable V1, V2 or V3 card.
    """
    with named(origin):
        return _card(strict_json.load(data))


def bundled_cards() -> list[Card]:
    """The cards that come with the studio (characters/*.json), sorted by file name."""
    return [_read_bundled(file) for file in bundled_files().values()]


def find_bundled(slug: str) -> Card:
    """The bundled card of characters/<slug>.json. Raises UserError, which lists the slugs, when there is none."""
    files = bundled_files()
    if slug not in files:
        raise UserError(f"There is no bundled character {short(slug)}; there are {', '.join(files)}.")
    return _read_bundled(files[slug])


def bundled_files() -> dict[str, Path]:
    """The files of the bundled cards by their slugs."""
    return {file.stem: file for file in sorted(CHARACTERS.glob("*.json"))}


def _read_bundled(file: Path) -> Card:
    return parse_card(file.read_bytes(), str(file))


def _card(raw: Any) -> Card:
    fields = _fields(raw)
    name, nickname = (" ".join(_text(fields, key).split()) for key in ("name", "nickname"))
    if max(len(name), len(nickname)) > MAX_NAME:
        raise CardFault(f"has a name of more than {MAX_NAME} characters")
    card = Card(name, nickname, _text(fields, "description"), _text(fields, "personality"), _text(fields, "scenario"),
                greeting=_text(fields, "first_mes"), example_dialogue=_text(fields, "mes_example"),
                system_prompt=_text(fields, "system_prompt"),
                post_history_instructions=_text(fields, "post_history_instructions"),
                alternate_greetings=_texts(fields, "alternate_greetings"), tags=_texts(fields, "tags"), raw=raw)
    if not name:
        raise CardFault(f"has no name: {_NEEDS}")
    if not any(map(str.strip, (card.description, card.personality, card.scenario, card.example_dialogue))):
        raise CardFault(f"says nothing about its character: {_NEEDS}")
    return card


def _fields(raw: Any) -> dict[str, Any]:
    """The object that holds the card's fields: `data` of V2 and V3, the whole of V1."""
    if not isinstance(raw, dict):
        raise CardFault(f"is not a character card (its JSON is {kind_of(raw)} instead of an object)")
    specification = raw.get("spec")
    if specification is None:
        if "name" in (fields := modern_names(raw)):
            return fields
        raise CardFault('is JSON, but not a character card (it has neither "spec" nor "name")')
    if specification not in ("chara_card_v2", "chara_card_v3"):
        what = short(specification) if isinstance(specification, str) else kind_of(specification)
        raise CardFault(f"follows an unknown specification ({what}; known are V1, chara_card_v2 and chara_card_v3)")
    if not isinstance(raw.get("data"), dict):
        raise CardFault(f'has {kind_of(raw.get("data"))} as "data", where the card\'s fields should be')
    return raw["data"]


def _text(fields: dict[str, Any], key: str) -> str:
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise CardFault(f'has {kind_of(value)} as "{key}", where a text should be')
    return value or ""


def _texts(fields: dict[str, Any], key: str) -> tuple[str, ...]:
    """A list of texts; blank and null entries are left out."""
    values = fields.get(key)
    if values is not None and not isinstance(values, list):
        raise CardFault(f'has {kind_of(values)} as "{key}", where a list of texts should be')
    return tuple(text for value in values or [] if (text := _text({key: value}, key)).strip())
