"""``maily status`` says how trust is: owners, what waits for networks, who speaks to them."""

from __future__ import annotations

import pytest
from trust_house import House, messages, open_house, settings_for

from cluster.health import _trust
from mesh.core.settings import Settings


def waiting(settings: Settings, alarm_s: float) -> Settings:
    trust = settings.trust.model_copy(update={"pending_alarm_s": alarm_s})
    return settings.model_copy(update={"trust": trust})


async def test_trust_is_well_when_all_shards_are_owned_and_somebody_speaks_to_the_networks(
    database_dsn: str, valkey_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = settings_for(database_dsn, valkey_url, tmp_path_factory.mktemp("health"))
    house: House
    async with open_house(settings) as house:
        with pytest.raises(RuntimeError, match="nobody speaks"):
            await _trust(settings)
        await house.anchoring()
        words = "1 of 1 hosts own 16 of 16 shards; 0 batches wait for a network"
        assert (await _trust(settings)).startswith(words)
        await house.closed(*messages(0, 2))
        assert "1 batches wait" in await _trust(settings)
        with pytest.raises(RuntimeError, match="1 batches wait"):
            await _trust(waiting(settings, 1e-6))
    with pytest.raises(RuntimeError, match="0 of 1 hosts own 0 of 16 shards"):
        await _trust(settings)
