"""A strict reader of Modelfiles, by the state machine that Ollama's own parser is: one character after another.

Written from the published behaviour of Ollama 0.12: instructions of letters, values to the end of the line, or to the first
line that ends in the quotes with which the value began; what Go does not print is dropped.
"""

import unicodedata

COMMANDS = {"from", "license", "template", "system", "adapter", "parameter", "message"}
ROLES = {"system", "user", "assistant"}


class BadModelfile(ValueError):
    """What Ollama would refuse."""


def is_print(sign: str) -> bool:
    """Go's strconv.IsPrint: letters, marks, numbers, punctuation, symbols, and the ASCII space."""
    return sign == " " or unicodedata.category(sign)[0] in "LMNPS"


def unquote(text: str) -> str | None:
    """The text in its quotes; None while they are not closed."""
    for quotes in ('"""', '"'):
        if text.startswith(quotes):
            closed = len(text) >= 2 * len(quotes) and text.endswith(quotes)
            return text[len(quotes):-len(quotes)] if closed else None
    return text


def read_modelfile(text: str) -> list[tuple[str, str]]:
    """The commands: ("from", file), ("system", text), ("message", "user: text"), ("temperature", "0.7") and so on."""
    commands: list[tuple[str, str]] = []
    state, name, role, buffer = "nothing", "", "", ""
    for sign in text:
        newline, space = sign in "\r\n", sign in " \t"
        if state == "nothing":
            if sign == "#":
                state = "comment"
            elif not newline and not space:
                state, buffer = "name", sign
        elif state == "comment":
            state = "nothing" if newline else state
        elif state == "value":
            if newline and (value := unquote(buffer.strip())) is not None:
                commands.append((name, f"{role}: {value}" if role else value))
                state, role, buffer = "nothing", "", ""
            elif newline or space or is_print(sign):
                buffer += sign
        elif space:
            word, buffer = buffer, ""
            state, name, role = _after(state, word, name)
        elif sign.isascii() and (sign.isalpha() or (state == "parameter" and (sign.isdigit() or sign == "_"))):
            buffer += sign
        else:
            raise BadModelfile(f"{sign!r} in a {state}")
    if state not in ("nothing", "comment"):
        raise BadModelfile("unexpected end")
    if "from" not in [command for command, _ in commands]:
        raise BadModelfile("no FROM line")
    return commands


def _after(state: str, word: str, name: str) -> tuple[str, str, str]:
    """The state, command and role after a word and a space."""
    if state == "name":
        if word.lower() not in COMMANDS:
            raise BadModelfile(f"unknown command {word}")
        return {"parameter": "parameter", "message": "message"}.get(word.lower(), "value"), word.lower(), ""
    if state == "parameter":
        return "value", word, ""
    if word not in ROLES:
        raise BadModelfile(f"unknown role {word}")
    return "value", name, word
