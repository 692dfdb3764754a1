"""Hears of changed budgets and lets the meter read them at once."""

from __future__ import annotations

import asyncio
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError

from mesh.core.clock import Clock
from mesh.core.logging import get_logger
from mesh.llm.budgets.meter import Meter
from mesh.llm.budgets.valkey import CHANGED_CHANNEL

_POLL_S = 5.0
_AGAIN_S = 1.0

_log = get_logger("budgets")


async def hear_changes(redis: Redis, meter: Meter, clock: Clock) -> None:
    """Until cancelled. What was said while the connection was lost is unknown, so each new one
    begins with reading everything anew."""
    while True:
        try:
            async with redis.pubsub() as subscription:
                await subscription.subscribe(CHANGED_CHANNEL)
                meter.changed()
                while True:
                    message = await subscription.get_message(
                        ignore_subscribe_messages=True, timeout=_POLL_S
                    )
                    if message is None:
                        async with asyncio.timeout(_POLL_S):
                            await subscription.ping()
                    elif message["type"] == "message":
                        meter.changed(UUID(message["data"].decode("ascii")))
        except (RedisError, OSError, ValueError) as error:
            _log.info("budgets.deaf", error=type(error).__name__)
            await clock.sleep(_AGAIN_S)
