"""Topics as callers spell them, and who may listen to or speak in which.

========================= ===================================================== ==============
topic                     what is heard                                         scope
========================= ===================================================== ==============
``task:{id}``             all events of a task, to its end                      tasks:read
``workspace:tasks``       the lifecycle of every task of the workspace          tasks:read
``trust:{id}``            what becomes of a batch and its certificates          trust:read
``workspace:trust``       the same of every batch of the workspace              trust:read
``room:{name}``           what is said in a room                                streams:read
``room:{name}.*``         what is said in that room and all rooms below it      streams:read
========================= ===================================================== ==============

The caller's workspace is part of every stream's name, so another's is *not found*.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from mesh.contracts.events import Cursor
from mesh.core.errors import InvalidInput, NotFound
from mesh.security import scopes
from mesh.security.principal import Principal
from mesh.streams.log import START, StreamLog
from mesh.streams.names import (
    ROOM,
    group_stream,
    groups_of,
    room_stream,
    trust_overview,
    trust_stream,
    workspace_stream,
)
from mesh.trust.client import TrustClient
from serve_apps.gateway.deps import TaskStore

_OWNERS = 10_000

_LOOKUP_S = 10.0

HELP = "task:{id}, workspace:tasks, trust:{id}, workspace:trust, room:{name} or room:{name}.*"


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic that its caller may listen to."""

    name: str
    kind: Literal["task", "workspace", "trust", "room", "group"]
    stream: str
    task_id: UUID | None = None


class Topics:
    """Authorises topics. Whose a task or batch is never changes, so it is remembered:
    reconnecting clients then cost the database nothing. ``trust``: gives who knows the batches."""

    def __init__(
        self, tasks: TaskStore, trust: Callable[[], TrustClient | None] = lambda: None
    ) -> None:
        self._tasks = tasks
        self._trust = trust
        self._owners: OrderedDict[UUID, UUID] = OrderedDict()

    async def open(self, name: str, principal: Principal) -> Topic:
        """Raises InvalidInput (no topic is spelt so), Forbidden, NotFound."""
        principal.require(scopes.STREAMS_READ)
        kind, colon, rest = name.partition(":")
        if colon and kind == "task":
            principal.require(scopes.TASKS_READ)
            return await self._task(name, rest, principal.workspace_id)
        if name == "workspace:tasks":
            principal.require(scopes.TASKS_READ)
            return Topic(name, "workspace", workspace_stream(principal.workspace_id))
        if colon and kind == "trust":
            principal.require(scopes.TRUST_READ)
            return await self._batch(name, rest, principal.workspace_id)
        if name == "workspace:trust":
            principal.require(scopes.TRUST_READ)
            return Topic(name, "trust", trust_overview(principal.workspace_id))
        if colon and kind == "room":
            group = rest.removesuffix(".*")
            if ROOM.fullmatch(group):
                if group != rest:
                    return Topic(name, "group", group_stream(principal.workspace_id, group))
                return Topic(name, "room", room_stream(principal.workspace_id, rest))
        raise InvalidInput(f"There is no such topic; topics are {HELP}", {"field": "topic"})

    async def _task(self, name: str, text: str, workspace: UUID) -> Topic:
        try:
            task_id = UUID(text)
        except ValueError:
            raise InvalidInput("A task's topic is task:{its id}", {"field": "topic"}) from None
        if self._owners.get(task_id) != workspace:
            row = await self._tasks.get(task_id, workspace)
            self._remember(task_id, row.workspace_id)
        return Topic(name, "task", str(task_id), task_id)

    async def _batch(self, name: str, text: str, workspace: UUID) -> Topic:
        try:
            batch = UUID(text)
        except ValueError:
            raise InvalidInput("A batch's topic is trust:{its id}", {"field": "topic"}) from None
        trust = self._trust()
        if trust is None:
            raise NotFound("There is no such batch.")
        if self._owners.get(batch) != workspace:
            await trust.batch(workspace, batch, timeout_s=_LOOKUP_S)
            self._remember(batch, workspace)
        return Topic(name, "trust", trust_stream(batch))

    def _remember(self, identity: UUID, workspace: UUID) -> None:
        self._owners[identity] = workspace
        if len(self._owners) > _OWNERS:
            self._owners.popitem(last=False)


def room_streams(room: str, principal: Principal) -> list[str]:
    """Where a message to a room is appended: the room first, then every group that hears it.

    Raises Forbidden, and InvalidInput for what is no room's name.
    """
    principal.require(scopes.STREAMS_WRITE)
    if not ROOM.fullmatch(room):
        raise InvalidInput(
            "A room's name is up to four words of a-z, 0-9, _ and - with dots between",
            {"field": "topic"},
        )
    workspace = principal.workspace_id
    groups = [group_stream(workspace, group) for group in groups_of(room)]
    return [room_stream(workspace, room), *groups]


def room_of(topic: str) -> str:
    """The room that a topic for publishing names. Raises InvalidInput."""
    kind, _, room = topic.partition(":")
    if kind != "room":
        raise InvalidInput("Messages are published to room:{name}", {"field": "topic"})
    return room


async def is_over(streams: StreamLog, topic: Topic, after: Cursor) -> bool:
    """Whether a reader at ``after`` has seen the end of it. Raises Unavailable."""
    if topic.kind != "task" or after == START:
        return False
    last = await streams.last(topic.stream)
    return last is not None and last.type.terminal and last.cursor <= after


async def start_of(streams: StreamLog, topic: Topic, after: str | None) -> Cursor:
    """Where a subscription begins: ``start``, ``now`` or a cursor; None: the start of a task and
    now for everything else. Raises InvalidInput, Unavailable."""
    if after is None:
        after = "start" if topic.kind == "task" else "now"
    if after == "start":
        return START
    if after == "now":
        last = await streams.last(topic.stream)
        return START if last is None else last.cursor
    try:
        return Cursor.parse(after)
    except ValueError:
        raise InvalidInput("must be start, now or like 3-17", {"field": "after"}) from None
