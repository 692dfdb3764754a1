"""A coordinator shard's Ray shell: a detached, named actor around ``CoordinatorLoop``."""

from __future__ import annotations

from actors.context import ProcessContext
from actors.coordinator_loop import CoordinatorLoop, CoordinatorOptions, CoordinatorParts
from actors.host import ActorHost
from actors.names import coordinator
from mesh.contracts.mesh import Advice, WorkerInfo
from mesh.core.settings import Settings


def coordinator_options(settings: Settings, shard: int) -> CoordinatorOptions:
    """Rhythms that follow from the agents' settings."""
    agents = settings.agents
    return CoordinatorOptions(
        shard=shard,
        shards=agents.coordinators,
        heartbeat_s=agents.heartbeat_s,
        publish_s=min(0.25, agents.heartbeat_s),
        # Quicker than the leases run out, slower than a starved worker's late heartbeat.
        lost_after_s=max(1.5, 3 * agents.heartbeat_s),
        snapshot_ttl_s=max(2.0, 4 * agents.heartbeat_s),
        lease_s=min(2.0, agents.lease_s),
    )


class Coordinator(ActorHost):
    """Made by ``actors.reconcile``. ``heartbeat`` is called by workers on the main event loop."""

    def __init__(self, shard: int, settings_json: str) -> None:
        self._coordinator: CoordinatorLoop | None = None
        self._shard = shard
        super().__init__(coordinator(shard), settings_json)

    async def heartbeat(self, info: WorkerInfo) -> Advice | None:
        """A worker registers or reports. Before the loop runs it is dropped: another follows."""
        return None if self._coordinator is None else self._coordinator.heartbeat(info)

    async def _run(self, context: ProcessContext) -> None:
        self._coordinator = CoordinatorLoop(
            CoordinatorParts(
                tasks=context.tasks,
                leases=context.leases,
                redis=context.redis,
                streams=context.streams,
                clock=context.clock,
                options=coordinator_options(context.settings, self._shard),
            )
        )
        await self._coordinator.run()

    def _unhealthy(self) -> str | None:
        return self._coordinator.unhealthy() if self._coordinator else "it is starting"

    def _statistics(self) -> dict[str, int | float]:
        return self._coordinator.statistics() if self._coordinator else {}
