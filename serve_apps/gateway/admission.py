"""Take a task in, or refuse it at once: the door before the queue.

Refused is what the workspace's queue has no room for, and what surely can't be done by its
deadline. Either way the caller learns when to come back, by what the mesh was measured to drain.
A repeat of a task that was accepted is answered always.
"""

from __future__ import annotations

from uuid import UUID

from actors.places import model_place
from mesh.contracts.memory import Namespace, NamespaceKind
from mesh.contracts.tasks import TaskRequest
from mesh.core import metrics
from mesh.core.errors import Overloaded
from mesh.storage.task_rows import NewTask, TaskRow
from mesh.storage.tasks import OVERLOADED_RETRY_S
from serve_apps.gateway.deps import Gateway


async def create_admitted(
    gateway: Gateway, task: NewTask, deadline_s: float
) -> tuple[TaskRow, bool]:
    """The task, and whether this call made it. ``deadline_s``: seconds from now.

    Raises Overloaded with Retry-After, IdempotencyMismatch and Unavailable.
    """
    limit = gateway.settings.gateway.queue_limit
    try:
        await gateway.dispatch.admit(
            task.workspace_id, task.kind, deadline_s=deadline_s, priority=task.priority
        )
    except Overloaded:
        metrics.OVERLOADED.labels(queue="deadline").inc()
        if task.idempotency_key is None:
            raise
        try:
            return await gateway.tasks.create(task, queue_limit=0)  # only a repeat gets through
        except Overloaded:
            pass
        raise
    try:
        return await gateway.tasks.create(task, queue_limit=limit)
    except Overloaded as error:
        metrics.OVERLOADED.labels(queue="tasks").inc()
        error.retry_after_s = await gateway.dispatch.retry_after_s(
            task.workspace_id, limit, OVERLOADED_RETRY_S
        )
        raise


def wants(gateway: Gateway, workspace_id: UUID, request: TaskRequest) -> list[str]:
    """Places that the task would like to be near: its model, and its workspace's memory."""
    places = [model_place(request.model or gateway.settings.llm.model)]
    if request.use_memory and gateway.memory is not None:
        brand = Namespace(kind=NamespaceKind.WORKSPACE)
        places.append(gateway.memory.place_of(workspace_id, brand))
    return places
