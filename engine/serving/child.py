"""A verb of the command line in a process of its own, for what imports torch: its events are passed on, and it can be stopped."""

import asyncio
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress

from engine.base.errors import UserError
from engine.base.event_file import decode
from engine.base.events import Event, Failed
from engine.base.files import PACKAGES
from engine.base.process import says_out_of_memory

_LONGEST_LINE = 1 << 20  # bytes of an event
_CLEARING = 10.0  # seconds that a stopped process has to clear up


async def run_engine(arguments: Sequence[str], tell: Callable[[Event], None] = lambda event: None) -> None:
    """Run `python -m engine ARGUMENTS` to its end; its events go to `tell`.

    Raises UserError where it fails, with the sentence and code of its own error. A cancelled call ends the process.
    """
    command = [sys.executable, "-m", "engine", *arguments, "--json", "--leash"]
    failed = None
    with tempfile.TemporaryFile() as errors:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors, cwd=PACKAGES,
            limit=_LONGEST_LINE)
        try:
            assert process.stdout
            async for line in process.stdout:
                event = decode(line.decode(errors="replace"))
                if isinstance(event, Failed):
                    failed = event
                tell(event)
            await process.wait()
        finally:
            await _end(process)
        errors.seek(0)
        last_words = errors.read().decode(errors="replace")[-2000:]
    if failed:
        raise UserError(failed.sentence, failed.hint, failed.code)
    if process.returncode:
        lacked = process.returncode == -9 or says_out_of_memory(last_words)
        raise UserError(f"The process for “{' '.join(arguments[:3])}” ended with code {process.returncode}.",
                        "The memory was probably not enough: close other programs, or choose a smaller model." if lacked else "")


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the process if it runs: by closing its standard input, so that it can clear up, and at last by force."""
    if process.returncode is not None:
        return
    assert process.stdin
    process.stdin.close()
    try:
        await asyncio.wait_for(asyncio.shield(process.wait()), _CLEARING)
    except (TimeoutError, asyncio.CancelledError):
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
