"""Several topics in one answer of server-sent events, from the same router as the WebSocket's.

The id of each event holds the place in every topic, so ``Last-Event-ID`` alone resumes all of them
at any replica.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import orjson

from mesh.contracts.events import Cursor, Event
from mesh.core.errors import InvalidInput, Unauthenticated, Unavailable
from mesh.core.metrics import STREAM_DELIVERED
from mesh.streams.filters import Filter
from mesh.streams.mux import Delivery
from mesh.streams.resume import Composite
from serve_apps.gateway.context import RequestContext
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.sse import HEARTBEAT, RETRY
from serve_apps.gateway.streaming import DRAINING, deliveries, subscribed
from serve_apps.gateway.task_events import remembered
from serve_apps.gateway.topics import Topic, Topics, is_over, start_of

_delivered = STREAM_DELIVERED.labels("sse")


@dataclass(frozen=True, slots=True)
class Start:
    """The topics of one answer and where each begins."""

    topics: tuple[Topic, ...]
    places: tuple[Cursor, ...]
    over: tuple[bool, ...]
    """Of which topics the reader has seen the end."""


async def open_topics(
    gateway: Gateway, topics: Topics, context: RequestContext, names: Sequence[str]
) -> Start:
    """Authorise the topics and find their places. Raises InvalidInput, Forbidden, NotFound."""
    limit = gateway.settings.streams.event_topics
    if not 0 < len(names) <= limit or len(set(names)) != len(names):
        raise InvalidInput(
            f"1 to {limit} different topics, with commas between", {"field": "query.topics"}
        )
    opened = [await topics.open(name, context.who) for name in names]
    last = context.headers.get(b"last-event-id")
    if last:
        places = Composite(names).read(last.decode("latin-1"))
    else:
        places = [await start_of(gateway.streams, topic, None) for topic in opened]
    over = [await is_over(gateway.streams, t, p) for t, p in zip(opened, places, strict=True)]
    return Start(tuple(opened), tuple(places), tuple(over))


class _Frames:
    """Writes events with the place in every topic as their id."""

    def __init__(self, gateway: Gateway, start: Start) -> None:
        self._gateway = gateway
        self._index = {topic.name: number for number, topic in enumerate(start.topics)}
        self._heads = [b'{"topic":%s,' % orjson.dumps(name) for name in self._index]
        self._composite = Composite(list(self._index))
        self._places = list(start.places)

    def id(self) -> bytes:
        return self._composite.write(self._places).encode()

    def number(self, delivery: Delivery) -> int:
        return self._index[delivery.subscription.topic]

    def frames(self, delivery: Delivery) -> bytes:
        number = self.number(delivery)
        head = self._heads[number]
        frames: list[bytes] = []
        if delivery.gap is not None:
            body = orjson.dumps({"after": str(delivery.gap)})
            frames.append(b"event: gap\ndata: %s%s\n\n" % (head, body[1:]))
        for event, run in zip(delivery.events, delivery.runs, strict=True):
            self._places[number] = event.cursor
            wire = self._gateway.frames.wire(event, run)
            frames.append(
                b"id: %s\nevent: %s\ndata: %s%s\n\n"
                % (self.id(), event.type.value.encode(), head, wire[1:].encode())
            )
        return b"".join(frames)


async def topic_frames(
    gateway: Gateway, context: RequestContext, start: Start, chosen: Filter
) -> AsyncIterator[bytes]:
    """Frames until every topic has ended (those of rooms and workspaces never do)."""
    writer = _Frames(gateway, start)
    heartbeat_s = gateway.settings.gateway.sse_heartbeat_s
    async with subscribed(gateway, merging=True) as (mux, bell):
        for topic, place, over in zip(start.topics, start.places, start.over, strict=True):
            if not over:
                mux.add(topic.name, topic.name, topic.stream, place, chosen)
        # A first id, so that a reader who is cut before anything happened resumes from here.
        yield RETRY + b"id: %s\nevent: stream.open\ndata: {}\n\n" % writer.id()
        async with deliveries(gateway, mux, bell, heartbeat_s) as found:
            async for delivery in found:
                if delivery is None:
                    await still_allowed(gateway, context)
                    yield HEARTBEAT
                    continue
                if delivery.missing:
                    topic = start.topics[writer.number(delivery)]
                    event = await _look_up(gateway, context, topic, delivery.subscription.cursor)
                    if event is None:
                        continue
                    mux.remove(delivery.subscription.id)
                    delivery.events, delivery.runs = [event], [1]
                _delivered.inc(len(delivery.events))
                if frames := writer.frames(delivery):
                    yield frames
    if gateway.live.draining:
        yield DRAINING


async def _look_up(
    gateway: Gateway, context: RequestContext, topic: Topic, after: Cursor
) -> Event | None:
    """The end of a task whose stream has expired, from its row; None: it has not ended, or the
    database is away (the topic is looked at again)."""
    if topic.task_id is None:
        return None
    try:
        row = await gateway.tasks.get(topic.task_id, context.who.workspace_id)
    except Unavailable:
        return None
    return remembered(row, after) if row.state.ended else None


async def still_allowed(gateway: Gateway, context: RequestContext) -> None:
    """Raises Unauthenticated once the credential has expired or was revoked."""
    expires = context.who.expires_at
    if expires is not None and gateway.clock.now() >= expires:
        raise Unauthenticated("The credential has expired")
    if context.recheck is not None:
        await context.recheck()
