"""What the gateway needs, as protocols: tests give it fakes or real parts, without Ray."""

from __future__ import annotations

import builtins
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal, Protocol
from uuid import UUID

from mesh.agents.services import NO_SERVICES, AgentServices
from mesh.agents.tools.box import ToolBox
from mesh.contracts.engines import EngineView
from mesh.contracts.memory import (
    Consolidation,
    ForgetReceipt,
    ImportReport,
    MemoryItem,
    MemoryPatch,
    MemoryStats,
    Namespace,
)
from mesh.contracts.mesh import AgentInfo, Snapshot
from mesh.contracts.tasks import TaskKind, TaskState
from mesh.core.clock import Clock
from mesh.core.settings import Settings
from mesh.llm.budgets.limits import Budget, Counter
from mesh.llm.engine import Wire
from mesh.memory.client import MemoryClient
from mesh.security.keys import KeyInfo, NewKey
from mesh.security.principal import Principal
from mesh.security.tokens import ServiceToken
from mesh.storage.budgets import UsageRow
from mesh.storage.idempotency import Stored
from mesh.storage.task_rows import AttemptRow, NewTask, StepRow, TaskRow
from mesh.storage.waits import ApprovalRow
from mesh.streams.frames import Frames
from mesh.streams.log import StreamLog
from mesh.streams.presence import LocalPresence, Presence
from mesh.trust.client import TrustClient
from serve_apps.gateway.apart import Apart
from serve_apps.gateway.live import LiveStreams


class TaskStore(Protocol):
    async def create(
        self, task: NewTask, *, queue_limit: int | None = None
    ) -> tuple[TaskRow, bool]: ...

    async def get(self, task_id: UUID, workspace_id: UUID) -> TaskRow: ...

    async def list(
        self,
        workspace_id: UUID,
        *,
        limit: int = 50,
        before: UUID | None = None,
        state: TaskState | None = None,
    ) -> builtins.list[TaskRow]: ...

    async def steps(self, task_id: UUID) -> builtins.list[StepRow]: ...

    async def attempts(self, task_id: UUID) -> builtins.list[AttemptRow]: ...

    async def request_cancel(self, task_id: UUID, workspace_id: UUID) -> TaskRow: ...

    async def mark_announced(self, task_ids: Iterable[UUID]) -> None: ...


class ApprovalStore(Protocol):
    async def decide(
        self,
        task_id: UUID,
        workspace_id: UUID,
        step: str,
        *,
        approved: bool,
        comment: str = "",
        by: str | None = None,
    ) -> tuple[ApprovalRow, TaskRow]: ...

    async def of_task(self, task_id: UUID) -> builtins.list[ApprovalRow]: ...


class IdempotencyStore(Protocol):
    async def begin(
        self, workspace_id: UUID, route: str, key: str, request_hash: bytes, lock_s: float
    ) -> Stored | None: ...

    async def complete(
        self,
        workspace_id: UUID,
        route: str,
        key: str,
        *,
        status: int,
        content_type: str,
        body: bytes,
    ) -> None: ...

    async def abandon(self, workspace_id: UUID, route: str, key: str) -> None: ...


class KeyStore(Protocol):
    """Keys of one workspace at a time: another's are NotFound."""

    async def verify(self, key: str) -> Principal: ...

    async def create(
        self,
        workspace_id: UUID,
        name: str,
        scopes: Iterable[str],
        expires_in_s: float | None = None,
    ) -> NewKey: ...

    async def list(self, workspace_id: UUID) -> builtins.list[KeyInfo]: ...

    async def revoke(self, key_id: str, workspace_id: UUID) -> KeyInfo: ...


class TokenStore(Protocol):
    async def verify(self, token: str) -> Principal:
        """Raises Unauthenticated, also when the key that it rests on was revoked."""
        ...

    async def issue(
        self, principal: Principal, scopes: Iterable[str] | None = None, ttl_s: float | None = None
    ) -> str: ...

    async def jwks(self) -> dict[str, Any]: ...


class ServiceAdmission(Protocol):
    """The token endpoint's door for our own services."""

    async def admit(
        self, assertion: str, workspace_id: UUID | None, scopes: Iterable[str] | None
    ) -> ServiceToken: ...


class LoginGuard(Protocol):
    """Holds off who sends wrong credentials again and again."""

    def check(self, address: str, key_id: str) -> None: ...

    def succeeded(self, address: str, key_id: str) -> None: ...

    async def failed(self, address: str, key_id: str, kind: str) -> None: ...


@dataclass(frozen=True, slots=True)
class ModelCard:
    """A model that callers may name."""

    id: str
    kind: str
    """``chat`` or ``embedding``."""
    created: int
    """Unix seconds; when we first saw it."""
    context_tokens: int | None = None
    dimensions: int | None = None


class ModelService(Protocol):
    """The engines, wherever they run. Errors are those of ``mesh.llm.engine.Engine``."""

    async def cards(self) -> Sequence[ModelCard]:
        """Kept in memory: costs no call on most requests. Raises Unavailable."""
        ...

    def stream_chat_encoded(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[bytes]:
        """Whole SSE frames (``data: {…}``), several at once, without the closing ``[DONE]``."""
        ...

    async def chat(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> Wire: ...

    def stream_completion_encoded(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[bytes]: ...

    async def complete(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> Wire: ...

    async def embed(self, texts: Sequence[str], *, timeout_s: float) -> list[list[float]]: ...


class EngineService(Protocol):
    async def views(self) -> builtins.list[EngineView]: ...

    async def set_faults(self, name: str, faults: dict[str, Any]) -> int:
        """Raises NotFound, and InvalidInput where the engine is no fake."""
        ...


class Dispatch(Protocol):
    """Fire and forget: a lost nudge costs a poll's delay, never a task."""

    async def offer(
        self,
        task_id: UUID,
        kind: TaskKind,
        *,
        workspace_id: UUID | None = None,
        wants: Collection[str] = (),
    ) -> object: ...

    async def cancel(self, task_id: UUID) -> object: ...

    async def snapshot(self) -> Snapshot | None: ...

    async def admit(
        self, workspace_id: UUID, kind: TaskKind, *, deadline_s: float, priority: int = 0
    ) -> None:
        """Raises Overloaded for what surely can't be done in time."""
        ...

    async def cost(self, kind: TaskKind) -> float:
        """What a task of this kind takes of its workspace's share."""
        ...

    async def retry_after_s(
        self, workspace_id: UUID, queue_limit: int, default_s: float
    ) -> float: ...


class Decision(Protocol):
    @property
    def allowed(self) -> bool: ...
    @property
    def limit(self) -> int: ...
    @property
    def remaining(self) -> int: ...
    @property
    def reset_s(self) -> float: ...


class Limiter(Protocol):
    async def hit(self, key: str) -> Decision: ...


class PublicLimits(Protocol):
    """The door for callers without a credential."""

    async def admit(
        self, address: str, kind: Literal["read", "work"]
    ) -> builtins.list[tuple[bytes, bytes]]:
        """Headers that tell of the limit. Raises RateLimited."""
        ...


class BudgetAdmin(Protocol):
    """Budgets of one workspace at a time, and the ledger of usage."""

    async def list(self, workspace_id: UUID) -> builtins.list[Budget]: ...

    async def put(self, workspace_id: UUID, budget: Budget) -> None: ...

    async def delete(self, workspace_id: UUID, budget_id: str) -> bool: ...

    async def spent(self, workspace_id: UUID, counter: Counter, window: int) -> int: ...

    async def usage(
        self,
        workspace_id: UUID,
        since: date,
        until: date,
        *,
        key_id: str | None = None,
        model: str | None = None,
        limit: int = 10_000,
    ) -> builtins.list[UsageRow]: ...

    async def announce(self, workspace_id: UUID) -> None:
        """Tell every process that they were changed. Raises Unavailable."""
        ...


class Memory(MemoryClient, Protocol):
    """Everything is within one workspace; another's is NotFound."""

    async def get(self, workspace_id: UUID, identity: UUID, *, timeout_s: float) -> MemoryItem: ...

    async def patch(
        self, workspace_id: UUID, identity: UUID, patch: MemoryPatch, *, timeout_s: float
    ) -> MemoryItem: ...

    async def consolidate(
        self, workspace_id: UUID, namespace: Namespace, *, timeout_s: float
    ) -> Consolidation: ...

    async def receipt(self, workspace: UUID, identity: UUID) -> ForgetReceipt:
        """Checked anew: its ``remaining`` is what can be found now."""
        ...

    async def stats(self, workspace: UUID) -> MemoryStats: ...

    def place_of(self, workspace: UUID, namespace: Namespace) -> str:
        """Where it lies, as the balancing names places."""
        ...

    def export(
        self, workspace: UUID, namespace: Namespace | None, *, vectors: bool
    ) -> AsyncIterator[bytes]:
        """Lines of NDJSON, many at once."""
        ...

    async def import_(self, workspace: UUID, body: bytes, *, timeout_s: float) -> ImportReport: ...


class Sealer(Protocol):
    """Encrypts what the idempotency table keeps of answers. ``context`` binds it to its row."""

    def seal(self, plain: bytes, context: bytes) -> bytes: ...

    def open(self, sealed: bytes, context: bytes) -> bytes: ...


CitedMemories = Callable[[UUID, Sequence[str]], Awaitable[Mapping[str, str]]]
"""``(workspace, ids)``: texts by id of those that are still there. Raises MailyError."""
Probe = Callable[[], Awaitable[str | None]]
"""Raises when the part does not answer; may say a word about it (nothing secret)."""


@dataclass(slots=True)
class Gateway:
    """Everything that the routes use."""

    settings: Settings
    clock: Clock
    tasks: TaskStore
    idempotency: IdempotencyStore
    sealer: Sealer
    keys: KeyStore
    tokens: TokenStore
    streams: StreamLog
    models: ModelService
    dispatch: Dispatch
    limiter: Limiter
    render_metrics: Callable[[], bytes]
    agents: tuple[AgentInfo, ...] = ()
    probes: Mapping[str, Probe] = field(default_factory=dict)
    """Parts by name, for ``/readyz``."""
    services: ServiceAdmission | None = None
    """None: services get no tokens here."""
    logins: LoginGuard | None = None
    cited_memories: CitedMemories | None = None
    """None: traces can't tell which of the memories that they cite are still there."""
    presence: Presence = field(default_factory=LocalPresence)
    frames: Frames = field(default_factory=Frames)
    live: LiveStreams = field(default_factory=LiveStreams)
    """The streams that are being read through this process."""
    budgets: BudgetAdmin | None = None
    engines: EngineService | None = None
    """None: operators can't look at the engines here."""
    tools: ToolBox = field(default_factory=ToolBox)
    """Which tools callers may use, under /v1/mcp and in tasks."""
    agent_services: AgentServices = NO_SERVICES
    """What tools may use."""
    waits: ApprovalStore | None = None
    """None: nobody can be asked here."""
    memory: Memory | None = None
    """None: nothing is remembered here."""
    trust: TrustClient | None = None
    """None: nothing is certified here."""
    apart: Apart = field(default_factory=Apart)
    """Where the work for anybody's messages is done."""
    public: PublicLimits | None = None
    """None: callers without a credential are not limited."""
    version: str = "0"
