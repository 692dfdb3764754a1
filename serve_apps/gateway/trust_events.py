"""A batch's events: first how things are, then what changes. The stream never ends by itself, for
a certificate may be revoked long after its batch is final."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import UUID

from mesh.contracts.events import Cursor
from mesh.core.metrics import STREAM_DELIVERED
from mesh.streams.log import START
from mesh.streams.names import trust_stream
from mesh.trust.client import TrustClient
from serve_apps.gateway.context import RequestContext
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.event_streams import still_allowed
from serve_apps.gateway.sse import HEARTBEAT, RETRY
from serve_apps.gateway.streaming import DRAINING, deliveries, subscribed

_delivered = STREAM_DELIVERED.labels("sse")


async def batch_frames(
    gateway: Gateway, trust: TrustClient, context: RequestContext, batch: UUID, after: Cursor | None
) -> AsyncIterator[bytes]:
    """``after``: what the reader has seen; None: nothing, it is told how things are.

    It is told so again where events were trimmed away that it has not seen. A change may come
    twice, in the snapshot and as an event (or after a crash of the writer): ``change`` grows.
    """
    stream = trust_stream(batch)
    workspace, timeout_s = context.who.workspace_id, context.timeout_s
    heartbeat_s = gateway.settings.gateway.sse_heartbeat_s

    async def snapshot(place: Cursor) -> bytes:
        view = await trust.batch(workspace, batch, timeout_s=timeout_s)
        body = view.model_dump_json().encode()
        return b'id: %s\nevent: snapshot\ndata: {"batch":%s}\n\n' % (str(place).encode(), body)

    last = await gateway.streams.last(stream)
    newest = START if last is None else last.cursor
    # A cursor from beyond the newest event is of a stream that has expired meanwhile.
    fresh = after is None or after > newest
    place = newest if after is None or fresh else after
    async with subscribed(gateway, merging=False) as (mux, bell):
        mux.add(stream, stream, stream, place)
        yield RETRY
        if fresh:
            yield await snapshot(place)
        async with deliveries(gateway, mux, bell, heartbeat_s) as found:
            async for delivery in found:
                if delivery is None:
                    await still_allowed(gateway, context)
                    yield HEARTBEAT
                    continue
                if delivery.gap is not None:
                    yield await snapshot(delivery.gap)
                if delivery.events:
                    _delivered.inc(len(delivery.events))
                    yield b"".join(map(gateway.frames.sse, delivery.events))
    if gateway.live.draining:
        yield DRAINING
