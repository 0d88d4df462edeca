"""Files that others wrote, read with limits: plain files only (a pipe or a device would never end), JSON of a given size."""

import json
import stat
from pathlib import Path
from typing import Any

from engine.base.errors import UserError


def require_plain(path: Path, limit: int) -> None:
    """Raise UserError unless `path` (or what it links to) is a plain file of at most `limit` bytes."""
    try:
        found = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', '') or error}).") from error
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is no plain file, and is not read.", "Download or copy it again.")
    if found.st_size > limit:
        raise UserError(f"{path} is larger than {limit:,} bytes, and is not read.")


def read_untrusted_json(path: Path, limit: int) -> dict[str, Any]:
    """A JSON object from a plain file of at most `limit` bytes. Raises UserError for anything else."""
    require_plain(path, limit)
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read: it is not valid JSON ({str(error)[:100]}).") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} cannot be read: it is no JSON object.")
    return value
