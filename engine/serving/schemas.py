"""JSON schemas that a reply must satisfy: which ones are accepted, and the grammar for llama.cpp.

When llama.cpp cannot compile a schema, it writes a line to its log and lets the model say anything. So a schema is checked here
first, against the part of JSON Schema that llama.cpp enforces (its llguidance engine; a test tries every keyword on a random
model), and against limits that keep compiling short.
"""

import json
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any, NoReturn

from engine.base.errors import UserError
from engine.cards.reading import kind_of
from engine.serving.patterns import pattern_fault, plain_pattern

Schema = Mapping[str, Any]

LARGEST = 64_000  # characters of the schema as JSON
DEEPEST = 16  # schemas inside one another
MOST_SCHEMAS = 400
MOST_VALUES = 500  # of all enums together
LONGEST_TEXT = 4_000  # largest minLength and maxLength
MOST_ITEMS = 200  # largest minItems and maxItems
MOST_ITEMS_TOGETHER = 1_000  # of all lists
LARGEST_NUMBER = 10**15
LARGEST_STEP = 1_000  # of multipleOf, without its decimal point
FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")

_ANNOTATIONS = {"title", "description", "default", "examples", "$schema", "$comment", "deprecated", "readOnly", "writeOnly"}
_DEFINITIONS = ("$defs", "definitions")  # at the root
_OF_TYPE: dict[str, tuple[str, ...]] = {
    "object": ("properties", "required", "additionalProperties"), "array": ("items", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": (bounds := ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")), "integer": bounds,
    "boolean": (), "null": ()}
_SHAPES = ("type", "enum", "const", "anyOf", "$ref")
_KNOWN = {*_SHAPES, *(word for words in _OF_TYPE.values() for word in words)}
_REFERENCE = re.compile(r"#(?:/(\$defs|definitions)/([^/~%]+))?")


def check_schema(schema: Any) -> None:
    """Raises UserError, with the place as a JSON pointer, for a schema that llama.cpp cannot enforce or that is too large."""
    if not isinstance(schema, dict):
        raise UserError(f"The JSON schema is {kind_of(schema)}, where an object should be.")
    try:
        size = len(json.dumps(schema, ensure_ascii=False, allow_nan=False).encode())
    except (ValueError, RecursionError) as error:  # not a number, half of a surrogate pair, nested without end
        raise UserError("The JSON schema holds a text or number that JSON cannot hold, or is nested too deeply.") from error
    if size > LARGEST:
        raise UserError(f"The JSON schema is {size:,} bytes long; at most {LARGEST:,} are possible.")
    _Check(schema).whole()


def grammar_of(schema: Schema) -> str:
    """The grammar, for llama.cpp's `grammar`, of the replies that satisfy a checked schema, without white space at will.

    Where a schema leaves properties or the bounds of numbers open, the grammar does not.
    """
    import xllamacpp

    spaces = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
    return str(xllamacpp.json_schema_to_grammar(json.dumps({**_bare(schema), "x-guidance": spaces})))


class _Check:
    """Walks through a schema once."""

    def __init__(self, root: Schema) -> None:
        self.root = root
        self.schemas = self.values = self.items = 0

    def whole(self) -> None:
        for where in _DEFINITIONS:
            definitions = self.root.get(where, {})
            self._object(definitions, f"/{where}")
            for name, inner in definitions.items():
                if not re.fullmatch(r"[^/~%]+", name):
                    _fail(f"/{where}", f"the name “{name[:40]}” holds one of / ~ %")
                self.one(inner, f"/{where}/{name}", 1)
        self.one(self.root, "", 0)
        self._ends()

    def one(self, schema: Any, place: str, depth: int) -> None:
        """Check one schema and all within it."""
        self._object(schema, place)
        self.schemas += 1
        if depth > DEEPEST or self.schemas > MOST_SCHEMAS:
            _fail(place, f"a schema can be {DEEPEST} levels deep and hold {MOST_SCHEMAS} schemas")
        words = [word for word in schema if word not in _ANNOTATIONS and not (word in _DEFINITIONS and not place)]
        for word in words:
            if word not in _KNOWN:
                _fail(f"{place}/{word}", f"“{word[:40]}” cannot be enforced; what can is {', '.join(sorted(_KNOWN))}, and $defs at "
                      "its root")
        shapes = [word for word in _SHAPES if word in words]
        if not shapes:
            _fail(place, f"it must have one of {', '.join(_SHAPES)}")
        if shapes[-1] in ("anyOf", "$ref") and words != shapes[-1:]:
            _fail(place, f"“{shapes[-1]}” must be alone, and is beside {', '.join(word for word in words if word != shapes[-1])}")
        if shapes[-1] in ("enum", "const") and set(words) - {"type", shapes[-1]}:
            _fail(place, f"beside “{shapes[-1]}” only type is possible")
        getattr(self, f"_{shapes[-1].strip('$').lower()}")(schema, place, depth)

    def _ref(self, schema: Schema, place: str, _depth: int) -> None:
        if not isinstance(schema["$ref"], str) or target_of(self.root, schema["$ref"]) is None:
            _fail(f"{place}/$ref", "it can name # or a definition of this schema, such as #/$defs/NAME")

    def _anyof(self, schema: Schema, place: str, depth: int) -> None:
        options = schema["anyOf"]
        if not isinstance(options, list) or not options:
            _fail(f"{place}/anyOf", "it must be a list of schemas")
        for number, option in enumerate(options):
            self.one(option, f"{place}/anyOf/{number}", depth + 1)

    def _enum(self, schema: Schema, place: str, _depth: int) -> None:
        values = schema["enum"]
        if not isinstance(values, list) or not values:
            _fail(f"{place}/enum", "it must be a list of at least one value")
        self.values += len(values)
        if self.values > MOST_VALUES:
            _fail(f"{place}/enum", f"all enums together can have {MOST_VALUES} values")
        for value in values:
            self._plain(value, schema, f"{place}/enum")

    def _const(self, schema: Schema, place: str, _depth: int) -> None:
        self._plain(schema["const"], schema, f"{place}/const")

    def _plain(self, value: Any, schema: Schema, place: str) -> None:
        """A value of an enum: plain, and of the type that is beside it."""
        if isinstance(value, list | dict):
            _fail(place, "a value can be a text, a number, true, false or null")
        if "type" in schema and not any(is_of_type(value, type) for type in self._types(schema, place)):
            _fail(place, f"{json.dumps(value)[:40]} is not of the type beside it")

    def _types(self, schema: Schema, place: str) -> list[str]:
        given = schema["type"]
        types = given if isinstance(given, list) else [given]
        if not types or not all(isinstance(type, str) and type in _OF_TYPE for type in types):
            _fail(f"{place}/type", f"it can be {', '.join(_OF_TYPE)}, or a list of these")
        return types

    def _type(self, schema: Schema, place: str, depth: int) -> None:
        types = self._types(schema, place)
        allowed = {word for type in types for word in _OF_TYPE[type]}
        for word in schema:
            if word in _KNOWN - {"type"} - allowed:
                _fail(f"{place}/{word}", f"“{word}” is not for the type {' or '.join(types)}")
        if "object" in types:
            self._of_object(schema, place, depth)
        if "array" in types:
            self._of_array(schema, place, depth)
        if "string" in types:
            self._of_string(schema, place)
        if {"number", "integer"} & set(types):
            self._of_number(schema, place, "number" not in types)

    def _of_object(self, schema: Schema, place: str, depth: int) -> None:
        properties, required, others = schema.get("properties", {}), schema.get("required", []), schema.get("additionalProperties")
        self._object(properties, f"{place}/properties")
        for name, inner in properties.items():
            self.one(inner, f"{place}/properties/{step_to(name)}", depth + 1)
        if not isinstance(required, list) or not all(isinstance(name, str) and name in properties for name in required):
            _fail(f"{place}/required", "it must be a list of names that are in properties")
        if isinstance(others, dict):
            self.one(others, f"{place}/additionalProperties", depth + 1)
        elif others not in (None, True, False):
            _fail(f"{place}/additionalProperties", "it must be false, true or a schema")
        elif "properties" not in schema and others is not False:
            _fail(place, "an object needs properties, or additionalProperties with a schema")

    def _of_array(self, schema: Schema, place: str, depth: int) -> None:
        if "items" not in schema:
            _fail(place, "an array needs items")
        self.one(schema["items"], f"{place}/items", depth + 1)
        fewest, most = self._counts(schema, place, "minItems", "maxItems", MOST_ITEMS)
        self.items += most or fewest
        if self.items > MOST_ITEMS_TOGETHER:
            _fail(place, f"all lists together can have {MOST_ITEMS_TOGETHER:,} items")

    def _of_string(self, schema: Schema, place: str) -> None:
        lengths = self._counts(schema, place, "minLength", "maxLength", LONGEST_TEXT) != (0, None)
        if "format" in schema and schema["format"] not in FORMATS:
            _fail(f"{place}/format", f"it can be {', '.join(FORMATS)}")
        if sum((lengths, "format" in schema, "pattern" in schema)) > 1:
            _fail(place, "a text can have lengths, a pattern or a format, not two of them; a pattern can count: ^.{2,20}$")
        if "pattern" in schema:
            fault = pattern_fault(schema["pattern"])
            if fault:
                _fail(f"{place}/pattern", fault)

    def _of_number(self, schema: Schema, place: str, whole: bool) -> None:
        for word in _OF_TYPE["number"]:
            value = schema.get(word, 1)
            if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > LARGEST_NUMBER:
                _fail(f"{place}/{word}", f"it must be a number of at most {LARGEST_NUMBER:,}")
        if "multipleOf" in schema:
            step = Decimal(str(schema["multipleOf"])).normalize()
            if step <= 0 or int("".join(map(str, step.as_tuple().digits))) > LARGEST_STEP or abs(step.adjusted()) > 6:
                _fail(f"{place}/multipleOf", f"it must be above 0, such as 5 or 0.25, with digits of at most {LARGEST_STEP:,}")
        bounded = _bounded(schema)
        if not _has_number(bounded, whole):
            _fail(place, "no number is within these bounds")
        if "multipleOf" in schema and min(bounded.get(word, 0) for word in ("maximum", "exclusiveMaximum")) <= 0 and not (
                _has_number({**bounded, "minimum": 0, "exclusiveMinimum": -1}, whole)):
            _fail(f"{place}/multipleOf", "it cannot be enforced where all numbers are below 0")

    def _counts(self, schema: Schema, place: str, low: str, high: str, most: int) -> tuple[int, int | None]:
        for word in (low, high):
            value = schema.get(word, 0)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
                _fail(f"{place}/{word}", f"it must be a whole number from 0 to {most:,}")
        if high in schema and schema.get(low, 0) > schema[high]:
            _fail(place, f"{low} is larger than {high}")
        return schema.get(low, 0), schema.get(high)

    def _object(self, value: Any, place: str) -> None:
        if not isinstance(value, dict):
            _fail(place, f"it is {kind_of(value)}, where an object should be")

    def _ends(self) -> None:
        """A schema may contain itself, but only within an object or a list, and not always: else no value of it would end."""
        places = {"#": self.root, **{f"#/{where}/{name}": inner for where in _DEFINITIONS
                                     for name, inner in self.root.get(where, {}).items()}}
        for place in places:
            reached: set[str] = set()
            while more := {found for one in reached or {place} for found in _direct(places[one])} - reached:
                reached |= more
            if place in reached:
                _fail(place.lstrip("#"), "it refers to itself with nothing between")
        ending: set[str] = set()
        while more := {place for place, inner in places.items() if place not in ending and _ends(inner, ending)}:
            ending |= more
        if endless := sorted(places.keys() - ending):
            _fail(endless[-1].lstrip("#"), "it always contains itself, so that no value of it would end")


def _fail(place: str, what: str) -> NoReturn:
    raise UserError(f"The JSON schema cannot be used: at {place[:200] or 'its root'}, {what}.")


def step_to(name: str) -> str:
    """A name within a JSON pointer (RFC 6901)."""
    return name.replace("~", "~0").replace("/", "~1")


def target_of(root: Schema, reference: str) -> Any:
    """The schema that a reference names; None for any other place, inside or outside."""
    found = _REFERENCE.fullmatch(reference)
    if not found:
        return None
    return root.get(found[1], {}).get(found[2]) if found[1] else root


def _direct(schema: Schema) -> set[str]:
    """The references that are the whole value of a schema."""
    if "$ref" in schema:
        return {schema["$ref"]}
    return {found for option in schema.get("anyOf", ()) for found in _direct(option)}


def _ends(schema: Schema, ending: set[str]) -> bool:
    """Whether a schema has a value that ends, if those of the references in `ending` have."""
    if "$ref" in schema:
        return schema["$ref"] in ending
    if "anyOf" in schema:
        return any(_ends(option, ending) for option in schema["anyOf"])
    types = schema.get("type", ())
    if isinstance(types, list) and set(types) - {"object", "array"}:
        return True
    inner = [schema["properties"][name] for name in schema.get("required", ())]
    if schema.get("minItems"):
        inner.append(schema["items"])
    return all(_ends(one, ending) for one in inner)


def _bounded(schema: Schema) -> dict[str, Any]:
    """The schema of a number with both bounds."""
    result = dict(schema)
    for bound, other, most in (("minimum", "exclusiveMinimum", -1), ("maximum", "exclusiveMaximum", 1)):
        if bound not in schema and other not in schema:
            result[bound] = most * LARGEST_NUMBER
    return result


def _has_number(schema: Schema, whole: bool) -> bool:
    """Whether a number is within the bounds of a schema, which has both."""
    exact = {word: Fraction(str(schema[word])) for word in _OF_TYPE["number"] if word in schema}
    step = exact.get("multipleOf")
    if whole:  # multiples of a fraction that are whole are multiples of its numerator
        step = Fraction(step.numerator if step else 1)
    lows = [(exact[word], word == "exclusiveMinimum") for word in ("minimum", "exclusiveMinimum") if word in exact]
    highs = [(exact[word], word == "exclusiveMaximum") for word in ("maximum", "exclusiveMaximum") if word in exact]
    (low, above), (high, below) = max(lows), min(highs, key=lambda one: (one[0], not one[1]))
    if not step:
        return low < high or (low == high and not above and not below)
    first = math.ceil(low / step) * step
    first += step if above and first == low else 0
    return first < high or (first == high and not below)


def _bare(schema: Schema) -> dict[str, Any]:
    """A checked schema without annotations, without properties that it does not name, and with bounds for every number.

    Without bounds, a model may write digits for ever, or a number that programs cannot hold.
    """
    result: dict[str, Any] = {}
    for word, value in schema.items():
        if word in ("properties", *_DEFINITIONS):
            result[word] = {name: _bare(inner) for name, inner in value.items()}
        elif word == "anyOf":
            result[word] = [_bare(option) for option in value]
        elif word == "items" or (word == "additionalProperties" and isinstance(value, dict)):
            result[word] = _bare(value)
        elif word not in _ANNOTATIONS:
            result[word] = plain_pattern(value) if word == "pattern" else value
    if "properties" in schema and not isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = False
    types = schema["type"] if isinstance(schema.get("type"), list) else [schema.get("type")]
    if {"number", "integer"} & set(types) and "enum" not in schema and "const" not in schema:
        return _bounded(result)
    return result


def is_of_type(value: Any, type: str) -> bool:
    """Whether a JSON value has a type."""
    kinds: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": None.__class__}
    if type in kinds:
        return isinstance(value, kinds[type])
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return number and (type == "number" or value == int(value))
