"""The gateway against llama.cpp's own HTTP server: same model, same options, same run.

    make bench            # or: python -m benchmarks.gateway --full

Each figure is taken from both in turn (ABAB …), so that a drift of the machine hits both alike.
The load generator shares the machine's cores with what it loads. Writes
``benchmarks/results/gateway.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import uvloop

from benchmarks.client import ChatRun, hammer_get, stream_chat
from benchmarks.instance import Instance, find_instance
from benchmarks.report import Report, Row, percentile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RESULTS = Path(__file__).parent / "results"
TOPICS = (
    "a spring sale of running shoes", "a new espresso machine", "a winter coat for city cyclists",
    "an online course on bread baking", "a weekend trip to the sea", "a garden seed subscription",
    "a second-hand bookshop", "a charity concert", "noise-cancelling headphones", "a yoga studio",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    url: str
    key: str
    model: str


def body(target: Target, n: int, tokens: int) -> dict[str, Any]:
    """A prompt that no prompt cache has seen: ``n`` makes it new."""
    topic = TOPICS[n % len(TOPICS)]
    return {
        "model": target.model,
        "messages": [
            {"role": "system", "content": f"You write long marketing stories. Number {n}."},
            {"role": "user", "content": f"Write a very long story that advertises {topic}."},
        ],
        "max_tokens": tokens,
        "temperature": 0.0,
    }


@asynccontextmanager
async def bare_server(instance: Instance) -> AsyncIterator[Target]:
    """Start llama.cpp's server with the options that the runtime gives its engine."""
    command = [sys.executable, "-m", "benchmarks.bare_llama", *instance.engine_arguments()]
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert process.stdout is not None
        while True:  # llama.cpp may log before our line
            line = await asyncio.wait_for(process.stdout.readline(), 120)
            if not line:
                raise RuntimeError("llama.cpp's server did not start")
            if line.startswith(b"{"):
                break
        address = json.loads(line)
        yield Target("llama.cpp server", address["url"], address["key"], instance.model)
    finally:
        process.kill()
        await process.wait()


def open_session() -> aiohttp.ClientSession:
    """A connection for each request, on both sides: llama.cpp's server closes idle ones at will."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    return aiohttp.ClientSession(connector=connector, read_bufsize=2**20)


async def throughput(target: Target, streams: int, tokens: int, n: int) -> float:
    """Tokens per second over ``streams`` answers at once."""
    async with open_session() as session:
        started = time.perf_counter()
        runs: list[ChatRun] = await asyncio.gather(
            *(
                stream_chat(session, target.url, target.key, body(target, n + i, tokens))
                for i in range(streams)
            )
        )
        return sum(run.tokens for run in runs) / (time.perf_counter() - started)


async def first_tokens(target: Target, count: int, n: int) -> list[float]:
    """Time to first token of ``count`` answers, one after another."""
    async with open_session() as session:
        return [
            (await stream_chat(session, target.url, target.key, body(target, n + i, 2))).ttft_s
            for i in range(count)
        ]


async def measure(instance: Instance, full: bool) -> Report:
    rounds, tokens, probes, seconds = (5, 256, 100, 20.0) if full else (3, 128, 60, 6.0)
    report = Report(
        "Gateway against llama.cpp's own HTTP server",
        {
            "model": instance.model,
            "engine options": instance.engine_arguments()[-1],
            "rounds": rounds,
            "tokens per answer": tokens,
        },
    )
    ours = Target("gateway", instance.url + "/v1", instance.key, instance.model)
    async with bare_server(instance) as peer:
        for target in (ours, peer):  # warm both
            await throughput(target, 2, 16, 90_000)
        n = 0
        for streams in (1, 4, 8):
            mine, theirs = [], []
            for _ in range(rounds):
                mine.append(await throughput(ours, streams, tokens, n))
                theirs.append(await throughput(peer, streams, tokens, n))
                n += streams
            ratio = statistics.median(a / b for a, b in zip(mine, theirs, strict=True))
            report.add(
                Row(
                    f"tokens/s, {streams} stream{'s' if streams > 1 else ''}",
                    statistics.median(mine),
                    "tokens/s",
                    statistics.median(theirs),
                    ratio,
                    goal="ratio ≥ 0.9" if streams == 4 else "",
                    holds=ratio >= 0.9 if streams == 4 else None,
                )
            )
        mine, theirs = [], []
        for _ in range(rounds):
            mine += await first_tokens(ours, probes // rounds, n)
            theirs += await first_tokens(peer, probes // rounds, n)
            n += probes
        for share, label in ((0.5, "p50"), (0.99, "p99")):
            a, b = percentile(mine, share) * 1e3, percentile(theirs, share) * 1e3
            report.add(
                Row(
                    f"time to first token, {label}",
                    a,
                    "ms",
                    b,
                    a / b,
                    goal="≤ peer + 8 ms" if label == "p50" else "",
                    holds=a - b <= 8.0 if label == "p50" else None,
                    note=f"{a - b:+.1f} ms",
                )
            )
    for connections in (1, 8, 64):
        run = await hammer_get(
            ours.url + "/models", ours.key, connections=connections, seconds=seconds
        )
        refused = {k: v for k, v in run.statuses.items() if k != 200}
        if refused:
            raise RuntimeError(f"GET /v1/models answered {refused}")
        goal = connections == 64
        report.add(
            Row(
                f"GET /v1/models, authenticated, {connections} connections",
                run.requests_per_s,
                "requests/s",
                goal="≥ 2,000" if goal else "",
                holds=run.requests_per_s >= 2_000 if goal else None,
                note=f"p50 {percentile(run.latencies_s, 0.5) * 1e3:.1f} ms, "
                f"p99 {percentile(run.latencies_s, 0.99) * 1e3:.1f} ms",
            )
        )
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="the sizes of the stated figures")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    report = uvloop.run(measure(find_instance(), options.full))
    paths = report.write(options.out, "gateway")
    print(report.markdown())
    print("written:", *paths)
    return 0 if all(row.holds is not False for row in report.rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
