"""What clients say on ``/v1/mesh/ws`` (subprotocol ``maily.v1``), one JSON object per message.

What the server says is in ``docs/streams.md``; its messages are built from parts that are encoded
once for all readers, so they are no models here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from mesh.contracts.base import Contract

VERSION = 1
PROTOCOL = "maily.v1"

Id = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[!-~]+$")]
Topic = Annotated[str, Field(min_length=1, max_length=200)]
Patterns = Annotated[tuple[Annotated[str, Field(max_length=200)], ...], Field(max_length=32)]


class FilterSpec(Contract):
    """Which events of a topic; empty lists: all."""

    types: Patterns = ()
    steps: Patterns = ()


class Auth(Contract):
    """The first message where the handshake had no Authorization header; later: a fresh one."""

    type: Literal["auth"]
    token: str = Field(min_length=1, max_length=4_096, description="A token or an API key")


class Subscribe(Contract):
    type: Literal["subscribe"]
    id: Id
    topic: Topic
    after: str | None = Field(
        default=None,
        max_length=40,
        description="A cursor, `start` or `now`; none: start of a task, now of anything else",
    )
    filter: FilterSpec = FilterSpec()


class Unsubscribe(Contract):
    type: Literal["unsubscribe"]
    id: Id


class Resume(Contract):
    """All subscriptions of a former socket, each after the last event that it was sent."""

    type: Literal["resume"]
    token: str = Field(min_length=1, max_length=65_536)


class Publish(Contract):
    type: Literal["publish"]
    id: Id
    topic: Topic
    data: dict[str, Any]
    key: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description="Of the message: sent again with the same key, it is published once",
    )


class Ping(Contract):
    type: Literal["ping"]
    id: Id | None = None


class Pong(Contract):
    type: Literal["pong"]
    id: Id | None = None


Command = Annotated[
    Auth | Subscribe | Unsubscribe | Resume | Publish | Ping | Pong, Field(discriminator="type")
]
COMMAND: TypeAdapter[Command] = TypeAdapter(Command)


class RoomMessage(Contract):
    """What is said in a room."""

    data: dict[str, Any]
    key: str | None = Field(
        default=None,
        min_length=1,
        max_length=128,
        description="Of the message: sent again with the same key, it is published once",
    )


class Published(Contract):
    """Where a message is in its room."""

    topic: str
    cursor: str
