"""What a tool is: one function that agents and outside clients may call, and what it may do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from mesh.agents.agent import TimeLeft
from mesh.agents.services import NO_SERVICES, AgentServices
from mesh.contracts.tools import SideEffects
from mesh.core.clock import Clock


@dataclass(frozen=True, slots=True)
class ToolCaller:
    """On whose behalf a tool is called, and for how long."""

    workspace_id: UUID | None
    clock: Clock
    deadline: TimeLeft
    services: AgentServices = NO_SERVICES
    scopes: frozenset[str] | None = None
    """Of the credential; None: a task of ours, whose scopes were checked when it was accepted."""
    task_id: UUID | None = None
    step: str = ""
    idempotency_key: str | None = None
    """The same in every attempt of a step: tools that write hand it on."""


class Tool(Protocol):
    """Implementations keep no state of a call. Add one to the ``ToolBox`` of the process."""

    @property
    def name(self) -> str:
        """``family.verb``: lower case letters, digits, ``_`` and ``.``, at most 64."""
        ...

    @property
    def description(self) -> str:
        """For the model, in a sentence or two."""
        ...

    @property
    def input_schema(self) -> Mapping[str, Any]:
        """JSON schema of the arguments: an object."""
        ...

    @property
    def side_effects(self) -> SideEffects: ...

    @property
    def scopes(self) -> frozenset[str]:
        """What a credential must hold beside ``tools:call``."""
        ...

    @property
    def timeout_s(self) -> float: ...

    @property
    def source(self) -> str: ...

    async def call(self, arguments: Mapping[str, Any], caller: ToolCaller) -> Any:
        """JSON. Raises InvalidInput (the arguments), Unavailable and other MailyErrors; they
        become the call's result, and the model reads them."""
        ...
