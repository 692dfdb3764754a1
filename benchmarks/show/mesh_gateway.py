"""What the gateway costs as a proxy, and how it compares: ``benchmarks.llm`` as claims."""

from __future__ import annotations

from benchmarks import llm
from benchmarks.instance import Instance
from benchmarks.report import Report
from benchmarks.show.table import Claim

SETTINGS = llm.SETTINGS
"""Of the instance that ``run`` wants: the fake engine."""


async def run(instance: Instance, full: bool) -> list[Claim]:
    return claims(await llm.measure(instance, full))


async def run_real(instance: Instance, full: bool) -> list[Claim]:
    """On an instance with its real engine."""
    return claims(await llm.measure_real(instance, full))


def claims(report: Report) -> list[Claim]:
    return [
        Claim(
            row.name,
            f"{row.ours:,.1f} {row.unit}"
            + (f"; peer {row.peer:,.1f}" if row.peer is not None else "")
            + (f"; ratio {row.ratio:.2f}" if row.ratio is not None else "")
            + (f"; {row.note}" if row.note else ""),
            row.goal or "(for the record)",
            True if row.holds is None else row.holds,
        )
        for row in report.rows
    ]
