"""Find a named actor and ask it how it is, without ever waiting long."""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.exceptions import RayError

from actors.names import NAMESPACE

CONTROL = "control"
"""Concurrency group of the calls that must be answered while an actor is busy."""


async def find_actor(name: str, namespace: str = NAMESPACE) -> Any | None:
    """Its handle; None: there is no such actor (or Ray does not know it yet)."""
    try:
        return await asyncio.to_thread(ray.get_actor, name, namespace)
    except ValueError:
        return None


async def describe(handle: Any, timeout_s: float = 5.0) -> dict[str, Any]:
    """The actor's ``ActorInfo`` as a dict; with ``healthy: False`` and a reason when it does not
    answer."""
    try:
        async with asyncio.timeout(timeout_s):
            info: dict[str, Any] = await handle.describe.options(concurrency_group=CONTROL).remote()
            return info
    except TimeoutError:
        return {"healthy": False, "reason": f"it did not answer within {timeout_s:g} s"}
    except RayError as error:
        return {"healthy": False, "reason": f"it can't be reached ({type(error).__name__})"}
