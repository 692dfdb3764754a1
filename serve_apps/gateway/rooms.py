"""Saying something in a room: the same from a socket and over HTTP."""

from __future__ import annotations

import uuid
from typing import Any

from mesh.contracts.events import Event, EventType
from mesh.core.errors import BodyTooLarge
from mesh.security.principal import Principal
from serve_apps.gateway.answers import dumps
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.topics import room_streams


async def speak(
    gateway: Gateway, principal: Principal, room: str, data: dict[str, Any], key: str | None
) -> Event:
    """Append to the room and to every group that hears it; gives the event in the room.

    Repeated with the same ``key`` by the same caller within ten minutes it appends nothing. Raises
    Forbidden, InvalidInput, BodyTooLarge, Unavailable.
    """
    streams = room_streams(room, principal)
    limit = gateway.settings.streams.room_message_bytes
    if len(dumps(data)) > limit:
        raise BodyTooLarge(f"A message has at most {limit} bytes", {"limit": limit})
    return await gateway.streams.publish(
        streams,
        EventType.ROOM_MESSAGE,
        {"room": room, "sender": principal.subject, "data": data},
        # Without a key of the caller's: ours still keeps a command that Valkey's client sends
        # again after a lost reply from becoming a second message.
        key=f"{principal.subject}:{key}" if key is not None else uuid.uuid4().hex,
    )
