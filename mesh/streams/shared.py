"""Appending to shared streams: many writers, numbered by the log itself.

An entry's id is still its cursor. Its first part is the second in which the stream began, so that
a stream which expired and begins anew sorts after everything that a reader may remember of the old
one; its second part counts without gaps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from mesh.contracts.events import Cursor, Event, EventType
from mesh.streams.codec import decode, encode
from mesh.streams.connect import unavailable
from mesh.streams.names import endless
from mesh.streams.options import StreamOptions

SHARE = b"""
local function share(key, most, ttl, payload)
  local top = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)[1]
  local epoch, sequence
  if top then
    epoch, sequence = string.match(top[1], '^(%d+)-(%d+)$')
    sequence = string.format('%.0f', tonumber(sequence) + 1)
  else
    epoch, sequence = redis.call('TIME')[1], '1'
  end
  redis.call('XADD', key, 'MAXLEN', '~', most, epoch .. '-' .. sequence, 'e', payload)
  redis.call('PEXPIRE', key, ttl)
  redis.call('PUBLISH', key, epoch .. ' ' .. sequence .. '\\n' .. payload)
  return epoch .. '-' .. sequence
end
"""
"""A function for scripts; gives the new entry's id."""

_PUBLISH = (
    SHARE
    + b"""
-- KEYS: streams, then where this message is known by its key. ARGV: 1 max events, 2 time to live
-- (ms), 3 how long the key is known (ms), 4 payload
local known = redis.call('GET', KEYS[#KEYS])
if known then return known end
local first
for index = 1, #KEYS - 1 do
  local id = share(KEYS[index], ARGV[1], ARGV[2], ARGV[4])
  first = first or id
end
redis.call('SET', KEYS[#KEYS], first, 'PX', ARGV[3])
return first
"""
)
_PUBLISH_SHA = hashlib.sha1(_PUBLISH, usedforsecurity=False).hexdigest()


def check_shared(streams: Sequence[str]) -> None:
    """Raises ValueError unless all of them are shared streams."""
    if not streams or not all(endless(stream) for stream in streams):
        raise ValueError(f"only shared streams have many writers: {list(streams)}")


async def publish(
    redis: Redis,
    options: StreamOptions,
    streams: Sequence[str],
    type: EventType,
    at: float,
    data: dict[str, Any],
    key: str,
) -> Event:
    """See ``StreamLog.publish``."""
    check_shared(streams)
    payload = encode(type, at, data, options.max_event_bytes)
    digest = hashlib.sha256(f"{streams[0]}\0{key}".encode()).hexdigest()
    arguments: list[Any] = [
        *(f"{options.prefix}{stream}" for stream in streams),
        f"{options.prefix}key:{digest}",
        options.max_events,
        max(1, round(options.ttl_s * 1_000)),
        max(1, round(options.repeat_s * 1_000)),
        payload,
    ]
    keys = len(streams) + 1
    with unavailable():
        try:
            place = await redis.evalsha(_PUBLISH_SHA, keys, *arguments)
        except NoScriptError:
            await redis.script_load(_PUBLISH.decode())
            place = await redis.evalsha(_PUBLISH_SHA, keys, *arguments)
    cursor = Cursor.parse(place.decode())
    return decode(streams[0], cursor.attempt, cursor.sequence, payload)
