"""The ledger in memory: for simulations. Held to the same conformance suite as PostgreSQL's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from mesh.contracts.networks import AnchorState
from mesh.core.errors import Fenced
from mesh.trust.anchoring.records import AnchorRow, Attempt, Change, Loaded, Step, WantedRoot

Place = tuple[str, bytes, int]


@dataclass
class MemoryRows:
    """What outlives its owners. ``epoch``: of the newest."""

    epoch: int = 0
    roots: dict[bytes, WantedRoot] = field(default_factory=dict)
    taken: set[bytes] = field(default_factory=set)
    settled: set[bytes] = field(default_factory=set)
    anchors: dict[tuple[bytes, str], AnchorRow] = field(default_factory=dict)
    attempts: dict[bytes, Attempt] = field(default_factory=dict)
    closed: dict[Place, tuple[float, bytes | None, int]] = field(default_factory=dict)
    """When, by which of ours, and what it cost."""
    was: dict[Place, bytes | None] = field(default_factory=dict)
    """Of a nonce that is open again: which of ours a block had."""
    networks: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    watch: Callable[[Step], None] = lambda step: None
    """Called with each step just before it is written."""

    def want(self, root: WantedRoot) -> None:
        self.roots.setdefault(root.root, root)


class MemoryLedger:
    """One owner's access to ``rows``."""

    def __init__(self, rows: MemoryRows) -> None:
        self.rows = rows
        rows.epoch += 1
        self._epoch = rows.epoch

    async def load(self) -> Loaded:
        rows = self.rows
        attempts = [a for a in rows.attempts.values() if _place(a) not in rows.closed]
        attempts.sort(key=lambda a: rows.was.get(_place(a)) == a.tx)
        carried = {attempt.root for attempt in attempts}
        roots = tuple(
            wanted
            for root, wanted in rows.roots.items()
            if (root in rows.taken and root not in rows.settled) or root in carried
        )
        shown = {wanted.root for wanted in roots}
        following: dict[tuple[str, bytes], int] = {}
        for attempt in rows.attempts.values():
            key = (attempt.network, attempt.address)
            following[key] = max(following.get(key, 0), attempt.nonce + 1)
        return Loaded(
            roots=roots,
            settled=frozenset(shown & rows.settled),
            anchors=tuple(row for (root, _), row in rows.anchors.items() if root in shown),
            attempts=tuple(attempts),
            next_nonces=following,
            gaps=tuple(_gaps({_place(attempt) for attempt in rows.attempts.values()})),
        )

    async def waiting(self, limit: int) -> list[WantedRoot]:
        rows = self.rows
        return [
            wanted
            for root, wanted in rows.roots.items()
            if root not in rows.taken and root not in rows.settled
        ][:limit]

    async def write(self, step: Step) -> None:
        rows = self.rows
        self._check()
        rows.watch(step)
        for attempt in step.attempts:
            assert attempt.tx not in rows.attempts
            assert _place(attempt) not in rows.closed
            rows.attempts[attempt.tx] = attempt
            if attempt.root is not None:
                rows.taken.add(attempt.root)
        for tx, at in step.sent:
            rows.attempts[tx] = replace(rows.attempts[tx], sent_at=at)
        for anchor in step.anchors:
            rows.anchors[anchor.root, anchor.network] = anchor
            self._tell(anchor)
        for nonce in step.closed:
            place = (nonce.network, nonce.address, nonce.nonce)
            rows.closed.setdefault(place, (nonce.at, nonce.tx, nonce.fee_wei))
        rows.settled.update(step.settled)

    async def spent(self, network: str, since: float) -> int:
        return sum(
            fee
            for (name, _, _), (at, _, fee) in self.rows.closed.items()
            if name == network and at >= since
        )

    async def genesis(self, network: str) -> tuple[int, bytes] | None:
        return self.rows.networks.get(network)

    async def set_genesis(self, network: str, chain_id: int, genesis: bytes) -> None:
        self._check()
        self.rows.networks[network] = (chain_id, genesis)

    async def reopen(self, network: str, address: bytes, first: int, at: float) -> int:
        rows = self.rows
        self._check()
        places = [p for p in rows.closed if p[:2] == (network, address) and p[2] >= first]
        for place in places:
            rows.was[place] = rows.closed.pop(place)[1]
        roots = {a.root for a in rows.attempts.values() if _place(a) in places}
        for root in roots - {None}:
            assert root is not None
            rows.settled.discard(root)
            row = rows.anchors.get((root, network))
            if row is not None and row.state in _LOST:
                orphan = AnchorRow(
                    root,
                    network,
                    row.chain_id,
                    AnchorState.ORPHANED,
                    at,
                    tx=row.tx,
                    reason="the development node lost its blocks",
                )
                rows.anchors[root, network] = orphan
                self._tell(orphan)
        return len(places)

    def _tell(self, anchor: AnchorRow) -> None:
        wanted = self.rows.roots[anchor.root]
        self.rows.changes.append(
            Change(
                len(self.rows.changes) + 1,
                anchor.root,
                wanted.batch_id,
                wanted.workspace_id,
                anchor.view(),
            )
        )

    def _check(self) -> None:
        if self._epoch != self.rows.epoch:
            raise Fenced


_LOST = (AnchorState.SUBMITTED, AnchorState.CONFIRMED, AnchorState.FINAL)


def _gaps(places: set[Place]) -> Iterator[tuple[str, bytes, int, int]]:
    last: tuple[str, bytes, int] | None = None
    for place in sorted(places):
        before = last[2] if last is not None and last[:2] == place[:2] else -1
        if place[2] > before + 1:
            yield place[0], place[1], before + 1, place[2]
        last = place


def _place(attempt: Attempt) -> Place:
    return attempt.network, attempt.address, attempt.nonce
