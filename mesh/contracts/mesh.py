"""What the mesh says of itself: its workers, their snapshot, and the agents that they host."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from pydantic import Field

from mesh.contracts.base import Contract
from mesh.contracts.tasks import TaskKind

VERSION = 1


class KindHistory(Contract):
    """What one worker has seen of one kind of task, the newest weighing most."""

    count: int = Field(default=0, ge=0, description="Tasks ended")
    success: float = Field(default=1.0, ge=0.0, le=1.0, description="Share that succeeded")
    latency_s: float = Field(
        default=0.0, ge=0.0, description="Peak EWMA: rises at once, falls slowly"
    )
    fastest_s: float = Field(default=0.0, ge=0.0, description="The least it took lately")
    cost_micros: float = Field(default=0.0, ge=0.0, description="Millionths; 0: not known")
    quality: float = Field(default=1.0, ge=0.0, le=1.0, description="Share not degraded")


class WorkerInfo(Contract):
    """One worker process, as its last heartbeat described it."""

    name: str
    actor_id: str = Field(description="Of this incarnation: a restarted worker has another")
    node: str
    specialisations: tuple[TaskKind, ...] = Field(
        default=tuple(TaskKind), description="Kinds of task that it takes"
    )
    slots: int = Field(ge=1, description="Tasks that it runs at once")
    active: int = Field(default=0, ge=0)
    ewma_latency_s: float = Field(default=0.0, ge=0.0, description="Of finished tasks; 0: none yet")
    success: float = Field(default=1.0, ge=0.0, le=1.0, description="Share of tasks that succeeded")
    heartbeat_at: float = Field(description="Unix seconds")
    draining: bool = False
    history: dict[TaskKind, KindHistory] = Field(
        default_factory=dict, description="By kind of task; absent: none ended yet"
    )

    @property
    def free(self) -> int:
        return max(0, self.slots - self.active)


class QueueInfo(Contract):
    """Open tasks of one workspace."""

    queued: int = Field(ge=0)
    running: int = Field(ge=0)


class Advice(Contract):
    """What a coordinator answers to a heartbeat."""

    peers: int = Field(default=0, ge=0, description="Other workers that take tasks")
    crowded: bool = Field(
        default=False, description="More than one workspace has queued tasks lately"
    )


class Snapshot(Contract):
    """Every live worker at one moment. Whoever has work decides from the newest one."""

    shard: int = Field(default=0, ge=0, description="The coordinator shard that took it")

    version: int = Field(ge=0, description="Grows with each change under one coordinator epoch")
    at: float = Field(description="Unix seconds when it was taken")
    workers: tuple[WorkerInfo, ...] = ()
    places: dict[str, tuple[str, ...]] = Field(
        default_factory=dict, description="Nodes by what is there: memory:0, model:name"
    )
    rates: dict[TaskKind, float] = Field(
        default_factory=dict, description="Tasks that all workers end, per second, lately"
    )
    tenants: int = Field(default=0, ge=0, description="Workspaces that queued tasks lately")
    queues: dict[UUID, QueueInfo] = Field(
        default_factory=dict, description="Of the shard's workspaces, the longest ones"
    )


class AgentInfo(Contract):
    """A logical agent: what it does and in which step of which kind of task."""

    name: str
    kind: TaskKind
    step: str
    position: int = Field(ge=0, description="Of the step in its pipeline")
    does: str
    uses_model: bool
    fallback: str = Field(description="What it answers when the model can't be used")


class WorkerView(Contract):
    """What callers may know of a worker."""

    name: str
    state: Literal["ready", "busy", "draining"]
    slots: int
    active: int
    success: float
    ewma_latency_s: float
    heartbeat_age_s: float


class MeshView(Contract):
    """What ``GET /v1/mesh/agents`` answers."""

    agents: list[AgentInfo]
    workers: list[WorkerView]
    snapshot_version: int | None = Field(description="None: no coordinator has published")
    snapshot_age_s: float | None


def mesh_view(agents: list[AgentInfo], snapshot: Snapshot | None, now: float) -> MeshView:
    """Put the catalogue and the newest snapshot together. ``now``: Unix seconds."""
    workers = [
        WorkerView(
            name=w.name,
            state="draining" if w.draining else "ready" if w.free else "busy",
            slots=w.slots,
            active=w.active,
            success=w.success,
            ewma_latency_s=w.ewma_latency_s,
            heartbeat_age_s=max(0.0, now - w.heartbeat_at),
        )
        for w in (snapshot.workers if snapshot else ())
    ]
    return MeshView(
        agents=agents,
        workers=workers,
        snapshot_version=snapshot.version if snapshot else None,
        snapshot_age_s=max(0.0, now - snapshot.at) if snapshot else None,
    )
