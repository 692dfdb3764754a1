"""Callers that come together are written together."""

from __future__ import annotations

import asyncio

import pytest

from mesh.core.errors import Unavailable
from mesh.storage.grouped import Grouped


async def test_what_comes_while_one_is_written_goes_together() -> None:
    groups: list[list[int]] = []
    go = asyncio.Event()

    async def write(keys: list[int]) -> None:
        groups.append(keys)
        await go.wait()

    grouped = Grouped(write)
    calls = [asyncio.create_task(grouped.add([0]))]
    await asyncio.sleep(0.01)
    calls += [asyncio.create_task(grouped.add([n, -n])) for n in (1, 2, 3)]
    await asyncio.sleep(0.01)
    assert groups == [[0]]
    go.set()
    await asyncio.gather(*calls)
    assert groups == [[0], [1, -1, 2, -2, 3, -3]]
    assert grouped.statistics() == {"calls": 4, "writes": 2}
    await grouped.add([9])
    assert groups[-1] == [9]


async def test_an_error_reaches_its_own_group_alone() -> None:
    async def write(keys: list[int]) -> None:
        await asyncio.sleep(0)
        if 1 in keys:
            raise Unavailable

    grouped = Grouped(write)
    first = asyncio.create_task(grouped.add([1]))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    second = asyncio.create_task(grouped.add([2]))
    with pytest.raises(Unavailable):
        await first
    await second


async def test_a_cancelled_caller_takes_nothing_back() -> None:
    written: list[int] = []

    async def write(keys: list[int]) -> None:
        await asyncio.sleep(0.01)
        written.extend(keys)

    grouped = Grouped(write)
    gone = asyncio.create_task(grouped.add([1]))
    stays = asyncio.create_task(grouped.add([2]))
    await asyncio.sleep(0)
    gone.cancel()
    await stays
    assert written == [1, 2]
    assert gone.cancelled()
