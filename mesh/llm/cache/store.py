"""Where answers are kept: Valkey, sealed, bounded, each workspace under a tag of its own.

A value can be opened only in its own place, so a copy under another workspace's key is no answer.
An entry carries the epoch of the workspace's memory in which it was made: once the memory has
changed (``EPOCH_KEY`` counts on), no older answer is given again.
"""

from __future__ import annotations

import asyncio
import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from mesh.core.logging import get_logger
from mesh.llm.engine import Wire
from mesh.security.sealing import Sealer, Unreadable

EPOCH_KEY = "maily:memory-epoch:{workspace}"
"""Valkey: counts the changes of a workspace's memory; absent is 0."""
PREFIX = "maily:cache"
PURPOSE = "maily cached answers v1"
CANDIDATES = 64
"""Wordings kept of one question."""
_TIMEOUT_S = 0.5
_FAILURES = (RedisError, OSError, Unreadable, ValueError, KeyError)

_PUT = """
-- KEYS: index, entry, partition ('' where there is none). ARGV: member, sealed, ttl (ms), now,
-- entries at most, partition's member, sealed vector, wordings at most
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[1], ARGV[4], ARGV[1])
local ttl = redis.call('PTTL', KEYS[1])
if ttl < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
if ARGV[6] ~= '' then
  if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 0 then
    local over = redis.call('HLEN', KEYS[3]) - tonumber(ARGV[8]) + 1
    if over > 0 then
      redis.call('HDEL', KEYS[3], unpack(redis.call('HRANDFIELD', KEYS[3], over)))
    end
  end
  redis.call('HSET', KEYS[3], ARGV[1], ARGV[7])
  redis.call('PEXPIRE', KEYS[3], ARGV[3])
  redis.call('ZADD', KEYS[1], ARGV[4], ARGV[6])
end
local over = redis.call('ZCARD', KEYS[1]) - tonumber(ARGV[5])
if over > 0 then
  local popped = redis.call('ZPOPMIN', KEYS[1], over)
  local base = string.sub(KEYS[1], 1, -6)
  for i = 1, #popped, 2 do redis.call('DEL', base .. popped[i]) end
end
"""
_PUT_SHA = hashlib.sha1(_PUT.encode(), usedforsecurity=False).hexdigest()

_log = get_logger("cache")


@dataclass(frozen=True, slots=True)
class Kept:
    """What to keep."""

    digest: str
    answer: Wire
    epoch: int
    ttl_s: float
    max_entries: int
    partition: str | None = None
    vector: Sequence[float] | None = None


class CacheStore:
    """A store that fails is a store without the answer: nothing here raises."""

    def __init__(self, redis: Redis, sealer: Sealer) -> None:
        self._redis = redis
        self._sealer = sealer
        self.failures = 0

    async def find(self, workspace_id: UUID, digest: str) -> tuple[int | None, Wire | None]:
        """The memory's epoch (None: not known, so nothing can be kept) and the answer."""
        key = _entry(workspace_id, digest)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                pipeline = self._redis.pipeline(transaction=False)
                pipeline.get(EPOCH_KEY.format(workspace=workspace_id))
                pipeline.get(key)
                counted, sealed = await pipeline.execute()
            epoch = int(counted or 0)
        except _FAILURES as error:
            self._failed("find", error)
            return None, None
        try:
            return epoch, self._opened(sealed, key, epoch)
        except _FAILURES as error:
            self._failed("open", error)
            return epoch, None

    async def nearest(
        self, workspace_id: UUID, partition: str, vector: Sequence[float]
    ) -> tuple[str, float] | None:
        """Digest of the kept question that is nearest, and the cosine between the two."""
        key = _partition(workspace_id, partition)
        best: tuple[str, float] | None = None
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                found: Any = await self._redis.hgetall(key)
            for member, sealed in found.items():
                digest = member.decode("ascii").partition(":")[2]
                other = array("f", self._sealer.open(sealed, f"{key} {digest}".encode()))
                if len(other) != len(vector):
                    continue  # of another embedding model
                cosine = sum(a * b for a, b in zip(vector, other, strict=True))
                if best is None or cosine > best[1]:
                    best = digest, cosine
        except _FAILURES as error:
            self._failed("nearest", error)
            return None
        return best

    async def put(self, workspace_id: UUID, kept: Kept, now: float) -> None:
        key = _entry(workspace_id, kept.digest)
        plain = orjson.dumps({"epoch": kept.epoch, "answer": kept.answer})
        partition, sealed_vector, member = "", b"", f"e:{kept.digest}"
        base = _base(workspace_id)
        if kept.partition is not None and kept.vector is not None:
            name = _partition(workspace_id, kept.partition)
            partition = f"p:{kept.partition}"
            sealed_vector = self._sealer.seal(
                array("f", kept.vector).tobytes(), f"{name} {kept.digest}".encode()
            )
        arguments: list[Any] = [
            *(f"{base}index", key, f"{base}{partition or 'p:'}"),
            *(member, self._sealer.seal(plain, key.encode())),
            *(round(kept.ttl_s * 1_000), now, kept.max_entries),
            *(partition, sealed_vector, CANDIDATES),
        ]
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                try:
                    await self._redis.evalsha(_PUT_SHA, 3, *arguments)
                except NoScriptError:
                    await self._redis.eval(_PUT, 3, *arguments)
        except _FAILURES as error:
            self._failed("put", error)

    async def forget(self, workspace_id: UUID) -> int:
        """Delete every answer of the workspace; gives how many keys went. Raises RedisError."""
        base = _base(workspace_id)
        gone = 0
        while True:
            popped: Any = await self._redis.zpopmin(f"{base}index", 500)
            if not popped:
                return gone
            names = [f"{base}{member.decode('ascii')}" for member, _ in popped]
            gone += int(await self._redis.unlink(*names))

    def _opened(self, sealed: bytes | None, key: str, epoch: int) -> Wire | None:
        if sealed is None:
            return None
        entry = orjson.loads(self._sealer.open(sealed, key.encode()))
        answer: Wire = entry["answer"]
        return answer if entry["epoch"] == epoch else None

    def _failed(self, what: str, error: Exception) -> None:
        self.failures += 1
        _log.warning("cache.failed", what=what, error=type(error).__name__)


def _base(workspace_id: UUID) -> str:
    return f"{PREFIX}:{{{workspace_id}}}:"


def _entry(workspace_id: UUID, digest: str) -> str:
    return f"{_base(workspace_id)}e:{digest}"


def _partition(workspace_id: UUID, digest: str) -> str:
    return f"{_base(workspace_id)}p:{digest}"
