"""The mesh's control logic in a deterministic simulation: ``python -m benchmarks.sim_mesh``.

``--seeds N`` runs N seeds on all cores and says what was seen; ``--seed N`` replays one and tells
its story. Exit status 1 where an invariant broke (see ``benchmarks.sim.audit``).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections import Counter
from dataclasses import dataclass, field

from benchmarks.report import percentile
from benchmarks.sim.scenario import Verdict, simulate


@dataclass(slots=True)
class Summary:
    """Of many seeds."""

    seeds: int = 0
    broken: list[Verdict] = field(default_factory=list)
    tasks: int = 0
    events: int = 0
    virtual_s: float = 0.0
    takeovers: int = 0
    fenced: int = 0
    handovers: int = 0
    recoveries: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    wall_s: float = 0.0

    def add(self, verdict: Verdict) -> None:
        self.seeds += 1
        if verdict.violations and len(self.broken) < 20:
            self.broken.append(verdict)
        self.tasks += verdict.tasks
        self.events += verdict.events
        self.virtual_s += verdict.seconds
        self.takeovers += verdict.takeovers
        self.fenced += verdict.fenced
        self.handovers += verdict.handovers
        self.recoveries += verdict.recoveries
        self.faults.update(fault.split("@")[0] for fault in verdict.faults)

    def lines(self) -> list[str]:
        told = [
            f"{self.seeds:,} seeds, {len(self.broken)} with a broken invariant, "
            f"{self.wall_s:.1f} s of wall clock",
            f"{self.tasks:,} tasks over {self.virtual_s / 3600:,.1f} virtual hours, "
            f"{self.events:,} events",
            "faults: " + ", ".join(f"{count:,} {kind}" for kind, count in self.faults.items()),
            f"{self.takeovers:,} tasks taken over, {self.handovers:,} handed over, "
            f"{self.fenced:,} writes fenced",
        ]
        if self.recoveries:
            told.append(
                f"lost worker to next claim ({len(self.recoveries):,} seen): "
                f"p50 {percentile(self.recoveries, 0.5):.2f} s, "
                f"p99 {percentile(self.recoveries, 0.99):.2f} s, worst {max(self.recoveries):.2f} s"
            )
        told += [f"seed {broken.seed}: {broken.violations[0]}" for broken in self.broken]
        return told


def run_seeds(first: int, count: int, processes: int | None = None) -> Summary:
    """Seeds ``first`` … ``first + count - 1``."""
    began = time.perf_counter()
    summary = Summary()
    seeds = range(first, first + count)
    with multiprocessing.Pool(processes or os.cpu_count()) as pool:
        for verdict in pool.imap_unordered(simulate, seeds, chunksize=50):
            summary.add(verdict)
    summary.wall_s = time.perf_counter() - began
    return summary


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10_000, help="how many to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="replay this one alone")
    options = parser.parse_args()
    if options.seed is not None:
        verdict = simulate(options.seed)
        print(verdict)
        return 1 if verdict.violations else 0
    summary = run_seeds(options.first, options.seeds)
    print("\n".join(summary.lines()))
    return 1 if summary.broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
