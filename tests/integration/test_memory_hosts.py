"""Memory over real databases: written once, found, moved between hosts, forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from memory_support import House, asked, memory, open_house, settings_for


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(
    database_dsn: str, valkey_url: str, tmp_path_factory: object
) -> AsyncIterator[House]:
    home: Path = tmp_path_factory.mktemp("memory")  # type: ignore[attr-defined]
    async with open_house(settings_for(database_dsn, valkey_url, home)) as opened:
        yield opened


async def test_what_was_remembered_is_found(house: House) -> None:
    (item,) = await house.remember(memory("Our roses come from Kenya.", tags=["roses"]))
    answer = await house.recall(asked("where do the roses come from"))
    assert [hit.item.id for hit in answer.hits] == [item.id]
    assert answer.packed == "[1] Our roses come from Kenya."
