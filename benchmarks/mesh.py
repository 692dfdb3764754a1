"""The mesh's coordination: decisions, leases, steps, shares, recovery.

    make bench-mesh       # or: python -m benchmarks.mesh --full

On servers of its own, started as ``maily up`` starts them (both sync every commit), with workers
and coordinators in this process: what is measured is the coordination, not a model. Peers run in
the same run, on the same servers. Writes ``benchmarks/results/mesh.json`` and ``.md``.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
from pathlib import Path

from benchmarks.coordination.cancels import cancel_ms
from benchmarks.coordination.decision import decision_us
from benchmarks.coordination.fairness import measure_fairness
from benchmarks.coordination.leases import measure_leases
from benchmarks.coordination.recovery import recoveries_s
from benchmarks.coordination.servers import Servers, embedded, scratch
from benchmarks.coordination.steps import step_overhead_ms
from benchmarks.coordination.throughput import peer_tasks_per_s, tasks_per_s
from benchmarks.report import Report, Row, percentile
from benchmarks.sim_mesh import run_seeds
from mesh.core.logging import configure_logging

RESULTS = Path(__file__).parent / "results"


async def measure(report: Report, *, full: bool) -> None:
    decision, digest = decision_us()
    report.add(
        Row("routing decision, 64 workers", decision, "µs", goal="≤ 50", holds=decision <= 50)
    )
    report.add(Row("assignments decided, one process", 1e6 / decision, "1/s"))
    report.add(Row("digest of a snapshot, 64 workers, 7 kinds", digest, "µs"))
    async with embedded() as servers:
        async with scratch(servers.postgres_url) as url:
            leases = await measure_leases(url, 16_000 if full else 4_000)
        report.add(
            Row(
                "leases, fair, 8 workspaces, batches of 8",
                leases.claimed,
                "1/s",
                leases.plain,
                leases.claimed / leases.plain,
                "≥ 1,500",
                leases.claimed >= 1_500,
                "peer: a bare SKIP LOCKED table",
            )
        )
        report.add(Row("tasks accepted", leases.created, "1/s"))
        report.add(Row("tasks ended", leases.finished, "1/s"))
        await _throughput(report, servers, 4_000 if full else 1_500)
        async with scratch(servers.postgres_url) as url:
            steps = await step_overhead_ms(Servers(url, servers.redis_url), 20 if full else 8)
        p50 = percentile(steps, 0.5)
        report.add(Row("step overhead p50", p50, "ms", goal="≤ 5", holds=p50 <= 5))
        report.add(Row("step overhead p99", percentile(steps, 0.99), "ms"))
        async with scratch(servers.postgres_url) as url:
            cancels = await cancel_ms(Servers(url, servers.redis_url), 200 if full else 40)
        p99 = percentile(cancels, 0.99)
        report.add(Row("cancel to running work, p50", percentile(cancels, 0.5), "ms"))
        report.add(Row("cancel to running work, p99", p99, "ms", goal="≤ 100", holds=p99 <= 100))
        async with scratch(servers.postgres_url) as url:
            taken = await recoveries_s(Servers(url, servers.redis_url), 30 if full else 6)
        worst = max(taken)
        report.add(
            Row("lost worker to next claim, p50", percentile(taken, 0.5), "s", note=f"{len(taken)}")
        )
        report.add(
            Row("lost worker to next claim, worst", worst, "s", goal="≤ 2", holds=worst <= 2)
        )
        async with scratch(servers.postgres_url) as url:
            fair = await measure_fairness(Servers(url, servers.redis_url), 60.0 if full else 20.0)
        moved = fair.moved * 100
        report.add(
            Row(
                "a flood of 20 × its share moves another's p95 by",
                moved,
                "%",
                goal="≤ 20",
                holds=moved <= 20,
                note=f"{fair.calm_p95_s:.3f} s → {fair.flooded_p95_s:.3f} s, {fair.samples} tasks",
            )
        )
    summary = await asyncio.to_thread(run_seeds, 0, 10_000 if full else 1_000)
    report.add(
        Row(
            "simulated seeds without a broken invariant",
            summary.seeds - len(summary.broken),
            f"of {summary.seeds:,}",
            holds=not summary.broken,
            note=f"{summary.events:,} events in {summary.wall_s:.0f} s",
        )
    )


async def _throughput(report: Report, servers: Servers, tasks: int) -> None:
    async with scratch(servers.postgres_url) as url:
        ours = await tasks_per_s(Servers(url, servers.redis_url), tasks)
    peer = None
    note = "one worker, 16 slots; peer: Procrastinate"
    async with scratch(servers.postgres_url) as url:
        try:
            peer = await asyncio.to_thread(peer_tasks_per_s, url, tasks)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            note = f"the peer could not be had: {type(error).__name__}"
    ratio = None if peer is None else ours / peer
    report.add(Row("durable no-op tasks", ours, "1/s", peer, ratio, note=note))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the sizes that the goals name")
    options = parser.parse_args()
    configure_logging("bench", "ERROR")
    report = Report("Mesh coordination", {"full": options.full, "servers": "both sync each commit"})
    asyncio.run(measure(report, full=options.full))
    _, markdown = report.write(RESULTS, "mesh")
    print(markdown.read_text())
    return 1 if any(row.holds is False for row in report.rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
