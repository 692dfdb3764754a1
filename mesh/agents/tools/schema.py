"""Schemas of tools, made fit: strangers' to check arguments by, ours for a model's engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

MAX_BYTES = 65_536
MAX_DEPTH = 24
_REPEATS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_LONGEST = 500
"""Engines turn schemas into grammars and unroll repetitions: longer bounds are left out."""


def from_stranger(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema that another server sent: bounded, pointing into itself alone, without patterns
    (an expression of theirs could take us for ever; they check their own). Raises ValueError."""
    if len(orjson.dumps(schema)) > MAX_BYTES:
        raise ValueError(f"the schema is larger than {MAX_BYTES} bytes")
    cleaned = _stranger(schema, 0)
    if not isinstance(cleaned, dict) or cleaned.get("type", "object") != "object":
        raise ValueError("the schema is of no object")
    return cleaned


def for_model(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Our schema without what makes a grammar large: arguments are checked after all."""
    cleaned: dict[str, Any] = _model(schema)
    return cleaned


def _stranger(node: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"the schema is nested deeper than {MAX_DEPTH}")
    if isinstance(node, Mapping):
        reference = node.get("$ref")
        if isinstance(reference, str) and not reference.startswith("#"):
            raise ValueError("the schema points to another one")
        return {
            str(key): _stranger(value, depth + 1)
            for key, value in node.items()
            if key not in ("pattern", "patternProperties", "$dynamicRef", "$id", "$schema")
            or _is_property(node, key)
        }
    if isinstance(node, list | tuple):
        return [_stranger(value, depth + 1) for value in node]
    return node


def _is_property(node: Mapping[str, Any], key: str) -> bool:
    """Whether ``key`` is the name of a property here, not a keyword: its value is a schema."""
    return isinstance(node[key], Mapping) and key != "patternProperties"


def _model(node: Any) -> Any:
    if isinstance(node, Mapping):
        return {
            key: _model(value)
            for key, value in node.items()
            if not (
                (key in _REPEATS and isinstance(value, int) and value > _LONGEST)
                or (key in ("pattern", "format") and isinstance(value, str))
            )
        }
    if isinstance(node, list | tuple):
        return [_model(value) for value in node]
    return node
