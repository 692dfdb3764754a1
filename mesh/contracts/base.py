"""What every contract shares: closed, frozen, versioned by the module's ``VERSION``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Contract(BaseModel):
    """A model that crosses a boundary. Unknown fields are refused, instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
