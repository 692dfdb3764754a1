"""Settings of the stream log and of those who read it: see ``docs/streams.md``."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from mesh.core.settings_section import Section


class StreamSettings(Section):
    coalesce_ms: float = Field(default=15.0, ge=0, le=1_000)
    """How long a step's tokens wait for company …"""
    coalesce_most_ms: float = Field(default=100.0, ge=0, le=5_000)
    """… and at most, as the event loop's lag grows; live readers under load likewise."""
    max_events: int = Field(default=10_000, ge=100)
    """Per stream; older ones go."""
    ttl_s: int = Field(default=86_400, ge=60)
    """After the last event."""
    socket_subscriptions: int = Field(default=256, ge=1, le=2_000)
    """Of one WebSocket."""
    socket_message_bytes: int = Field(default=65_536, ge=1_024, le=1_048_576)
    """Of one message from a client."""
    socket_messages_per_s: float = Field(default=50.0, gt=0)
    """From a client, in the long run; as many as it may have subscriptions may come at once."""
    socket_heartbeat_s: float = Field(default=15.0, gt=0.1, le=600)
    """A WebSocket is pinged so often; a client that is silent for three times as long is gone."""
    socket_slow_s: float = Field(default=30.0, gt=0)
    """A reader that does not catch up for so long is closed with a resume token."""
    socket_auth_s: float = Field(default=5.0, gt=0, le=60)
    """For the first message of a client without an Authorization header."""
    socket_auth_warning_s: float = Field(default=60.0, ge=0)
    """So long before its token expires a client is told."""
    event_topics: int = Field(default=32, ge=1, le=256)
    """Of one multiplexed event stream."""
    room_message_bytes: int = Field(default=16_384, ge=256, le=131_072)
    """Of one message to a room."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.room_message_bytes > self.socket_message_bytes:
            raise ValueError("room_message_bytes must be at most socket_message_bytes")
        return self
