"""The agent worker's Ray shell: a detached, named actor around ``WorkerLoop``."""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.exceptions import RayError

from actors.context import ProcessContext
from actors.host import ActorHost
from actors.names import COORDINATOR, NAMESPACE
from actors.nudges import NudgeListener
from actors.task_run import RunOptions, RunParts
from actors.worker_loop import WorkerLoop, WorkerOptions
from mesh.agents import AgentOptions, run_task
from mesh.contracts.mesh import WorkerInfo
from mesh.core.errors import Unavailable
from mesh.core.settings import Settings
from mesh.llm.engine import LLMClient


def worker_options(settings: Settings) -> WorkerOptions:
    agents = settings.agents
    return WorkerOptions(slots=agents.slots, lease_s=agents.lease_s, heartbeat_s=agents.heartbeat_s)


def run_options(settings: Settings) -> RunOptions:
    return RunOptions(
        agents=AgentOptions(max_tries=settings.agents.max_tries, default_model=settings.llm.model)
    )


class CoordinatorLink:
    """Heartbeats to the coordinator, whichever incarnation of it lives."""

    def __init__(self, namespace: str = NAMESPACE) -> None:
        self._namespace = namespace
        self._handle: Any = None

    async def send(self, info: WorkerInfo) -> None:
        """Raises Unavailable when there is no coordinator now."""
        try:
            if self._handle is None:
                # A blocking call to Ray's GCS.
                self._handle = await asyncio.to_thread(ray.get_actor, COORDINATOR, self._namespace)
            await self._handle.heartbeat.remote(info)
        except (RayError, ValueError) as error:
            self._handle = None  # another actor may have the name by now
            raise Unavailable("There is no coordinator now.") from error


class AgentWorker(ActorHost):
    """Made by ``actors.reconcile``. ``llm``: what agents call; None: the LLM service on Serve."""

    def __init__(
        self,
        name: str,
        settings_json: str,
        llm: LLMClient | None = None,
        namespace: str = NAMESPACE,
    ) -> None:
        self._worker: WorkerLoop | None = None
        self._llm = llm
        self._namespace = namespace
        super().__init__(name, settings_json)

    async def drain(self, timeout_s: float) -> int:
        """Claim nothing more, wait for what runs; gives how many tasks were left to others."""
        future = asyncio.run_coroutine_threadsafe(self._drain(timeout_s), self._loop)
        return await asyncio.wrap_future(future)

    async def _drain(self, timeout_s: float) -> int:
        return 0 if self._worker is None else await self._worker.drain(timeout_s)

    async def _run(self, context: ProcessContext) -> None:
        worker = WorkerLoop(
            self.name,
            RunParts(
                worker=self.name,
                tasks=context.tasks,
                streams=context.streams,
                llm=self._llm or await _served_llm(context),
                runner=run_task,
                clock=context.clock,
                options=run_options(context.settings),
            ),
            worker_options(context.settings),
            heartbeat=CoordinatorLink(self._namespace).send,
            node=ray.get_runtime_context().get_node_id(),
        )
        listener = NudgeListener(
            context.redis,
            self.name,
            on_work=worker.work_is_there,
            on_offer=worker.offer,
            on_cancel=worker.cancel_requested,
            clock=context.clock,
        )
        self._worker = worker
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run())
            group.create_task(listener.run())

    def _unhealthy(self) -> str | None:
        return self._worker.unhealthy() if self._worker else "it is starting"

    def _statistics(self) -> dict[str, int | float]:
        return self._worker.statistics() if self._worker else {}


async def _served_llm(context: ProcessContext) -> LLMClient:
    # Imported here: Serve costs memory that a worker with another client need not pay.
    from actors.llm_client import open_models

    return await open_models(context)
