"""The first frames of an attempt, hedged: a second one is started when the first is late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from mesh.llm.routing.attempt import Attempt

Rival = Callable[[Attempt], Attempt | None]
"""Starts a second attempt, or None: no budget, or nobody to ask."""
Judge = Callable[[Attempt, BaseException], None]
"""Puts down what a failed attempt says about its engine."""


async def race(
    attempt: Attempt,
    delay_s: float,
    rival: Rival,
    judge: Judge,
    close: Callable[[Attempt], None],
    may_leave: bool,
) -> tuple[Attempt, bytes]:
    """Whoever has its first frames first, and them. The other is given to ``close``.

    Raises the first attempt's error when both fail; that one is left to the caller to judge and
    close, and so is the first attempt when the caller is cancelled.
    """
    first = asyncio.create_task(attempt.first(may_leave))
    second: asyncio.Task[bytes] | None = None
    other: Attempt | None = None
    won: Attempt | None = None
    try:
        await asyncio.wait({first}, timeout=delay_s)
        if not first.done():
            other = rival(attempt)
        if other is None:
            await asyncio.wait({first})
            won = attempt
            return attempt, first.result()
        second = asyncio.create_task(other.first(may_leave))
        running: set[asyncio.Task[bytes]] = {first, second}
        while running:
            _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            if first.done() and not first.cancelled() and first.exception() is None:
                won = attempt
                return attempt, first.result()
            if second.done() and not second.cancelled() and second.exception() is None:
                won = other
                if first.done() and (error := first.exception()) is not None:
                    judge(attempt, error)
                attempt.state.hedging.observe(_age(attempt))
                return other, second.result()
        if (error := second.exception()) is not None:
            judge(other, error)
        won = attempt  # it is the one whose failure is told
        return attempt, first.result()
    finally:
        for task, one in ((first, attempt), (second, other)):
            if task is None or one is None:
                continue
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # seen
            if one is not won and (won is not None or one is other):
                close(one)


def _age(attempt: Attempt) -> float:
    return asyncio.get_running_loop().time() - attempt.started
