"""The control logic in deterministic simulations with a virtual clock: no instance is needed.

Each prints the seeds that broke an invariant; ``--seed N`` replays one.
"""

from __future__ import annotations

import asyncio
import sys

from benchmarks.show.table import Claim

SIMULATIONS = {
    "breakers, fallback, hedging and resume": "benchmarks.sim_llm",
    "budgets": "benchmarks.sim_budgets",
}
QUICK, FULL = 1_000, 10_000


async def run(full: bool) -> list[Claim]:
    return [await simulate(what, module, full) for what, module in SIMULATIONS.items()]


async def simulate(what: str, module: str, full: bool) -> Claim:
    seeds = FULL if full else QUICK
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, "--seeds", str(seeds)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
    figure = "; ".join(lines[-2:])[:300] if process.returncode == 0 else " ".join(lines[-3:])[:300]
    goal = "no broken invariant" + ("" if full else f" (FULL=1: {FULL:,} seeds)")
    return Claim(f"{what} in a deterministic simulation", figure, goal, process.returncode == 0)
