"""What the library looks at in a card before it keeps it. Knows no table."""

from typing import Any

from engine.base.errors import UserError
from engine.cards.reading import MAX_BYTES
from studio.store.records import to_json

_OWN = "persona_studio/"  # extensions of the studio's own
_UNWRITTEN = {"spec", "spec_version", "extensions", "assets", "source", "position", "role"}


def checked(card: dict[str, Any]) -> dict[str, Any]:
    """The card, if JSON can hold it. One that is not finished yet may be kept, so nothing else is asked of it."""
    try:
        size = len(to_json(card).encode())
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, UnicodeEncodeError):
            raise
        raise UserError("This is not a character card: it holds something that JSON cannot hold.") from error
    if size > MAX_BYTES:
        raise UserError(f"The card is too large ({size:,} bytes; at most {MAX_BYTES:,}).", "Shorten its texts.")
    return card


def texts(card: dict[str, Any]) -> str:
    """Everything that somebody wrote into a card, in lower case, for searching: the lorebook and the studio's own fields too,
    but no addresses, no settings, and nothing of other programs.
    """
    found: list[str] = []
    waiting: list[Any] = [card]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [inner for key, inner in value.items() if key not in _UNWRITTEN]
            if isinstance(extensions := value.get("extensions"), dict):
                waiting += [inner for key, inner in extensions.items() if key.startswith(_OWN)]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str):
            found.append(value)
    return "\n".join(found).casefold()


def names_and_tags(card: dict[str, Any]) -> tuple[str, str, list[str]]:
    """Name, what {{char}} stands for, and tags. Raises UserError when the card has no object of fields."""
    fields = card.get("data") if isinstance(card, dict) and "spec" in card else card
    if not isinstance(fields, dict):
        raise UserError("This is not a character card: its fields are missing.")
    name, nickname = (" ".join(text.split()) if isinstance(text := fields.get(key), str) else "" for key in ("name", "nickname"))
    tags = fields.get("tags")
    texts = [tag for tag in tags if isinstance(tag, str) and tag.strip()] if isinstance(tags, list) else []
    return name, nickname or name, texts
