"""The vocabulary of a GGUF file, in the shape in which engine/models/chat_format.py reads a tokenizer.

Its texts are split by llama.cpp; what is known here are the control tokens and the chat template of the file's header.
"""

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from engine.base.errors import UserError
from engine.models.loading import on_day
from engine.serving.gguf_header import Header

_COMPOSED = {"qwen2"}  # by tokenizer.ggml.pre: their tokenizers compose characters (NFC), which llama.cpp leaves out


@dataclass(frozen=True)
class Token:
    """A token that is no plain text, with the fields that chat_format reads."""

    content: str
    special: bool = True


class Vocabulary:
    """`split`: a function from a text to its token ids."""

    def __init__(self, header: Header, split: Callable[[str], Sequence[int]]) -> None:
        """Raises UserError where the file has no chat template."""
        if not header.chat_template:
            raise UserError("The model's GGUF file has no chat template.", "Make the file again, or choose another model.")
        self.own_template = self.chat_template = header.chat_template
        self.special_tokens_map = dict(header.special)
        self.added_tokens_decoder = {
            **{index: Token(text, False) for text, index in header.user_defined.items()},
            **{index: Token(text) for text, index in header.control.items()}}
        self.all_special_tokens = list({*header.control, *header.special.values()})
        self.all_special_ids = list(header.control.values())
        ids = {**header.user_defined, **header.control}
        self.eos_token_id = ids.get(header.special.get("eos_token", ""), min(header.eos_ids, default=None))
        self.bos_token_id = header.bos_id
        self._split = split
        self._composes = header.metadata.get("tokenizer.ggml.pre") in _COMPOSED

    @classmethod
    def of(cls, header: Header, split: Callable[[str], Sequence[int]]) -> Any:
        """The vocabulary of a file. A template that asks for the date gets today's."""
        return on_day(cls(header, split), date.today())

    def get_chat_template(self) -> str:
        """The template."""
        return self.chat_template

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """Token ids of a text. Control tokens in it are read as such; none is added."""
        assert not add_special_tokens
        return list(self._split(unicodedata.normalize("NFC", text) if self._composes else text)) if text else []
