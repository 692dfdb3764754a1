"""A reorganisation: the block with the root is dropped from the node, again and again.

Two watchers look all the time. One follows the batch's events; the other asks node and instance in
turn: whenever the instance says ``final``, the node must by then count a block with the root as
finalized, on the chain as it is now.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.instance import Instance
from benchmarks.show.table import Claim
from benchmarks.show.trust_client import Follower, Refused, Trust, following, trust_of
from benchmarks.show.trust_letters import Campaign
from benchmarks.show.trust_node import Node

MESSAGES = 20
QUICK_DROPS, FULL_DROPS = 2, 5
"""Times that the block is dropped before it is left alone."""
PATIENCE_S = 60.0


@dataclass(slots=True)
class Witness:
    """What the instance said, beside what the node had."""

    trust: Trust
    node: Node
    batch: str
    certificate: str
    said: list[tuple[float, str]] = field(default_factory=list)
    """States of the certificate as they changed. Monotonic seconds."""
    looks: int = 0
    early: list[str] = field(default_factory=list)
    """Where it said final and the node did not bear it out."""

    async def run(self) -> None:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, Refused):
                view = await self.trust.view(self.certificate)
                self.looks += 1
                if not self.said or self.said[-1][1] != view["state"]:
                    self.said.append((time.monotonic(), view["state"]))
                if view["state"] == "final":
                    await self.bear_out(view)
            await asyncio.sleep(0.03)

    async def bear_out(self, view: dict[str, Any]) -> None:
        """The node is asked second: what is finalized by now is at least what was."""
        finalized = await self.node.finalized()
        logs = await self.node.logs(view["root"])
        blocks = [int(log["blockNumber"], 16) for log in logs]
        if not any(block <= finalized for block in blocks):
            self.early.append(f"final with logs in {blocks}, finalized {finalized}")


async def run(instance: Instance, full: bool) -> list[Claim]:
    drops = FULL_DROPS if full else QUICK_DROPS
    campaign = Campaign(seed=int(time.time()))
    async with trust_of(instance) as trust:
        node = Node(trust.session, f"http://127.0.0.1:{instance.settings.evm.port}")
        batch = (await trust.open("reorganisation"))["id"]
        await trust.send(
            f"/v1/trust/batches/{batch}/messages", campaign.pieces(0, MESSAGES), timeout_s=60
        )
        line = (await trust.certificates(batch))[MESSAGES // 2]
        witness = Witness(trust, node, batch, line["id"])
        async with following(trust, batch) as follower:
            watching = asyncio.create_task(witness.run())
            try:
                return await _drill(trust, node, follower, witness, drops)
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)


async def _drill(
    trust: Trust, node: Node, follower: Follower, witness: Witness, drops: int
) -> list[Claim]:
    view = await trust.close(follower.batch)
    dropped: list[str] = []
    seen = 0
    lag: list[float] = []
    for _ in range(drops):
        told = await follower.until("confirmed", PATIENCE_S, after=seen)
        anchor = next(a for a in told.data["anchors"] if a["block_number"] is not None)
        depth = await node.drop(anchor["block_number"])
        at = time.monotonic()
        dropped.append(f"{anchor['block_number']} ({depth} deep)")
        seen = follower.told.index(told) + 1
        orphaned = await follower.until("orphaned", PATIENCE_S, after=seen)
        lag.append(orphaned.at - at)
        seen = follower.told.index(orphaned) + 1
    at = time.monotonic()
    final = await follower.until("final", PATIENCE_S, after=seen)
    again_s = final.at - at
    logs = await node.logs(view["root"])
    # A while longer: final stays final.
    await asyncio.sleep(1.0)
    states = follower.states
    after = (await trust.view(witness.certificate))["state"]
    expected = ["submitted", "confirmed", *["orphaned", "submitted", "confirmed"] * drops, "final"]
    return [
        Claim(
            f"reorganisation: the root's block is dropped {drops} times",
            f"blocks {', '.join(dropped)}; told live: {' → '.join(states)}; orphaned told "
            f"{max(lag):.1f} s after the drop at the latest, final again {again_s:.1f} s later",
            "confirmed → orphaned → submitted → … → final",
            _within(expected, states) and states[-1] == after == "final",
        ),
        Claim(
            "… final before the node has it as finalized",
            f"{len(witness.early)} of {witness.looks:,} looks; the certificate was "
            f"{' → '.join(state for _, state in witness.said)}"
            + (f"; {witness.early[:2]}" if witness.early else ""),
            "never, in at least 50 looks",
            not witness.early
            and witness.looks >= 50
            and sum(state == "final" for _, state in witness.said) == 1,
        ),
        Claim(
            "… logs of the root on the chain as it is",
            f"{len(logs)}",
            "1",
            len(logs) == 1,
        ),
    ]


def _within(expected: list[str], states: list[str]) -> bool:
    """Whether ``states`` holds the expected ones in this order, whatever stands between."""
    left = iter(states)
    return all(state in left for state in expected)
