"""Ids ahead over a real database and owner: each mail gets the place whose id it shows."""

from __future__ import annotations

import asyncio

import pytest
from trust_house import T_S, House, message

from mesh.contracts.trust import NewMessage
from mesh.core.errors import Conflict, InvalidInput, NotFound
from mesh.trust.client import ROLLING
from mesh.trust.present.snippet import email_snippet
from tests.integration.test_trust_batches import house, policy, shared, verify

__all__ = ["house", "shared"]

BASE = "https://mail.shop.example"


def showing(number: int, id: str) -> NewMessage:
    """A mail that has its own link in it."""
    text = f"Dear customer {number}, {email_snippet(BASE, id).text} and see."
    return message(number, f"person{number}@example.org", mailing={"text": text}, certificate=id)


async def test_a_campaign_whose_mails_show_their_own_codes(house: House) -> None:
    batch = await house.open(key="codes")
    ahead = await house.client.ids(house.workspace, batch, count=40, timeout_s=T_S)
    assert (ahead.first, ahead.size) == (0, 0)
    lines = [showing(at, ahead.ids[at]) for at in range(40)]
    # Interrupted, and sent again from its start.
    await house.add(batch, *lines[:25])
    following = await house.client.ids(house.workspace, batch, count=15, timeout_s=T_S)
    assert (following.first, following.size) == (25, 25)
    assert following.ids == ahead.ids[25:]
    told = await house.add(batch, *lines)
    assert [line.id for line in told] == ahead.ids
    beyond = await house.client.ids(house.workspace, batch, first=40, count=1, timeout_s=T_S)
    with pytest.raises(NotFound):
        await house.client.view(beyond.ids[0], timeout_s=T_S)
    await house.close(batch)
    proof = await house.client.certificate_bytes(ahead.ids[7], "cbor", timeout_s=T_S)
    raw = (lines[7].message or "").encode()
    assert ahead.ids[7].encode() in raw
    verdict = verify(proof, raw, await policy(house), recipient="person7@example.org")
    assert (verdict.holds, verdict.level) == (True, "exact")
    with pytest.raises(Conflict):
        await house.client.ids(house.workspace, batch, timeout_s=T_S)


async def test_of_writers_that_race_one_is_told(house: House) -> None:
    """Two that were given the same ids: no mail gets a code that is another's."""
    batch = await house.open()
    ahead = await house.client.ids(house.workspace, batch, count=3, timeout_s=T_S)
    ours = [showing(at, ahead.ids[at]) for at in range(3)]
    theirs = [showing(100 + at, ahead.ids[at]) for at in range(3)]
    results = await asyncio.gather(
        house.add(batch, *ours), house.add(batch, *theirs), return_exceptions=True
    )
    (refused,) = [one for one in results if isinstance(one, BaseException)]
    assert isinstance(refused, Conflict)
    assert refused.details == {"line": 1, "index": 3}
    (taken,) = [one for one in results if not isinstance(one, BaseException)]
    assert [line.id for line in taken] == ahead.ids
    assert (await house.client.batch(house.workspace, batch, timeout_s=T_S)).size == 3


async def test_only_its_own_open_batch_gives_ids(house: House) -> None:
    batch = await house.open()
    stranger = await house.new_workspace()
    with pytest.raises(NotFound):
        await house.client.ids(stranger, batch, timeout_s=T_S)
    for count in (0, 10_001):
        with pytest.raises(InvalidInput):
            await house.client.ids(house.workspace, batch, count=count, timeout_s=T_S)
    (id,) = (await house.client.ids(house.workspace, batch, count=1, timeout_s=T_S)).ids
    with pytest.raises(Conflict):  # single mails have no place ahead
        await house.add(ROLLING, showing(1, id))
    other = await house.open()
    with pytest.raises(Conflict):
        await house.add(other, showing(1, id))
    assert [line.id for line in await house.add(batch, showing(1, id))] == [id]
