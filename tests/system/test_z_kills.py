"""``kill -9`` of each process of the runtime while tasks run: it heals, and nothing is lost."""

from __future__ import annotations

import pytest

from benchmarks.instance import Instance
from benchmarks.show import kills

pytestmark = [pytest.mark.runtime, pytest.mark.faults, pytest.mark.timeout(400)]


@pytest.mark.parametrize("kind", kills.KINDS)
async def test_kill(instance: Instance, kind: str) -> None:
    (claim,) = await kills.run(instance, tasks=20, kinds=(kind,), patience_s=240)
    assert claim.holds, claim.figure
