"""``kill -9`` of the trust host and of the EVM node, at each step of an anchor.

Between runtime and node stands ``benchmarks.show.trust_proxy``. A first anchor goes through
undisturbed: the methods that the node was asked for are the steps. Then, for each of them, once
before the node has seen the call and once after it has done it but before the runtime knows, the
call is held, the victim is killed at that moment, and what was held is dropped with it. Messages
are also taken in and batches closed while the host is killed again and again.

In the end every message that was acknowledged has a certificate that verifies as final, and the
chain has exactly one transaction for each root.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import uuid4

import aiohttp
import psutil

from benchmarks.instance import Instance
from benchmarks.peers import free_port
from benchmarks.show import trust_verifiers
from benchmarks.show.table import Claim
from benchmarks.show.trust_client import Refused, Trust, trust_of
from benchmarks.show.trust_letters import Campaign
from benchmarks.show.trust_node import Node
from benchmarks.show.trust_proxy import SIDES, Proxy, Side, proxy
from benchmarks.show.trust_verifiers import Known, Papers
from mesh.trust import evm

Victim = Literal["trust host", "EVM node"]
TITLES: Mapping[Victim, str] = {"trust host": "ray::TrustHost", "EVM node": "anvil"}

MESSAGES = 3
"""Of a batch whose anchor is disturbed."""
INGEST = 4_000
EACH = 20
"""Of a batch of so many messages each twentieth certificate is verified; all are listed."""
REACH_S = 15.0
"""A call that does not come within so long is not a step of every anchor."""
FINAL_S = 60.0
BACK_S = 45.0
BLOCK_EVERY_S = 0.5
FIRST = (
    "eth_sendRawTransaction",
    "eth_getTransactionReceipt",
    "eth_getBlockReceipts",
    "eth_getBlockByHash",
    "eth_getTransactionCount",
    "eth_getBlockByNumber",
)
QUICK_S, FULL_S = 280.0, 1_800.0
"""No further kill of a step begins after so long."""
QUICK_INGEST, FULL_INGEST = 3, 12


def settings() -> dict[str, str]:
    """The embedded node, reached over a port of ours."""
    port = free_port()
    network = {
        "url": f"http://127.0.0.1:{port}",
        "chain_id": 31_337,
        "development": True,
        "poll_s": 0.3,
        "timeout_s": 3.0,
        "confirmations": 1,
    }
    return {
        "MAILY_TRUST__NETWORKS": json.dumps({"local": network}),
        "MAILY_TRUST__PUBLIC_PER_MINUTE": "1000000",
    }


@dataclass(slots=True)
class Batch:
    """What was acknowledged of one batch."""

    id: str
    campaign: Campaign
    size: int
    root: str = ""
    lines: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class Kills:
    """The demonstration as it goes."""

    trust: Trust
    node: Node
    proxy: Proxy
    batches: list[Batch] = field(default_factory=list)
    done: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Kills by victim and step."""
    missed: list[str] = field(default_factory=list)
    """Steps at which no call came."""
    left: int = 0
    """Moments for which there was no time."""
    problems: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    """From a kill to final."""

    async def open(self, size: int = MESSAGES) -> Batch:
        until = time.monotonic() + BACK_S
        campaign = Campaign(seed=time.time_ns() // 1_000)
        key = str(uuid4())
        opened = await self.trust.patiently(lambda: self.trust.open("kills", key=key), until=until)
        batch = Batch(opened["id"], campaign, size)
        self.batches.append(batch)
        return batch

    async def fill(self, batch: Batch, patience_s: float = BACK_S) -> None:
        """Sent again until all of it is acknowledged."""
        path = f"/v1/trust/batches/{batch.id}/messages"
        await self.trust.patiently(
            lambda: self.trust.send(path, batch.campaign.pieces(0, batch.size), timeout_s=60),
            until=time.monotonic() + patience_s,
        )

    async def close(self, batch: Batch) -> None:
        await self.trust.patiently(
            lambda: self.trust.close(batch.id, timeout_s=20), until=time.monotonic() + BACK_S
        )

    async def final(self, batch: Batch) -> None:
        view = await self.trust.until_state(batch.id, "final", FINAL_S)
        batch.root = view["root"]

    def running(self, victim: Victim) -> list[psutil.Process]:
        found = []
        for process in self.trust.instance.processes():
            with contextlib.suppress(psutil.Error, IndexError):
                title = process.cmdline()[0].split()[0].rsplit("/", 1)[-1]
                if title.startswith(TITLES[victim]):
                    found.append(process)
        return sorted(found, key=lambda process: process.create_time())

    async def kill(self, victim: Victim) -> None:
        """Raises RuntimeError where none runs within ``BACK_S``."""
        until = time.monotonic() + BACK_S
        while not (found := self.running(victim)):
            if time.monotonic() > until:
                raise RuntimeError(f"no {victim} runs")
            await asyncio.sleep(0.05)
        found[0].kill()

    async def healthy(self) -> None:
        """The only network is well again, so that the next kill meets a whole runtime."""
        until = time.monotonic() + BACK_S
        while True:
            with contextlib.suppress(Refused, aiohttp.ClientError, TimeoutError, RuntimeError):
                await self.node.head()
                network = (await self.trust.networks())[0]
                if network["healthy"] and network["breaker"] == "closed":
                    return
            if time.monotonic() > until:
                raise RuntimeError("the network is not well again")
            await asyncio.sleep(0.2)

    async def step(self, victim: Victim, method: str, side: Side) -> None:
        name = f"{method} ({side})"
        await self.healthy()
        batch = await self.open()
        await self.fill(batch)
        async with self.proxy.holding(method, side) as hold:
            closing = asyncio.create_task(self.close(batch))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hold.reached.wait(), REACH_S)
            if hold.reached.is_set():
                await self.kill(victim)
            else:
                self.missed.append(f"{victim}, {name}")
            killed = time.monotonic()
        await closing
        await self.final(batch)
        if hold.reached.is_set():
            self.done[victim, name] += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - killed)

    async def ingest(self, number: int) -> None:
        """The host is killed while a body of several pages is on its way, and while closing."""
        await self.healthy()
        batch = await self.open(INGEST)
        filling = asyncio.create_task(self.fill(batch))
        await asyncio.sleep(0.3 + 0.25 * (number % 5))
        await self.kill("trust host")
        self.done["trust host", "messages are taken in"] += 1
        await filling
        closing = asyncio.create_task(self.close(batch))
        await asyncio.sleep((0.0, 0.02, 0.05, 0.1, 0.2)[number % 5])
        await self.kill("trust host")
        self.done["trust host", "a batch is closing"] += 1
        await closing
        await self.final(batch)


async def run(instance: Instance, full: bool) -> list[Claim]:
    url = instance.settings.trust.networks["local"].url
    upstream = f"http://127.0.0.1:{instance.settings.evm.port}"
    async with (
        trust_of(instance) as trust,
        proxy(upstream, int(url.rpartition(":")[2])) as between,
        blocks(Node(trust.session, upstream)) as node,
    ):
        kills = Kills(trust, node, between)
        await kills.healthy()
        steps = await _rehearsal(kills)
        await _kill_all(kills, steps, full)
        return await _claims(kills, steps)


async def _rehearsal(kills: Kills) -> list[str]:
    """What an anchor asks the node for, in order."""
    first = await kills.open()
    await kills.fill(first)
    await kills.close(first)
    await kills.final(first)  # a new chain gets its registry with the first root
    batch = await kills.open()
    await kills.fill(batch)
    await asyncio.sleep(2.0)  # the first one's last looks
    kills.proxy.forget()
    await kills.close(batch)
    await kills.final(batch)
    return [method for method in kills.proxy.order if method.startswith("eth_")]


async def _kill_all(kills: Kills, steps: list[str], full: bool) -> None:
    ends = time.monotonic() + (FULL_S if full else QUICK_S)
    plan: list[tuple[Victim, str, Side]] = [
        (victim, method, side)
        for method in sorted(steps, key=_weight)
        for victim in TITLES
        for side in SIDES
    ]
    for number in range(FULL_INGEST if full else QUICK_INGEST):
        await _tried(kills, "taking in", kills.ingest(number))
    for victim, method, side in plan:
        if time.monotonic() > ends:
            kills.left += 1
            continue
        await _tried(kills, f"{victim}, {method} ({side})", kills.step(victim, method, side))


def _weight(method: str) -> int:
    """The steps that change something, or tell of it, come first."""
    return FIRST.index(method) if method in FIRST else len(FIRST)


async def _tried(kills: Kills, what: str, work: Any) -> None:
    try:
        await work
    except (Refused, RuntimeError, aiohttp.ClientError, TimeoutError) as caught:
        kills.problems.append(f"{what}: {type(caught).__name__}: {caught}"[:300])


async def _claims(kills: Kills, steps: list[str]) -> list[Claim]:
    acknowledged = sum(batch.size for batch in kills.batches)
    listed, verified, wrong = await _proven(kills)
    logs = await kills.node.all_logs()
    on_chain = Counter(str(log["topics"][1]).removeprefix("0x") for log in logs)
    roots = {batch.root for batch in kills.batches}
    twice = [root for root, count in on_chain.items() if count != 1]
    nonces = _nonces(kills.proxy.raw)
    more = [root for root, found in nonces.items() if len(found) > 1]
    by_victim: Counter[str] = Counter()
    for (victim, _), count in kills.done.items():
        by_victim[victim] += count
    figure = ", ".join(f"{n} of the {victim}" for victim, n in by_victim.items())
    figure += f", at {len(kills.done)} different moments of {len(steps)} calls to the node"
    figure += f" and of taking in; slowest from kill to final {kills.slowest_s:.1f} s"
    if kills.left:
        figure += f"; no time for {kills.left} other moments"
    if kills.missed:
        figure += f"; not met: {'; '.join(kills.missed)}"
    if kills.problems:
        figure += f"; {len(kills.problems)} problems: " + "; ".join(kills.problems[:3])
    victims_met = {victim for victim, _ in kills.done}
    return [
        Claim(
            "kill -9 at each step of an anchor",
            figure,
            "each goes on to final by itself",
            not kills.problems and victims_met == set(TITLES) and not kills.missed,
        ),
        Claim(
            f"… {acknowledged:,} acknowledged messages in {len(kills.batches)} batches",
            f"{listed:,} have their certificate, once; of {verified:,} that were looked at "
            f"{len(wrong)} do not verify as exact and final" + (f": {wrong[:3]}" if wrong else ""),
            "all: no lost leaf",
            listed == acknowledged and verified > 0 and not wrong,
        ),
        Claim(
            "… transactions for a root",
            f"{len(roots)} roots, {sum(on_chain.values())} logs on the chain, {len(twice)} roots "
            f"with another number than 1; {len(kills.proxy.raw)} broadcasts, "
            f"{len(more)} roots with a second nonce",
            "one log and one nonce for each root",
            not twice and not more and roots == set(on_chain) and set(nonces) == roots,
        ),
    ]


async def _proven(kills: Kills) -> tuple[int, int, list[str]]:
    """Messages with exactly one certificate, how many of these were verified, and what did not."""
    keys, listed, verified, wrong = await kills.trust.keys(), 0, 0, list[str]()
    for batch in kills.batches:
        try:
            view = await kills.trust.batch(batch.id)
            lines = await kills.trust.certificates(batch.id)
            anchor = view["anchors"][0]
            block = await kills.node.block_hash(anchor["block_number"])
            known = Known(
                keys,
                await kills.trust.receipt(view["root"]),
                ((anchor["chain_id"], (block or "").removeprefix("0x")),),
            )
            found = Counter(line["message_id"] for line in lines)
            listed += sum(
                found[f"<{batch.campaign.seed}.{n}@{batch.campaign.domain}>"] == 1
                for n in range(batch.size)
            )
            papers = []
            for line in lines[:: 1 if batch.size <= MESSAGES else EACH]:
                mail = batch.campaign.mail(int(line["message_id"].split(".")[1].split("@")[0]))
                form = await kills.trust.form(line["id"], "cbor")
                papers.append(Papers(form, mail.raw, mail.recipient))
            answers, _ = await asyncio.to_thread(trust_verifiers.ours, papers, known)
            verified += len(answers)
            wrong += [f"{batch.id}: {a}" for a in answers if a != (True, "exact", "final")]
        except (Refused, aiohttp.ClientError, TimeoutError, RuntimeError, LookupError) as caught:
            wrong.append(f"{batch.id}: {caught!r}"[:200])
    return listed, verified, wrong


def _nonces(raw: list[str]) -> dict[str, set[int]]:
    """Nonces that were ever broadcast for each root."""
    found: dict[str, set[int]] = defaultdict(set)
    for text in raw:
        fields = evm.decode(bytes.fromhex(text.removeprefix("0x"))[1:])
        assert isinstance(fields, list)
        nonce, data = fields[1], fields[7]
        assert isinstance(nonce, bytes)
        assert isinstance(data, bytes)
        if len(data) in (32, 36):  # else it deploys the registry
            found[data[-32:].hex()].add(int.from_bytes(nonce, "big"))
    return dict(found)


@asynccontextmanager
async def blocks(node: Node) -> AsyncIterator[Node]:
    """The network has a block each half second, as networks do; none while the node is away."""

    async def run() -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, RuntimeError, OSError):
                await node.call("evm_mine")
            await asyncio.sleep(BLOCK_EVERY_S)

    task = asyncio.create_task(run())
    try:
        yield node
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
