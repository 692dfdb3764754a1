"""``kill -9`` of each process of the runtime while tasks run: it heals, and nothing is lost."""

from __future__ import annotations

import pytest

from benchmarks.instance import Instance
from benchmarks.show import kills

pytestmark = [pytest.mark.runtime, pytest.mark.faults, pytest.mark.timeout(400)]


OFTEN = ("agent worker", "engine replica", "PostgreSQL", "Valkey")
"""With every run of the tests; the others come with the slow ones and with ``make show-mesh``: each
kind takes forty seconds."""


@pytest.mark.parametrize(
    "kind",
    [kind if kind in OFTEN else pytest.param(kind, marks=pytest.mark.slow) for kind in kills.KINDS],
)
async def test_kill(instance: Instance, kind: str) -> None:
    (claim,) = await kills.run(instance, tasks=20, kinds=(kind,), patience_s=240)
    assert claim.holds, claim.figure
