"""A JSON value that a schema allows, made from a seed: what the fake engine answers with.

Knows what our agents' schemas use: type, const, enum, properties and required, items, lengths
and ranges, anyOf/oneOf, and references inside the schema.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]
_TEXT = "Fresh spring shoes for every walk "


def instance_of(schema: Schema, seed: int = 0) -> Any:
    """Raises ValueError for a type that JSON does not have."""
    return _make(schema, schema, seed, 0)


def _make(schema: Schema, root: Schema, seed: int, depth: int) -> Any:
    if "$ref" in schema:
        return _make(_resolve(schema["$ref"], root), root, seed, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][seed % len(schema["enum"])]
    for union in ("anyOf", "oneOf"):
        if schema.get(union):
            # deep inside, the last branch: a recursive schema ends with its way out
            branch = seed % len(schema[union]) if depth < 4 else -1
            return _make(schema[union][branch], root, seed, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    match kind:
        case "object":
            return {
                name: _make(part, root, seed + i, depth + 1)
                for i, (name, part) in enumerate((schema.get("properties") or {}).items())
                if depth < 4 or name in schema.get("required", ())
            }
        case "array":
            return [
                _make(schema.get("items") or {}, root, seed + i, depth + 1)
                for i in range(_array_length(schema, depth))
            ]
        case "string":
            return _text(schema, seed)
        case "integer":
            return int(_number(schema, seed))
        case "number":
            return float(_number(schema, seed))
        case "boolean":
            return seed % 2 == 0
        case "null":
            return None
    raise ValueError(f"JSON has no type {kind!r}")


def _array_length(schema: Schema, depth: int) -> int:
    least = int(schema.get("minItems", 0 if depth >= 4 else 1))
    return min(max(least, 0), int(schema.get("maxItems", least)))


def _text(schema: Schema, seed: int) -> str:
    most = int(schema.get("maxLength", 24))
    least = int(schema.get("minLength", 0))
    start = seed % len(_TEXT)
    wanted = max(least, min(most, 24))
    return ((_TEXT * (2 + wanted // len(_TEXT)))[start : start + wanted].strip() or "text").ljust(
        least, "."
    )[:most]


def _number(schema: Schema, seed: int) -> float:
    least = schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
    most = schema.get("maximum", schema.get("exclusiveMaximum", least + 11) - 1)
    return float(least + (seed % (int(most - least) + 1)) if most >= least + 1 else least)


def _resolve(reference: str, root: Schema) -> Schema:
    node: Any = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        if part:
            node = node[part.replace("~1", "/").replace("~0", "~")]
    if not isinstance(node, dict):
        raise ValueError(f"{reference} points at no schema")
    return node
