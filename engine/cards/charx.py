"""CHARX archives: a zip file with card.json at its root, and files beside it.

What an archive claims is checked before anything is unpacked, and nothing is written to a disk.
"""

import io
import struct
import zipfile
import zlib
from typing import IO

from engine.cards.reading import CardFault, check_size, short

CARD = "card.json"
MAX_ARCHIVE = 32_000_000  # bytes of the file
MAX_UNPACKED = 32_000_000  # bytes of all files in it
MAX_FILES = 2_000
_MAX_DIRECTORY = 400_000  # bytes of the list of files: Python makes an object of every 46 of them
_PIECE = 1 << 16  # bytes unpacked at a time
_END = b"PK\5\6"
_END_BYTES = 22  # and a remark of at most 65,535
_ZIP64 = b"PK\6\7"
_ENCRYPTED = 1  # bit of a file's flags
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, ValueError, struct.error,
            UnicodeDecodeError, IndexError)


class Archive:
    """An opened archive whose list of files has been checked. Raises CardFault for what is none or is not safe."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        if size > MAX_ARCHIVE:
            raise CardFault(f"is too large for a character's archive ({size / 1e6:,.1f} MB; at most {MAX_ARCHIVE / 1e6:,.0f} MB)")
        _check_directory(stream, size)
        try:
            self._zip = zipfile.ZipFile(stream)
        except _DAMAGED as error:
            raise CardFault("is a damaged archive (its list of files cannot be read)") from error
        _check_files(self._zip.infolist())
        self.sizes = {one.filename: one.file_size for one in self._zip.infolist() if not one.filename.endswith("/")}  # by path

    def text(self, path: str) -> bytes:
        """A file of JSON, at most MAX_BYTES of it."""
        if path not in self.sizes:
            raise CardFault(f"is an archive without a character in it (it has no {CARD})" if path == CARD else
                            f"is a damaged archive (it has no {short(path)})")
        check_size(self.sizes[path])
        return self.file(path)

    def file(self, name: str) -> bytes:
        """The bytes of a file. No more than its claimed size is unpacked."""
        pieces: list[bytes] = []
        try:
            with self._zip.open(name) as file:
                while piece := file.read(_PIECE):  # in pieces: to read all at once unpacks without a limit
                    pieces.append(piece)
        except _DAMAGED as error:
            raise CardFault(f"is a damaged archive (its file {short(name)} cannot be unpacked)") from error
        if sum(map(len, pieces)) != self.sizes[name]:
            raise CardFault(f"is a damaged archive (its file {short(name)} breaks off)")
        return b"".join(pieces)


def is_archive(start: bytes) -> bool:
    """Whether a file that begins like this can be an archive."""
    return start.startswith((b"PK\3\4", _END))


def has_archive(stream: IO[bytes], size: int) -> bool:
    """Whether an archive follows something else in the file, as in some cards that are a picture at the same time."""
    return _find_end(stream, size) is not None


def write(card: bytes, others: dict[str, bytes]) -> bytes:
    """The archive of a card and files by their paths, always the same bytes. Raises CardFault for what could not be read back."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {CARD: card, **others}.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    Archive(stream, len(stream.getbuffer()))
    return stream.getvalue()


def check_path(name: str) -> None:
    """Raise CardFault for a path that could lead out of a folder into which somebody unpacks it."""
    parts = name.replace("\\", "/").split("/")
    if not name or ".." in parts or parts[0] == "" or ":" in parts[0] or "\0" in name:
        raise CardFault(f"holds a file whose path leads elsewhere ({short(name)})")


def _check_files(files: list[zipfile.ZipInfo]) -> None:
    if len(files) > MAX_FILES:
        raise CardFault(f"holds too many files ({len(files):,}; at most {MAX_FILES:,})")
    seen = set()
    for one in files:
        check_path(one.orig_filename.rstrip("/"))
        if one.filename in seen:
            raise CardFault(f"holds the file {short(one.filename)} twice")
        if one.flag_bits & _ENCRYPTED:
            raise CardFault("is an archive with a password, which cannot be opened")
        if one.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # Python unpacks others without a limit
            raise CardFault("is an archive that is packed in an unusual way, which cannot be opened")
        seen.add(one.filename)
    total = sum(one.file_size for one in files)
    if total > MAX_UNPACKED:
        raise CardFault(f"unpacks to too much ({total / 1e6:,.0f} MB; at most {MAX_UNPACKED / 1e6:,.0f} MB)")


def _check_directory(stream: IO[bytes], size: int) -> None:
    """Look at the archive's end before Python makes objects of its list of files."""
    end = _find_end(stream, size)
    if end is None:
        raise CardFault("is a damaged archive (its end is missing)")
    record, has_zip64 = end
    length = struct.unpack_from("<I", record, 12)[0]
    if has_zip64 or length > _MAX_DIRECTORY:
        raise CardFault(f"holds too many files (at most {MAX_FILES:,})")


def _find_end(stream: IO[bytes], size: int) -> tuple[bytes, bool] | None:
    """The record at the end of an archive, and whether one for very large archives precedes it; None without one."""
    stream.seek(max(0, size - _END_BYTES - 65_535 - 20))
    tail = stream.read()
    place = len(tail) - _END_BYTES
    if place < 0 or tail[place:place + 4] != _END or tail[-2:] != b"\0\0":  # where Python looks first
        place = tail.rfind(_END)
    if place < 0 or place + _END_BYTES > len(tail):
        return None
    return tail[place:place + _END_BYTES], tail[max(0, place - 20):place].startswith(_ZIP64)
