"""Forgetting is real: nothing that tells of the person is readable, and the salt leaves the disk.

The server is the test's own, so that its whole data folder can be searched byte by byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from disk import DiskServer, places
from trust_house import T_S, House, mail, message, messages, open_house, settings_for

from mesh.contracts.trust import CertificateState
from mesh.core.errors import Gone, NotFound
from mesh.storage.migrate import migrate
from mesh.storage.trust_leaves import TrustLeaves
from mesh.trust.checkpoint import VerifierKey
from mesh.trust.verdict import TrustPolicy
from mesh.trust.verify import verify

PERSON = "zephyrine.quillfeather@snapdragon.example"
SUBJECT = "Vermilion snapdragons for Michaelmas"


@pytest.fixture(scope="module")
def server() -> Iterator[DiskServer]:
    with DiskServer() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def house(
    server: DiskServer, valkey_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    await migrate(server.dsn())
    settings = settings_for(server.dsn(), valkey_url, tmp_path_factory.mktemp("forget"))
    async with open_house(settings) as opened:
        yield opened


async def found(server: DiskServer, *needles: bytes) -> list[str]:
    """Files of the server that hold any of these bytes, after a checkpoint."""
    await server.flushed()
    return await places(server.folder, *needles)


async def test_what_tells_of_a_person_leaves_the_disk_and_others_proofs_hold(
    house: House, server: DiskServer
) -> None:
    batch = await house.open("Autumn")
    hers = message(500, PERSON, mailing={"Subject": SUBJECT, "text": "Dear Zephyrine, hello."})
    told = await house.add(batch, *messages(0, 60), hers, *messages(60, 40))
    line, other = told[60], told[3]
    cell = await TrustLeaves(house.context.db).cell(batch, 60)
    assert cell is not None
    assert cell.salt is not None
    names = (PERSON.encode(), b"Vermilion", b"Zephyrine", b"<500@shop.example>")
    assert await found(server, *names) == []  # nothing readable was ever written
    assert await found(server, cell.salt) != []
    closed = await house.close(batch)

    receipt = await house.client.forget(house.workspace, line.id, timeout_s=60)
    assert (receipt.certificates, receipt.scrubbed, receipt.note) == ([line.id], True, None)
    assert await found(server, cell.salt, *names) == []

    view = await house.client.view(line.id, timeout_s=T_S)
    assert view.forgotten
    assert (view.state, view.leaf) == (CertificateState.INCLUDED, cell.leaf.hex())
    assert (view.subject, view.message_id, view.recipient_masked) == (None, None, None)
    for form in ("json", "cbor"):
        with pytest.raises(Gone):
            await house.client.certificate_bytes(line.id, form, timeout_s=T_S)
    with pytest.raises(Gone):
        await house.client.forget(house.workspace, line.id, timeout_s=T_S)
    page = await house.client.certificates(house.workspace, batch, after=58, limit=3, timeout_s=T_S)
    assert [item.message_id for item in page.certificates] == [
        "<59@shop.example>",
        "",
        "<60@shop.example>",
    ]
    keys = (await house.client.keys(timeout_s=T_S)).keys
    policy = TrustPolicy(keys=tuple(map(VerifierKey.parse, keys)))
    data = await house.client.certificate_bytes(other.id, "json", timeout_s=T_S)
    assert verify(data, mail(3, "person3@example.org"), policy).holds
    assert (await house.client.batch(house.workspace, batch, timeout_s=T_S)).root == closed.root


async def test_all_that_went_to_an_address_in_a_batch_is_forgotten(
    house: House, server: DiskServer
) -> None:
    batch = await house.open()
    lines = [message(n, "Ann@E.org" if n % 5 == 0 else f"p{n}@e.org") for n in range(20)]
    told = await house.add(batch, *lines)
    other_batch, _ = await house.closed(message(70, "ann@e.org"))
    receipt = await house.client.forget_recipient(house.workspace, batch, "ann@e.org", timeout_s=60)
    assert receipt.certificates == [told[n].id for n in (0, 5, 10, 15)]
    assert receipt.batch == batch
    with pytest.raises(NotFound):
        await house.client.forget_recipient(house.workspace, batch, "ann@e.org", timeout_s=60)
    with pytest.raises(NotFound):
        await house.client.forget_recipient(house.workspace, batch, "nobody@e.org", timeout_s=60)
    gone = [(await house.client.view(line.id, timeout_s=T_S)).forgotten for line in told]
    assert gone == [n % 5 == 0 for n in range(20)]
    kept = await house.client.certificates(house.workspace, other_batch.id, timeout_s=T_S)
    assert kept.certificates[0].message_id == "<70@shop.example>"
    # An open batch goes on; the forgotten message, sent again, is a new one: nobody knows of it.
    (again,) = await house.add(batch, lines[0])
    assert (again.index, again.repeated) == (20, False)
    assert (await house.close(batch)).size == 21


async def test_an_erasure_that_nobody_finished_is_finished(
    house: House, server: DiskServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, told = await house.closed(message(1, "ann@e.org"))
    cell = await TrustLeaves(house.context.db).cell(batch.id, 0)
    assert cell is not None
    assert cell.salt is not None
    forgetter = house.client._parts.forgetter

    async def dies(*_: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr(forgetter, "_scrub", dies)
    with pytest.raises(asyncio.CancelledError):
        await forgetter.certificate(house.workspace, told[0].id)
    assert await found(server, cell.salt) != []
    assert (await house.client.view(told[0].id, timeout_s=T_S)).forgotten  # at once all the same
    await house.hosts.hosts["trust-host-0"].finish_erasures(0.0)
    assert await found(server, cell.salt) == []
    assert await house.client._parts.forgetter._erasures.unscrubbed(0.0) == {}
