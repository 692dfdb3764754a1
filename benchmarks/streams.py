"""``make bench-streams``: 1,000 event-stream readers and 1,000 WebSocket subscriptions.

Runs against the running instance (``maily up``): its real gateway replicas behind HAProxy, its
Valkey. Writers append as agents do; all connections are cut at once three times while they write.
Beside it, in the same run, the two usual ways to serve a stream from Redis, bare (no credential,
no proxy): a blocking XREAD per reader, and a subscription per reader.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID

import psutil
import uvloop

from benchmarks.instance import Instance, find_instance
from benchmarks.report import Report, Row, percentile
from benchmarks.stream_readers import Load, Reader, SocketReader, SseReader, Stream
from mesh.contracts.events import EventType
from mesh.core.clock import SystemClock
from mesh.core.ids import uuid7
from mesh.security.keys import KeyService
from mesh.streams.connect import connect
from mesh.streams.options import StreamOptions
from mesh.streams.valkey import ValkeyStreamLog

RESULTS = Path(__file__).parent / "results"

_INSERT = """
INSERT INTO tasks (id, workspace_id, kind, request, request_hash, deadline_at, state, attempt,
                   owner, lease_until)
SELECT $1, id, 'write_email', $2, $3, now() + interval '1 hour', 'running', 1, 'benchmark',
       now() + interval '1 hour'
FROM workspaces WHERE id = $4
"""


@dataclass(frozen=True, slots=True)
class Size:
    """How much of it."""

    sse: int = 1_000
    subscriptions: int = 1_000
    per_socket: int = 4
    streams: int = 50
    rate: float = 4.0
    """Tokens a second of each stream."""
    seconds: float = 5.0
    """Of each calm stretch; there is one more than there are storms."""
    storms: int = 3


@dataclass(slots=True)
class Outcome:
    """What one run saw."""

    readers: int
    connect_s: float
    bytes_per_reader: float
    events_per_s: float
    latencies_s: list[float]
    storms_s: list[float] = field(default_factory=list)
    """From the cut until every reader was back and had seen what was written meanwhile."""
    lost: int = 0
    doubled: int = 0
    unfinished: int = 0
    connects: int = 0
    refused: int = 0
    pieces: int = 0


class Writers:
    """Streams that are written as a step of an agent writes: token after token."""

    def __init__(self, log: ValkeyStreamLog, tasks: list[UUID]) -> None:
        self._log = log
        self.tasks = tasks
        self.numbers = {f"task:{task}": 0 for task in tasks}
        self._tasks: list[asyncio.Task[None]] = []
        self._stop = False

    async def begin(self) -> None:
        for task in self.tasks:
            writer = self._log.writer(str(task), 1)
            await writer.append(EventType.TASK_STARTED, {"worker": "benchmark"})
            await writer.aclose()

    def start(self, rate: float) -> None:
        self._stop = False
        self._tasks = [asyncio.create_task(self._write(task, rate)) for task in self.tasks]

    async def _write(self, task: UUID, rate: float) -> None:
        name = f"task:{task}"
        writer = self._log.writer(str(task), 1)
        loop = asyncio.get_running_loop()
        due = loop.time() + (task.int % 1_000) / 1_000 / rate  # not all at the same moment
        while not self._stop:
            await asyncio.sleep(due - loop.time())
            due += 1 / rate
            await writer.token("body", f"{self.numbers[name]} ")
            self.numbers[name] += 1
        await writer.append(EventType.TASK_SUCCEEDED, {})
        await writer.aclose()

    async def finish(self) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)


def memory(processes: list[psutil.Process]) -> int:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def gateways(instance: Instance) -> list[psutil.Process]:
    """The processes of the gateway's replicas."""
    found = []
    for process in instance.processes():
        with contextlib.suppress(psutil.Error):
            if "ServeReplica:gateway" in " ".join(process.cmdline()):
                found.append(process)
    return found


@contextlib.asynccontextmanager
async def log_of(instance: Instance) -> AsyncIterator[ValkeyStreamLog]:
    client = connect(instance.settings.redis_url)
    log = ValkeyStreamLog(client, StreamOptions())
    try:
        yield log
    finally:
        await log.aclose()
        await client.aclose()


async def own_tasks(instance: Instance, count: int) -> list[UUID]:
    """Running tasks that no worker works on: the benchmark holds their leases."""
    ids = [uuid7() for _ in range(count)]
    async with instance.database() as db:
        workspace = (await KeyService(db, SystemClock()).verify(instance.key)).workspace_id
        for task in ids:
            await db.fetch(_INSERT, task, {}, b"\0" * 32, workspace)
    return ids


async def end_tasks(instance: Instance, ids: list[UUID]) -> None:
    async with instance.database() as db:
        await db.fetch("DELETE FROM tasks WHERE id = ANY($1::uuid[])", ids)


def readers_of(load: Load, tasks: list[UUID], size: Size, path: str) -> list[Reader]:
    def stream(number: int) -> Stream:
        task = tasks[number % len(tasks)]
        return Stream(f"task:{task}", path.format(task=task))

    found: list[Reader] = [SseReader(load, [stream(n)]) for n in range(size.sse)]
    for start in range(0, size.subscriptions, size.per_socket):
        numbers = range(start, min(start + size.per_socket, size.subscriptions))
        found.append(SocketReader(load, [stream(n) for n in numbers]))
    return found


async def run(
    url: str,
    key: str | None,
    log: ValkeyStreamLog,
    tasks: list[UUID],
    servers: list[psutil.Process],
    size: Size,
    path: str = "/v1/mesh/tasks/{task}/events",
) -> Outcome:
    """One server under all readers, calm stretches and storms; ends when all streams have."""
    writers = Writers(log, tasks)
    await writers.begin()
    load = Load(url, key)
    try:
        before = memory(servers)
        started = time.perf_counter()
        async with asyncio.timeout(120):
            await load.open(readers_of(load, tasks, size, path))
        connect_s = time.perf_counter() - started
        await asyncio.sleep(1.0)
        readers = size.sse + size.subscriptions
        grown = (memory(servers) - before) / readers
        writers.start(size.rate)
        outcome = Outcome(readers, connect_s, grown, 0.0, load.tally.latencies_s)
        calm_s = 0.0
        events = 0
        for stretch in range(size.storms + 1):
            load.tally.timing = True
            at, seen = time.perf_counter(), load.tally.events
            await asyncio.sleep(size.seconds)
            calm_s += time.perf_counter() - at
            events += load.tally.events - seen
            load.tally.timing = False
            if stretch < size.storms:
                with contextlib.suppress(TimeoutError):
                    outcome.storms_s.append(await load.storm(writers.numbers, 30))
                await asyncio.sleep(0.5)
        await writers.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(20):
                while not all(stream.ended for stream in load.streams()):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        outcome.events_per_s = events / calm_s
        for stream in load.streams():
            missing = writers.numbers[stream.name] - stream.expected
            outcome.lost += stream.lost + missing
            outcome.doubled += stream.doubled
            outcome.unfinished += not stream.ended
        outcome.pieces = sum(writers.numbers[s.name] for s in load.streams())
        outcome.connects, outcome.refused = load.tally.connects, load.tally.refused
        return outcome
    finally:
        await load.aclose()


@contextlib.asynccontextmanager
async def peer(kind: str, instance: Instance) -> AsyncIterator[tuple[str, list[psutil.Process]]]:
    """A peer's server in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = [kind, str(port), instance.settings.redis_url, StreamOptions().prefix]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.stream_peers", *arguments
    )
    try:
        async with asyncio.timeout(30):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                except OSError:
                    await asyncio.sleep(0.05)
        yield f"http://127.0.0.1:{port}", [psutil.Process(process.pid)]
    finally:
        process.kill()
        await process.wait()


def rows_of(size: Size, outcome: Outcome) -> list[Row]:
    """Figures of the whole load on ours."""
    wrong = outcome.lost + outcome.doubled + outcome.unfinished
    return [
        Row(
            f"events lost, doubled or without an end over {len(outcome.storms_s)} storms",
            wrong,
            "",
            goal="0",
            holds=wrong == 0 and len(outcome.storms_s) == size.storms,
            note=f"of {outcome.pieces:,} tokens for {outcome.readers:,} readers",
        ),
        Row("events delivered", outcome.events_per_s, "1/s"),
        Row("all readers back after a storm, slowest", _slowest(outcome), "s"),
        Row("memory per reader", outcome.bytes_per_reader / 1_024, "KiB"),
        Row("append to reader, p50", _delay(outcome, 0.5), "ms"),
        Row("append to reader, p99", _delay(outcome, 0.99), "ms"),
    ]


def beside(kind: str, ours: Outcome, theirs: Outcome, whole: Outcome) -> list[Row]:
    """Event streams alone, ours beside a peer's. Memory: ours of the whole load, which came first
    (a process that has held readers before has room for them)."""

    def row(name: str, mine: float, other: float, unit: str) -> Row:
        ratio = mine / other if other else None
        return Row(f"SSE alone, beside {kind}: {name}", mine, unit, other, ratio)

    return [
        row("lost or doubled", ours.lost + ours.doubled, theirs.lost + theirs.doubled, ""),
        row("events delivered", ours.events_per_s, theirs.events_per_s, "1/s"),
        row("all readers back after a storm, slowest", _slowest(ours), _slowest(theirs), "s"),
        row(
            "memory per reader",
            whole.bytes_per_reader / 1_024,
            theirs.bytes_per_reader / 1_024,
            "KiB",
        ),
        row("append to reader, p50", _delay(ours, 0.5), _delay(theirs, 0.5), "ms"),
        row("append to reader, p99", _delay(ours, 0.99), _delay(theirs, 0.99), "ms"),
    ]


def _slowest(outcome: Outcome) -> float:
    return max(outcome.storms_s, default=float("nan"))


def _delay(outcome: Outcome, share: float) -> float:
    return percentile(outcome.latencies_s or [float("nan")], share) * 1_000


async def measure(instance: Instance, size: Size) -> Report:
    about = {
        "readers": f"{size.sse:,} SSE + {size.subscriptions:,} WebSocket subscriptions, "
        f"{size.per_socket} a socket",
        "streams": f"{size.streams} at {size.rate:g} tokens/s",
        "ours": "two gateway replicas behind HAProxy, with credentials",
        "peers": "one bare process each, no credential, no proxy",
    }
    report = Report("Streams", about)
    alone = replace(size, subscriptions=0)
    tasks = await own_tasks(instance, size.streams)
    more = await own_tasks(instance, size.streams)
    try:
        async with log_of(instance) as log:
            servers = gateways(instance)
            whole = await run(instance.url, instance.key, log, tasks, servers, size)
            ours = await run(instance.url, instance.key, log, more, servers, alone)
            for row in rows_of(size, whole):
                report.add(row)
            for kind in ("xread", "pubsub"):
                own = [uuid7() for _ in range(size.streams)]
                async with peer(kind, instance) as (url, theirs):
                    other = await run(url, None, log, own, theirs, alone, "/streams/{task}")
                for row in beside(kind, ours, other, whole):
                    report.add(row)
    finally:
        await end_tasks(instance, tasks + more)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="longer stretches, one socket each")
    parser.add_argument("--rate", type=float, default=Size().rate)
    parser.add_argument("--seconds", type=float, default=Size().seconds)
    parser.add_argument("--per-socket", type=int, default=Size().per_socket)
    given = parser.parse_args()
    size = Size(rate=given.rate, seconds=given.seconds, per_socket=given.per_socket)
    if given.full:
        size = Size(rate=given.rate, seconds=20.0, per_socket=1)
    report = uvloop.run(measure(find_instance(), size))
    report.write(RESULTS, "streams")
    print(report.markdown())
    if any(row.holds is False for row in report.rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
