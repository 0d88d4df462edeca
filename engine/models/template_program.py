"""The program that renders chat templates, in a process of its own: requests as lines of JSON in, texts out.

A chat template is code that others wrote. Jinja's sandbox keeps it from files and from Python's insides, not from
computing for ever or from filling the memory; the process that started this one (templates.py) does that.
The environment is transformers' own (utils/chat_template_utils.py), so that the texts are the same: its options, its tags
and loop controls, its functions and its `tojson`. Imports jinja2 and nothing of ours: it must start fast.
"""

import datetime
import faulthandler
import functools
import json
import os
import random
import signal
import sys
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

LONGEST_SECONDS = 20  # of one text; then the process ends itself, should its owner be gone
MOST_MEMORY = 2 << 30  # bytes of address space, where the system can limit it


class _Generation(Extension):
    """{% generation %} marks what the assistant said; the text is that of its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Any) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Any) -> str:
        return caller()


class _Dict:
    """`dict` without its attributes."""

    def __call__(self, *values: Any, **named: Any) -> dict:
        return dict(*values, **named)

    def fromkeys(self, *values: Any) -> dict:
        return dict.fromkeys(*values)


class _Namespace(Namespace):
    def __init__(*values: Any, **named: Any) -> None:  # a field may be called self
        self, *rest = values
        fields = dict(*rest, **named)
        for name in fields:
            _refuse_underscore(name)
        Namespace.__init__(self, fields)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_underscore(name)
        super().__setitem__(name, value)


def _refuse_underscore(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace has no field {name!r}")


def _raise_exception(message: Any) -> None:
    raise TemplateError(message)


def _tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@functools.lru_cache(maxsize=32)
def _compiled(template: str) -> Any:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _tojson
    environment.globals |= {"raise_exception": _raise_exception, "dict": _Dict(), "namespace": _Namespace,
                            "strftime_now": lambda pattern: datetime.datetime.now().strftime(pattern)}
    return environment.from_string(template)


def render(template: str, values: dict[str, Any], longest: int) -> dict[str, str]:
    """{"text"}; or {"refused"}, why the template refuses these values; or {"fault"}, why it can render nothing."""
    try:
        random.seed(0)  # of Jinja's `random` and `lipsum`: the same messages give the same text
        pieces, length = [], 0
        for piece in _compiled(template).generate(**values):
            length += len(piece)
            if length > longest:
                return {"fault": f"it writes more than {longest:,} characters"}
            pieces.append(piece)
        text = "".join(pieces)
        text.encode()
        return {"text": text}
    except UnicodeEncodeError:
        return {"fault": "it writes halves of characters"}
    except RecursionError:
        return {"fault": "it is nested too deeply"}
    except MemoryError:
        return {"fault": "it takes too much memory"}
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}" if not isinstance(error, TemplateError) else str(error)}


def main() -> None:
    """Answer until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the owner's matter
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    except (ImportError, OSError, ValueError):
        pass  # the owner watches the memory as well
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    nowhere = open(os.devnull, "w")  # noqa: SIM115
    replies.write(b"{}\n")  # ready
    replies.flush()
    for line in sys.stdin.buffer:
        # A thread of C's, which ends the process even while one long operation of Python's goes on.
        faulthandler.dump_traceback_later(LONGEST_SECONDS, exit=True, file=nowhere)
        reply = render(**json.loads(line))
        faulthandler.cancel_dump_traceback_later()
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()


if __name__ == "__main__":
    main()
