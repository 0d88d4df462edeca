"""Ollama: a Modelfile, from which it makes a model of a GGUF file: FROM, TEMPLATE, SYSTEM, MESSAGE and PARAMETER.

Written for Ollama 0.12 and newer (https://docs.ollama.com/modelfile). Its grammar has no escapes: a text is between
triple quotes, ends with a line that ends in three of them, and loses every character that Go does not call printable.
"""

import re
import unicodedata

from engine.base.sampling import DEFAULTS, TOP_K
from engine.export.engines.target import Pack, Target

VERSION = "Ollama 0.12"
COMMANDS = ("ollama create {name} -f Modelfile", "ollama run {name}")
_SPACES = {"Zs", "Zl", "Zp"}
_PRINTABLE = frozenset("LMNPS")  # of Unicode's categories, those that Go prints
_QUOTES_AT_END = re.compile(r'"""(?=[ \t]*$)', re.MULTILINE)


def render_modelfile(pack: Pack) -> str:
    """The Modelfile of a character, for a folder next to `gguf`."""
    lines = [f"# {printable(pack.title)} for {VERSION} or newer. In this folder:",
             *(f"#   {one.format(name=pack.slug)}" for one in COMMANDS),
             f"FROM ../gguf/{pack.gguf}"]
    if pack.template:
        lines.append(f"TEMPLATE {quoted(pack.template)}")
    else:
        lines.append("# This model's chat format has no translation into Ollama's template language: Ollama takes the one in the "
                     "GGUF file, or its own.")
    lines.append(f"SYSTEM {quoted(pack.system)}")
    lines += [f"MESSAGE {turn['role']} {quoted(turn['content'])}" for turn in pack.opening if turn["content"].strip()]
    lines += [f"PARAMETER {name} {value}" for name, value in parameters(pack)]
    if pack.licence:
        lines.append(f"LICENSE {quoted(pack.licence)}")
    return "\n".join(lines) + "\n"


def parameters(pack: Pack) -> list[tuple[str, str]]:
    """Ollama's parameters by name: how the studio's own chats sample, the context, and what ends an answer."""
    own = [(name, f"{getattr(DEFAULTS, name):g}") for name in ("temperature", "top_p", "min_p", "repeat_penalty", "repeat_last_n")]
    fixed = [*own, ("top_k", str(TOP_K)), ("num_predict", str(DEFAULTS.max_tokens)), ("num_ctx", str(pack.context))]
    return [*fixed, *(("stop", f'"{stop}"') for stop in pack.stops)]


def quoted(text: str) -> str:
    """A text between triple quotes, as Ollama reads it back; three quotes at the end of a line are separated by a space."""
    return f'"""{_QUOTES_AT_END.sub(chr(34) * 2 + " " + chr(34), printable(text))}"""'


def printable(text: str) -> str:
    """A text with plain spaces and line breaks, and without what Go's strconv.IsPrint refuses."""
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    kept = []
    for sign in plain:
        category = unicodedata.category(sign)
        if sign in "\n\t " or category[0] in _PRINTABLE:
            kept.append(sign)
        elif category in _SPACES or sign in "\x0b\x0c\x85":
            kept.append(" " if category == "Zs" else "\n")
    return "".join(kept)


TARGET = Target("ollama", "Ollama", "Ollama 0.12 or newer", "a Modelfile", lambda pack: {"Modelfile": render_modelfile(pack)},
                start="Modelfile", hint="is all that it needs beside the GGUF file. In a terminal:", commands=COMMANDS)
