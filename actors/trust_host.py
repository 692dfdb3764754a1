"""The trust host's Ray shell: a detached, named actor around ``TrustLoop``."""

from __future__ import annotations

import asyncio
from uuid import UUID

from actors.context import ProcessContext
from actors.host import ActorHost
from actors.trust_anchoring import open_anchoring
from actors.trust_duty import Chains, Duty, Telling
from actors.trust_lane import Answer
from actors.trust_loop import TrustLoop
from actors.trust_open import host_options, open_host_parts, open_teller
from actors.trust_work import RayWork
from mesh.contracts.trust import NetworkView
from mesh.core.errors import Unavailable
from mesh.storage.leases import Lease
from mesh.storage.trust_batches import BatchRow
from mesh.storage.trust_revocations import RevocationRow
from mesh.trust.intake import Claims
from mesh.trust.pages import Prepared


class TrustHost(ActorHost):
    """Made by ``actors.reconcile``. Its methods are ``TrustLoop``'s, on the main event loop."""

    def __init__(self, name: str, settings_json: str) -> None:
        self._trust: TrustLoop | None = None
        self._duty: Duty | None = None
        super().__init__(name, settings_json)

    async def add(
        self, workspace: UUID, batch: UUID | None, rows: Prepared, first_line: int, claims: Claims
    ) -> Answer:
        return await self._there().add(workspace, batch, rows, first_line, claims)

    async def close(self, workspace: UUID, batch: UUID) -> BatchRow:
        return await self._there().close(workspace, batch)

    async def revoke(
        self,
        workspace: UUID,
        row: RevocationRow,
        certificate: str,
        of: BatchRow,
        document: bytes | None,
    ) -> bool:
        return await self._there().revoke(workspace, row, certificate, of, document)

    async def networks(self) -> list[NetworkView]:
        if self._duty is None:
            raise Unavailable("The trust host is starting.", retry_after_s=0.5)
        return self._duty.networks()

    async def _run(self, context: ProcessContext) -> None:
        options = host_options(context.settings)
        work = RayWork(context.settings.trust.tasks)

        async def begin(lease: Lease) -> tuple[Chains, Telling]:
            return open_anchoring(context, lease), open_teller(context, lease)

        def nudge() -> None:
            duty.nudge()

        trust = TrustLoop(self.name, open_host_parts(context, work), options, nudge)
        duty = Duty(trust.shards.owner, context.leases, context.clock, options.shards, begin)
        self._trust, self._duty = trust, duty
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(trust.run())
                group.create_task(duty.run())
        finally:
            self._trust = self._duty = None

    def _there(self) -> TrustLoop:
        if self._trust is None:
            raise Unavailable("The trust host is starting.", retry_after_s=0.5)
        return self._trust

    def _unhealthy(self) -> str | None:
        if self._trust is None or self._duty is None:
            return "it is starting"
        return self._trust.unhealthy() or self._duty.unhealthy()

    def _statistics(self) -> dict[str, int | float]:
        if self._trust is None or self._duty is None:
            return {}
        return self._trust.statistics() | self._duty.statistics()
