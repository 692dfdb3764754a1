"""Memory as the gateway holds it: what agents may do, and besides looking after it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from itertools import islice
from uuid import UUID

from actors.memory_client import ClientParts, ShardedMemoryClient
from actors.memory_forget import Forgetter
from mesh.contracts.memory import (
    MAX_BATCH,
    ForgetReceipt,
    ImportReport,
    MemoryStats,
    Namespace,
)
from mesh.core.errors import DeadlineExceeded
from mesh.memory.export import export_line, import_lines
from mesh.memory.record import Record, item_of, open_payload, open_vector

UNOWNED = "none"
NEWLINE = b"\n"


class MemoryStore(ShardedMemoryClient):
    """One per process. Everything is within one workspace."""

    def __init__(self, parts: ClientParts, forgetter: Forgetter) -> None:
        super().__init__(parts)
        self._forgetter = forgetter

    async def receipt(self, workspace: UUID, identity: UUID) -> ForgetReceipt:
        """A receipt, and whether anything of it can be found now. Raises NotFound."""
        return await self._forgetter.check(identity, workspace)

    async def stats(self, workspace: UUID) -> MemoryStats:
        counts = await self._parts.repository.stats(workspace)
        owners = await self._parts.directory.all()
        shards = Counter(owners.get(shard, UNOWNED) for shard in range(64))
        return MemoryStats(**counts, shards=dict(sorted(shards.items())))

    async def export(
        self, workspace: UUID, namespace: Namespace | None, *, vectors: bool
    ) -> AsyncIterator[bytes]:
        """Lines of NDJSON, a page at a time. Raises Unavailable, Unreadable."""
        identity = None
        if namespace is not None:
            identity = self._parts.vault.namespace_id(workspace, namespace)
        async for records in self._parts.repository.pages(workspace, identity):
            page = await asyncio.to_thread(self._lines, records, vectors)
            if page:
                yield page

    async def import_(self, workspace: UUID, body: bytes, *, timeout_s: float) -> ImportReport:
        """Lines of NDJSON. What came before a wrong line is stored; sending all again repeats
        nothing. Raises InvalidInput that names the line, DeadlineExceeded."""
        clock = self._parts.clock
        until = clock.monotonic() + timeout_s
        lines = import_lines(body.split(NEWLINE))
        stored = repeated = 0
        while batch := list(islice(lines, MAX_BATCH)):
            left = until - clock.monotonic()
            if left <= 0:
                raise DeadlineExceeded(
                    "The deadline passed; what was stored stays.", {"stored": stored}
                )
            before = clock.now()
            items = await self.remember(workspace, batch, timeout_s=left)
            # UUIDs tell when they were made: older ones were there already.
            fresh = sum((item.id.int >> 80) / 1000 >= int(before * 1000) / 1000 for item in items)
            stored += fresh
            repeated += len(items) - fresh
        return ImportReport(stored=stored, repeated=repeated)

    async def cited(self, workspace: UUID, ids: Sequence[str]) -> dict[str, str]:
        """Texts of memories that are still there, by id: for traces."""
        wanted = [identity for text in ids if (identity := _uuid(text)) is not None]
        records = await self._parts.repository.get(workspace, wanted)
        vault = self._parts.vault
        return {str(record.id): open_payload(vault, record).text for record in records}

    def _lines(self, records: Sequence[Record], vectors: bool) -> bytes:
        vault = self._parts.vault
        lines = []
        for record in records:
            vector = open_vector(vault, record).tolist() if vectors else None
            line = export_line(item_of(record, open_payload(vault, record)), vector)
            if line is not None:
                lines.append(line)
        return b"".join(lines)


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
