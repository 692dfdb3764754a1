"""Bring the detached actors into line with the settings, at start-up and whenever asked.

Detached actors outlive the driver that made them. What runs with the same configuration and
release is adopted as it is, running tasks and all; what differs or is not wanted is drained and
ended; what is missing is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util import list_named_actors

from actors.agent_worker import AgentWorker
from actors.coordinator import Coordinator
from actors.health import check_actor
from actors.host import config_hash
from actors.lookup import CONTROL, describe, find_actor
from actors.memory_host import MemoryHost
from actors.names import (
    COORDINATOR_PREFIX,
    MEMORY_HOST_PREFIX,
    NAMESPACE,
    TRUST_HOST_PREFIX,
    WORKER_PREFIX,
    coordinator,
    memory_host,
    trust_host,
    worker,
)
from actors.trust_host import TrustHost
from mesh.core.logging import get_logger
from mesh.core.settings import Settings, settings_to_json
from mesh.llm.engine import LLMClient

log = get_logger("reconcile")

_CALL_S = 5.0
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class ReconcileOptions:
    """How actors are made and ended."""

    namespace: str = NAMESPACE
    drain_s: float = 10.0
    """How long a worker that has to go may take for its running tasks; others resume them."""
    ready_s: float = 30.0
    """How long to wait for the actors to be healthy; 0: not at all."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables for the actors' processes."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Ray resources that a node must offer to host them."""


@dataclass(frozen=True, slots=True)
class ReconcileReport:
    """Names of actors, and why those that are not healthy yet are not."""

    adopted: tuple[str, ...]
    created: tuple[str, ...]
    ended: tuple[str, ...]
    unhealthy: dict[str, str]


async def reconcile(
    settings: Settings,
    options: ReconcileOptions | None = None,
    *,
    llm: LLMClient | None = None,
) -> ReconcileReport:
    """Needs an initialised Ray. ``llm``: given to the workers instead of the LLM service on Serve
    (it is pickled). Safe to run again at any time; two at once may make an actor only once."""
    options = options or ReconcileOptions()
    config = config_hash(settings)
    agents = settings.agents
    wanted = [
        *(coordinator(shard) for shard in range(agents.coordinators)),
        *(worker(index) for index in range(agents.workers)),
        *(memory_host(index) for index in range(settings.memory.hosts)),
        *(trust_host(index) for index in range(settings.trust.hosts)),
    ]
    adopted: list[str] = []
    ended: list[str] = []

    async def look(name: str) -> None:
        handle = await find_actor(name, options.namespace)
        if handle is None:
            return
        if name in wanted and (await describe(handle)).get("config") == config:
            adopted.append(name)
        else:
            await _end(name, handle, options)
            ended.append(name)

    running = [n for n in await _named(options.namespace) if _is_ours(n)]
    await asyncio.gather(*(look(name) for name in running))
    created = [name for name in wanted if name not in adopted]
    for name in created:
        await asyncio.to_thread(_create, name, settings, options, llm)
    unhealthy = await _await_health(wanted, options)
    log.info("reconciled", adopted=adopted, created=created, ended=ended, unhealthy=unhealthy)
    return ReconcileReport(tuple(sorted(adopted)), tuple(created), tuple(sorted(ended)), unhealthy)


async def end_all(options: ReconcileOptions | None = None) -> tuple[str, ...]:
    """Drain and end every actor of ours: workers first. Gives their names."""
    options = options or ReconcileOptions()
    names = [n for n in await _named(options.namespace) if _is_ours(n)]
    workers = [name for name in names if _is_worker(name)]
    for group in (workers, [name for name in names if name not in workers]):
        handles = {name: await find_actor(name, options.namespace) for name in group}
        await asyncio.gather(
            *(_end(name, handle, options) for name, handle in handles.items() if handle)
        )
    return tuple(sorted(names))


def _is_worker(name: str) -> bool:
    return name.startswith(WORKER_PREFIX)


def _is_ours(name: str) -> bool:
    # "coordinator" alone is an earlier release's.
    prefixes = (WORKER_PREFIX, COORDINATOR_PREFIX, MEMORY_HOST_PREFIX, TRUST_HOST_PREFIX)
    return name.startswith(prefixes) or name == "coordinator"


def _is_memory(name: str) -> bool:
    return name.startswith(MEMORY_HOST_PREFIX)


def _is_trust(name: str) -> bool:
    return name.startswith(TRUST_HOST_PREFIX)


async def _named(namespace: str) -> list[str]:
    found: list[dict[str, str]] = await asyncio.to_thread(list_named_actors, True)
    return [actor["name"] for actor in found if actor["namespace"] == namespace]


async def _end(name: str, handle: Any, options: ReconcileOptions) -> None:
    """In order if it answers, else the hard way: its leases run out by themselves."""
    try:
        async with asyncio.timeout(options.drain_s + _CALL_S):
            if _is_worker(name):
                await handle.drain.options(concurrency_group=CONTROL).remote(options.drain_s)
            await handle.stop.options(concurrency_group=CONTROL).remote()
    except (TimeoutError, RayError, AttributeError) as error:
        log.warning("actor.ends_hard", actor=name, error=type(error).__name__)
    await asyncio.to_thread(ray.kill, handle, no_restart=True)
    # The name is free only when Ray has taken notice.
    for _ in range(100):
        if await find_actor(name, options.namespace) is None:
            return
        await asyncio.sleep(0.05)


def _create(
    name: str, settings: Settings, options: ReconcileOptions, llm: LLMClient | None
) -> None:
    settings_json = settings_to_json(settings)
    extra: dict[str, Any] = {}
    env = dict(options.env)
    if _is_memory(name):
        env = _ONE_THREAD | env  # many searches side by side, each by a thread of its own
    if env:
        extra["runtime_env"] = {"env_vars": env}
    if options.resources:
        extra["resources"] = dict(options.resources)
    cls: type = Coordinator
    if _is_worker(name):
        cls = AgentWorker
    elif _is_memory(name):
        cls = MemoryHost
    elif _is_trust(name):
        cls = TrustHost
    shell: Any = ray.remote(concurrency_groups={CONTROL: 16})(cls).options(
        name=name,
        namespace=options.namespace,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=0,
        max_concurrency=256,
        **extra,
    )
    if _is_worker(name):
        shell.remote(name, settings_json, llm, options.namespace)
    elif _is_memory(name):
        shell.remote(name, settings_json, options.namespace)
    elif _is_trust(name):
        shell.remote(name, settings_json)
    else:
        shell.remote(int(name.removeprefix(COORDINATOR_PREFIX)), settings_json)


async def _await_health(names: list[str], options: ReconcileOptions) -> dict[str, str]:
    """Why actors are not healthy after ``ready_s``, by name; empty: all are."""
    loop = asyncio.get_running_loop()
    limit = loop.time() + options.ready_s
    while True:
        checks = await asyncio.gather(*(check_actor(n, namespace=options.namespace) for n in names))
        unhealthy = {c.name: c.reason or "unknown" for c in checks if not c.healthy}
        if not unhealthy or loop.time() >= limit:
            return unhealthy
        await asyncio.sleep(0.2)
