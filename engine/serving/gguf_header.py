"""What a GGUF file says of itself, read in milliseconds: family, window, chat template, special tokens, type; and is it whole?

This is code of our own because the reader in the package gguf makes an array of every token and merge, which takes two seconds
for a vocabulary of 49,152, and the first answer in Play would wait for it. This one steps over them. The file may come from
anywhere, so every number in it is compared with the size of the file before it is used.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
import sys
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from engine.base.errors import UserError
from engine.base.files import require_plain

_FIRST_READ = 8 << 20  # bytes that hold the header of most files
_LONGEST_HEADER = 128 << 20
_MOST = 1 << 22  # items of a list, keys, tensors; the largest vocabularies have 2**18
_LARGEST_FILE = 1 << 44
_KEPT = 1024  # values of a list that are kept; longer ones are stepped over
_ARRAY, _STRING = 9, 8
_NUMBERS = {kind: struct.Struct(f"<{letter}") for kind, letter in
            {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}.items()}
_U32, _U64 = _NUMBERS[4], _NUMBERS[10]
_TOKENS, _KINDS = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4  # kinds of tokens
# general.file_type, by its number in llama.h.
FILE_TYPES = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
              13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 24: "IQ1_S", 25: "IQ4_NL",
              30: "IQ4_XS", 32: "BF16"}
# Weights in a block and its bytes, by the type's number in ggml.h.
BLOCKS = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 10: (256, 84), 11: (256, 110),
          12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74), 18: (256, 98),
          19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4),
          27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36),
          41: (128, 18)}


@dataclass(frozen=True)
class Header:
    """The header of a GGUF file that holds a language model.

    type: of the file, e.g. "Q8_0"; "" for one that has no name here. context_length: in tokens. tensors_end: bytes of the file up
    to the end of its weights; weight_bytes: of the weights alone. control, user_defined: tokens that are no plain text, by
    their text. special: what chat templates know as bos_token, eos_token, unk_token and pad_token. eos_ids: what ends an answer;
    adds_bos: llama.cpp puts `bos_id` before a text. metadata: every other number, text and short list, by its key.
    """

    architecture: str
    type: str
    context_length: int
    vocabulary: int  # tokens
    tensors_end: int
    weight_bytes: int
    chat_template: str = ""
    control: dict[str, int] = field(default_factory=dict)
    user_defined: dict[str, int] = field(default_factory=dict)
    special: dict[str, str] = field(default_factory=dict)
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    adds_bos: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)


def read_header(path: Path) -> Header:
    """The header of a GGUF file. Raises UserError for a file that is none, holds no language model, or is cut short."""
    require_plain(path, _LARGEST_FILE)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            data = file.read(_FIRST_READ)
            while True:
                try:
                    return _Reader(path, size, data).header()
                except (struct.error, OverflowError):  # more than was read
                    if _LONGEST_HEADER <= len(data) < size:
                        raise _damaged(path, "its header is too long") from None
                if not (more := file.read(3 * len(data))):
                    raise _damaged(path, "it ends within its header")
                data += more
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged: {why}.", "Make or download it again.")


class _Reader:
    """Reads the beginning of a file, `data`, of a file of `size` bytes. What lies beyond `data` is a struct.error."""

    def __init__(self, path: Path, size: int, data: bytes) -> None:
        self.path, self.size, self.data, self.at = path, size, data, 0
        self.starts: list[int] = []  # of the tokens' texts
        self.kinds = array("i")

    def header(self) -> Header:
        """All of the header, checked."""
        if self.data[:4] != b"GGUF":
            raise UserError(f"{self.path} is not a GGUF file.")
        self.at = 4
        if (version := self._number(_U32)) not in (2, 3):
            raise UserError(f"{self.path} is a GGUF file of a version that is not read ({version}).", "Use one of version 2 or 3.")
        tensors, keys = self._count(1), self._count(1)
        metadata = {}
        for _ in range(keys):
            key = self._text()
            value = self._value(key, self._number(_U32))
            if value is not None:
                metadata[key] = value
        weight_bytes, tensors_end = self._tensors(tensors, metadata.get("general.alignment", 32))
        if tensors_end > self.size:
            raise _damaged(self.path, f"it was cut short, at {self.size:,} of {tensors_end:,} bytes")
        return self._made(metadata, weight_bytes, tensors_end)

    def _made(self, metadata: dict[str, Any], weight_bytes: int, tensors_end: int) -> Header:
        architecture = metadata.get("general.architecture")
        window = metadata.get(f"{architecture}.context_length")
        if not isinstance(window, int) or not 0 < window < 2**31 or not self.starts:
            raise UserError(f"{self.path} holds no language model with its tokenizer.", "Choose another file.")
        number, template = metadata.get("general.file_type"), metadata.pop("tokenizer.chat_template", "")
        ids = {name: self._token_id(metadata, name) for name in ("bos", "eos", "eot", "eom", "unknown", "padding")}
        control, user_defined = ({text: id for id, text in self._tokens_of(*kinds)}
                                 for kinds in ((_UNKNOWN, _CONTROL), (_USER_DEFINED,)))
        names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
        return Header(
            str(architecture), FILE_TYPES.get(number, "") if isinstance(number, int) else "", window, len(self.starts),
            tensors_end, weight_bytes, template if isinstance(template, str) else "", control, user_defined,
            {name: self._token(id) for key, name in names.items() if (id := ids[key]) is not None}, ids["bos"],
            tuple(dict.fromkeys(id for name in ("eos", "eot", "eom") if (id := ids[name]) is not None)),
            metadata.get("tokenizer.ggml.add_bos_token") is True, metadata)

    def _token_id(self, metadata: dict[str, Any], name: str) -> int | None:
        id = metadata.get(f"tokenizer.ggml.{name}_token_id")
        return id if type(id) is int and 0 <= id < len(self.starts) else None

    def _tokens_of(self, *kinds: int) -> Iterator[tuple[int, str]]:
        """Ids and texts of the tokens of these kinds."""
        for id, kind in enumerate(self.kinds[: len(self.starts)]):
            if kind in kinds:
                yield id, self._token(id)

    def _token(self, id: int) -> str:
        start = self.starts[id]
        return self.data[start + 8: start + 8 + _U64.unpack_from(self.data, start)[0]].decode("utf-8", "replace")

    def _number(self, form: struct.Struct) -> Any:
        [value] = form.unpack_from(self.data, self.at)
        self.at += form.size
        return value

    def _count(self, least: int) -> int:
        """A count of items, each of at least this many bytes."""
        count = int(self._number(_U64))
        if count * least > self.size - self.at:
            raise _damaged(self.path, "it ends within its header")
        if count > _MOST:
            raise _damaged(self.path, f"a list in its header has {count:,} items")
        return count

    def _text(self) -> str:
        length = int(self._number(_U64))
        if length > self.size - self.at:
            raise _damaged(self.path, "it ends within its header")
        if self.at + length > len(self.data):
            raise struct.error("the text ends beyond what was read")
        self.at += length
        return self.data[self.at - length: self.at].decode("utf-8", "replace")

    def _value(self, key: str, kind: int) -> Any:
        """A value; None for a list that is stepped over."""
        if kind == _STRING:
            return self._text()
        if kind in _NUMBERS:
            return self._number(_NUMBERS[kind])
        if kind != _ARRAY:
            raise _damaged(self.path, f"{key[:60]!r} has a type that does not exist ({kind})")
        inner = self._number(_U32)
        if inner == _STRING:
            return self._texts(key, self._count(8))
        if inner not in _NUMBERS:
            raise _damaged(self.path, f"{key[:60]!r} is a list of a type that does not exist ({inner})")
        form = _NUMBERS[inner]
        count = self._count(form.size)
        start = self.at
        self.at += count * form.size
        if self.at > len(self.data):
            raise struct.error("the list ends beyond what was read")
        if key == _KINDS and inner == 5:
            self.kinds = array("i", self.data[start: self.at])
            if sys.byteorder == "big":
                self.kinds.byteswap()
        return [value for [value] in form.iter_unpack(self.data[start: self.at])] if count <= _KEPT else None

    def _texts(self, key: str, count: int) -> list[str] | None:
        if count <= _KEPT and key != _TOKENS:
            return [self._text() for _ in range(count)]
        data, at, read = self.data, self.at, _U64.unpack_from
        starts = []
        for _ in range(count):  # hundreds of thousands: no calls but this one
            starts.append(at)
            at += 8 + read(data, at)[0]
        if at > len(data):
            raise struct.error("the list ends beyond what was read")
        self.at = at
        if key == _TOKENS:
            self.starts = starts
        return None

    def _tensors(self, count: int, alignment: Any) -> tuple[int, int]:
        """Bytes of all weights, and where the last one ends in the file."""
        if type(alignment) is not int or not 0 < alignment <= 1 << 20:
            raise _damaged(self.path, "its alignment is no size")
        total = end = 0
        for _ in range(count):
            name, dimensions = self._text(), self._number(_U32)
            if dimensions > 4:
                raise _damaged(self.path, f"its weights {name[:60]!r} have {dimensions} dimensions")
            shape = [self._number(_U64) for _ in range(dimensions)]
            kind, offset = self._number(_U32), self._number(_U64)
            if kind not in BLOCKS:
                raise UserError(f"{self.path} has weights of a type that is not known here ({kind}).", "Choose another file.")
            block, block_bytes = BLOCKS[kind]
            if shape and shape[0] % block:
                raise _damaged(self.path, f"its weights {name[:60]!r} do not fill their blocks")
            size = prod(shape) // block * block_bytes
            total, end = total + size, max(end, offset + size)
        return total, (self.at + alignment - 1) // alignment * alignment + end if count else self.at
