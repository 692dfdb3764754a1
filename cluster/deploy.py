"""Put the runtime's own parts onto Ray: schema, first key, Serve applications, agents.

Run by the supervisor as ``python -m cluster.deploy``, beside the services' start, so that imports
take no time of their own. It waits for each service that it needs, says what it does as JSON
lines on standard output (``{"part", "phase", "detail"}``) and ends with 0 once the gateway is
ready. Running it again on a living cluster adopts what is there.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import httpx

from actors.names import GATEWAY_APP, LLM_APP, NAMESPACE, engine_deployment
from cluster import loopback
from cluster.layout import Layout, write_private
from cluster.state import Phase
from mesh.core.settings import SETTINGS_VARIABLE, Settings, settings_from_json

WAIT_FOR_SERVICES_S = 120.0
WAIT_FOR_APPLICATIONS_S = 240.0
FIRST_KEY = "first key"
DEFAULT_WORKSPACE = "default"

_ROOT = str(Path(__file__).resolve().parents[1])

Say = Callable[[str, Phase, str], None]


def say(part: str, phase: Phase, detail: str = "") -> None:
    print(json.dumps({"part": part, "phase": phase, "detail": detail}), flush=True)


async def deploy(settings: Settings, layout: Layout) -> None:
    """Everything, concurrently where nothing waits for another. Raises what went wrong."""
    database = asyncio.create_task(_prepare_database(settings, layout))
    cluster = asyncio.create_task(asyncio.to_thread(_connect, settings))
    try:
        await asyncio.gather(database, cluster)
        # The replicas take longest (models are loaded), so their processes are asked for first.
        submitted = asyncio.Event()
        submit = partial(asyncio.get_running_loop().call_soon_threadsafe, submitted.set)
        applications = asyncio.create_task(asyncio.to_thread(_run_applications, settings, submit))
        agents = asyncio.create_task(_reconcile_agents(settings, submitted))
        try:
            await asyncio.gather(applications, agents)
            await _deploy_vllm_engines(settings)
        finally:
            agents.cancel()
        await _gateway_answers(settings)
    finally:
        database.cancel()
        cluster.cancel()


async def _prepare_database(settings: Settings, layout: Layout) -> None:
    from mesh.storage.migrate import migrate

    say("database", "starting", "waiting for PostgreSQL")
    dsn = settings.postgres_url
    await _until_postgres(dsn)
    applied = await migrate(dsn)
    await _ensure_first_key(settings, layout)
    say("database", "ready", f"{len(applied)} migrations applied" if applied else "schema is new")


async def _until_postgres(dsn: str) -> None:
    deadline = time.monotonic() + WAIT_FOR_SERVICES_S
    while True:
        try:
            connection = await asyncpg.connect(dsn, timeout=2.0)
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL can't be reached: {error}") from error
            await asyncio.sleep(0.1)
            continue
        await connection.close(timeout=2.0)
        return


async def _ensure_first_key(settings: Settings, layout: Layout) -> None:
    """The workspace ``default`` and a key with every scope, written once to secrets/api-key."""
    from mesh.core.clock import SystemClock
    from mesh.security.keys import KeyService
    from mesh.security.scopes import ALL_SCOPES
    from mesh.storage.pool import Database

    database = await Database.open(settings.postgres_url, max_size=2, application_name="deploy")
    try:
        keys = KeyService(database, SystemClock())
        await keys.ensure_workspace(DEFAULT_WORKSPACE)
        if not layout.api_key.exists():
            made = await keys.create(DEFAULT_WORKSPACE, FIRST_KEY, frozenset(ALL_SCOPES))
            write_private(layout.api_key, made.key + "\n")
    finally:
        await database.aclose()


def _connect(settings: Settings) -> None:
    """Import Ray and our applications, then join the cluster once it listens."""
    say("serve", "starting", "importing")
    loopback.apply()
    import ray

    import serve_apps.gateway.deployment
    import serve_apps.llm.deployment  # noqa: F401  (imported while Ray starts)

    address = settings.ray.address
    assert address is not None
    say("serve", "starting", "waiting for Ray")
    _until_gcs(address)
    ray.init(
        address=address,
        namespace=NAMESPACE,
        log_to_driver=False,
        configure_logging=False,
    )


def _until_gcs(address: str) -> None:
    import socket

    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + WAIT_FOR_SERVICES_S
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=2.0).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise RuntimeError(f"Ray can't be reached at {address}: {error}") from error
            time.sleep(0.1)
        else:
            return


async def _reconcile_agents(settings: Settings, after: asyncio.Event) -> None:
    await after.wait()
    from actors.reconcile import reconcile

    say("agents", "starting", "coordinator and workers")
    report = await reconcile(settings)
    say("agents", "ready", str(report))


def _run_applications(settings: Settings, submitted: Callable[[], object]) -> None:
    from ray import serve
    from ray.exceptions import RayActorError
    from ray.serve.config import HTTPOptions

    from serve_apps.gateway.deployment import build_gateway_app
    from serve_apps.llm.deployment import build_llm_app

    say("serve", "starting", "controller and ingress")
    options = HTTPOptions(
        host=settings.gateway.host,
        port=settings.gateway.port,
        request_timeout_s=None,  # the gateway keeps its own deadlines
    )
    # serve.start returns when the ingress is ready. Replicas need not wait for that: they are
    # deployed as soon as there is a controller.
    with ThreadPoolExecutor(max_workers=1) as pool:
        ingress = pool.submit(serve.start, http_options=options)
        _until_controller(ingress)
        for part in ("llm", "embedder", "gateway"):
            say(part, "starting", "")
        serve.run_many(
            [
                serve.RunTarget(build_llm_app(settings), name=LLM_APP, route_prefix=None),
                serve.RunTarget(build_gateway_app(settings), name=GATEWAY_APP, route_prefix="/"),
            ],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )
        submitted()
        try:
            ingress.result()
        except RayActorError as error:
            # Serve replaced an ingress that was slow to start; whether the new one serves is
            # asked through it, at the end.
            say("serve", "starting", f"the ingress was replaced: {error}"[:300])
    say("serve", "ready", "HAProxy" if settings.gateway.haproxy else "Serve's proxy")
    _until_running(serve)


async def _deploy_vllm_engines(settings: Settings) -> None:
    """Each by a driver of its own, in the environment that holds vLLM."""
    for name, engine in settings.llm.engine_table().items():
        if engine.kind != "vllm":
            continue
        part = engine_deployment(name).lower()
        say(part, "starting", "handing vLLM to Serve")
        driver = await asyncio.create_subprocess_exec(
            str(engine.vllm.python or sys.executable),
            *("-m", "cluster.deploy_vllm", name),
            env={**os.environ, "PYTHONPATH": _ROOT},
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await driver.communicate()
        sys.stderr.buffer.write(errors)
        if driver.returncode != 0:
            raise RuntimeError(f"{part}: {_last_line(errors.decode(errors='replace'))}")
        say(part, "ready", "Serve has it; replicas load their model")


def _until_controller(starting: Future[None]) -> None:
    import ray
    from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE

    while not starting.done():
        try:
            ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        except ValueError:  # not yet
            time.sleep(0.05)
        else:
            return
    starting.result()


def _until_running(serve: Any) -> None:
    """Follow Serve's status until each deployment is healthy, saying each once."""
    told: dict[str, str] = {}
    deadline = time.monotonic() + WAIT_FOR_APPLICATIONS_S
    while True:
        applications = serve.status().applications
        running = 0
        for name in (LLM_APP, GATEWAY_APP):
            application = applications.get(name)
            if application is None:
                continue
            for deployment, state in application.deployments.items():
                # LLM, LLM-name, Embedder → llm, llm-name, embedder
                part = "gateway" if name == GATEWAY_APP else deployment.lower()
                phase = _phase_of(str(state.status.value))
                line = f"{phase} {state.message}"
                if told.get(part) != line:
                    told[part] = line
                    say(part, phase, str(state.message)[-500:])
            status = str(application.status.value)
            if status == "DEPLOY_FAILED":
                causes = [_last_line(d.message) for d in application.deployments.values()]
                why = "; ".join(cause for cause in causes if cause) or application.message
                raise RuntimeError(f"{name} could not be deployed: {why}")
            running += status == "RUNNING"
        if running == 2:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"not running after {WAIT_FOR_APPLICATIONS_S:.0f} s: {told}")
        time.sleep(0.1)


def _last_line(message: object) -> str:
    """Of a traceback: the exception itself."""
    lines = [line.strip() for line in str(message).splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _brief(error: BaseException) -> str:
    """The first and the last line: an error that crossed processes carries a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " … ".join(dict.fromkeys(line[:300] for line in (lines[:1] + lines[-1:])))


def _phase_of(status: str) -> Phase:
    match status:
        case "HEALTHY":
            return "ready"
        case "DEPLOY_FAILED":
            return "failed"
        case "UNHEALTHY":
            return "restarting"
        case _:
            return "starting"


async def _gateway_answers(settings: Settings) -> None:
    """Through the ingress, as clients come."""
    say("haproxy" if settings.gateway.haproxy else "proxy", "starting", "")
    url = f"{settings.gateway_url}/readyz"
    deadline = time.monotonic() + WAIT_FOR_SERVICES_S
    async with httpx.AsyncClient(timeout=3.0, trust_env=False) as client:
        while True:
            try:
                response = await client.get(url)
                problem = f"{response.status_code} {response.text[:300]}"
                if response.status_code == 200:
                    break
            except httpx.HTTPError as error:
                problem = f"{type(error).__name__}: {error}"
            if time.monotonic() > deadline:
                raise RuntimeError(f"the gateway is not ready: {problem}")
            await asyncio.sleep(0.1)
    say("haproxy" if settings.gateway.haproxy else "proxy", "ready", settings.gateway_url)


def main() -> None:
    settings = settings_from_json(os.environ[SETTINGS_VARIABLE])
    try:
        asyncio.run(deploy(settings, Layout(settings.home)))
    except Exception as error:
        traceback.print_exc()
        say("serve", "failed", f"{type(error).__name__}: {_brief(error)}")
        sys.exit(1)
    # Ray's own exit would wait for what it holds; detached actors and Serve live on regardless.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
