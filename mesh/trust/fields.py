"""Reading members of a closed document: each is there, of its kind, and no other is."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

from mesh.core.errors import InvalidInput

Value = TypeVar("Value")


class Members:
    """The members of one JSON object. Every reader raises InvalidInput that names the member."""

    def __init__(self, value: Any, where: str, names: str) -> None:
        """``names``: all that it has, separated by spaces."""
        if not isinstance(value, dict) or set(value) != set(names.split()):
            raise InvalidInput(f"{where} has not just the members {names}", {"field": where})
        self._value, self._where = value, where

    def wrong(self, name: str, why: str) -> InvalidInput:
        field = f"{self._where}.{name}".lstrip(".")
        return InvalidInput(f"{field} {why}", {"field": field})

    def __getitem__(self, name: str) -> Any:
        return self._value[name]

    def optional(self, name: str, read: Callable[[str], Value]) -> Value | None:
        return None if self._value[name] is None else read(name)

    def constant(self, name: str, wanted: str | int) -> None:
        value = self._value[name]
        if type(value) is not type(wanted) or value != wanted:
            raise self.wrong(name, f"is not {wanted!r}")

    def text(self, name: str, limit: int) -> str:
        value = self._value[name]
        if not isinstance(value, str) or len(value) > limit:
            raise self.wrong(name, f"is no text of at most {limit} characters")
        return value

    def number(self, name: str, limit: int = 2**53 - 1) -> int:
        value = self._value[name]
        if type(value) is not int or not 0 <= value <= limit:
            raise self.wrong(name, f"is no whole number from 0 to {limit}")
        return value

    def hex(self, name: str, size: int | None = None) -> bytes:
        return self._hex(name, self._value[name], size)

    def hexes(self, name: str, limit: int, size: int | None = None) -> tuple[bytes, ...]:
        return tuple(self._hex(name, item, size) for item in self.items(name, limit))

    def items(self, name: str, limit: int) -> list[Any]:
        value = self._value[name]
        if not isinstance(value, list) or len(value) > limit:
            raise self.wrong(name, f"is no list of at most {limit}")
        return value

    def _hex(self, name: str, value: Any, size: int | None) -> bytes:
        if not isinstance(value, str) or not re.fullmatch("(?:[0-9a-f]{2})*", value):
            raise self.wrong(name, "is not hex in lower case")
        data = bytes.fromhex(value)
        if size is not None and len(data) != size:
            raise self.wrong(name, f"has not {size} bytes")
        return data
