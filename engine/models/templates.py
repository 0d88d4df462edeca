"""Chat templates: our own for models without one, their settings, and rendering in a process with limits.

A template from a model folder is a program written by others, and no thread of this process could be stopped while it renders
one. So another process does it (template_program.py); it is started at the first text, serves all of them, and is ended and
started again where a template takes too much. One text takes a fraction of a millisecond.
"""

import functools
import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from datetime import date, datetime
from pathlib import Path
from typing import Any

import psutil

from engine.base.errors import UserError
from engine.base.families import FAMILIES

SECONDS = 1.0  # of computing for one text; usual ones take a thousandth of it
WAITING = 15.0  # seconds in all, on a machine with much else to do
_STARTING = 60.0  # seconds, at most
MEMORY = 400 << 20  # bytes
_LOOK = 0.03  # seconds between two looks at a process that has not answered yet
_SPARE = 100_000  # characters that a template may write of its own, however short the messages are
_TIMES = 20  # how often it may repeat what it is given
_HINT = "Choose another model, or correct its chat_template."
_PROGRAM = Path(__file__).with_name("template_program.py")
LONGEST_TEMPLATE = 1_000_000  # characters; the longest known ones have 30,000

# Written here in Jinja from the public descriptions of the formats. transformers drops one line break after every {% %}, hence
# the order of the pieces.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% set kept = namespace(system='') %}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set kept.system = kept.system + message['content'] + '\n\n' %}"
    "{% elif message['role'] == 'user' %}[INST] {{ kept.system }}{{ message['content'] }}[/INST]"
    "{% set kept.system = '' %}"
    "{% else %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% set kept = namespace(system='') %}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{% set kept.system = kept.system + message['content'] + '\n\n' %}"
    "{% elif message['role'] == 'user' %}<start_of_turn>user\n{{ kept.system }}{{ message['content'] }}<end_of_turn>\n"
    "{% set kept.system = '' %}"
    "{% else %}<start_of_turn>model\n{{ message['content'] }}<end_of_turn>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI3 = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
GRANITE = (
    "{% for message in messages %}<|start_of_role|>{{ message['role'] }}<|end_of_role|>{{ message['content'] }}"
    "<|end_of_text|>\n{% endfor %}{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
PLAIN = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}{{ '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
_CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
_FORMATS: dict[str, tuple[str, tuple[str, ...]]] = {  # by Family.chat: the template, and the tokens that it needs
    "chatml": (CHATML, _CHATML_TOKENS),
    "llama3": (LLAMA3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "mistral": (MISTRAL, ("[INST]", "[/INST]")),
    "gemma": (GEMMA, ("<start_of_turn>", "<end_of_turn>")),
    "phi3": (PHI3, ("<|user|>", "<|assistant|>", "<|end|>")),
    "granite": (GRANITE, ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>")),
}


def template_for(family: str, vocabulary: Collection[str], adds_bos: bool) -> str:
    """The chat template for a model without one.

    `family` is the config's model_type, `vocabulary` the tokenizer's tokens, `adds_bos` whether its encoding of a
    text normally begins with the beginning-of-sequence token (the plain format then begins with it, too).
    """
    template, tokens = _FORMATS[FAMILIES[family].chat]
    if all(token in vocabulary for token in tokens):
        return template
    if all(token in vocabulary for token in _CHATML_TOKENS):
        return CHATML
    return ("{{ bos_token }}" if adds_bos else "") + PLAIN


# What templates take from their caller: no thinking blocks, and the day that Llama's templates use by default.
_CALLERS = {"enable_thinking": "false", "date_string": '"26 Jul 2024"'}
_DATED = re.compile(r"""strftime_now\(\s*(?:"([^"\\]*)"|'([^'\\]*)')\s*\)""")
_DIRECTIVE = re.compile("%-?[aAwdbBmyYHIpMSfzZjUWcxXGuVeDFTRhnt%]")
_MACRO = "{%- macro strftime_now(format) -%}"


def fix_settings(template: str, day: date) -> str:
    """The template with its settings and the date written into it, so that every program renders the same text on every day.

    `strftime_now`, with which templates ask for today's date, gives the noon of `day`. A template that asks for nothing, or
    was fixed before, is returned as it is.
    """
    noon = datetime(day.year, day.month, day.day, 12)
    fixed = _DATED.sub(lambda call: json.dumps(_written(noon, call[1] if call[1] is not None else call[2])), template)
    for name, value in _CALLERS.items():
        setting = f"{{%- set {name} = {value} %}}\n"  # the line break goes with the block, see above
        if re.search(rf"\b{name}\b", fixed) and setting not in fixed:
            fixed = setting + fixed
    if "strftime_now" not in fixed or _MACRO in fixed:
        return fixed
    # For formats that are put together while the template is rendered, directive by directive.
    known = [f"%{dash}{one}" for dash in ("-", "") for one in "aAwdbBmyYHIpMSfjUWGuVeDFTR"]
    filters = "".join(f" | replace({json.dumps(one)}, {json.dumps(_written(noon, one))})" for one in known)
    return f"{_MACRO}{{{{ format{filters} }}}}{{%- endmacro %}}\n{fixed}"


def _written(moment: datetime, text: str) -> str:
    """A moment in a format of strftime; %-d and the like, which not every system knows, are without leading zeros."""
    def one(found: re.Match[str]) -> str:
        written = moment.strftime("%" + found[0][-1])
        return (written.lstrip("0") or "0") if "-" in found[0] else written

    return _DIRECTIVE.sub(one, text)


class Refused(Exception):
    """The template refuses these messages; the text says why, in its own words."""


def render_template(template: str, values: dict[str, Any]) -> str:
    """The text of a template for `values`, as transformers would render it.

    Raises Refused, and UserError where the template takes too much or can write no text.
    """
    return _rendered(template, json.dumps(values))


@functools.lru_cache(maxsize=64)  # the marks by which a template is found out are rendered again and again
def _rendered(template: str, values: str) -> str:
    longest = _SPARE + _TIMES * len(values)
    reply = _renderer().ask(f'{{"template": {json.dumps(template)}, "values": {values}, "longest": {longest}}}\n'.encode())
    if "refused" in reply:
        raise Refused(" ".join("".join(c if c.isprintable() else " " for c in reply["refused"]).split())[:120])
    if "fault" in reply:
        raise unusable(reply["fault"])
    return reply["text"]


def unusable(why: str) -> UserError:
    """The sentence for a template that can render nothing."""
    return UserError(f"The model's chat template cannot be used: {why}.", _HINT)


class _Renderer:
    """The process, started when it is first asked, and again after its end."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None
        self.replies: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def ask(self, line: bytes) -> dict[str, str]:
        """The process's reply to a line of JSON."""
        with self.lock:
            try:
                process = self._started()
                reply = self._answer(process, line)
            except BaseException:
                self.end()
                raise
            if not reply:
                self.end()
                raise unusable("it ended the process that rendered it")
        return json.loads(reply)

    def _answer(self, process: "subprocess.Popen[bytes]", line: bytes) -> bytes:
        """The line that the process answers, b"" where it ended. Raises UserError where it takes too much."""
        assert process.stdin
        with suppress(BrokenPipeError, OSError):
            process.stdin.write(line)
            process.stdin.flush()
        start, watched, before = time.monotonic(), psutil.Process(process.pid), None
        while True:
            try:
                return self.replies.get(timeout=_LOOK)
            except queue.Empty:
                pass
            with suppress(psutil.Error):
                computed = sum(watched.cpu_times()[:2])  # user and system
                before = computed - _LOOK if before is None else before
                if computed - before > SECONDS:
                    raise unusable(f"it needs more than {SECONDS:g} seconds")
                if watched.memory_info().rss > MEMORY:
                    raise unusable("it takes too much memory")
            if time.monotonic() - start > WAITING:
                raise unusable(f"it needs more than {WAITING:g} seconds")

    def _started(self) -> "subprocess.Popen[bytes]":
        """The process, once it has said that it is ready."""
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen([sys.executable, "-P", str(_PROGRAM)], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            self.replies = queue.SimpleQueue()
            threading.Thread(target=_forward, args=(self.process.stdout, self.replies), daemon=True).start()
            if not self.replies.get(timeout=_STARTING):
                raise UserError("The process that renders chat templates cannot be started.", "Install the requirements again.")
        return self.process

    def end(self) -> None:
        """End the process by force."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


def _forward(stream: Any, replies: "queue.SimpleQueue[bytes]") -> None:
    """Put every line into the queue, and b"" at the end."""
    with suppress(OSError, ValueError):
        for line in stream:
            replies.put(line)
    replies.put(b"")


_the_renderer = _Renderer()


def _renderer() -> _Renderer:
    """This process's own; a forked process does not share its parent's."""
    global _the_renderer
    if _the_renderer.owner != os.getpid():
        _the_renderer = _Renderer()
    return _the_renderer
