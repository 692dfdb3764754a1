"""What only the log in Valkey has: one shared connection, lost replies, a server in trouble."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import pytest
import pytest_asyncio
from redis.asyncio import Redis
from services import ValkeyServer

from mesh.contracts.events import Event, EventType
from mesh.core.errors import Fenced, Unavailable
from mesh.streams.codec import encode
from mesh.streams.commit import GroupCommit
from mesh.streams.connect import connect, unavailable
from mesh.streams.options import StreamOptions
from mesh.streams.valkey import ValkeyStreamLog
from mesh.streams.writer import Batch, Entry

LIMIT_S = 40.0
STEP = EventType.STEP_STARTED
DONE = EventType.TASK_SUCCEEDED


@pytest_asyncio.fixture
async def client(valkey_url: str) -> AsyncIterator[Redis]:
    one = connect(valkey_url)
    yield one
    await one.aclose()


@pytest.fixture
def options() -> StreamOptions:
    return StreamOptions(prefix=f"test:{uuid.uuid4().hex}:", verify_s=0.5, coalesce_s=0.001)


@pytest_asyncio.fixture
async def log(client: Redis, options: StreamOptions) -> AsyncIterator[ValkeyStreamLog]:
    one = ValkeyStreamLog(client, options)
    yield one
    await one.aclose()


async def whole(log: ValkeyStreamLog, stream: str) -> list[Event]:
    return [event async for event in log.read(stream) if event is not None]


def batch(stream: str, attempt: int, first: int, texts: list[str], writer: str = "w") -> Batch:
    return Batch(
        stream,
        attempt,
        writer,
        [
            Entry(STEP, encode(STEP, 1.0, {"text": text}, 1_000), None, first + index)
            for index, text in enumerate(texts)
        ],
    )


async def test_all_readers_of_a_process_share_one_subscribed_connection(
    log: ValkeyStreamLog, client: Redis
) -> None:
    streams = [f"s{n}" for n in range(100)]
    writers = [log.writer(stream, 1) for stream in streams]
    await asyncio.gather(*(writer.append(STEP, {}) for writer in writers))
    async with asyncio.timeout(LIMIT_S):
        readers = [asyncio.create_task(whole(log, s)) for s in streams for _ in range(5)]
        while log.statistics()["streams"] < 100:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
        subscribed: list[object] = []
        while not subscribed:
            clients = await client.client_list()
            subscribed = [one for one in clients if int(one["sub"]) > 0]
        assert len(subscribed) == 1
        for n in range(5):
            await asyncio.gather(*(writer.append(STEP, {"n": n}) for writer in writers))
        await asyncio.gather(*(writer.append(DONE, {}) for writer in writers))
        for read in await asyncio.gather(*readers):
            assert [e.sequence for e in read] == [1, 2, 3, 4, 5, 6, 7]
    assert log.statistics()["commits"] < 100, "many writers, one round trip"


async def test_a_feed_that_is_cut_again_and_again_loses_nothing(
    log: ValkeyStreamLog, client: Redis
) -> None:
    writer = log.writer("s", 1)
    await writer.append(STEP, {})
    async with asyncio.timeout(LIMIT_S):
        readers = [asyncio.create_task(whole(log, "s")) for _ in range(5)]
        cuts = 0
        while cuts < 10:
            await writer.append(STEP, {"cuts": cuts})
            cuts += int(await client.execute_command("CLIENT", "KILL", "TYPE", "pubsub"))
        last = await writer.append(DONE, {})
        for read in await asyncio.gather(*readers):
            assert [e.sequence for e in read] == list(range(1, last.sequence + 1))
    assert log.statistics()["reconnects"] >= 1


async def test_a_batch_sent_again_after_a_lost_reply_is_written_once(
    client: Redis, options: StreamOptions, log: ValkeyStreamLog
) -> None:
    commit = GroupCommit(client, options)
    await commit.commit(batch("s", 1, 1, ["a", "b"]))
    await commit.commit(batch("s", 1, 1, ["a", "b"]))
    await commit.commit(batch("s", 1, 2, ["b", "c"]))  # half of it had been written
    for other in (
        batch("s", 1, 3, ["c"], writer="another"),
        batch("s", 1, 3, ["another text"]),
        batch("s", 1, 2, ["b", "not c", "d"]),
        batch("s", 0, 9, ["older"]),
    ):
        with pytest.raises(Fenced):
            await commit.commit(other)
    await log.writer("s", 1).append(DONE, {})
    assert [e.data.get("text") for e in await whole(log, "s")] == ["a", "b", "c", None]
    with pytest.raises(Fenced) as refused:
        await commit.commit(batch("s", 2, 1, ["after the end"]))
    assert refused.value.details["ended"] is True
    await commit.aclose()


async def test_a_server_that_forgot_the_script_is_taught_again(
    log: ValkeyStreamLog, client: Redis
) -> None:
    writer = log.writer("s", 1)
    for n in range(5):
        await client.script_flush()
        await writer.append(STEP, {"n": n})
    await writer.append(DONE, {})
    assert len(await whole(log, "s")) == 6


async def test_a_full_server_refuses_and_the_writer_goes_on_when_it_is_not() -> None:
    server = ValkeyServer()
    client: Redis | None = None
    try:
        server.start()
        client = connect(server.url)
        log = ValkeyStreamLog(client, StreamOptions(append_timeout_s=0.2))
        writer = log.writer("s", 1)
        await writer.append(STEP, {"n": 1})
        await client.config_set("maxmemory", "1")
        with pytest.raises(Unavailable) as refused:
            await writer.append(STEP, {"n": 2})
        assert "memory" in refused.value.details["reason"]
        await client.config_set("maxmemory", "0")
        await writer.append(STEP, {"n": 3})
        await writer.append(DONE, {})
        read = await whole(log, "s")
        assert [(e.sequence, e.data.get("n")) for e in read] == [(1, 1), (2, 3), (3, None)]
        await log.aclose()
    finally:
        if client is not None:
            await client.aclose()
        server.close()


class Flaky:
    """Stands between client and server and now and then cuts every connection, mid-reply too."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._pipes: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.cuts = 0

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._pipes |= {writer, up_writer}
        with suppress(OSError):
            await asyncio.gather(self._pump(reader, up_writer), self._pump(up_reader, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(4_096):
                writer.write(data)
                await writer.drain()
        finally:
            writer.transport.abort()
            self._pipes.discard(writer)

    def cut(self) -> None:
        self.cuts += bool(self._pipes)
        for writer in list(self._pipes):
            writer.transport.abort()
        self._pipes.clear()

    async def aclose(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def test_a_flaky_network_neither_loses_nor_doubles(
    valkey: ValkeyServer, options: StreamOptions
) -> None:
    flaky = Flaky(valkey.port)
    client = connect(await flaky.start())
    log = ValkeyStreamLog(client, replace(options, backoff_max_s=0.02))
    stop = asyncio.Event()

    async def write(stream: str) -> int:
        writer = log.writer(stream, 1)
        n = 0
        while not stop.is_set():
            await asyncio.gather(*(writer.append(STEP, {"n": n + k}) for k in range(7)))
            n += 7
        await writer.append(DONE, {})
        return n

    try:
        async with asyncio.timeout(LIMIT_S):
            streams = ["a", "b", "c"]
            for stream in streams:
                await log.writer(stream, 0).append(EventType.TASK_ACCEPTED, {})
            readers = [asyncio.create_task(whole(log, stream)) for stream in streams]
            writers = [asyncio.create_task(write(stream)) for stream in streams]
            for _ in range(30):
                await asyncio.sleep(0.02)
                flaky.cut()
            stop.set()
            for n, read in zip(
                await asyncio.gather(*writers), await asyncio.gather(*readers), strict=True
            ):
                assert [e.data.get("n") for e in read[1:-1]] == list(range(n))
                assert [e.sequence for e in read[1:]] == list(range(1, n + 2))
        assert flaky.cuts >= 10
        assert log.statistics()["reconnects"] >= 1
        assert log.statistics()["fenced"] == 0
    finally:
        await log.aclose()
        await client.aclose()
        await flaky.aclose()


async def test_addresses_of_every_kind(valkey: ValkeyServer) -> None:
    for url in (valkey.url, valkey.url.replace("redis://", "valkey://"), valkey.unix_url):
        client = connect(url)
        assert await client.ping()
        await client.aclose()
    with pytest.raises(ValueError, match="scheme"):
        connect("http://localhost")


async def test_nobody_there_is_said_in_our_words() -> None:
    client = connect("redis://127.0.0.1:1/0", timeout_s=1)
    with pytest.raises(Unavailable) as refused, unavailable():
        await client.ping()
    assert refused.value.retry_after_s == 1
    await client.aclose()


async def test_a_cancellation_is_never_swallowed(client: Redis) -> None:
    """Cancel at every possible moment of a command; the task must end as cancelled."""

    async def commands() -> None:
        while True:
            await client.ping()

    for steps in range(60):
        task = asyncio.create_task(commands())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=5)
        assert done, f"went on after a cancellation at step {steps}"
        assert task.cancelled()
