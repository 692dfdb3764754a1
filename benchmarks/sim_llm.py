"""Breakers, fallback, hedging and answers that survive, in a simulation with virtual time.

    python -m benchmarks.sim_llm --seeds 10000
    python -m benchmarks.sim_llm --seed 4711      # one again, with what happened

Ends with 1 where something did not hold, and names the seeds.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import time
from collections import Counter
from collections.abc import Iterable

import structlog

from benchmarks.sim.llm_world import Outcome, simulate

FIGURES = ("asked", "answered", "failed", "left", "resumed", "hedged", "retried", "opened")


def outcomes(seeds: range, processes: int) -> Iterable[Outcome]:
    if processes == 1:
        yield from map(simulate, seeds)
        return
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, initializer=_quiet) as pool:
        yield from pool.imap_unordered(simulate, seeds, chunksize=20)


def _quiet() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1_000, help="how many, from --first")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    first, count = options.first, options.seeds
    if options.seed is not None:
        first, count = options.seed, 1
    else:
        _quiet()
    started = time.perf_counter()
    totals: Counter[str] = Counter()
    bad: list[Outcome] = []
    for outcome in outcomes(range(first, first + count), options.processes):
        totals.update({name: getattr(outcome, name) for name in FIGURES})
        if outcome.problems:
            bad.append(outcome)
    took = time.perf_counter() - started
    figures = ", ".join(f"{totals[name]} {name}" for name in FIGURES)
    print(f"{count} seeds from {first} in {took:.1f} s: {figures}")
    for outcome in bad[:20]:
        print(f"seed {outcome.seed}:", *outcome.problems[:5], sep="\n  ")
    print("all held" if not bad else f"{len(bad)} seeds did not hold")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
