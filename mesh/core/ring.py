"""Which host should own a shard: rendezvous hashing over those alive.

A part of the runtime that keeps state (memory, trust) has a ring of its own. Hosts come and go;
only the shards of the host that came or went move.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ring:
    """The shards of one part, and how their rows in ``leases`` are called."""

    part: str
    shards: int
    """Fixed for ever: a shard's number is part of the rows that lie in it."""

    @property
    def shard_prefix(self) -> str:
        return f"{self.part}-shard/"

    @property
    def host_prefix(self) -> str:
        """Of the hosts' own rows: who is alive."""
        return f"{self.part}-host/"

    def shard_key(self, shard: int) -> str:
        return f"{self.shard_prefix}{shard}"

    def host_key(self, name: str) -> str:
        return f"{self.host_prefix}{name}"

    def owner_of(self, shard: int, hosts: Iterable[str]) -> str | None:
        """The host that should own it; None: there is none."""
        return max(hosts, key=lambda host: (_weight(shard, host), host), default=None)

    def shards_of(self, host: str, hosts: Iterable[str]) -> frozenset[int]:
        """What this host should own among those alive."""
        alive = list(hosts)
        return frozenset(s for s in range(self.shards) if self.owner_of(s, alive) == host)


def _weight(shard: int, host: str) -> bytes:
    return hashlib.blake2b(f"{shard}/{host}".encode(), digest_size=8).digest()
