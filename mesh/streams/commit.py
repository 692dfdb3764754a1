"""Group commit to Valkey: what all writers of a process have ready goes in one round trip.

A script decides in Valkey itself, atomically, whether a batch may be written: the entry's id *is*
the cursor (``attempt-sequence``), so Valkey refuses a fenced writer, and a batch sent again after
a lost reply is recognised by its ids, payloads and writer. The same script trims, sets the expiry
and publishes the batch to the live readers, so no reader hears of an event that is not in the
log.

Valkey answers only after its append-only file is synced (``appendfsync always`` in the embedded
profile), so what is acknowledged survives its ``kill -9``.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from mesh.core.errors import Fenced, MailyError, Unavailable
from mesh.core.metrics import RETRIES, STREAM_COMMITS
from mesh.streams.options import StreamOptions
from mesh.streams.shared import SHARE
from mesh.streams.writer import Batch, ended

SCRIPT = (
    SHARE
    + b"""
-- KEYS: 1 stream, 2 (where there are copies) shared stream. ARGV: 1 max events, 2 time to live
-- (ms), 3 attempt, 4 first sequence, 5 writer, 6 '1' where the last is terminal, 7 number of
-- payloads, 8... payloads, then of each copy: its payload's number and its own payload
local key, attempt, first, writer = KEYS[1], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local count = tonumber(ARGV[7])
local function id(index) return ARGV[3] .. '-' .. string.format('%.0f', first + index - 1) end
local top = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
local there = 0
if top then
  local top_attempt, top_sequence = string.match(top[1], '^(%d+)-(%d+)$')
  top_attempt, top_sequence = tonumber(top_attempt), tonumber(top_sequence)
  if top_attempt > attempt then return 'fenced' end
  if top_attempt == attempt and top_sequence >= first then
    for index = 1, math.min(count, top_sequence - first + 1) do
      local found = redis.call('XRANGE', key, id(index), id(index))[1]
      if not found or found[2][2] ~= ARGV[7 + index] or found[2][4] ~= writer then
        return 'fenced'
      end
      there = index
    end
  end
  if there < count and #top[2] > 4 then return 'ended' end
end
if there == count then return 'ok' end
local message = {ARGV[3] .. ' ' .. string.format('%.0f', first + there)}
for index = there + 1, count do
  local payload = ARGV[7 + index]
  if index == count and ARGV[6] == '1' then
    redis.call('XADD', key, 'MAXLEN', '~', ARGV[1], id(index), 'e', payload, 'w', writer, 'z', '1')
  else
    redis.call('XADD', key, 'MAXLEN', '~', ARGV[1], id(index), 'e', payload, 'w', writer)
  end
  message[#message + 1] = payload
end
redis.call('PEXPIRE', key, ARGV[2])
redis.call('PUBLISH', key, table.concat(message, '\\n'))
for at = 8 + count, #ARGV, 2 do
  if tonumber(ARGV[at]) > there then share(KEYS[2], ARGV[1], ARGV[2], ARGV[at + 1]) end
end
return 'ok'
"""
)
SCRIPT_SHA = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest()


@dataclass(slots=True, eq=False)
class _Pending:
    batch: Batch
    arguments: tuple[Any, ...]
    done: asyncio.Future[None]
    give_up_at: float


class GroupCommit:
    """Takes batches of any number of writers; at most one per stream at a time."""

    def __init__(self, redis: Redis, options: StreamOptions) -> None:
        self._redis = redis
        self._options = options
        self._pending: deque[_Pending] = deque()
        self._task: asyncio.Task[None] | None = None
        self.commits = 0
        self.events = 0
        self.retries = 0
        self.fenced = 0

    async def commit(self, batch: Batch) -> None:
        """See ``Sink.commit``."""
        options = self._options
        copies = [(n, e.copy) for n, e in enumerate(batch.entries, 1) if e.copy is not None]
        keys = [f"{options.prefix}{batch.stream}"]
        if copies and batch.shared is not None:
            keys.append(f"{options.prefix}{batch.shared}")
        arguments = (
            len(keys),
            *keys,
            options.max_events,
            max(1, round(options.ttl_s * 1_000)),
            batch.attempt,
            batch.first,
            batch.writer,
            "1" if batch.terminal else "0",
            len(batch.entries),
            *(entry.payload for entry in batch.entries),
            *(part for copy in copies for part in copy),
        )
        done = asyncio.get_running_loop().create_future()
        give_up_at = time.monotonic() + options.append_timeout_s
        self._pending.append(_Pending(batch, arguments, done, give_up_at))
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        await done

    async def aclose(self) -> None:
        """Give up on what has not been written."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._refuse_all(Unavailable("The stream log is closed."))

    async def _run(self) -> None:
        wait_s = self._options.backoff_s
        try:
            while self._pending:
                if await self._round():
                    wait_s = self._options.backoff_s
                else:
                    self.retries += 1
                    RETRIES.labels("stream").inc()
                    await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))  # noqa: S311
                    wait_s = min(wait_s * 2, self._options.backoff_max_s)
        finally:
            self._task = None

    async def _round(self) -> bool:
        """Send what is ready once; False where it is better to wait before the next time."""
        size = min(len(self._pending), self._options.batch_streams)
        sent = [self._pending.popleft() for _ in range(size)]
        pipeline = self._redis.pipeline(transaction=False)
        for pending in sent:
            pipeline.evalsha(SCRIPT_SHA, *pending.arguments)
        try:
            replies: list[Any] = await pipeline.execute(raise_on_error=False)
        except (RedisError, OSError) as error:
            replies = [error] * size
        except BaseException:
            self._pending.extendleft(reversed(sent))
            raise
        self.commits += 1
        STREAM_COMMITS.inc()
        well = True
        for pending, reply in zip(sent, replies, strict=True):
            well = self._settle(pending, reply) and well
        if any(isinstance(reply, NoScriptError) for reply in replies):
            return await self._load()
        return well

    async def _load(self) -> bool:
        """A server that restarted has forgotten the script."""
        try:
            await self._redis.script_load(SCRIPT.decode())
        except (RedisError, OSError):
            return False
        return True

    def _settle(self, pending: _Pending, reply: Any) -> bool:
        """Answer one batch, or queue it again; False where the server is in trouble."""
        error: MailyError | None = None
        if isinstance(reply, Exception):
            if time.monotonic() < pending.give_up_at:
                self._pending.append(pending)
                return isinstance(reply, NoScriptError)
            error = Unavailable(
                "The stream log did not take the event in time.",
                {"reason": str(reply)[:200]},
                retry_after_s=1,
            )
        elif reply == b"fenced":
            self.fenced += 1
            error = Fenced("A later writer holds this stream.", {"stream": pending.batch.stream})
        elif reply == b"ended":
            self.fenced += 1
            error = ended(pending.batch.stream)
        else:
            self.events += len(pending.batch.entries)
        if not pending.done.done():
            if error is None:
                pending.done.set_result(None)
            else:
                pending.done.set_exception(error)
        return True

    def _refuse_all(self, error: MailyError) -> None:
        while self._pending:
            done = self._pending.popleft().done
            if not done.done():
                done.set_exception(error)
