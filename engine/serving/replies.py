"""Replies as JSON: whether one satisfies its schema, and how long one can be. For schemas that passed `check_schema`."""

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import Any

import regex

from engine.cards.reading import kind_of
from engine.serving.patterns import plain_pattern
from engine.serving.schemas import DEEPEST, Schema, is_of_type, step_to, target_of

SECONDS = 1.0  # for one pattern
PRECISION = 2**-50  # of a number with a point, when multiples are checked
UNBOUNDED = 1024  # tokens, where a reply can be of any length
_SAY = re.compile(r'\{"say": "((?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*)')  # the first property of `reply_schema`


def fault_in(reply: str, schema: Schema) -> str:
    """What is wrong in a reply, as a sentence with its place; "" if it is JSON that satisfies the schema (formats aside)."""
    try:
        return next(_faults(json.loads(reply), schema, schema, ""), "")
    except ValueError:
        return "The reply is not JSON."
    except RecursionError:
        return "The reply is nested too deeply."


def said_in(reply: str) -> str:
    """What the character says in a reply with game actions, also in one that was cut: conversations go on in words."""
    found = _SAY.match(reply)
    said = json.loads(f'"{found[1]}"') if found else reply
    return str(said.encode("utf-8", "replace").decode())  # half a surrogate pair is possible in JSON


def most_tokens(schema: Schema) -> int:
    """The limit of tokens for a reply: enough for any of words, at one for each two characters, or UNBOUNDED.

    A reply that is cut at its limit is no JSON, so the limit of a chat's answers does not suit.
    """
    longest = _longest(schema, schema, 0, {})
    return UNBOUNDED if longest is None else min(longest // 2 + 16, UNBOUNDED)


def _faults(value: Any, schema: Schema, root: Schema, place: str) -> Iterator[str]:
    """What of a value does not satisfy a checked schema."""
    at = place or "its root"
    if "$ref" in schema:
        yield from _faults(value, target_of(root, schema["$ref"]), root, place)
    elif "anyOf" in schema:
        if not any(next(_faults(value, option, root, place), "") == "" for option in schema["anyOf"]):
            yield f"The value at {at} is none of the possible ones."
    elif "enum" in schema or "const" in schema:
        # For Python 1 and true are equal, too.
        possible = schema.get("enum", [schema.get("const")])
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in possible):
            yield f"The value at {at} is none of the possible ones."
    else:
        types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        if not any(is_of_type(value, type) for type in types):
            yield f"The value at {at} is {kind_of(value)}, which is not {' or '.join(types)}."
        else:
            yield from _inner_faults(value, schema, root, place)
            if not all(check(value, schema) for kind, check in _RULES if isinstance(value, kind) and not isinstance(value, bool)):
                yield f"The value at {at} is not within its bounds."


def _inner_faults(value: Any, schema: Schema, root: Schema, place: str) -> Iterator[str]:
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        for name in schema.get("required", ()):
            if name not in value:
                yield f"“{name}” is missing at {place or 'its root'}."
        for name, inner in value.items():
            if name in properties:
                yield from _faults(inner, properties[name], root, f"{place}/{step_to(name)}")
            elif isinstance(others, dict):
                yield from _faults(inner, others, root, f"{place}/{step_to(name)}")
            elif not others:
                yield f"“{name[:40]}” should not be at {place or 'its root'}."
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _faults(inner, schema["items"], root, f"{place}/{number}")


def _fits_text(value: str, schema: Schema) -> bool:
    pattern = plain_pattern(schema.get("pattern", ""))
    if pattern.endswith("$") and not pattern.endswith("\\$"):  # for Python, $ also matches before a last line end
        pattern = f"{pattern[:-1]}\\Z"
    return (schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf)
            and regex.search(pattern, value, timeout=SECONDS) is not None)


def _fits_number(value: float, schema: Schema) -> bool:
    step = Fraction(str(schema.get("multipleOf", 0)))
    rest = Fraction(str(value)) % step if step else Fraction(0)
    return (schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf)
            and schema.get("exclusiveMinimum", -math.inf) < value < schema.get("exclusiveMaximum", math.inf)
            and min(rest, abs(step - rest)) <= abs(value) * PRECISION)


def _fits_list(value: list[Any], schema: Schema) -> bool:
    return bool(schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf))


_Rule = tuple[Any, Callable[[Any, Schema], bool]]
_RULES: tuple[_Rule, ...] = ((str, _fits_text), ((int, float), _fits_number), (list, _fits_list))


def _longest(schema: Schema, root: Schema, depth: int, known: dict[str, int | None]) -> int | None:
    """Characters of the longest reply as JSON, escapes left aside; None where there is no longest one, or it is too deep to tell.

    `known`: the same of definitions, so that each is looked at once however often it is named.
    """
    if depth > 2 * DEEPEST:
        return None
    if "$ref" in schema:
        if (name := schema["$ref"]) not in known:
            known[name] = None  # until it is known: a definition that contains itself has no longest reply
            known[name] = _longest(target_of(root, name), root, depth + 1, known)
        return known[name]
    if "anyOf" in schema:
        return _most(_longest(option, root, depth + 1, known) for option in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return max(len(json.dumps(value, ensure_ascii=False)) for value in schema.get("enum", [schema.get("const")]))
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    return _most(_longest_of(type, schema, root, depth, known) for type in types)


def _longest_of(type: str, schema: Schema, root: Schema, depth: int, known: dict[str, int | None]) -> int | None:
    if type == "object":
        others = schema.get("additionalProperties")
        parts = {name: _longest(inner, root, depth + 1, known) for name, inner in schema.get("properties", {}).items()}
        return None if isinstance(others, dict) or None in parts.values() else 2 + sum(
            len(name) + 6 + (size or 0) for name, size in parts.items())
    if type == "array":
        size = _longest(schema["items"], root, depth + 1, known) if "maxItems" in schema else None
        return None if size is None else 2 + schema["maxItems"] * (size + 2)
    if type == "string":
        return schema["maxLength"] + 2 if "maxLength" in schema else 40 if "format" in schema else None
    return 24  # a number, true, false, null


def _most(sizes: Iterable[int | None]) -> int | None:
    found = list(sizes)
    return None if None in found else max(size for size in found if size is not None)
