"""The EVM node is away while messages go on being sent; a second network takes over.

The node's process is killed, and each successor that the supervisor starts, as soon as it is seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import psutil

from benchmarks.instance import Instance
from benchmarks.report import percentile
from benchmarks.show.table import Claim
from benchmarks.show.trust_client import Refused, Trust, trust_of
from benchmarks.show.trust_letters import Campaign
from benchmarks.show.trust_node import Node

SETTINGS = {"MAILY_EVM__STANDBY": "true"}
QUICK_S, FULL_S = 20.0, 60.0
MESSAGES = 10
EVERY_S = 2.0
"""A batch is sent and closed so often."""
FINAL_S = 90.0
BACK_S = 60.0


@dataclass(slots=True)
class Watch:
    """What ``GET /v1/trust/networks`` said of the first network, and what batches became."""

    trust: Trust
    breaker: list[tuple[float, str]] = field(default_factory=list)
    """Its states as they changed. Monotonic seconds."""
    alarms: set[str] = field(default_factory=set)

    async def run(self) -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, Refused):
                first = (await self.trust.networks())[0]
                self.alarms |= set(first["alarms"])
                if not self.breaker or self.breaker[-1][1] != first["breaker"]:
                    self.breaker.append((time.monotonic(), first["breaker"]))
            await asyncio.sleep(0.1)


@dataclass(slots=True)
class Sent:
    """A batch that was sent while the node was away."""

    id: str
    accepted_s: float
    state: str
    """Of it, right after it was closed."""


async def run(instance: Instance, full: bool) -> list[Claim]:
    outage_s = FULL_S if full else QUICK_S
    evm = instance.settings.evm
    async with trust_of(instance) as trust:
        local, standby = (
            Node(trust.session, f"http://127.0.0.1:{port}") for port in (evm.port, evm.standby_port)
        )
        await _whole(trust)
        first = await _send(trust)
        await trust.until_state(first.id, "final", FINAL_S)
        watch = Watch(trust)
        watching = asyncio.create_task(watch.run())
        try:
            away = asyncio.create_task(_keep_away(instance, evm.port, outage_s))
            sent: list[Sent] = []
            refused: list[str] = []
            while not away.done():
                began = time.monotonic()
                try:
                    sent.append(await _send(trust))
                except (aiohttp.ClientError, TimeoutError, Refused) as caught:
                    refused.append(repr(caught)[:200])
                await asyncio.sleep(max(0.0, EVERY_S - (time.monotonic() - began)))
            killed = await away
            ended = time.monotonic()
            views = [await trust.until_state(one.id, "final", FINAL_S) for one in sent]
            last_s = time.monotonic() - ended
            back_s = await _closed_again(watch, ended)
            after = await _send(trust)
            views.append(await trust.until_state(after.id, "final", FINAL_S))
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        # Long enough that a root which still had its turn on the first network would be there.
        await asyncio.sleep(3.0)
        counts = [
            [len(await node.logs(view["root"])) for node in (local, standby)] for view in views
        ]
    return _claims(outage_s, killed, sent, refused, watch, views, counts, last_s, back_s)


async def _send(trust: Trust) -> Sent:
    campaign = Campaign(seed=time.time_ns() // 1_000)
    began = time.monotonic()
    batch = (await trust.open("outage"))["id"]
    path = f"/v1/trust/batches/{batch}/messages"
    await trust.send(path, campaign.pieces(0, MESSAGES), timeout_s=20)
    view = await trust.close(batch, timeout_s=20)
    return Sent(batch, time.monotonic() - began, view["state"])


async def _keep_away(instance: Instance, port: int, seconds: float) -> int:
    """How many processes had to be killed."""
    ends, killed = time.monotonic() + seconds, 0
    while time.monotonic() < ends:
        for process in instance.processes():
            with contextlib.suppress(psutil.Error):
                words = process.cmdline()
                if words and words[0].endswith("anvil") and str(port) in words:
                    process.kill()
                    killed += 1
        await asyncio.sleep(0.05)
    return killed


async def _whole(trust: Trust) -> None:
    """Both networks are well. Raises RuntimeError."""
    until = time.monotonic() + BACK_S
    while True:
        networks = await trust.networks()
        if len(networks) == 2 and all(n["healthy"] and n["breaker"] == "closed" for n in networks):
            return
        if time.monotonic() > until:
            raise RuntimeError(f"not two networks that are well: {networks}"[:400])
        await asyncio.sleep(0.2)


async def _closed_again(watch: Watch, since: float) -> float | None:
    """Seconds until the breaker was closed; None: not in time."""
    while time.monotonic() < since + BACK_S:
        if watch.breaker[-1][1] == "closed" and len(watch.breaker) > 1:
            return max(0.0, watch.breaker[-1][0] - since)
        await asyncio.sleep(0.1)
    return None


def _claims(
    outage_s: float,
    killed: int,
    sent: list[Sent],
    refused: list[str],
    watch: Watch,
    views: list[dict[str, Any]],
    counts: list[list[int]],
    last_s: float,
    back_s: float | None,
) -> list[Claim]:
    pending = sum(one.state in ("included", "submitted") for one in sent)
    slowest = percentile([one.accepted_s for one in sent], 1.0) if sent else 0.0
    states = [state for _, state in watch.breaker]
    on_second = sum(count[1] == 1 for count in counts[:-1])
    twice = [count for count in counts if max(count) > 1]
    return [
        Claim(
            f"the node is away for {outage_s:.0f} s ({killed} processes killed), sending goes on",
            f"{len(sent) * MESSAGES} messages in {len(sent)} batches accepted, {pending} batches "
            f"pending then; slowest {slowest:.2f} s"
            + (f"; {len(refused)} refused: {refused[:2]}" if refused else ""),
            "all accepted, their certificates pending",
            bool(sent) and pending == len(sent) and not refused and killed > 0,
        ),
        Claim(
            "… its breaker",
            " → ".join(states)
            + (f"; closed {back_s:.1f} s after the node could stay" if back_s is not None else ""),
            "opens, half-opens, closes",
            "open" in states and "half-open" in states and back_s is not None,
        ),
        Claim(
            "… a second network takes over",
            f"{on_second} of {len(sent)} roots went to the second; all final {last_s:.1f} s after "
            f"the outage at the latest; a later batch went to "
            f"{'the first' if counts[-1] == [1, 0] else counts[-1]}",
            "all final; the first again, once it is well",
            on_second > 0 and all(v["state"] == "final" for v in views) and counts[-1] == [1, 0],
        ),
        Claim(
            "… logs of a root on one network",
            f"at most {max(max(count) for count in counts)} of {len(counts)} roots on 2 networks; "
            f"alarms meanwhile: {sorted(watch.alarms) or 'none'}",
            "never 2",
            not twice and all(sum(count) >= 1 for count in counts),
        ),
    ]
