"""JSON Schemas for the law of structured output: every kind of keyword that is served, alone and together, and schemas
of real tools. Our own words for the kinds that the field's test suites cover."""

import itertools

STRING = {"type": "string", "maxLength": 12}
INTEGER = {"type": "integer", "minimum": -99, "maximum": 99}


def closed(properties, required=None, **more):
    return {"type": "object", "properties": properties, "required": list(properties) if required is None else required,
            "additionalProperties": False, **more}


def types():
    yield "null", {"type": "null"}
    yield "boolean", {"type": "boolean"}
    yield "integer", {"type": "integer", "minimum": 0, "maximum": 1000}
    yield "number", {"type": "number", "minimum": 0, "maximum": 10}
    yield "string", STRING
    yield "array", {"type": "array", "maxItems": 3, "items": INTEGER}
    yield "object", closed({})
    for a, b in itertools.combinations(["null", "boolean", "integer"], 2):
        yield f"{a} or {b}", {"type": [a, b], "minimum": 0, "maximum": 9}
    yield "string or null", {"type": ["string", "null"], "maxLength": 5}
    yield "array or boolean", {"type": ["array", "boolean"], "items": {"type": "null"}, "maxItems": 2}


def values():
    for i, value in enumerate([None, True, 0, -7, 1.5, "", "one", "two words", "a \"quote\"", "back\\slash", "ümlaut",
                               "日本", "🙂", [], [1, "a", None], {}, {"a": 1}, {"a": {"b": [True]}}, "tab\tnew\nline"]):
        yield f"const {i}", {"const": value}
    yield "enum of strings", {"enum": ["red", "green", "blue"]}
    yield "enum with a common start", {"enum": ["a", "ab", "abc", "b"]}
    yield "enum of numbers", {"enum": [1, 10, 100, -1]}
    yield "enum of all types", {"enum": [None, False, 3, "x", [1], {"k": "v"}]}
    yield "enum with a type", {"type": "string", "enum": ["yes", "no"]}
    yield "enum of long texts", {"enum": ["the quick brown fox " * 3, "jumps over the lazy dog " * 3]}
    for size in (2, 8, 32, 128):
        yield f"enum of {size}", {"enum": [f"value-{i}" for i in range(size)]}
    yield "enum of one", {"enum": ["only"]}


def numbers():
    bounds = [(0, 0), (0, 9), (-5, 5), (10, 12), (99, 101), (-1000, -990), (1, 100000), (-3, 1000)]
    for low, high in bounds:
        yield f"integer {low} to {high}", {"type": "integer", "minimum": low, "maximum": high}
        if low < high:
            yield f"number {low} to {high}", {"type": "number", "minimum": low, "maximum": high}
            yield f"integer between {low} and {high + 1}", {"type": "integer", "exclusiveMinimum": low - 1,
                                                            "exclusiveMaximum": high + 1}
    yield "number above", {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    yield "half numbers", {"type": "number", "minimum": -0.5, "maximum": 2.5}
    for factor in (2, 5, 10, 25):
        yield f"multiple of {factor}", {"type": "integer", "multipleOf": factor, "minimum": 0, "maximum": 500}


def strings():
    for low, high in [(0, 0), (0, 3), (1, 1), (3, 5), (10, 20), (40, 41)]:
        yield f"string of {low} to {high}", {"type": "string", "minLength": low, "maxLength": high}
    patterns = ["^[a-z]{2,5}$", "^(abc|de)f$", "^\\d{3}-\\d{4}$", "^[A-Z][a-z]*( [A-Z][a-z]*){0,2}$", "^x+y{2}$",
                "^[^\"\\\\]{1,4}$", "^\\w{1,6}$", "^a.c$", "^(?:[0-9a-f]{2}:){3}[0-9a-f]{2}$", "^$", "^\\+?[0-9]{4,8}$"]
    for pattern in patterns:
        yield f"pattern {pattern}", {"type": "string", "pattern": pattern}
    yield "pattern and length", {"type": "string", "pattern": "^[ab]+$", "minLength": 3, "maxLength": 6}
    for name in ["date-time", "time", "date", "email", "ipv4", "ipv6", "uuid"]:
        yield f"format {name}", {"type": "string", "format": name}


def arrays():
    for low, high in [(0, 0), (1, 1), (0, 2), (2, 3), (5, 5)]:
        yield f"array of {low} to {high}", {"type": "array", "items": INTEGER, "minItems": low, "maxItems": high}
    yield "tuple", {"type": "array", "prefixItems": [{"type": "boolean"}, INTEGER, {"enum": ["a", "b"]}],
                    "minItems": 3, "items": False}
    yield "tuple with a rest", {"type": "array", "prefixItems": [{"type": "null"}], "items": {"type": "boolean"},
                                "minItems": 1, "maxItems": 4}
    yield "tuple in part", {"type": "array", "prefixItems": [{"const": 1}, {"const": 2}, {"const": 3}], "maxItems": 3,
                            "items": False}
    yield "matrix", {"type": "array", "maxItems": 2, "items": {"type": "array", "maxItems": 2, "items": INTEGER}}
    yield "array of objects", {"type": "array", "maxItems": 2, "items": closed({"id": INTEGER})}
    for item in ("boolean", "null", "integer"):
        yield f"array of {item}", {"type": "array", "maxItems": 3, "items": {"type": item, "minimum": 0, "maximum": 9}}
    for length in range(2, 7):
        yield f"tuple of {length}", {"type": "array", "prefixItems": [{"enum": [i, str(i)]} for i in range(length)],
                                     "minItems": length, "items": False}
    yield "array of enums", {"type": "array", "minItems": 1, "maxItems": 4, "items": {"enum": ["n", "e", "s", "w"]}}


def objects():
    yield "all required", closed({"a": INTEGER, "b": {"type": "boolean"}})
    yield "none required", closed({"a": INTEGER, "b": {"type": "boolean"}, "c": {"type": "null"}}, [])
    for count in range(1, 4):
        yield f"{count} of 4 required", closed({key: {"type": "boolean"} for key in "abcd"}, list("abcd")[:count])
    for count in range(8):
        required = [key for i, key in enumerate("pqr") if count >> i & 1]
        yield f"required {required}", closed({"p": INTEGER, "q": {"type": "boolean"}, "r": {"enum": ["r"]}}, required)
    yield "required last", closed({key: {"type": "null"} for key in "xyz"}, ["z"])
    yield "map of integers", {"type": "object", "additionalProperties": INTEGER, "maxProperties": 2}
    yield "properties and a map", {"type": "object", "properties": {"kind": {"const": "k"}}, "required": ["kind"],
                                   "additionalProperties": {"type": "boolean"}, "maxProperties": 3}
    yield "names by pattern", {"type": "object", "patternProperties": {"^[a-c]$": {"type": "boolean"}},
                               "additionalProperties": False, "maxProperties": 2}
    yield "names to be escaped", closed({"a b": {"type": "null"}, "q\"uote": {"type": "null"}, "ü": {"type": "null"}})
    yield "at least one", {"type": "object", "additionalProperties": {"type": "null"}, "minProperties": 1,
                           "maxProperties": 2}
    yield "deep", closed({"a": closed({"b": closed({"c": closed({"d": {"const": "bottom"}})})})})
    for depth in range(2, 7):
        schema = {"type": "boolean"}
        for level in range(depth):
            schema = closed({f"level{level}": schema})
        yield f"nested {depth}", schema
    yield "many", closed({f"field_{i}": {"type": "boolean"} for i in range(20)})


def combinations():
    yield "anyOf types", {"anyOf": [{"type": "boolean"}, {"type": "null"}]}
    yield "anyOf objects", {"anyOf": [closed({"cat": {"const": 1}}), closed({"dog": {"const": 2}})]}
    yield "anyOf constants", {"anyOf": [{"const": 1}, {"const": "one"}, {"const": None}]}
    yield "anyOf beside properties", {"type": "object", "anyOf": [closed({"a": INTEGER}), closed({"b": INTEGER})]}
    yield "optional", closed({"name": {"anyOf": [STRING, {"type": "null"}]}})
    yield "oneOf types", {"oneOf": [{"type": "boolean"}, {"type": "string", "maxLength": 4}]}
    yield "oneOf constants", {"oneOf": [{"const": "a"}, {"const": "b"}]}
    yield "oneOf by kind", {"oneOf": [closed({"kind": {"const": "circle"}, "radius": INTEGER}),
                                      closed({"kind": {"const": "square"}, "side": INTEGER})]}
    yield "allOf bounds", {"allOf": [{"type": "integer"}, {"minimum": 5}, {"maximum": 8}]}
    yield "allOf objects", {"allOf": [{"type": "object", "properties": {"a": INTEGER}, "required": ["a"]},
                                      {"type": "object", "properties": {"b": {"type": "null"}}, "required": ["b"]}],
                            "maxProperties": 2}
    yield "allOf one", {"allOf": [{"enum": ["p", "q"]}]}
    yield "allOf lengths", {"allOf": [{"type": "string", "minLength": 2}, {"maxLength": 3}]}


def references():
    yield "definition", {"$ref": "#/$defs/n", "$defs": {"n": INTEGER}}
    yield "old definitions", {"$ref": "#/definitions/n", "definitions": {"n": {"type": "boolean"}}}
    yield "used twice", {**closed({"from": {"$ref": "#/$defs/p"}, "to": {"$ref": "#/$defs/p"}}),
                         "$defs": {"p": closed({"x": INTEGER, "y": INTEGER})}}
    yield "chain", {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/c"},
                                                   "c": {"enum": ["end"]}}}
    yield "into properties", {**closed({"a": INTEGER, "b": {"$ref": "#/properties/a"}})}
    yield "list", {"$ref": "#/$defs/list", "$defs": {"list": closed({
        "value": {"type": "boolean"}, "next": {"anyOf": [{"$ref": "#/$defs/list"}, {"type": "null"}]}})}}
    yield "tree", {**closed({"children": {"type": "array", "maxItems": 1, "items": {"$ref": "#"}}})}
    yield "escaped name", {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "null"}}}
    yield "reference in array", {"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/e"},
                                 "$defs": {"e": {"enum": [1, 2]}}}


def boilerplate():
    yield "annotations", {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "https://kvasir.example/a",
                          "title": "T", "description": "d", "default": 1, "examples": [2], "type": "integer",
                          "minimum": 0, "maximum": 3, "$comment": "c", "deprecated": True}
    yield "draft 7", {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array",
                      "items": [{"type": "boolean"}, {"type": "null"}], "additionalItems": False, "minItems": 2}
    yield "of a data class", {"title": "User", "type": "object", "properties": {
        "id": {"title": "Id", "type": "integer", "minimum": 0, "maximum": 999},
        "nick": {"anyOf": [{"type": "string", "maxLength": 8}, {"type": "null"}], "default": None, "title": "Nick"}},
        "required": ["id"], "additionalProperties": False}


TOOLS = {
    "get_weather": closed({"location": STRING, "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]}},
                          ["location"]),
    "search": closed({"query": STRING, "limit": {"type": "integer", "minimum": 1, "maximum": 50},
                      "filters": closed({"lang": {"enum": ["en", "de", "fr"]}, "safe": {"type": "boolean"}}, [])},
                     ["query"]),
    "send_email": closed({"to": {"type": "array", "items": {"type": "string", "format": "email"}, "minItems": 1,
                                 "maxItems": 2}, "subject": STRING, "urgent": {"type": "boolean"}}, ["to", "subject"]),
    "create_event": closed({"title": STRING, "start": {"type": "string", "format": "date-time"},
                            "minutes": {"type": "integer", "minimum": 5, "maximum": 480, "multipleOf": 5}}),
    "run_sql": closed({"table": {"enum": ["users", "orders"]}, "columns": {
        "type": "array", "items": {"type": "string", "pattern": "^[a-z_]{1,10}$"}, "minItems": 1, "maxItems": 3},
        "limit": {"type": ["integer", "null"], "minimum": 1, "maximum": 100}}),
    "edit_file": closed({"path": {"type": "string", "pattern": "^/[a-z/]{1,15}$"}, "edits": {
        "type": "array", "maxItems": 2, "items": closed({"line": {"type": "integer", "minimum": 1, "maximum": 99},
                                                         "text": STRING})}}),
    "convert": closed({"amount": {"type": "number", "minimum": 0, "maximum": 100}, "from": {"enum": ["EUR", "USD"]},
                       "to": {"enum": ["EUR", "USD"]}}),
    "draw": closed({"shape": {"oneOf": [closed({"kind": {"const": "circle"}, "r": INTEGER}),
                                        closed({"kind": {"const": "line"}, "to": {
                                            "type": "array", "prefixItems": [INTEGER, INTEGER], "minItems": 2,
                                            "items": False}})]}, "color": {"type": "string",
                                                                           "pattern": "^#[0-9a-f]{6}$"}}),
}


def tools():
    yield from TOOLS.items()
    for (a, first), (b, second) in itertools.combinations(TOOLS.items(), 2):
        yield f"{a} or {b}", {"anyOf": [closed({"name": {"const": a}, "arguments": first}),
                                        closed({"name": {"const": b}, "arguments": second})]}


def all_schemas():
    """(name, schema), at least 200."""
    for kind in (types, values, numbers, strings, arrays, objects, combinations, references, boilerplate, tools):
        yield from kind()


# Keywords and forms that cannot be kept, each with a word of the reason.
REFUSED = [
    ({"not": {"type": "string"}}, "not"),
    ({"if": {"type": "string"}, "then": {"maxLength": 3}}, "if"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"type": "array", "contains": {"const": 1}}, "contains"),
    ({"type": "object", "dependentRequired": {"a": ["b"]}}, "dependentRequired"),
    ({"type": "string", "format": "no-such-format"}, "format"),
    ({"oneOf": [{"type": "string"}, {"type": "string", "minLength": 2}]}, "oneOf"),
    ({"$ref": "https://elsewhere.example/schema"}, "elsewhere"),
    ({"$ref": "#/$defs/missing"}, "missing"),
    ({"type": "nonsense"}, "nonsense"),
    ({"type": "string", "pattern": "(?=a)b"}, "look"),
    ({"type": "integer", "minimum": 5, "maximum": 4}, "minimum"),
    ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "nsatisfiable"),
    (False, "object"),
]
