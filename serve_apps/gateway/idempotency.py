"""Idempotency-Key: the first good answer of a write is kept for a day and given again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from starlette.responses import Response

from mesh.core.logging import get_logger
from serve_apps.gateway.context import RequestContext
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.sse import EventStream

REPLAYED = {"idempotency-replayed": "true"}
MAX_KEPT_BYTES = 4_000_000
"""A longer answer is not kept: its key is free again."""
_MARGIN_S = 10.0

_log = get_logger("gateway.idempotency")


async def once(
    gateway: Gateway, context: RequestContext, answer: Callable[[], Awaitable[Response]]
) -> Response:
    """``answer()`` once for each (workspace, route, key); without a key, ``answer()``.

    Only successes are kept: after an error the same key may be tried again. Raises Conflict while
    the first request runs, IdempotencyMismatch when it asked for something else.
    """
    key = context.idempotency_key
    if key is None:
        return await answer()
    workspace, route = context.who.workspace_id, context.route
    seal_for = f"{workspace}\n{route}\n{key}".encode()
    stored = await gateway.idempotency.begin(
        workspace, route, key, context.request_hash(), context.timeout_s + _MARGIN_S
    )
    if stored is not None:
        return Response(
            gateway.sealer.open(stored.body, seal_for),
            stored.status,
            headers={**REPLAYED, "content-type": stored.content_type},
        )

    async def keep(status: int, content_type: str, body: bytes) -> None:
        sealed = gateway.sealer.seal(body, seal_for)
        try:
            await gateway.idempotency.complete(
                workspace, route, key, status=status, content_type=content_type, body=sealed
            )
        except Exception as error:  # the work is done: its caller gets the answer all the same
            _log.warning("idempotency.complete", error=type(error).__name__)

    async def free() -> None:
        try:
            await gateway.idempotency.abandon(workspace, route, key)
        except Exception as error:  # the lock runs out by itself
            _log.warning("idempotency.abandon", error=type(error).__name__)

    try:
        response = await answer()
    except BaseException:
        await _whole(free())
        raise
    if isinstance(response, EventStream):
        _keep_stream(response, keep, free)
    elif response.status_code < 300:
        await _whole(
            keep(response.status_code, response.headers["content-type"], bytes(response.body))
        )
    else:
        await _whole(free())
    return response


def _keep_stream(
    response: EventStream,
    keep: Callable[[int, str, bytes], Awaitable[None]],
    free: Callable[[], Awaitable[None]],
) -> None:
    """Gather the frames as they pass; kept only when the last one was sent and all went well."""
    frames: list[bytes] = []
    size = 0

    async def gather(source: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        nonlocal size
        try:
            async for frame in source:
                size += len(frame)
                if size <= MAX_KEPT_BYTES:
                    frames.append(frame)
                yield frame
        finally:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

    async def end(complete: bool) -> None:
        if complete and not response.failed and size <= MAX_KEPT_BYTES:
            await _whole(keep(200, response.headers["content-type"], b"".join(frames)))
        else:
            await _whole(free())

    response.wrap(gather, end)


async def _whole(work: Awaitable[None]) -> None:
    """Not given up half-way when the request is cancelled."""
    await asyncio.shield(asyncio.ensure_future(work))
