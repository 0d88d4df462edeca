"""What speaks: the interface that llama.cpp's voices (llama.py) and transformers' (transformers_voice.py) share."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine.base.sampling import SamplingParams


@dataclass(frozen=True)
class Timings:
    """What a prompt and its answer took. Seconds are of computing; `reused` tokens of the prompt were in memory already."""

    prompt_tokens: int = 0
    reused: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Piece:
    """The next piece of an answer: whole characters, without control tokens. `tokens`: how many there are by now.

    `ended`: the model ended the answer itself; nothing follows. `reading`: instead of a piece, how many tokens of a long prompt
    are read by now, and of how many that were not in memory.
    """

    text: str
    tokens: int
    ended: bool = False
    timings: Timings = field(default_factory=Timings)
    reading: tuple[int, int] | None = None


class Voice(Protocol):
    """A model in memory that completes prompts.

    `type`: that of the weights ("Q8_0", "F16", "bfloat16"); `engine`: "llama.cpp" or "transformers"; `window`: the longest
    prompt and answer together, in tokens; `bytes`: of the weights; `vocabulary`: what engine/models/chat_format.py needs.
    """

    name: str
    type: str
    engine: str
    window: int
    bytes: int
    vocabulary: Any

    def adapted(self, adapter: str) -> "Voice":
        """The same model, speaking as one of the characters of its cast; with its adapter, where it has one."""

    def count(self, text: str) -> int:
        """The number of tokens of a text."""

    def complete(self, prompt: Sequence[int], params: SamplingParams, limit: int,
                 schema: dict[str, Any] | None = None) -> AsyncGenerator[Piece, None]:
        """What follows a prompt, at most `limit` tokens, piece by piece. Breaking off the iterator stops the computing."""

    def turn(self, tokens: int, alone: bool = False) -> AbstractAsyncContextManager[None]:
        """Waits until a prompt and answer of this many tokens may be computed, and keeps its place until the end.

        `alone`: nothing else is computed meanwhile.
        """

    async def read(self, prompt: Sequence[int]) -> int:
        """Read a prompt into memory; how many of its tokens were there already."""

    def close(self) -> None:
        """Free the memory."""
