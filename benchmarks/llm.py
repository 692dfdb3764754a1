"""The gateway as a proxy of models, beside other proxies before the same fake engine.

    make bench-llm        # or: python -m benchmarks.llm --full

What is measured is everything but the model: authentication, rate limit, budgets, routing,
breakers, journal, relay. The fake engine answers at once. Peers are LiteLLM's proxy (the product
of the same kind), vllm-router and sglang-router (Rust; they neither authenticate nor meter).
The load generator shares the machine's cores with what it loads and says what it took. Figures
per core count all CPU seconds of a product's processes: of ours every process of the runtime, its
engine included; of a peer's its proxy alone. Writes ``benchmarks/results/llm.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvloop

from benchmarks import gateway, peers
from benchmarks.instance import Instance
from benchmarks.load import Load, load
from benchmarks.own_instance import own_instance
from benchmarks.report import Report, Row

RESULTS = Path(__file__).parent / "results"
CHAT = "/v1/chat/completions"
SETTINGS = {
    "MAILY_LLM__ENGINE": "fake",
    "MAILY_LLM__SLOTS": "256",
    "MAILY_LLM__QUEUE_LIMIT": "256",
    "MAILY_LLM__CONTEXT_TOKENS": "8192",
    "MAILY_LLM__PRICES": '{"smollm2-135m-instruct": {"prompt": 0.1, "completion": 0.4}}',
    "MAILY_EVM__ENABLED": "false",
}
"""Of the instance: an engine that costs next to nothing, and prices, so that cost is metered."""
BUDGETS = (
    {"scope": "workspace", "unit": "tokens", "period": "day"},
    {"scope": "workspace", "unit": "cost", "period": "month"},
    {"scope": "key", "unit": "tokens", "period": "minute"},
)
BUDGET = 10**12
STREAM_TOKENS = 1_000


@dataclass(frozen=True, slots=True)
class Size:
    """Seconds of a stretch, and how many of each."""

    seconds: float
    rounds: int

    @classmethod
    def of(cls, full: bool) -> Size:
        return cls(10.0, 5) if full else cls(3.0, 2)


@dataclass(frozen=True, slots=True)
class Side:
    """Who answers, and what its processes have used so far."""

    name: str
    url: str
    key: str
    model: str
    cpu_s: Callable[[], float]

    async def load(self, body: dict[str, Any], connections: int, seconds: float) -> Load:
        asked = {**body, "model": self.model}
        return await load(
            self.url + CHAT, self.key, asked, connections=connections, seconds=seconds
        )


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests at 64 connections, one after another on each."""

    requests_per_s: float
    per_core: float
    p50_ms: float
    p99_ms: float
    client_cpu_ms: float
    """Of the load generator, per request."""


SHORT: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Write a line about shoes."}],
    "max_tokens": 16,
}


def long_stream() -> dict[str, Any]:
    """An answer of a thousand words: the fake engine fills in what a schema demands."""
    words = {
        "type": "array",
        "items": {"const": "word"},
        "minItems": STREAM_TOKENS,
        "maxItems": STREAM_TOKENS,
    }
    schema = {
        "type": "object",
        "properties": {"words": words},
        "required": ["words"],
        "additionalProperties": False,
    }
    return {
        **SHORT,
        "stream": True,
        "max_tokens": STREAM_TOKENS,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "words", "schema": schema},
        },
    }


def ours(instance: Instance) -> Side:
    processes = instance.processes()

    def cpu_s() -> float:
        return sum(_cpu(process) for process in processes)

    return Side("gateway", instance.url, instance.key, instance.model, cpu_s)


def _cpu(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def peer(of: peers.Peer) -> Side:
    return Side(of.name, of.url, of.key, "fake", of.cpu_s)


async def set_budgets(instance: Instance, limit: int | None) -> None:
    """``limit`` None: remove them."""
    headers = {"authorization": f"Bearer {instance.key}"}
    async with httpx.AsyncClient(base_url=instance.url, headers=headers, timeout=30) as client:
        for budget in BUDGETS:
            if limit is None:
                name = f"{budget['scope']}.{budget['unit']}.{budget['period']}"
                answer = await client.delete(f"/v1/budgets/{name}")
            else:
                answer = await client.put("/v1/budgets", json={**budget, "limit": limit})
            if answer.status_code not in (200, 404):
                raise RuntimeError(f"/v1/budgets: {answer.status_code} {answer.text[:200]}")
    await asyncio.sleep(0.5)  # every process has heard of it


async def rate(side: Side, seconds: float) -> Rate:
    before = side.cpu_s()
    seen = await side.load(SHORT, 64, seconds)
    used = side.cpu_s() - before
    count = seen.requests_per_s * seen.seconds
    return Rate(
        seen.requests_per_s, count / used, seen.p50_ms, seen.p99_ms, seen.cpu_s / count * 1e3
    )


def median(rates: list[Rate]) -> Rate:
    """By requests/s."""
    return sorted(rates, key=lambda one: one.requests_per_s)[len(rates) // 2]


async def measure(instance: Instance, full: bool) -> Report:
    """Against an instance with ``SETTINGS``."""
    size = Size.of(full)
    report = Report(
        "The gateway as a proxy, before a fake engine",
        {
            "budgets": len(BUDGETS),
            "seconds a stretch": size.seconds,
            "rounds": size.rounds,
            "gateway replicas": instance.settings.gateway.replicas,
        },
    )
    gateway_side = ours(instance)
    await set_budgets(instance, BUDGET)
    async with peers.bare() as upstream:
        bare = peer(upstream)
        for side in (gateway_side, bare):  # warm both
            await side.load(SHORT, 64, 2.0)
            await side.load(long_stream(), 4, 1.0)
        await _streams(report, gateway_side, bare, size)
        await _rates(report, instance, gateway_side, upstream.url, size)
        direct = await rate(bare, size.seconds)
        report.add(_peer_row("the fake engine itself, bare", direct, None))
    return report


async def _streams(report: Report, mine: Side, bare: Side, size: Size) -> None:
    first: list[float] = []
    theirs: list[float] = []
    one = {**SHORT, "stream": True}
    for _ in range(size.rounds):  # in turn: a drift of the machine hits both alike
        first.append((await mine.load(one, 1, size.seconds / 2)).ttft_p50_ms)
        theirs.append((await bare.load(one, 1, size.seconds / 2)).ttft_p50_ms)
    added = statistics.median(a - b for a, b in zip(first, theirs, strict=True))
    report.add(
        Row(
            "time to first token, one stream, p50",
            statistics.median(first),
            "ms",
            statistics.median(theirs),
            goal="≤ bare + 3 ms",
            holds=added <= 3.0,
            note=f"{added:+.2f} ms",
        )
    )
    relayed = [await mine.load(long_stream(), 20, size.seconds) for _ in range(size.rounds)]
    bare_run = await bare.load(long_stream(), 20, size.seconds)
    tokens = statistics.median(run.tokens_per_s for run in relayed)
    report.add(
        Row(
            "tokens relayed, 20 streams",
            tokens,
            "tokens/s",
            bare_run.tokens_per_s,
            tokens / bare_run.tokens_per_s,
            goal="≥ 30,000",
            holds=tokens >= 30_000,
        )
    )


async def _rates(report: Report, instance: Instance, mine: Side, upstream: str, size: Size) -> None:
    with tempfile.TemporaryDirectory(prefix="maily-peers-") as folder:
        own: list[Rate] = []
        litellm: list[Rate] = []
        why = ""
        try:
            async with peers.running(peers.LITELLM, upstream, Path(folder)) as started:
                side = peer(started)
                await side.load(SHORT, 8, 2.0)
                for _ in range(size.rounds):
                    own.append(await rate(mine, size.seconds))
                    litellm.append(await rate(side, size.seconds))
        except RuntimeError as error:
            why = str(error)
        own = own or [await rate(mine, size.seconds) for _ in range(size.rounds)]
        best = median(own)
        report.add(
            Row(
                "requests/s, 64 connections: authentication, budgets and routing on",
                best.requests_per_s,
                "requests/s",
                goal="≥ 1,000",
                holds=best.requests_per_s >= 1_000,
                note=_note(best),
            )
        )
        per_core = statistics.median(one.per_core for one in own)
        if litellm:
            theirs = statistics.median(one.per_core for one in litellm)
            report.add(
                Row(
                    "requests/s per core, LiteLLM's proxy beside",
                    per_core,
                    "requests/s",
                    theirs,
                    per_core / theirs,
                    goal="ratio ≥ 5",
                    holds=per_core >= 5 * theirs,
                    note=f"LiteLLM: {median(litellm).requests_per_s:,.0f} requests/s, "
                    f"p50 {median(litellm).p50_ms:,.0f} ms",
                )
            )
        else:
            report.add(Row("requests/s per core", per_core, "requests/s", note=why))
        await set_budgets(instance, None)
        free = await rate(mine, size.seconds)
        report.add(Row("… with no budget set", free.requests_per_s, "requests/s", note=_note(free)))
        await set_budgets(instance, BUDGET)
        for kind in (peers.VLLM_ROUTER, peers.SGLANG_ROUTER):
            try:
                async with peers.running(kind, upstream, Path(folder)) as started:
                    side = peer(started)
                    await side.load(SHORT, 8, 1.0)
                    report.add(_peer_row(kind.name, await rate(side, size.seconds), per_core))
            except RuntimeError as error:
                report.add(Row(kind.name, 0.0, "requests/s", note=str(error)))


def _peer_row(name: str, seen: Rate, own_per_core: float | None) -> Row:
    per_core = "" if own_per_core is None else f"; per core ours {own_per_core:,.0f}"
    return Row(
        f"{name}: for comparison",
        seen.requests_per_s,
        "requests/s",
        note=f"{seen.per_core:,.0f} a core{per_core}; p50 {seen.p50_ms:.1f} ms",
    )


def _note(seen: Rate) -> str:
    return (
        f"{seen.per_core:,.0f} a core; p50 {seen.p50_ms:.1f} ms, p99 {seen.p99_ms:.1f} ms; "
        f"the load generator took {seen.client_cpu_ms:.2f} ms of CPU per request"
    )


async def measure_real(instance: Instance, full: bool) -> Report:
    """Against an instance with its real engine: what of its bare speed arrives."""
    rounds, tokens = 5 if full else 2, 256
    report = Report("Tokens of the real engine", {"rounds": rounds, "tokens per answer": tokens})
    mine = gateway.Target("gateway", instance.url + "/v1", instance.key, instance.model)
    async with gateway.bare_server(instance) as bare:
        for target in (mine, bare):
            await gateway.throughput(target, 2, 16, 90_000)
        pairs = []
        for n in range(rounds):
            here = await gateway.throughput(mine, 4, tokens, n * 4)
            pairs.append((here, await gateway.throughput(bare, 4, tokens, n * 4)))
    ratio = statistics.median(here / there for here, there in pairs)
    report.add(
        Row(
            "tokens/s of the real engine, 4 streams",
            statistics.median(here for here, _ in pairs),
            "tokens/s",
            statistics.median(there for _, there in pairs),
            ratio,
            goal="ratio ≥ 0.95",
            holds=ratio >= 0.95,
        )
    )
    return report


async def on_own_instances(full: bool) -> Report:
    async with own_instance(SETTINGS) as instance:
        report = await measure(instance, full)
    async with own_instance({"MAILY_EVM__ENABLED": "false"}) as instance:
        report.rows += (await measure_real(instance, full)).rows
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the sizes of the stated figures")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    report = uvloop.run(on_own_instances(options.full))
    paths = report.write(options.out, "llm")
    print(report.markdown())
    print("written:", *paths)
    return 0 if all(row.holds is not False for row in report.rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
