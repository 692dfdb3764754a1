"""Wrong input, told by field: pydantic's errors in our words. Never echoes what was sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from mesh.core.errors import InvalidInput

MAX_ERRORS = 20
_MAX_MESSAGE = 300


def invalid(errors: Iterable[Mapping[str, Any]], data: Any = None) -> InvalidInput:
    """An InvalidInput that names each wrong field, from pydantic's errors.

    Never echoes what the caller sent. ``data``: the parsed body, to tell the fields of the body
    from the names that pydantic gives to the arms of a union.
    """
    named: dict[str, str] = {}
    for error in errors:
        field = _field(tuple(error.get("loc", ())), data, str(error.get("type", "")))
        text = str(error.get("msg", "is wrong")).removeprefix("Value error, ")
        named.setdefault(field or "body", text[:_MAX_MESSAGE])
        if len(named) >= MAX_ERRORS:
            break
    first, text = next(iter(named.items()), ("body", "is wrong"))
    return InvalidInput(
        f"{first}: {text}",
        {
            "field": first,
            "errors": [{"field": name, "message": text} for name, text in named.items()],
        },
    )


def invalid_field(field: str, message: str) -> InvalidInput:
    """One wrong field, in the same shape."""
    return invalid([{"loc": (field,), "msg": message}])


def from_validation(
    error: ValidationError, data: Any, prefix: tuple[str | int, ...] = ()
) -> InvalidInput:
    """Pydantic's error as ours. ``prefix``: where in ``data`` the model stands."""
    return invalid(
        (
            {**item, "loc": (*prefix, *item["loc"])}
            for item in error.errors(include_url=False, include_input=False, include_context=False)
        ),
        data,
    )


def _field(loc: tuple[Any, ...], data: Any, kind: str) -> str:
    """``messages.0.content`` of pydantic's location; without ``data`` taken as it stands."""
    if data is None:
        return ".".join(str(part) for part in loc)
    kept: list[str] = []
    for index, part in enumerate(loc):
        last = index == len(loc) - 1
        inside = (
            part in data
            if isinstance(data, dict)
            else isinstance(data, list) and isinstance(part, int) and part < len(data)
        )
        if inside and not last and not isinstance(data[part], dict | list):
            # Nothing lies within a scalar. Either an arm of a union of objects is named like the
            # field, and fields follow, or arms for the field's own types do.
            if any(isinstance(later, str) and later in data for later in loc[index + 1 :]):
                continue
            return ".".join([*kept, str(part)[:100]])
        if inside:
            data = data[part]
        elif not (last and kind == "missing"):
            continue  # the name of a union's arm or of a validator
        kept.append(str(part)[:100])
    return ".".join(kept)
