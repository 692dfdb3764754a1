"""Which tools there are."""

from __future__ import annotations


class ToolBox:
    """Tools by name."""
