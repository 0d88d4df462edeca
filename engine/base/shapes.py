"""Whether a value that was read from JSON has the shape that it was written with. Knows no file.

A check is a function from a value to whether it fits. For JSON that we wrote ourselves and that somebody, or a broken disk, may
have changed: `json.loads` takes NaN, numbers of hundreds of digits and halves of characters, which fail much later.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, get_args, get_origin

Check = Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Whether a value is a number to count with: any float, or a whole number of at most 63 bits."""
    return type(value) is float or (type(value) is int and abs(value) < 2**63)


def is_text(value: Any) -> bool:
    """Whether a value is a text that UTF-8 can write."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def each(check: Check) -> Check:
    """An object with text for names, all of whose values fit."""
    return lambda value: isinstance(value, dict) and all(map(is_text, value)) and all(map(check, value.values()))


def items(check: Check) -> Check:
    """A list all of whose items fit."""
    return lambda value: isinstance(value, list) and all(map(check, value))


def fields(**checks: Check) -> Check:
    """An object that has at least these fields, each of which fits."""
    return lambda value: isinstance(value, dict) and all(name in value and check(value[name]) for name, check in checks.items())


def numbers(*names: str) -> Check:
    """An object that has at least these numbers."""
    return fields(**dict.fromkeys(names, is_number))


@cache
def of(hint: Any) -> Check:
    """The check of a type as a dataclass has it: str, int, float, bool, None, Any, and list, dict, tuple and unions of them."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if hint is Any:
        return lambda value: True
    if kind in (list, tuple):
        return items(of(inner[0]) if inner else of(Any))
    if kind is dict:
        return each(of(inner[1]) if inner else of(Any))
    if inner:
        checks = [of(one) for one in inner]
        return lambda value: any(check(value) for check in checks)
    simple: Mapping[Any, Check] = {str: is_text, float: is_number, int: lambda value: type(value) is int and is_number(value)}
    return simple.get(hint, lambda value: type(value) is hint)
