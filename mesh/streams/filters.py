"""What of a stream a subscriber wants to see: by type of event, and by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mesh.contracts.events import Event, EventType
from mesh.core.errors import InvalidInput

MOST = 32
"""Patterns of a filter."""

_TYPES = frozenset(type.value for type in EventType)
_FAMILIES = frozenset(value.split(".")[0] for value in _TYPES if "." in value)


@dataclass(frozen=True, slots=True)
class Filter:
    """Empty: everything. The event that ends a task always passes: make it with ``of``."""

    types: tuple[str, ...] = ()
    """``tokens``, ``step.finished`` …, or a family: ``task.*``."""
    steps: tuple[str, ...] = ()
    """Of events that name a step, those of these; others pass."""

    @classmethod
    def of(cls, types: Sequence[str] = (), steps: Sequence[str] = ()) -> Filter:
        """Raises InvalidInput for a type that does not exist and for more than ``MOST``."""
        for name, values in (("types", types), ("steps", steps)):
            if len(values) > MOST:
                raise InvalidInput(f"at most {MOST}", {"field": f"filter.{name}"})
        for pattern in types:
            family, dot, star = pattern.partition(".")
            known = pattern in _TYPES or (dot and star == "*" and family in _FAMILIES)
            if not known:
                raise InvalidInput(
                    "there is no such type of event", {"field": "filter.types", "known": _known()}
                )
        if any(not 0 < len(step) <= 200 for step in steps):
            raise InvalidInput("a step's name has 1 to 200 characters", {"field": "filter.steps"})
        return cls(tuple(sorted(set(types))), tuple(sorted(set(steps))))

    def passes(self, event: Event) -> bool:
        if self.types:
            value = event.type.value
            if value not in self.types and f"{value.partition('.')[0]}.*" not in self.types:
                return False
        return not self.steps or event.data.get("step", self.steps[0]) in self.steps


def _known() -> list[str]:
    return sorted(_TYPES) + sorted(f"{family}.*" for family in _FAMILIES)
