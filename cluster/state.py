"""What the supervisor says about itself in ``run/state.json``, and the lock that it holds.

The lock is an flock: the kernel drops it with its holder, so it can't go stale. The file is
written whole and renamed: a reader never sees half of it.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, ValidationError

from cluster.layout import Layout, write_private
from cluster.processes import ProcessId

Phase = Literal["waiting", "starting", "ready", "restarting", "failed", "stopping", "stopped"]


class PartState(BaseModel):
    """One part of the runtime as the supervisor sees it."""

    phase: Phase = "waiting"
    detail: str = ""
    pid: int | None = None
    restarts: int = 0
    since: float = Field(default_factory=time.time)
    """Seconds since the epoch at which the phase began."""
    version: str = ""


class FailureState(BaseModel):
    message: str
    fix: str = ""
    exit_code: int = 1


class State(BaseModel):
    instance: str
    pid: int
    created: float
    """Start time of the supervisor's process, seconds since the epoch."""
    version: str
    profile: str
    phase: Phase = "starting"
    ready_after_s: float | None = None
    """From the supervisor's start until every part was ready."""
    parts: dict[str, PartState] = {}
    urls: dict[str, str] = {}
    notes: list[str] = []
    """What was found and mended: leftovers, stale files."""
    failure: FailureState | None = None
    processes: list[tuple[int, float]] = []
    """pid and start time of every process that was ours when this was written."""

    def recorded(self) -> list[ProcessId]:
        return [ProcessId(pid, created) for pid, created in self.processes]

    @property
    def alive(self) -> bool:
        return ProcessId(self.pid, self.created).get() is not None


def write_state(layout: Layout, state: State) -> None:
    write_private(layout.state, state.model_dump_json(indent=2) + "\n")


def read_state(layout: Layout) -> State | None:
    """None when there is none, or none that can be understood."""
    try:
        return State.model_validate_json(layout.state.read_bytes())
    except (OSError, ValidationError):
        return None


def take_lock(path: Path) -> int | None:
    """The lock's file descriptor, or None when another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    descriptor = take_lock(path)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False
