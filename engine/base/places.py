"""Whether a folder that a user named for a result can be made: its name, what is there already, and what it lies in."""

import os
import re
from pathlib import Path

from engine.base.errors import UserError
from engine.base.files import RESERVED, explain_write_errors

LONGEST = 200  # bytes of a name: file systems take 255, and hidden names beside it are longer than it


def check_target(out: Path) -> None:
    """Raise UserError when `out` cannot become a new folder: a bad name, something is there, or its parent is unfit.

    A parent that is a link to a folder is followed.
    """
    if ".." in out.parts:
        raise UserError(f'The output folder {out} has ".." in its name.', "Name it plainly.")
    if "\0" in str(out) or len(os.fsencode(out.name)) > LONGEST or not out.name:
        raise UserError(f"The output folder's name is empty, longer than {LONGEST} bytes or holds a NUL character.")
    if out.name.partition(".")[0].strip().casefold() in RESERVED or re.search(r'[\x00-\x1f<>:"|?*\\]|[. ]$', out.name):
        raise UserError(f"{out.name!r} cannot be a folder's name on every system.", "Use letters, digits and dashes.")
    with explain_write_errors(out):
        _check_place(out)


def _check_place(out: Path) -> None:
    if out.is_symlink() or out.exists():
        kind = "folder" if out.is_dir() else "file"
        raise UserError(f"The output {kind} {out} exists already.", "Name another one, or remove it first.")
    parent = out.parent
    while not parent.exists():
        if parent.is_symlink():
            raise UserError(f"The output folder {out} cannot be made: {parent} is a link that leads nowhere.",
                            "Name another folder.")
        parent = parent.parent
    if not parent.is_dir():
        raise UserError(f"The output folder {out} cannot be made: {parent} is a file.", "Name another folder.")
    if not os.access(parent, os.W_OK):
        raise UserError(f"The output folder {out} cannot be made: {parent} may not be written to.", "Name another folder.")
