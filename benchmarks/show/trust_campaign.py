"""A campaign: many messages, one transaction, and certificates that three verifiers accept."""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from benchmarks.instance import Instance
from benchmarks.report import percentile
from benchmarks.show import trust_verifiers
from benchmarks.show.table import Claim
from benchmarks.show.trust_client import Refused, Trust, trust_of
from benchmarks.show.trust_letters import Campaign
from benchmarks.show.trust_memory import ALL, TASKS, watched
from benchmarks.show.trust_node import Node
from benchmarks.show.trust_verifiers import Answer, Known, Papers

QUICK, FULL = 20_000, 1_000_000
QUICK_SAMPLE, FULL_SAMPLE = 200, 1_000
VERIFY_GOAL_MS = 1.0
CBOR_GOAL = 800
FINAL_S = 120.0
SETTINGS = {"MAILY_TRUST__PUBLIC_PER_MINUTE": "1000000"}
"""The demonstration reads all its certificates from one address."""


@dataclass(slots=True)
class Sent:
    """A campaign that is final."""

    batch: str
    size: int
    root: str
    sent_s: float
    closed_s: float
    final_s: float
    anchors: list[dict[str, Any]] = field(default_factory=list)


async def run(instance: Instance, full: bool) -> list[Claim]:
    count, sample = (FULL, FULL_SAMPLE) if full else (QUICK, QUICK_SAMPLE)
    campaign = Campaign(seed=int(time.time()))
    async with trust_of(instance) as trust:
        node = Node(trust.session, f"http://127.0.0.1:{instance.settings.evm.port}")
        # The first root of a new chain may bring the registry with it; this one takes that part.
        await send(trust, Campaign(campaign.seed + 1), 3)
        account = (await trust.networks())[0]["account"]
        before = await node.nonce(account)
        async with watched(instance) as watch:
            sent = await send(trust, campaign, count)
        transactions = await node.nonce(account) - before
        logs = await node.logs(sent.root)
        chosen = random.Random(campaign.seed).sample(range(count), sample)
        listed, found = await _list(trust, campaign, sent.batch, count, set(chosen))
        claims = [
            Claim(
                f"a campaign of {count:,} messages, streamed as NDJSON",
                f"{sent.size:,} leaves, {count / sent.sent_s:,.0f} messages/s; tree and signature "
                f"{sent.closed_s:.1f} s; final {sent.final_s:.1f} s after that",
                f"{count:,} in one batch, final",
                sent.size == count == listed,
            ),
            Claim(
                "… its transactions on the local node",
                f"{transactions} by the account's nonce, {len(logs)} log of the root "
                f"(gas {sent.anchors[0]['gas_used']:,}, "
                f"{sent.anchors[0]['gas_used'] / count:.3f} a message)",
                "1 and 1",
                transactions == len(logs) == 1,
            ),
            Claim(
                "… peak memory",
                watch.words(("trust host", TASKS, "gateway", "PostgreSQL", ALL))
                + f" ({watch.samples} samples); one trust host at most "
                f"{watch.resident['trust host']:,.0f} MB resident",
                "(stated)",
                watch.samples > 0 and watch.resident["trust host"] > 0,
            ),
        ]
        claims += await _verified(trust, node, campaign, sent, found)
    return claims


async def send(trust: Trust, campaign: Campaign, count: int) -> Sent:
    """Into a batch of its own, from the first line to final."""
    opened = await trust.open(f"campaign {campaign.seed}")
    batch = opened["id"]
    began = time.monotonic()
    await trust.send(
        f"/v1/trust/batches/{batch}/messages", campaign.pieces(0, count), timeout_s=7_200
    )
    sent = time.monotonic()
    await trust.close(batch, timeout_s=300)
    closed = time.monotonic()
    view = await trust.until_state(batch, "final", FINAL_S)
    return Sent(
        batch,
        view["size"],
        view["root"],
        sent - began,
        closed - sent,
        time.monotonic() - closed,
        view["anchors"],
    )


async def _list(
    trust: Trust, campaign: Campaign, batch: str, count: int, chosen: set[int]
) -> tuple[int, dict[int, str]]:
    """How many messages of the campaign have their certificate, each once; ids of the chosen."""
    found: dict[int, str] = {}
    seen = bytearray(count)
    head = f"<{campaign.seed}."
    lines = 0
    async with trust.session.get(
        f"{trust.instance.url}/v1/trust/batches/{batch}/certificates",
        headers=trust.headers(),
        timeout=aiohttp.ClientTimeout(total=None, sock_read=60),
    ) as response:
        if response.status != 200:
            raise Refused(response.status, await response.text())
        async for text in response.content:
            line = json.loads(text)
            number = int(line["message_id"].removeprefix(head).partition("@")[0])
            if line["index"] != lines or seen[number]:
                raise RuntimeError(f"listed twice, or out of order: {line}")
            lines += 1
            seen[number] = 1
            if number in chosen:
                found[number] = line["id"]
    return lines, found


async def _verified(
    trust: Trust, node: Node, campaign: Campaign, sent: Sent, chosen: dict[int, str]
) -> list[Claim]:
    """Both forms of each chosen certificate, by all three."""
    known = Known(
        await trust.keys(),
        await trust.receipt(sent.root),
        tuple([await _block(node, anchor) for anchor in sent.anchors]),
    )
    papers: dict[str, list[Papers]] = {"json": [], "cbor": []}
    for number, certificate in sorted(chosen.items()):
        mail = campaign.mail(number)
        for form, batch in papers.items():
            data = await trust.form(certificate, form)
            batch.append(Papers(data, mail.raw, mail.recipient))
    every = papers["json"] + papers["cbor"]
    expected: list[Answer] = [(True, "exact", "final")] * len(every)
    answers, took = await asyncio.to_thread(trust_verifiers.ours, every, known)
    found = {"ours": answers}
    source = await trust.fetch("GET", "/v1/trust/verifier.py", public=True)
    found["stand-alone"] = await trust_verifiers.standalone(source, every, known)
    problem = ""
    try:
        async with trust_verifiers.chromium() as browser:
            page = await browser.new_page()
            first = next(iter(chosen.values()))
            await page.goto(f"{trust.instance.url}/verify/{first}")
            found["the page in Chromium"] = await trust_verifiers.in_page(page, every, known)
    except RuntimeError as error:  # no browser: the claim falls short
        problem = f"; {error}"
    right = {
        name: sum(a == e for a, e in zip(got, expected, strict=True)) for name, got in found.items()
    }
    wrong = {a for got in found.values() for a in got if a != expected[0]}
    half = len(papers["json"])
    _, plain = await asyncio.to_thread(trust_verifiers.ours, every, known, with_receipt=False)
    sizes = [len(one.certificate) for one in papers["cbor"]]
    path = json.loads(papers["json"][0].certificate)["proof"]["path"]
    full_ms, compact_ms, plain_ms = (
        1_000 * statistics.median(part) for part in (took[:half], took[half:], plain)
    )
    return [
        Claim(
            f"… {half:,} random certificates, JSON and CBOR, by three verifiers",
            ", ".join(f"{name} {n:,}/{len(every):,}" for name, n in right.items())
            + problem
            + (f"; else {sorted(wrong)[:3]}" if wrong else ""),
            "all exact and final",
            len(right) == 3 and all(n == len(every) for n in right.values()),
        ),
        Claim(
            "… one verification, the message being parsed",
            f"with receipt: JSON {full_ms:.2f} ms, CBOR {compact_ms:.2f} ms median "
            f"(p99 {1_000 * percentile(took, 0.99):.2f} ms); without {plain_ms:.2f} ms",
            f"≤ {VERIFY_GOAL_MS:g} ms",
            max(full_ms, compact_ms, plain_ms) <= VERIFY_GOAL_MS,
        ),
        Claim(
            "… size of a certificate",
            f"CBOR at most {max(sizes)} bytes, of them {32 * len(path)} the path; "
            f"JSON {max(len(one.certificate) for one in papers['json']):,}; "
            f"the shared receipt {len(known.receipt):,}",
            f"CBOR ≤ {CBOR_GOAL} bytes",
            max(sizes) <= CBOR_GOAL,
        ),
    ]


async def _block(node: Node, anchor: dict[str, Any]) -> tuple[int, str]:
    """As the node has it, not as the instance says."""
    found = await node.block_hash(anchor["block_number"])
    return await node.chain_id(), (found or "").removeprefix("0x")
