"""What agents may use besides the model: handed down by whoever runs them, all of it optional.

An agent that finds a part missing does without it and says so in its decisions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from mesh.agents.tools.box import ToolBox

Embed = Callable[[Sequence[str]], Awaitable[list[list[float]]]]
"""Texts to vectors. Raises Unavailable, DeadlineExceeded, EngineError."""

Streamed = Callable[[UUID, str], Awaitable["str | None"]]
"""Task and step → the step's words so far; None: none, or not all of them. Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class AgentServices:
    """One per process; its parts are shared by all tasks."""

    memory: Any = None
    """A ``mesh.memory.client.MemoryClient``."""
    embed: Embed | None = None
    tools: ToolBox | None = None
    """Which tools there are; a task's own allow-list narrows it."""
    streamed: Streamed | None = None
    """What the stream log has of a step's words: a new attempt goes on with them."""
    scorer: Any = None
    """Ranks variants: a ``mesh.agents.scoring.VariantScorer``; None: the heuristic."""
    trained: tuple[Path, str] | None = None
    """The model store and the version of the trained classifier in it; None: the built-in one."""


NO_SERVICES = AgentServices()
"""For agents that do with the model alone."""
