"""The ledger's protocol. PostgreSQL keeps the real one (mesh/storage/anchor_ledger.py).

Every write is one transaction that fails (Fenced) when a newer owner of the anchoring exists.
"""

from __future__ import annotations

from typing import Protocol

from mesh.trust.anchoring.records import Loaded, Step, WantedRoot


class AnchorLedger(Protocol):
    async def load(self) -> Loaded: ...

    async def waiting(self, limit: int) -> list[WantedRoot]:
        """Roots without any transaction yet, oldest first."""
        ...

    async def write(self, step: Step) -> None:
        """Raises Fenced. After any other error it may or may not be written."""
        ...

    async def spent(self, network: str, since: float) -> int:
        """Fees of nonces that were closed since then (Unix seconds), wei."""
        ...

    async def genesis(self, network: str) -> tuple[int, bytes] | None:
        """Chain id and genesis hash that this name stands for; None: seen for the first time."""
        ...

    async def set_genesis(self, network: str, chain_id: int, genesis: bytes) -> None: ...

    async def reopen(self, network: str, address: bytes, first: int, at: float) -> int:
        """A development chain lost blocks that were final: nonces from ``first`` on are open
        again, their roots orphaned. How many nonces."""
        ...
