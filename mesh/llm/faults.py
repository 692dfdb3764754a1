"""What goes wrong with a fake engine, by plan: so that users can test what their agents do then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mesh.core.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Counts are of requests, positions of tokens, from 1."""

    refuse_first: int = 0
    """So many requests get Overloaded before one is let in."""
    limit_first: int = 0
    """So many requests get RateLimited (429) before one is let in."""
    fail_first: int = 0
    """So many requests fail with EngineError before their first token."""
    die_at_token: int | None = None
    """Streams end with EngineError instead of this token."""
    hang_at_token: int | None = None
    """Streams wait at this token until they are cancelled or their deadline passes."""
    malformed_at_token: int | None = None
    """Streams send half a chunk in place of this token."""
    first_token_delay_s: float = 0.0
    """Seconds before the first token, like a long prompt."""
    token_delay_s: float = 0.0
    """Seconds before each token; 0: as fast as they can be taken."""
    every: int = 1
    """What happens to streams happens to each so manyth one alone (``token_delay_s`` to all)."""
    unavailable: bool = False
    """Nothing answers at all."""

    @classmethod
    def of(cls, values: Mapping[str, object]) -> FaultPlan:
        """From settings or a request's body. Raises InvalidInput, which names the field."""
        known = {field.name: field for field in fields(cls)}
        for name, value in values.items():
            if name not in known:
                raise InvalidInput(
                    f"there is no fault {name!r}; there are {', '.join(known)}", {"field": name}
                )
            default = known[name].default
            if name == "unavailable":
                right = isinstance(value, bool)
            elif isinstance(value, bool):
                right = False
            elif isinstance(default, float):
                right = isinstance(value, int | float) and 0 <= value <= 3_600
            else:
                least = 0 if default == 0 else 1
                right = isinstance(value, int) and value >= least
                right = right or (value is None and default is None)
            if not right:
                raise InvalidInput(f"the fault {name} can't be {value!r}", {"field": name})
        checked: dict[str, Any] = dict(values)
        return cls(**checked)
