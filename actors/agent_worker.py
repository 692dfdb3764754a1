"""The agent worker's Ray shell: a detached, named actor around ``WorkerLoop``."""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.exceptions import RayError

from actors.agent_services import open_services
from actors.context import ProcessContext
from actors.dispatch import Dispatcher
from actors.host import ActorHost
from actors.names import NAMESPACE, coordinator
from actors.nudges import NudgeListener
from actors.task_run import RunOptions, RunParts
from actors.waker import Waker
from actors.worker_loop import WorkerLoop, WorkerOptions
from mesh.agents import AgentOptions, run_task
from mesh.agents.activation import ACTIVE
from mesh.agents.registry import registry
from mesh.contracts.mesh import Advice, WorkerInfo
from mesh.contracts.tasks import TaskKind
from mesh.core.errors import Unavailable
from mesh.core.settings import Settings
from mesh.core.settings_llm import AGENTS_ROUTE
from mesh.llm.client import ModelClient
from mesh.llm.engine import LLMClient
from mesh.storage.waits import WaitRepository

_TELL_S = 2.0
"""Longest wait for one shard's answer; others are not held up by it."""


def worker_options(settings: Settings, name: str) -> WorkerOptions:
    agents = settings.agents
    kinds = agents.specialisations.get(name)
    return WorkerOptions(
        slots=agents.slots,
        lease_s=agents.lease_s,
        heartbeat_s=agents.heartbeat_s,
        kinds=None if kinds is None else frozenset(TaskKind(kind) for kind in kinds),
        max_share=agents.max_share,
    )


def run_options(settings: Settings, model: str) -> RunOptions:
    """``model``: of tasks that name none, a route or a model."""
    return RunOptions(agents=AgentOptions(max_tries=settings.agents.max_tries, default_model=model))


class CoordinatorLink:
    """Heartbeats to every coordinator shard, whichever incarnation of it lives."""

    def __init__(self, shards: int, patience_s: float, namespace: str = NAMESPACE) -> None:
        """``patience_s``: how long a heartbeat waits for answers; a shard that is slower, or
        dead, doesn't hold up the others."""
        self._patience_s = patience_s
        self._namespace = namespace
        self._handles: dict[int, Any] = {}
        self._sending: dict[int, asyncio.Task[Advice | None]] = {}
        self._shards = shards

    async def send(self, info: WorkerInfo) -> Advice:
        """What those that answered advise. Raises Unavailable when none did."""
        for shard in range(self._shards):
            if shard not in self._sending:  # one at a time: a dead shard gathers no calls
                task = asyncio.create_task(self._tell(shard, info))
                self._sending[shard] = task
        done, _ = await asyncio.wait(self._sending.values(), timeout=self._patience_s)
        said = []
        for shard, task in list(self._sending.items()):
            if task in done:
                del self._sending[shard]
                if (advice := task.result()) is not None:
                    said.append(advice)
        if not said:
            raise Unavailable("There is no coordinator now.")
        return Advice(
            peers=max(advice.peers for advice in said),
            crowded=any(advice.crowded for advice in said),
        )

    async def _tell(self, shard: int, info: WorkerInfo) -> Advice | None:
        try:
            async with asyncio.timeout(_TELL_S):
                if shard not in self._handles:
                    # A blocking call to Ray's GCS.
                    self._handles[shard] = await asyncio.to_thread(
                        ray.get_actor, coordinator(shard), self._namespace
                    )
                advice: Advice | None = await self._handles[shard].heartbeat.remote(info)
                return advice
        except (RayError, ValueError, TimeoutError):
            self._handles.pop(shard, None)  # another actor may have the name by now
            return None


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
        agents = context.settings.agents
        models = None if self._llm else await _served_llm(context)
        llm = self._llm or models
        assert llm is not None
        waits, graphs = WaitRepository(context.db), registry().graphs()
        worker = WorkerLoop(
            self.name,
            RunParts(
                worker=self.name,
                tasks=context.tasks,
                streams=context.streams,
                llm=llm,
                runner=run_task,
                clock=context.clock,
                # An engine that was handed in knows no routes.
                options=run_options(
                    context.settings,
                    context.settings.llm.model if self._llm else AGENTS_ROUTE,
                ),
                services=await open_services(context, models),
                waits=waits,
                graphs=graphs,
            ),
            worker_options(context.settings, self.name),
            heartbeat=CoordinatorLink(
                agents.coordinators, agents.heartbeat_s / 2, self._namespace
            ).send,
            nudge=Dispatcher(context.redis, shards=agents.coordinators).nudge,
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
        waker = Waker(waits, context.clock, on_woken=worker.work_is_there, graphs=graphs)
        self._worker = worker
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run())
            group.create_task(listener.run())
            group.create_task(waker.run())

    def _unhealthy(self) -> str | None:
        return self._worker.unhealthy() if self._worker else "it is starting"

    def _statistics(self) -> dict[str, int | float]:
        ACTIVE.sweep()  # asked every few seconds: what nobody used for long is let go
        parts = {f"agents_{name}": count for name, count in ACTIVE.statistics().items()}
        return {**(self._worker.statistics() if self._worker else {}), **parts}


async def _served_llm(context: ProcessContext) -> ModelClient:
    # Imported here: Serve costs memory that a worker with another client need not pay.
    from actors.llm_client import open_models

    return await open_models(context)
