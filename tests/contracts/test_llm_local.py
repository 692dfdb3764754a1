"""The short way to an engine: what Serve's way does, over a socket; and when it is not taken."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from gateway_support import until
from hypothesis import given
from hypothesis import strategies as st

from mesh.core import errors
from mesh.core.errors import EngineError, MailyError, Overloaded, Unavailable
from mesh.llm.engine import Wire
from mesh.llm.fake import FakeEngine
from mesh.llm.faults import FaultPlan
from mesh.llm.local.client import LocalReplica, LocalReplicas
from mesh.llm.local.codec import Kind, Reader, dump_error, load_error, message
from mesh.llm.local.server import LocalServer
from mesh.llm.pacing import sse_frames

BODY: Wire = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}


class Served:
    """An engine as its deployment serves it."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.running = 0

    async def frames(
        self, body: Wire, timeout_s: float, traceparent: str | None, chat: bool
    ) -> AsyncGenerator[bytes, None]:
        self.running += 1
        try:
            raw = self.engine.stream_raw(body, chat=chat, timeout_s=timeout_s)
            async with aclosing(raw):
                async for burst in raw:
                    yield sse_frames(burst) if burst else b""
        finally:
            self.running -= 1

    async def answer(
        self, body: Wire, timeout_s: float, traceparent: str | None, chat: bool
    ) -> Wire:
        self.running += 1
        try:
            ask = self.engine.chat if chat else self.engine.complete
            return await ask(body, timeout_s=timeout_s)
        finally:
            self.running -= 1


class Kit:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.served: dict[str, Served] = {}
        self.servers: dict[str, LocalServer] = {}
        self.opened: list[LocalReplicas] = []

    async def start(self, name: str, **options: Any) -> Served:
        served = self.served[name] = Served(FakeEngine(**options))
        server = self.servers[name] = LocalServer(served, self.folder / f"eng-{name}.sock")
        await server.start()
        return served

    def replicas(self, expected: int = 1) -> LocalReplicas:
        made = LocalReplicas(self.folder, "eng", expected)
        self.opened.append(made)
        return made

    async def one(self) -> LocalReplica:
        replicas = self.replicas()
        assert replicas.choose(BODY, None) is None  # it is connected to beside
        await until(lambda: replicas.statistics()["replicas"] == 1)
        chosen = replicas.choose(BODY, None)
        assert chosen is not None
        return chosen


@pytest_asyncio.fixture(loop_scope="session")
async def kit() -> AsyncIterator[Kit]:
    with tempfile.TemporaryDirectory(prefix="ml", dir="/tmp") as folder:
        made = Kit(Path(folder))
        yield made
        for replicas in made.opened:
            await replicas.aclose()
        for server in made.servers.values():
            await server.aclose()


def ask(replica: LocalReplica, body: Wire = BODY, timeout_s: float = 10) -> Any:
    return replica.frames(body, chat=True, timeout_s=timeout_s, traceparent=None)


async def rest(stream: Any, into: list[bytes]) -> None:
    async for item in stream:
        into.append(item)  # noqa: PERF401 (what comes before an error counts)


async def test_streams_and_answers_are_those_of_the_engine(kit: Kit) -> None:
    served = await kit.start("a")
    replica = await kit.one()
    frames = b"".join([item async for item in ask(replica)])
    here = served.frames(BODY, 10, None, True)
    assert frames == b"".join([item async for item in here])
    answers = await asyncio.gather(
        *(replica.answer(BODY, chat=True, timeout_s=10, traceparent=None) for _ in range(20))
    )
    assert answers == [await served.engine.chat(BODY, timeout_s=10)] * 20
    assert replica.load == 0


async def test_errors_come_as_they_were_raised(kit: Kit) -> None:
    await kit.start("a", faults=FaultPlan(refuse_first=1, die_at_token=3))
    replica = await kit.one()
    with pytest.raises(Overloaded) as caught:
        await replica.answer(BODY, chat=True, timeout_s=10, traceparent=None)
    assert caught.value.retry_after_s == 1.0
    got: list[bytes] = []
    with pytest.raises(EngineError, match="token 3"):
        await rest(ask(replica), got)
    assert got


async def test_who_leaves_takes_its_work_along(kit: Kit) -> None:
    served = await kit.start("a", faults=FaultPlan(hang_at_token=2))
    replica = await kit.one()
    stream = ask(replica)
    await anext(stream)
    unary = asyncio.create_task(replica.answer(BODY, chat=True, timeout_s=10, traceparent=None))
    await until(lambda: served.running == 2)
    await stream.aclose()
    unary.cancel()
    await until(lambda: served.running == 0)
    assert replica.load == 0


async def test_a_replica_that_dies_is_an_error_at_once_and_then_not_chosen(kit: Kit) -> None:
    served = await kit.start("a", faults=FaultPlan(hang_at_token=2))
    replica = await kit.one()
    stream = ask(replica)
    await anext(stream)
    unary = asyncio.create_task(replica.answer(BODY, chat=True, timeout_s=10, traceparent=None))
    await until(lambda: served.running == 2)
    await kit.servers["a"].aclose()
    with pytest.raises(EngineError, match="in the middle"):
        await rest(stream, [])
    with pytest.raises(Unavailable):
        await unary
    await until(lambda: served.running == 0)  # nobody listens: the engine is freed, too
    assert kit.opened[0].choose(BODY, None) is None
    with pytest.raises(Unavailable):
        await replica.answer(BODY, chat=True, timeout_s=10, traceparent=None)


async def test_only_all_replicas_together_are_the_short_way(kit: Kit) -> None:
    await kit.start("a")
    replicas = kit.replicas(expected=2)
    assert replicas.choose(BODY, None) is None
    await until(lambda: replicas.statistics()["replicas"] == 1)
    assert replicas.choose(BODY, None) is None
    await kit.start("b")
    await asyncio.sleep(1.05)  # SCAN_S
    assert replicas.choose(BODY, None) is None
    await until(lambda: replicas.statistics()["replicas"] == 2)
    names = {replicas.choose(BODY, None).name for _ in range(50)}  # type: ignore[union-attr]
    assert names == {"a", "b"}
    assert {replicas.choose(BODY, "a").name for _ in range(9)} == {"b"}  # type: ignore[union-attr]


async def test_what_does_not_speak_this_is_left(kit: Kit) -> None:
    served = await kit.start("a")
    reader, writer = await asyncio.open_unix_connection(str(kit.folder / "eng-a.sock"))
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await reader.read() == b""
    writer.close()
    assert served.running == 0


@given(
    messages=st.lists(st.tuples(st.sampled_from(Kind), st.integers(0, 2**32 - 1), st.binary())),
    cuts=st.lists(st.integers(0, 400)),
)
def test_messages_survive_any_cut(messages: list[tuple[Kind, int, bytes]], cuts: list[int]) -> None:
    whole = b"".join(message(*one) for one in messages)
    reader, at, found = Reader(), 0, []
    for cut in sorted({*(min(cut, len(whole)) for cut in cuts), len(whole)}):
        found += reader.feed(whole[at:cut])
        at = cut
    assert found == [(int(kind), number, payload) for kind, number, payload in messages]


def test_every_error_of_the_tree_crosses() -> None:
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, MailyError):
            there = load_error(dump_error(kind("words", {"field": "x"}, 2.0)))
            assert (type(there).code, there.message, there.details, there.retry_after_s) == (
                kind.code,
                "words",
                {"field": "x"},
                2.0,
            )
