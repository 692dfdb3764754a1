"""The shared counters in Valkey: one script, one round trip, all counters of a call at once.

The keys of a workspace share a hash tag, so a cluster keeps them together. Times are Valkey's.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from mesh.core.errors import Unavailable
from mesh.llm.budgets.counters import LEASE_S, SETTLE_S, SPARE_SHARE, TICKET_S, Ask, Grant, Status

CHANGED_CHANNEL = "maily:budgets"
"""Pub/sub: a workspace's budgets were changed (message: its id)."""
_TIMEOUT_S = 1.0

SCRIPT = """
-- KEYS: the workspace's mark, then one hash per counter: w window, s spent, t the ticket for a
-- seed (when it was given), and per holder 'h:<holder>' = 'held used expires sequence'.
-- ARGV: holder, lease (ms), settling time (ms), spare's share, a ticket's life (ms), then 11 for
-- each counter: limit, window, ttl (ms), sequence, known, used, floor, need, spare, seed (-1:
-- none), ticket
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local holder, lease = ARGV[1], tonumber(ARGV[2])
local function text(n) return string.format('%.0f', n) end
local function number(at) return tonumber(ARGV[at]) end
local mark = redis.call('GET', KEYS[1])
local out = {}
for index = 2, #KEYS do
  local key, at = KEYS[index], 5 + (index - 2) * 11
  local limit, window, ttl = number(at + 1), number(at + 2), number(at + 3)
  local sequence, known, used = number(at + 4), ARGV[at + 5] == '1', number(at + 6)
  local floor, need, spare, seed = number(at + 7), number(at + 8), number(at + 9), number(at + 10)
  local ticket = 0
  local flat = redis.call('HGETALL', key)
  local stored, spent, others, mine, gone, died = nil, 0, 0, nil, {}, false
  for i = 1, #flat, 2 do
    local name, value = flat[i], flat[i + 1]
    if name == 'w' then stored = tonumber(value)
    elseif name == 's' then spent = tonumber(value)
    elseif name == 't' then ticket = tonumber(value)
    else
      local h, u, e, q = string.match(value, '^(%d+) (%d+) (%d+) (%d+)$')
      if tonumber(e) <= now then
        gone[#gone + 1] = name
        died = died or tonumber(h) > 0
      elseif name == 'h:' .. holder then mine = {used = tonumber(u), sequence = tonumber(q)}
      else others = others + tonumber(h) end
    end
  end
  local timely = now - ticket <= tonumber(ARGV[5])
  if not timely or number(at + 11) ~= ticket then seed = -1 end
  local function wanted(status)
    if not timely then
      ticket = now
      redis.call('HSET', key, 't', text(now))
    end
    return {status, window, 0, 0, 0, ticket}
  end
  local answer = nil
  if stored == nil then
    if seed < 0 or known then answer = wanted(1)
    else
      stored, spent = window, seed
      redis.call('HSET', key, 'w', text(window), 's', text(seed))
      if not mark then
        mark = text(now + tonumber(ARGV[3]))
        redis.call('SET', KEYS[1], mark)
      end
    end
  elseif window > stored then
    redis.call('DEL', key)
    redis.call('HSET', key, 'w', text(window), 's', '0')
    stored, spent, others, mine, gone, died = window, 0, 0, nil, {}, false
  elseif window < stored then answer = {3, stored, 0, 0, 0} end
  local settling = mark and now < tonumber(mark)
  if not answer and (died or settling) then
    -- The ledger may have what nobody told us.
    if seed < 0 then answer = wanted(6) else spent = math.max(spent, seed) end
  end
  if not answer then
    if #gone > 0 then redis.call('HDEL', key, unpack(gone)) end
    if not mine and known then answer = {2, stored, 0, 0, 0}
    elseif mine and sequence < mine.sequence then answer = {5, stored, 0, 0, 0}
    else
      local before = mine and mine.used or 0
      if used > before then spent = spent + used - before else used = before end
      local free = limit - spent - others
      local held = floor
      if free >= need and not settling then
        held = need + math.min(spare, math.floor((free - need) / tonumber(ARGV[4])))
      end
      redis.call('HSET', key, 's', text(spent), 'h:' .. holder,
        text(held) .. ' ' .. text(used) .. ' ' .. text(now + lease) .. ' ' .. text(sequence))
      answer = {settling and 4 or 0, stored, held, spent, others}
    end
  end
  redis.call('PEXPIRE', key, text(ttl))
  out[#out + 1] = answer
end
return out
"""
SCRIPT_SHA = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()


class ValkeyCounters:
    def __init__(self, redis: Redis, prefix: str = "maily:budget") -> None:
        self._redis = redis
        self._prefix = prefix

    async def exchange(self, workspace_id: UUID, holder: str, asks: Sequence[Ask]) -> list[Grant]:
        tag = f"{self._prefix}:{{{workspace_id}}}"
        keys = [tag, *(f"{tag}:{ask.counter}" for ask in asks)]
        arguments: list[str | int] = [
            holder,
            round(LEASE_S * 1_000),
            round(SETTLE_S * 1_000),
            SPARE_SHARE,
            round(TICKET_S * 1_000),
        ]
        for ask in asks:
            arguments += [
                ask.limit,
                ask.window,
                max(1, round(ask.ttl_s * 1_000)),
                ask.sequence,
                int(ask.known),
                ask.used,
                ask.floor,
                ask.need,
                ask.spare,
                -1 if ask.seed is None else ask.seed,
                ask.ticket,
            ]
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                try:
                    answers = await self._redis.evalsha(SCRIPT_SHA, len(keys), *keys, *arguments)
                except NoScriptError:  # a server that restarted has forgotten it
                    answers = await self._redis.eval(SCRIPT, len(keys), *keys, *arguments)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            raise Unavailable(
                "The budgets' counters are not answering.", {"part": "valkey"}, 1.0
            ) from error
        return [Grant(Status(status), *rest) for status, *rest in answers]

    async def announce(self, workspace_id: UUID) -> None:
        """Also marks that the workspace's counters are there: who finds no mark finds them lost."""
        try:
            await self._redis.set(f"{self._prefix}:{{{workspace_id}}}", 0, nx=True)
            await self._redis.publish(CHANGED_CHANNEL, str(workspace_id))
        except (RedisError, OSError) as error:
            raise Unavailable("Valkey is not answering.", {"part": "valkey"}, 1.0) from error
