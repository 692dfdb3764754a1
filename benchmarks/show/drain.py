"""A gateway replica goes away under its readers: they are told, and go on elsewhere.

Readers of both kinds follow streams that are being written while Serve rolls out the gateway anew
with one replica fewer, and then with as many as before.

    python -m benchmarks.show.drain REPLICAS   (with the environment of the instance's drivers)
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import suppress

from benchmarks.instance import Instance
from benchmarks.show.table import Claim
from benchmarks.stream_readers import Load
from benchmarks.streams import Size, Writers, end_tasks, gateways, log_of, own_tasks, readers_of
from cluster import loopback
from cluster.embedded.ray_head import ray_environment
from cluster.layout import Layout
from mesh.core.settings import SETTINGS_VARIABLE, settings_from_json

SIZE = Size(sse=100, subscriptions=100, per_socket=2, streams=20, rate=5.0)


async def run(instance: Instance) -> list[Claim]:
    tasks = await own_tasks(instance, SIZE.streams)
    replicas = len(gateways(instance))
    load = Load(instance.url, instance.key)
    try:
        async with log_of(instance) as log:
            writers = Writers(log, tasks)
            await writers.begin()
            readers = readers_of(load, tasks, SIZE, "/v1/mesh/tasks/{task}/events")
            await load.open(readers)
            writers.start(SIZE.rate)
            await asyncio.sleep(1.0)
            await set_replicas(instance, replicas - 1)
            await _until(instance, replicas - 1)
            told, moved = load.tally.told, load.tally.connects - load.tally.refused - len(readers)
            await set_replicas(instance, replicas)
            await _until(instance, replicas)
            await writers.finish()
            with suppress(TimeoutError):
                async with asyncio.timeout(30):
                    while not all(stream.ended for stream in load.streams()):  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
        streams = load.streams()
        numbers = sum(writers.numbers[s.name] for s in streams)
        lost = sum(s.lost + writers.numbers[s.name] - s.expected for s in streams)
        doubled = sum(s.doubled for s in streams)
    finally:
        await load.aclose()
        await end_tasks(instance, tasks)
    return [
        Claim(
            f"gateway replicas are replaced under {len(readers)} connections",
            f"{told} hand-overs, {max(0, moved - told)} cut without a word; "
            f"{lost} lost, {doubled} doubled of {numbers:,} tokens",
            "none cut without a word; 0 lost, 0 doubled",
            told > 0 and moved <= told and lost + doubled == 0,
        )
    ]


async def set_replicas(instance: Instance, count: int) -> None:
    """As a new version or a smaller deployment would; returns when Serve has settled."""
    layout = Layout(instance.settings.home)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.show.drain",
        str(count),
        env={**os.environ, **ray_environment(instance.settings, layout)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(90):
        _, errors = await process.communicate()
    if process.returncode != 0:
        raise RuntimeError(errors.decode(errors="replace")[-400:])


async def _until(instance: Instance, count: int) -> None:
    until = time.monotonic() + 60
    while len(gateways(instance)) != count:
        if time.monotonic() > until:
            raise RuntimeError(f"there are {len(gateways(instance))} replicas, not {count}")
        await asyncio.sleep(0.2)


def main() -> None:
    loopback.apply()  # before Ray is imported: as every driver of the instance joins it
    import ray
    from ray import serve

    from actors.names import GATEWAY_APP, NAMESPACE
    from serve_apps.gateway.deployment import build_gateway_app

    settings = settings_from_json(os.environ[SETTINGS_VARIABLE])
    gateway = settings.gateway.model_copy(update={"replicas": int(sys.argv[1])})
    changed = settings.model_copy(update={"gateway": gateway})
    ray.init(
        address=settings.ray.address,
        namespace=NAMESPACE,
        log_to_driver=False,
        configure_logging=False,
    )
    serve.run(build_gateway_app(changed), name=GATEWAY_APP, route_prefix="/")
    # Ray's own exit would wait for what it holds.
    os._exit(0)


if __name__ == "__main__":
    main()
