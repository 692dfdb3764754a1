"""Names of streams. A task's stream is named by its id; shared ones carry their workspace.

A shared stream (``endless``) has many writers and no terminal event: the tasks of a workspace, a
room, or all rooms under a common name. Its name is built from the caller's own workspace, so no
name that a caller can spell leads into another's.
"""

from __future__ import annotations

import re
from uuid import UUID

ROOM = re.compile(r"[a-z0-9_-]{1,40}(?:\.[a-z0-9_-]{1,40}){0,3}")
"""A room: up to four words joined by dots, from the general to the particular."""

_SHARED = ("w:", "r:", "g:", "trust:")


def workspace_stream(workspace_id: UUID) -> str:
    """Where the lifecycle events of all tasks of a workspace are told again."""
    return f"w:{workspace_id}"


def room_stream(workspace_id: UUID, room: str) -> str:
    return f"r:{workspace_id}:{room}"


def group_stream(workspace_id: UUID, group: str) -> str:
    """What is said in every room whose name begins with the words of ``group``."""
    return f"g:{workspace_id}:{group}"


def trust_stream(batch: UUID) -> str:
    """Where the states of a batch of certificates, and what becomes of single ones, are told."""
    return f"trust:{batch}"


def trust_overview(workspace_id: UUID) -> str:
    """Where the same is told of all batches of a workspace."""
    return f"trust:w:{workspace_id}"


def groups_of(room: str) -> list[str]:
    """The groups that hear a room: itself and everything above it. ``a.b`` → ``a.b``, ``a``."""
    words = room.split(".")
    return [".".join(words[:count]) for count in range(len(words), 0, -1)]


def endless(stream: str) -> bool:
    """Whether a stream never ends by itself: no event in it is terminal."""
    return stream.startswith(_SHARED)
