"""Types of outputs and inputs, as JSON schemas: whether a reference leads somewhere, and whether
what it gives fits where it goes. What has no schema (``Any``, an agent without models) fits all."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]
ANY: Schema = {}


@cache
def _schema_of(model: type[BaseModel], mode: Any) -> Schema:
    return model.model_json_schema(mode=mode)


def output_schema(agent: Any) -> Schema:
    """Of what the agent gives; ``ANY`` when it does not say."""
    model = getattr(agent, "output_model", None)
    return ANY if model is None else _schema_of(model, "serialization")


def input_schema(agent: Any) -> Schema:
    """Of what the agent takes; ``ANY`` when it does not say."""
    model = getattr(agent, "input_model", None)
    if model is not None:
        return _schema_of(model, "validation")
    given: Schema | None = getattr(agent, "input_json_schema", None)
    return given or ANY


def arms(schema: Schema, root: Schema) -> list[Schema]:
    """The schema's alternatives, references resolved."""
    for _ in range(32):
        if "$ref" not in schema:
            break
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        schema = root.get("$defs", {}).get(name, ANY)
    found: list[Schema] = []
    for key in ("anyOf", "oneOf"):
        for arm in schema.get(key, ()):
            found += arms(arm, root)
    return found or [schema]


def at(schema: Schema, path: tuple[str, ...]) -> list[Schema] | None:
    """What the path leads to, as alternatives; None: nowhere, in no alternative."""
    here = arms(schema, schema)
    for part in path:
        there: list[Schema] = []
        for arm in here:
            there += _into(arm, part, schema)
        if not there:
            return None
        here = there
    return here


def _into(arm: Schema, part: str, root: Schema) -> list[Schema]:
    if not arm or arm == {"title": arm.get("title")}:
        return [ANY]
    kind = arm.get("type")
    if kind == "object" or "properties" in arm:
        properties = arm.get("properties", {})
        if part in properties:
            return arms(properties[part], root)
        extra = arm.get("additionalProperties", True)
        if extra is False:
            return []
        return [ANY] if extra is True else arms(extra, root)
    if kind == "array":
        if not part.isdigit():
            return []
        prefix = arm.get("prefixItems", [])
        if int(part) < len(prefix):
            return arms(prefix[int(part)], root)
        return arms(arm.get("items", ANY), root)
    return [ANY] if kind is None and "enum" not in arm and "const" not in arm else []


def kinds(alternatives: list[Schema]) -> frozenset[str] | None:
    """JSON types that a value may have; None: any."""
    found: set[str] = set()
    for arm in alternatives:
        kind = arm.get("type")
        if kind is None and ("const" in arm or "enum" in arm):
            values = arm.get("enum", [arm.get("const")])
            found |= {_kind_of(value) for value in values}
        elif kind is None:
            return None
        else:
            found |= set(kind) if isinstance(kind, list) else {kind}
    return frozenset(found)


def fits(source: frozenset[str] | None, target: frozenset[str] | None) -> bool:
    """Whether some value of the one may be a value of the other."""
    if source is None or target is None:
        return True
    if "number" in target:
        target |= {"integer"}
    return bool(source & target)


def kind_of(value: Any) -> frozenset[str]:
    """The JSON type of a constant."""
    return frozenset({_kind_of(value)})


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list | tuple) else "object"
