"""Wrong values for every setting, made from the JSON schemas of the settings' classes."""

import math
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]
Path = tuple[str | int, ...]
WRONG_TYPES: dict[str, list[Any]] = {
    "integer": ["many", 1.5, [1], {"a": 1}, True, math.nan],
    "number": ["much", [0.5], {"a": 1}, False, math.nan, math.inf, -math.inf],
    "boolean": ["maybe", 3, [True]],
    "string": [7, ["a"], {"a": "b"}, 0.5],
    "array": [7, "long", {"a": 1}, [{}], [None]],
    "object": [7, "text", ["a"], 0.5],
}


def misspelt(name: str) -> str:
    """The name with a letter doubled."""
    return name[:-1] + name[-2:]


def wrong_values(schema: Schema, definitions: Schema | None = None) -> Iterator[tuple[Path, Any, Schema]]:
    """Where a value stands, a wrong one for it, and what must stand beside it for its class to be chosen.

    Args:
        schema: of `model_json_schema()`.
        definitions: the `$defs` that its references mean.
    """
    definitions = definitions or schema.get("$defs", {})
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    if "oneOf" in schema:
        yield from _wrong_of_tagged(schema, definitions)
    elif options[0] is not schema:
        yield from wrong_values(options[0], definitions)  # settings have one type, or none is set
    elif "enum" in schema or "const" in schema:
        yield from (((), value, {}) for value in ("nonsense", "", 7, [], {}))
    else:
        yield from _wrong_of_type(schema)
        yield from _wrong_inside(schema, definitions)


def _wrong_of_type(schema: Schema) -> Iterator[tuple[Path, Any, Schema]]:
    values = list(WRONG_TYPES[schema["type"]])
    if "minimum" in schema:
        values.append(schema["minimum"] - 1)
    if "exclusiveMinimum" in schema:
        values += [schema["exclusiveMinimum"], schema["exclusiveMinimum"] - 1.0]
    if "maximum" in schema:
        values.append(schema["maximum"] + 1)
    if "multipleOf" in schema:
        values.append(3 * schema["multipleOf"] + 1)
    if schema.get("minItems"):
        values.append([])
    if "maxItems" in schema:
        values.append([1] * (schema["maxItems"] + 1))
    yield from (((), value, {}) for value in values)


def _wrong_inside(schema: Schema, definitions: Schema) -> Iterator[tuple[Path, Any, Schema]]:
    for name, inner in schema.get("properties", {}).items():
        yield (misspelt(name),), 1, {}
        for path, value, beside in wrong_values(inner, definitions):
            yield (name, *path), value, {name: beside} if beside else {}


def _wrong_of_tagged(schema: Schema, definitions: Schema) -> Iterator[tuple[Path, Any, Schema]]:
    tag = schema["discriminator"]["propertyName"]
    yield from (((tag,), value, {}) for value in ("nonsense", 7, None, []))
    for name, reference in schema["discriminator"]["mapping"].items():
        for path, value, beside in wrong_values({"$ref": reference}, definitions):
            if path and path[0] != tag:
                yield path, value, {tag: name} | beside


def put(data: Any, path: Path, value: Any) -> None:
    """Set what stands at a path of nested mappings, which are made where they are missing."""
    for key in path[:-1]:
        data = data.setdefault(key, {})
    data[path[-1]] = value
