"""Bounds on the JSON schemas that callers send: an engine turns each into a grammar.

A schema is a small program for the engine's grammar compiler. Unbounded, it can take gigabytes
or minutes of the one process that serves everybody, so size, depth and repetition are limited
before it gets there, and references may only point into the schema itself.
"""

from __future__ import annotations

import re
from typing import Any

MAX_NODES = 600
MAX_DEPTH = 24
MAX_REPEAT = 2_000
"""Of maxLength, minItems and the like: llama.cpp unrolls repetitions."""
MAX_PATTERN = 500
"""Characters of a pattern."""
_COUNTED = re.compile(r"\{(\d*)(?:,(\d*))?\}")
_REPEATS = ("minLength", "maxLength", "minItems", "maxItems")


def check_schema(schema: dict[str, Any]) -> None:
    """Raises ValueError saying where a schema goes beyond the bounds."""
    stack: list[tuple[Any, int, str]] = [(schema, 1, "schema")]
    nodes = 0
    while stack:
        node, depth, where = stack.pop()
        nodes += 1
        if nodes > MAX_NODES:
            raise ValueError(f"the schema holds more than {MAX_NODES} values")
        if depth > MAX_DEPTH:
            raise ValueError(f"the schema is nested deeper than {MAX_DEPTH} at {where[:200]}")
        if isinstance(node, dict):
            _check_node(node, where)
            stack.extend((value, depth + 1, f"{where}.{key}") for key, value in node.items())
        elif isinstance(node, list):
            stack.extend((value, depth + 1, f"{where}[{i}]") for i, value in enumerate(node))


def _check_node(node: dict[str, Any], where: str) -> None:
    for name in _REPEATS:
        value = node.get(name)
        if isinstance(value, int) and not 0 <= value <= MAX_REPEAT:
            raise ValueError(f"{where}.{name} must be between 0 and {MAX_REPEAT}")
    pattern = node.get("pattern")
    if isinstance(pattern, str):
        _check_pattern(pattern, where)
    reference = node.get("$ref")
    if isinstance(reference, str) and not reference.startswith("#"):
        raise ValueError(f"{where}.$ref may only point into this schema: it must start with #")


def _check_pattern(pattern: str, where: str) -> None:
    """Counted repetitions multiply when they are nested: all together count as one."""
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"{where}.pattern is longer than {MAX_PATTERN} characters")
    product = 1
    for low, high in _COUNTED.findall(pattern):
        product *= max(int(low or 0), int(high or 0), 1)
        if product > MAX_REPEAT:
            raise ValueError(f"{where}.pattern repeats more than {MAX_REPEAT} times in all")
