"""Serve's choice of a replica, made by ``mesh.llm.routing.affinity``: prompt cache and load.

Runs in the process that calls (``RequestRouterConfig`` names the class). A replica whose death a
call has seen is out at once; Serve's controller needs its health checks for that.
"""

from __future__ import annotations

from typing import Any

from ray.serve._private.common import ReplicaID
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from mesh.llm.routing.affinity import PrefixAffinity, beginnings

_AVOID = 4
"""Position of ``avoid`` among the arguments of ``LLMService``'s methods."""


class EngineReplicaRouter(RequestRouter):  # type: ignore[misc]  # Ray has no types
    """Not first in, first out: each request's replica is chosen for it alone."""

    def initialize_state(self, imbalance: int = 4, **_: Any) -> None:
        self._affinity = PrefixAffinity(imbalance)

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """The chosen one, then the others together, of which Serve takes the least busy."""
        if pending_request is None or len(candidate_replicas) < 2:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        cache = self.replica_queue_len_cache
        loads = {name: cache.get(r.replica_id) or 0 for name, r in by_name.items()}
        args = pending_request.args
        avoid = args[_AVOID] if len(args) > _AVOID and isinstance(args[_AVOID], str) else None
        name = self._affinity.choose(_keys(pending_request), loads, avoid)
        others = [r for other, r in by_name.items() if other not in (name, avoid)]
        last = [by_name[avoid]] if avoid in by_name and avoid != name else []
        return [ranked for ranked in ([by_name[name]], others, last) if ranked]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any
    ) -> None:
        keys = _keys(pending_request)
        if keys:
            self._affinity.routed(keys, replica_id.unique_id)


def _keys(pending_request: PendingRequest) -> list[bytes]:
    args = pending_request.args
    return beginnings(args[0]) if args and isinstance(args[0], dict) else []
