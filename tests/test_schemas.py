"""Schemas of replies: what is refused, that llama.cpp enforces all that is not, and what a reply must satisfy."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.base.errors import UserError
from engine.cards.actions import reply_schema
from engine.cards.card import bundled_cards
from engine.cards.npc import read_npc
from engine.serving.replies import UNBOUNDED, fault_in, most_tokens, said_in
from engine.serving.schemas import DEEPEST, FORMATS, MOST_ITEMS, check_schema, grammar_of

TEXT = {"type": "string", "maxLength": 12}
WHOLE = {"type": "integer", "minimum": -20, "maximum": 300}


def of(value: Any, **more: Any) -> dict[str, Any]:
    """An object with the property v."""
    return {"type": "object", "properties": {"v": value}, "required": ["v"], "additionalProperties": False, **more}


def nested(levels: int) -> dict[str, Any]:
    return of(nested(levels - 1)) if levels else TEXT


@pytest.mark.parametrize(("schema", "says"), [
    ([], "is a list, where an object"), (None, "The JSON schema is "), ({"type": "number", "minimum": float("nan")}, "cannot hold"),
    (of({"enum": ["\ud800"]}), "cannot hold"), (of({"enum": ["x" * 65_000]}), "at most 64,000"),
    (nested(DEEPEST + 1), "levels deep"), ({"anyOf": [TEXT] * 500}, "hold 400 schemas"),
    ({}, "at its root, it must have one of type"), (of({}), "at /properties/v, it must"),
    (of(True), "at /properties/v, it is true or false"), (of({"type": "text"}), "/properties/v/type, it can be object, array"),
    (of({**TEXT, "minimum": 1}), "“minimum” is not for the type string"), (of({"not": TEXT}), "“not” cannot be enforced"),
    (of(TEXT, minProperties=1), "at /minProperties, “minProperties” cannot be"), (of(TEXT, **{"x-guidance": {}}), "“x-guidance”"),
    ({"allOf": [of(TEXT)]}, "“allOf”"), ({"oneOf": [of(TEXT)]}, "“oneOf”"), (of({"type": "string", "format": "uri"}), "date-time"),
    (of({"$ref": "http://example.org/a.json"}), "/properties/v/$ref, it can name"),
    (of({"$ref": "#/$defs/missing"}), "it can name"), (of({"$ref": "#/properties/v"}), "it can name"),
    (of({"$ref": "#"}), "always contains itself"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "itself with nothing between"),
    ({"anyOf": [{"$ref": "#"}, of({"$ref": "#"}), TEXT]}, "at its root, it refers to itself"),
    (of({"$ref": "#/$defs/a", "type": "string"}, **{"$defs": {"a": TEXT}}), "“$ref” must be alone"),
    (of({"anyOf": [TEXT], "maxLength": 3}), "“anyOf” must be alone"), (of({"anyOf": []}), "list of schemas"),
    (of({"enum": []}), "at least one"), (of({"enum": [1], "type": "string"}), "1 is not of the type"),
    (of({"enum": [[]]}), "a text"), (of({"enum": list(range(501))}), "500 values"), (of({"const": 1, "minimum": 0}), "only type"),
    (of(TEXT, required=["w"]), "names that are in properties"), ({"type": "object"}, "needs properties"),
    ({"type": "array"}, "needs items"), ({"type": "array", "items": TEXT, "maxItems": 10**9}, f"from 0 to {MOST_ITEMS}"),
    ({"type": "array", "items": TEXT, "minItems": 3, "maxItems": 2}, "minItems is larger"),
    (of({**TEXT, "minLength": 13}), "larger"), (of({"type": "string", "maxLength": 10**9}), "from 0 to 4,000"),
    (of({"type": "string", "maxLength": True}), "whole number"),
    ({"anyOf": [{"type": "array", "items": TEXT, "maxItems": 200}] * 6}, "together"), (of({**TEXT, "pattern": "^a$"}), "can count"),
    (of({"type": "string", "pattern": "(a|b"}), "no regular expression"), (of({"type": "string", "pattern": "(?=a)b"}), "“(?=a)b”"),
    (of({"type": "string", "pattern": r"(a)\1"}), "cannot be enforced"), (of({"type": "string", "pattern": "^a|b$"}), "in a group"),
    (of({"type": "string", "pattern": "a++"}), "cannot be enforced"),
    (of({"type": "string", "pattern": "a^"}), "cannot be enforced"), (of({"type": "string", "pattern": "(?i)a"}), "cannot be"),
    (of({"type": "string", "pattern": "[[:alpha:]]"}), "cannot be"),
    (of({"type": "string", "pattern": r"\p{L}"}), "cannot be enforced"), (of({"type": "string", "pattern": 7}), "must be a text"),
    (of({"type": "string", "pattern": "((a{40}){40}){40}"}), "multiply to 64,000"), (of({**WHOLE, "minimum": 301}), "no number"),
    (of({**WHOLE, "minimum": "1"}), "/minimum, it must be a number"), (of({"type": "number", "multipleOf": 0}), "above 0"),
    (of({"type": "integer", "minimum": 1.2, "maximum": 1.8}), "no number"), (of({"type": "number", "maximum": 1e300}), "at most"),
    (of({"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2}), "no number"),
    (of({"type": "integer", "maximum": -1, "multipleOf": 7}), "below 0"),
    (of({"type": "number", "exclusiveMinimum": 1e15}), "no number"),
    (of({"type": "string", "pattern": '^"b{2}$'}), "cannot be"), (of({"type": "string", "pattern": r"^\\b{2}$"}), "cannot be"),
    (of({"type": "string", "pattern": r"^[\n]b$"}), "cannot be"), (of({"type": "string", "pattern": r"[\W]"}), "cannot be"),
    (of({"type": "integer", "minimum": 11, "maximum": 19, "multipleOf": 10}), "no number"),
])
def test_a_schema_that_no_grammar_can_hold_gets_one_sentence_with_its_place(schema: Any, says: str) -> None:
    with pytest.raises(UserError) as caught:
        check_schema(schema)
    assert says in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 500


TREE = {"type": "object", "properties": {"name": {"type": "string", "pattern": "^[a-z]{1,4}$"}, "under": {
    "anyOf": [{"type": "null"}, {"$ref": "#/$defs/tree"}]}}, "required": ["name", "under"], "additionalProperties": False}
TAKEN: dict[str, dict[str, Any]] = {
    "text": TEXT, "least": {"type": "string", "minLength": 5, "maxLength": 9}, "whole": WHOLE, "yes": {"type": "boolean"},
    "step": {"type": "number", "minimum": 0, "maximum": 9, "multipleOf": 0.25}, "null": {"type": "null"},
    "fine": {"type": "number", "minimum": -1000000, "maximum": 1000000, "multipleOf": 0.001},
    "between": {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5}, "sevens": {**WHOLE, "multipleOf": 7},
    "thousands": {"type": "integer", "minimum": 0, "maximum": 999_999, "multipleOf": 997},
    "enum": {"enum": ["a\n\"b", 3, None, True, 2.5]}, "const": {"const": "çé 漢"},
    "kinds": {"type": ["integer", "null"], "maximum": 9, "minimum": 0},
    "list": {"type": "array", "items": WHOLE, "minItems": 2, "maxItems": 4},
    "none": {"type": "array", "items": TEXT, "maxItems": 0}, "any": {"anyOf": [TEXT, WHOLE, of(TEXT)]},
    "map": {"type": "object", "additionalProperties": WHOLE, "properties": {}},
    "optional": {"type": "object", "properties": {f"p{n}": WHOLE for n in range(40)}},
    "annotated": {**TEXT, "title": "A", "default": "x"}, **{f"format {one}": {"type": "string", "format": one} for one in FORMATS},
    **{f"pattern {one}": {"type": "string", "pattern": one} for one in (
        "^[a-z ]{1,20}$", "^(a|b)*c?$", r"^\d{3}-\w{2}\s?$", r"^[^a-z\d\"\\\n]{0,8}\.$", "^(?:ab|[x-z]{2,}?){1,3}$",
        r"^é[\-_\]]+\/\$$", "^$", r"^.{1,9}$")},
}


@pytest.fixture(scope="module")
def server(tiny_gguf: Path) -> Iterator[str]:
    """llama.cpp with a random model, so that nothing but the grammar makes a reply valid; its address."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.verbosity = 1  # else it prints a line on every reply
    params.model.path, params.n_ctx, params.n_parallel, params.cpuparams.n_threads = str(tiny_gguf), 512, 1, 1
    server = xllamacpp.Server(params)
    yield server.listening_address
    del server


def said(address: str, schema: dict[str, Any], seed: int = 1) -> str:
    answer = httpx.post(f"{address}/completion", timeout=60, json={
        "prompt": "a", "n_predict": 400, "temperature": 3, "seed": seed, "grammar": grammar_of(schema), "cache_prompt": False})
    return answer.json()["content"]


@pytest.mark.parametrize("name", TAKEN)
def test_llama_cpp_enforces_what_is_accepted(server: str, name: str) -> None:
    schema = of(TAKEN[name])
    check_schema(schema)
    replies = {said(server, schema, seed) for seed in (1, 2, 3)}
    ends = "pattern" not in name and name not in ("map", "format email", "format hostname")
    found = [(reply, fault_in(reply, schema)) for reply in replies if ends or reply.endswith("}")]
    assert not [one for one in found if one[1]] and all(reply.startswith('{"v": ') for reply in replies)


def test_schemas_with_definitions_at_any_root(server: str) -> None:
    for root in ({"$ref": "#/$defs/tree", "$defs": {"tree": TREE}}, {"type": "array", "items": WHOLE, "maxItems": 3}, TEXT):
        check_schema(root)
        assert fault_in(said(server, root), root) == ""


def test_the_largest_that_is_accepted_still_compiles(server: str) -> None:
    items = {"type": "array", "items": of(TEXT), "minItems": MOST_ITEMS, "maxItems": MOST_ITEMS}
    properties = {"long": {"type": "string", "minLength": 4_000, "maxLength": 4_000}, "deep": nested(DEEPEST - 1), "lists": {
        "anyOf": [items] * 4}, "enum": {"enum": [f"word {n}" for n in range(500)]}, **{f"p{n}": TEXT for n in range(300)}}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    check_schema(schema)
    assert said(server, schema).startswith('{"long": "')


@pytest.mark.slow
def test_the_actions_of_every_bundled_character(server: str) -> None:
    for card in bundled_cards():
        schema = reply_schema(read_npc(card.raw))
        check_schema(schema)
        reply = said(server, schema)
        assert fault_in(reply, schema) == "" and len(reply) // 2 < (most_tokens(schema))


@pytest.mark.parametrize(("value", "schema", "says"), [
    ({"v": "x" * 13}, of(TEXT), "at /v is not within its bounds"), ({}, of(TEXT), "“v” is missing at its root"),
    ({"v": "", "w": 1}, of(TEXT), "“w” should not be at its root"), ({"v": 1}, of(TEXT), "is a number, which is not string"),
    ({"v": True}, of(WHOLE), "is not integer"), ({"v": 1}, of({"const": True}), "none of the possible"),
    ({"v": 1.5}, of(WHOLE), "not"), ({"v": 301}, of(WHOLE), "bounds"), ({"v": 0.3}, of(TAKEN["step"]), "bounds"),
    ({"v": [1]}, of(TAKEN["list"]), "bounds"), ({"v": [1, "a"]}, of(TAKEN["list"]), "at /v/1 is a text"),
    ({"v": {"a": "b"}}, of(TAKEN["map"]), "at /v/a"), ({"v": "ab\n"}, of({"type": "string", "pattern": "^ab$"}), "bounds"),
    ([], of(TEXT), "at its root is a list"),
    ({"name": "a", "under": {"name": "A", "under": None}}, {"$ref": "#/$defs/tree", "$defs": {"tree": TREE}}, "none of the"),
])
def test_a_reply_that_does_not_satisfy_its_schema(value: Any, schema: dict[str, Any], says: str) -> None:
    check_schema(schema)
    assert says in fault_in(json.dumps(value), schema)


def test_a_cut_reply_is_not_json_and_one_without_bounds_can_be_of_any_length() -> None:
    assert fault_in('{"v": "ab', of(TEXT)) == "The reply is not JSON."
    assert fault_in("[" * 100_000, of(TEXT)) == "The reply is nested too deeply."
    assert most_tokens(of({"type": "string"})) == UNBOUNDED
    assert most_tokens({"$ref": "#/$defs/tree", "$defs": {"tree": TREE}}) == UNBOUNDED
    assert most_tokens(of({"type": "string", "maxLength": 300})) in range(150, 190)


def test_definitions_that_name_each_other_again_and_again_take_no_time() -> None:
    """As a reply, either would be endless or of 5**16 texts; both are ordinary schemas."""
    many = lambda name: {"type": "object", "properties": {letter: {"$ref": f"#/$defs/{name}"} for letter in "abcde"}}
    chain = {f"d{level}": many(f"d{level + 1}") for level in range(15)} | {"d15": {"type": "string", "maxLength": 4}}
    for schema in ({"$ref": "#/$defs/d0", "$defs": chain}, {"$ref": "#/$defs/d0", "$defs": {"d0": many("d0")}}):
        check_schema(schema)
        assert most_tokens(schema) == UNBOUNDED


@pytest.mark.parametrize(("reply", "said"), [
    ('{"say": "A \\"rope\\",\\nyes.", "action": null}', 'A "rope",\nyes.'), ('{"say": "Half a wo', "Half a wo"),
    ('{"say": "a\\', "a"),
    ('{"say": "a\\u00e', "a"), ('{"say": "\\u00e9\\ud800"', "é?"), ('{"sa', '{"sa'), ("Hello.", "Hello.")])
def test_what_is_said_in_a_reply_with_actions(reply: str, said: str) -> None:
    assert said_in(reply) == said
