"""References to earlier outputs, and values that are made of them.

A reference reads ``name.field.0.field``: the output of an earlier step (``draft.email.subject``),
the task's own input (``input.list``), or, inside a map, ``item`` and ``index``. A binding is any
JSON in which an object ``{"$ref": "…"}`` stands for what it refers to and ``{"$text": "…{draft.
text}…"}`` for a text with references in braces (doubled braces are braces). Nothing is evaluated:
there are only paths.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from mesh.core.errors import InvalidInput

NAME = r"[a-z][a-z0-9_]{0,47}"
INPUT = "input"
ITEM = "item"
INDEX = "index"
RESERVED = frozenset({INPUT, ITEM, INDEX})

_REF = re.compile(rf"^({NAME})((?:\.[A-Za-z0-9_-]{{1,64}}){{0,16}})$")
_HOLE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")
MAX_TEXT = 200_000
"""Characters of a text that a binding makes."""


@dataclass(frozen=True, slots=True)
class Ref:
    """A parsed reference. ``optional``: None instead of an error where it leads nowhere."""

    root: str
    path: tuple[str, ...] = ()
    optional: bool = False

    @classmethod
    def parse(cls, text: str) -> Ref:
        """``draft.email.subject``; a ``?`` at the end makes it optional. Raises ValueError."""
        match = _REF.match(text.removesuffix("?"))
        if match is None:
            raise ValueError(f"{text[:60]!r} is no reference; one looks like step.field")
        path = tuple(match[2].split(".")[1:]) if match[2] else ()
        return cls(match[1], path, text.endswith("?"))

    def __str__(self) -> str:
        return ".".join((self.root, *self.path)) + ("?" if self.optional else "")

    def read(self, values: Mapping[str, Any]) -> Any:
        """What it refers to. Raises InvalidInput where it leads nowhere, unless optional."""
        if self.root not in values:
            return self._missing(self.root)
        value = values[self.root]
        for depth, part in enumerate(self.path):
            if isinstance(value, Mapping) and part in value:
                value = value[part]
            elif isinstance(value, list | tuple) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            else:
                return self._missing(".".join((self.root, *self.path[: depth + 1])))
        return value

    def _missing(self, where: str) -> None:
        if not self.optional:
            raise InvalidInput(
                f"{self} refers to nothing: there is no {where}", {"reference": str(self)}
            )


Binding = Any
"""JSON with ``$ref`` and ``$text`` objects in it."""


def refs_of(binding: Binding) -> Iterator[Ref]:
    """Every reference of a binding. Raises ValueError for a malformed one."""
    if isinstance(binding, Mapping):
        special = _special(binding)
        if special == "$ref":
            yield Ref.parse(binding["$ref"])
        elif special == "$text":
            for match in _HOLE.finditer(binding["$text"]):
                if match[1] is not None:
                    yield Ref.parse(match[1])
        else:
            for value in binding.values():
                yield from refs_of(value)
    elif isinstance(binding, list | tuple):
        for value in binding:
            yield from refs_of(value)


def fill(binding: Binding, values: Mapping[str, Any]) -> Any:
    """The binding with every reference replaced by what it refers to. Raises InvalidInput."""
    if isinstance(binding, Mapping):
        special = _special(binding)
        if special == "$ref":
            return Ref.parse(binding["$ref"]).read(values)
        if special == "$text":
            return _text(binding["$text"], values)
        return {key: fill(value, values) for key, value in binding.items()}
    if isinstance(binding, list | tuple):
        return [fill(value, values) for value in binding]
    return binding


def _special(binding: Mapping[str, Any]) -> str | None:
    for key in ("$ref", "$text"):
        if key in binding:
            if len(binding) != 1 or not isinstance(binding[key], str):
                raise ValueError(f"{key} stands alone in its object, with a text")
            return key
    return None


def _text(template: str, values: Mapping[str, Any]) -> str:
    def put(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        value = Ref.parse(match[1]).read(values)
        if value is None:
            return ""
        return value if isinstance(value, str) else orjson.dumps(value).decode()

    made = _HOLE.sub(put, template)
    if len(made) > MAX_TEXT:
        raise InvalidInput(f"A text that a workflow made is longer than {MAX_TEXT} characters")
    return made
