"""Anchoring over PostgreSQL and the real node, which is cut off and killed at each step."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from benchmarks.peers import free_port
from cluster.embedded.evm import EvmNode
from cluster.layout import Layout
from cluster.runner import Runner
from mesh.contracts.networks import AnchorState
from mesh.core.clock import SystemClock
from mesh.core.settings import load_settings
from mesh.resilience.breaker import BreakerOptions, CircuitBreaker
from mesh.storage.anchor_ledger import PostgresAnchorLedger
from mesh.storage.leases import Leases
from mesh.storage.pool import Database
from mesh.trust.anchoring.options import AnchoringOptions, NetworkOptions
from mesh.trust.anchoring.run import Anchoring, NetworkParts
from mesh.trust.chain import registry
from mesh.trust.chain.evm_chain import EvmChain
from mesh.trust.chain.wallet import KeyWallet
from tests.anvil import STORE, AnvilServer

pytestmark = pytest.mark.asyncio(loop_scope="session")


@dataclass
class Proxy:
    """Between us and the node. ``before`` and ``after``: asked at each call, with its method and
    number; True cuts the connection there."""

    target: str
    before: Callable[[str, int], bool] = lambda method, number: False
    after: Callable[[str, int], bool] = lambda method, number: False
    methods: list[str] = field(default_factory=list)
    port: int = 0

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with httpx.AsyncClient(timeout=5.0, trust_env=False) as self._client:
            try:
                yield f"http://127.0.0.1:{self.port}"
            finally:
                server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().lower().split("\r\n")
                size = next(int(x.split(":")[1]) for x in lines if x.startswith("content-length"))
                body = await reader.readexactly(size)
                method = httpx.Response(200, content=body).json()["method"]
                self.methods.append(method)
                number = len(self.methods)
                if self.before(method, number):
                    return
                answer = await self._client.post(self.target, content=body, headers=JSON)
                if self.after(method, number):
                    return
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
                    + f"{len(answer.content)}\r\n\r\n".encode()
                    + answer.content
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, httpx.HTTPError):
            pass
        finally:
            writer.close()


JSON = {"Content-Type": "application/json"}


@dataclass
class Bench:
    database: Database
    workspace: uuid.UUID
    key: bytes = field(default_factory=lambda: os.urandom(32))
    lease_key: str = field(default_factory=lambda: f"trust:{uuid.uuid4()}")

    async def want(self) -> bytes:
        root = os.urandom(32)
        async with self.database.transaction() as connection:
            await PostgresAnchorLedger.want(connection, root, uuid.uuid4(), self.workspace)
        return root

    async def open(self, *urls: str, needed: int = 1) -> Anchoring:
        """A new life."""
        lease = await Leases(self.database).acquire(self.lease_key, "test", 60)
        assert lease is not None
        names = ("local", "standby")
        parts = [
            NetworkParts(
                NetworkOptions(name, 31_337 + at, poll_s=0.05, idle_s=0.1, development=True),
                EvmChain(name, url, timeout_s=10.0, development=True),
                KeyWallet(self.key),
                CircuitBreaker(name, BreakerOptions(failures=3, open_s=0.05, open_max_s=0.2)),
            )
            for at, (name, url) in enumerate(zip(names, urls, strict=False))
        ]
        options = AnchoringOptions(needed, fallback_after_s=0.5)
        return Anchoring(parts, PostgresAnchorLedger(self.database, lease), SystemClock(), options)

    async def states(self, root: bytes) -> list[str]:
        """All that was told of it, in order."""
        changes = await PostgresAnchorLedger(self.database).changes(limit=10_000)
        return [c.anchor.state.value for c in changes if c.root == root]

    async def final(self, *roots: bytes) -> None:
        ledger = PostgresAnchorLedger(self.database)

        async def done() -> bool:
            return len(await ledger.settled(roots)) == len(roots)

        await until(done)


@contextlib.asynccontextmanager
async def alive(anchoring: Anchoring) -> AsyncIterator[Anchoring]:
    running = asyncio.create_task(anchoring.run())
    try:
        yield anchoring
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await anchoring.aclose()


@pytest.fixture(scope="module")
def anvil() -> Iterator[AnvilServer]:
    with AnvilServer() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="session")
async def bench(database: Database) -> Bench:
    await database.fetch("TRUNCATE chain_roots, chain_nonces, chain_changes CASCADE")
    await database.fetch("TRUNCATE chain_networks")
    workspace = uuid.uuid4()
    insert = "INSERT INTO workspaces (id, name) VALUES ($1, $2)"
    await database.fetch(insert, workspace, str(workspace))
    return Bench(database, workspace)


def logged(server: AnvilServer, root: bytes) -> int:
    """How often the chain has it."""
    wanted = {
        "address": f"0x{registry.ADDRESS.hex()}",
        "topics": [f"0x{registry.TOPIC.hex()}", f"0x{root.hex()}"],
        "fromBlock": "0x0",
        "toBlock": "latest",
    }
    return len(server.rpc("eth_getLogs", wanted))


async def test_the_process_dies_at_every_step(bench: Bench, anvil: AnvilServer) -> None:
    """Before and after each call to the node, once for each number of calls."""
    async with alive(await bench.open(anvil.url)):
        await bench.final(await bench.want())  # the registry is there from now on
    roots = []
    for step in range(1, 50, 2):
        died = asyncio.Event()

        def dies(method: str, number: int, at: int = step, event: asyncio.Event = died) -> bool:
            if number >= at:
                event.set()
            return number >= at

        proxy = Proxy(anvil.url)
        if step % 4 == 1:
            proxy.before = dies
        else:
            proxy.after = dies
        root = await bench.want()
        async with proxy.serving() as url, alive(await bench.open(url)):
            async with asyncio.timeout(60):
                await died.wait()
        roots.append(root)
    async with alive(await bench.open(anvil.url)):
        await bench.final(*roots)
    assert [logged(anvil, root) for root in roots] == [1] * len(roots)


async def test_a_reorganisation(bench: Bench, anvil: AnvilServer) -> None:
    async with alive(await bench.open(anvil.url)):
        await bench.final(await bench.want())
        snapshot = anvil.rpc("evm_snapshot")
        root = await bench.want()
        await until_told(bench, root, "confirmed")
        anvil.rpc("evm_revert", snapshot)
        await bench.final(root)
    states = await bench.states(root)
    gone = states.index("orphaned")
    assert "final" not in states[:gone]
    assert states[gone:][:2] == ["orphaned", "submitted"]
    assert states[-1] == "final"
    assert logged(anvil, root) == 1


async def test_a_second_network_takes_over(bench: Bench, anvil: AnvilServer) -> None:
    """The first is away for longer than the patience; the breaker opens and looks again."""
    with AnvilServer(31_338) as standby:
        away = False
        proxy = Proxy(anvil.url, before=lambda method, number: away)
        async with (
            proxy.serving() as url,
            alive(await bench.open(url, standby.url)) as anchoring,
        ):
            first = await bench.want()
            await bench.final(first)
            assert (logged(anvil, first), logged(standby, first)) == (1, 0)
            away = True
            roots = [await bench.want() for _ in range(3)]
            await bench.final(*roots)
            local, other = anchoring.networks()
            assert "down" in local.alarms
            assert local.breaker in ("open", "half-open")
            assert other.healthy
            away = False

            async def back() -> bool:
                return anchoring.networks()[0].healthy

            await until(back)
            last = await bench.want()
            await bench.final(last)
        assert [logged(standby, root) for root in roots] == [1, 1, 1]
        assert (logged(anvil, last), logged(standby, last)) == (1, 0)
        assert all(logged(anvil, root) <= 1 for root in roots)


async def test_two_networks_are_needed(bench: Bench, anvil: AnvilServer) -> None:
    with AnvilServer(31_338) as standby:
        async with alive(await bench.open(anvil.url, standby.url, needed=2)):
            root = await bench.want()
            await bench.final(root)
        assert (logged(anvil, root), logged(standby, root)) == (1, 1)
        rows = (await PostgresAnchorLedger(bench.database).anchors([root]))[root]
        assert [row.state for row in rows] == [AnchorState.FINAL] * 2
        for row in rows:
            assert row.proof is not None
            assert row.proof.check(root).hash == row.block_hash
            assert row.gas_used is not None
            assert row.gas_used <= 25_000


async def test_the_embedded_node_is_killed(bench: Bench, tmp_path: Path) -> None:
    """Its chain comes back from the disk: what was final still is, what was lost is sent again."""
    settings = load_settings({"home": tmp_path, "store": STORE, "evm.port": free_port()}, {})
    layout = Layout(tmp_path)
    layout.make()
    runner = Runner(EvmNode(settings, layout), lambda: None)
    await runner.first_start()
    url = f"http://127.0.0.1:{settings.evm.port}"
    try:
        async with alive(await bench.open(url)):
            first = await bench.want()
            await bench.final(first)
            later = await bench.want()
            await until_told(bench, later, "submitted")
            await killed(runner)
            await bench.final(later)
        chain = EvmChain("local", url)
        rows = await PostgresAnchorLedger(bench.database).anchors([first, later])
        for root in (first, later):
            (row,) = rows[root]
            assert row.block_number is not None
            assert await chain.block_hash(row.block_number) == row.block_hash
        assert "orphaned" not in await bench.states(first)
        await runner.stop()
        await runner.first_start()
        (row,) = rows[first]
        assert row.block_number is not None
        assert await chain.block_hash(row.block_number) == row.block_hash
        await chain.aclose()
    finally:
        await runner.stop()


async def test_a_node_that_lost_what_was_final(bench: Bench, anvil: AnvilServer) -> None:
    """As from an old copy of its state: the same transactions make the same roots final again."""
    with AnvilServer() as other:
        async with alive(await bench.open(other.url)):
            roots = [await bench.want() for _ in range(3)]
            await bench.final(*roots)
        other.kill()
        other.start()
        async with alive(await bench.open(other.url)):
            last = await bench.want()
            await until_told(bench, roots[0], "orphaned")
            await bench.final(*roots, last)
        assert [logged(other, root) for root in (*roots, last)] == [1] * 4


async def until(done: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await done():  # noqa: ASYNC110 - the ledger tells nobody
            await asyncio.sleep(0.01)


async def until_told(bench: Bench, root: bytes, state: str) -> None:
    async def told() -> bool:
        return state in await bench.states(root)

    await until(told)


async def killed(runner: Runner) -> None:
    """And started again by who looks after it."""
    generation, pid = runner.generation, runner.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)

    async def again() -> bool:
        return runner.generation > generation

    await until(again)
