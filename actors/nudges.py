"""Nudges over Valkey pub/sub: they make things quick, nothing depends on them.

A lost nudge costs a poll interval, never a task: workers poll PostgreSQL, and each renewal of a
lease says whether a cancel was requested.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import orjson
import redis.asyncio as redis_asyncio
from redis.exceptions import RedisError

from actors.names import CANCEL_CHANNEL, TASKS_CHANNEL, offers
from actors.patience import PatienceOptions, pause
from mesh.core.clock import Clock
from mesh.core.logging import get_logger

log = get_logger("nudges")

_POLL_S = 2.0
"""A connection that died without a word is noticed by the ping that follows a silent poll."""


class NudgeListener:
    """Listens on a worker's channels and calls back; reconnects for ever."""

    def __init__(
        self,
        client: redis_asyncio.Redis,
        worker: str,
        *,
        on_work: Callable[[], None],
        on_offer: Callable[[UUID, dict[str, Any]], None],
        on_cancel: Callable[[UUID], None],
        clock: Clock,
    ) -> None:
        self._client = client
        self._clock = clock
        self._on_work = on_work
        self._handlers: dict[str, Callable[[UUID, dict[str, Any]], None]] = {
            TASKS_CHANNEL: lambda _task_id, _decision: on_work(),
            offers(worker): on_offer,
            CANCEL_CHANNEL: lambda task_id, _decision: on_cancel(task_id),
        }
        self.connected = False

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            try:
                async with self._client.pubsub() as subscription:
                    await subscription.subscribe(*self._handlers)
                    self.connected, failures = True, 0
                    self._on_work()  # what was said while we were away is unknown: look
                    await self._listen(subscription)
            except (RedisError, OSError) as error:
                failures += 1
                if self.connected:
                    log.warning("nudges.lost", error=type(error).__name__)
                self.connected = False
                await self._clock.sleep(pause(failures, PatienceOptions()))
            finally:
                self.connected = False

    async def _listen(self, subscription: redis_asyncio.client.PubSub) -> None:
        while True:
            message = await subscription.get_message(
                ignore_subscribe_messages=True, timeout=_POLL_S
            )
            if message is None:
                async with asyncio.timeout(_POLL_S):
                    await subscription.ping()
                continue
            if message["type"] != "message":
                continue
            handler = self._handlers.get(_text(message["channel"]))
            if handler is None:
                continue
            try:
                task_id, decision = _parse(_text(message["data"]))
            except ValueError:
                log.warning("nudges.malformed")
                continue
            handler(task_id, decision)


def _parse(text: str) -> tuple[UUID, dict[str, Any]]:
    """A task's id, and after a space the decision that led here (JSON). Raises ValueError."""
    identity, _, said = text.partition(" ")
    decision = orjson.loads(said) if said else {}
    if not isinstance(decision, dict):
        raise ValueError("a decision is an object")
    return UUID(identity), decision


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
