"""Copies of memories outside of the memory: tasks that read them, their streams, cached answers.

Traces hold only ids. But an agent may have put a memory's words into a step's output, into the
email, into the tokens that it streamed: whoever cited a memory is looked through, the words are
blacked out, and its stream (a copy that expires by itself within a day) is dropped. Words that
the model put differently can't be found.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import redis.asyncio as redis_asyncio
from redis.exceptions import RedisError

from mesh.core.logging import get_logger
from mesh.llm.cache.store import EPOCH_KEY, CacheStore
from mesh.memory.forgetting import Redactor
from mesh.memory.record import Record, open_payload
from mesh.memory.vault import Vault
from mesh.storage.memory import MemoryRepository
from mesh.storage.memory_forget import ForgetRepository

log = get_logger("memory.journals")

PAGE = 1_000
_EPOCH_S = 1.0
REWRITE_S = 20.0
"""How long to wait for Valkey's append-only file to be written anew."""


@dataclass(frozen=True, slots=True)
class Journals:
    """One per process."""

    repository: MemoryRepository
    forgets: ForgetRepository
    redis: redis_asyncio.Redis
    vault: Vault
    stream_prefix: str
    """Of the stream log's keys."""
    answers: CacheStore | None = None
    """Cached answers of models; None: there are none."""

    async def texts(self, workspace: UUID, ids: Sequence[UUID]) -> dict[UUID, str]:
        """What the memories say, as far as they are there."""
        found: dict[UUID, str] = {}
        for start in range(0, len(ids), PAGE):
            records = await self.repository.get(workspace, ids[start : start + PAGE])
            found.update(await asyncio.to_thread(self._opened, records))
        return found

    def _opened(self, records: Sequence[Record]) -> dict[UUID, str]:
        return {record.id: open_payload(self.vault, record).text for record in records}

    async def black_out(
        self, workspace: UUID, texts: dict[UUID, str], counts: Counter[str]
    ) -> None:
        """In every task that read one of them; counts places and streams."""
        for citing in await self.forgets.citing(workspace, list(texts)):
            redactor = Redactor(texts[item] for item in citing.items)
            counts["journal"] += await self.forgets.black_out(citing.task, redactor)
            if citing.open:
                counts["open_tasks"] += 1
                continue
            try:
                counts["streams"] += await self.redis.delete(f"{self.stream_prefix}{citing.task}")
            except (RedisError, OSError) as error:
                log.warning("streams.kept", error=type(error).__name__)
                counts["streams_kept"] += 1

    async def changed(self, workspace: UUID) -> bool:
        """Answers that were cached before now are not served any more; False: Valkey is away."""
        try:
            async with asyncio.timeout(_EPOCH_S):
                await self.redis.incr(EPOCH_KEY.format(workspace=workspace))
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            log.warning("epoch.kept", error=type(error).__name__)
            return False
        return True

    async def forget_answers(self, workspace: UUID, counts: Counter[str]) -> None:
        """No cached answer of the workspace is served any more, and none is kept."""
        if not await self.changed(workspace):
            counts["answers_kept"] += 1
        if self.answers is not None:
            try:
                counts["answers"] += await self.answers.forget(workspace)
            except (RedisError, OSError) as error:
                log.warning("answers.kept", error=type(error).__name__)
                counts["answers_kept"] += 1

    async def after(self, ids: Sequence[UUID], counts: Counter[str]) -> str | None:
        """Valkey's file loses what was deleted, citations go; says what could not be done."""
        await self.forgets.uncite(ids)
        notes = []
        if counts["open_tasks"]:
            notes.append("tasks that read it were still running")
        if counts["streams_kept"] or counts["answers_kept"]:
            notes.append("Valkey was away: its copies expire within a day")
        if counts["streams"] or counts["answers"]:
            try:
                await self._rewrite()
            except (RedisError, OSError, TimeoutError) as error:
                notes.append(f"Valkey's file was not written anew ({type(error).__name__})")
        return "; ".join(notes) or None

    async def _rewrite(self) -> None:
        info = await self.redis.info("persistence")
        if not info.get("aof_enabled"):
            return
        await self.redis.bgrewriteaof()
        async with asyncio.timeout(REWRITE_S):
            while True:
                info = await self.redis.info("persistence")
                waiting = info.get("aof_rewrite_scheduled") or info.get("aof_rewrite_in_progress")
                if not waiting:
                    return
                await asyncio.sleep(0.05)
