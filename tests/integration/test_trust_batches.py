"""Batches over real databases: taken in once, closed, proven, told, revoked, apart by workspace."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from trust_house import (
    T_S,
    House,
    dkim,
    ids,
    mail,
    message,
    messages,
    open_house,
    settings_for,
    until,
)

from actors.trust_open import open_teller
from actors.trust_reader import TrustReader
from actors.trust_teller import TellerOptions
from mesh.contracts.events import EventType
from mesh.contracts.networks import AnchorState
from mesh.contracts.trust import (
    BatchState,
    CertificateState,
    DocumentRef,
    NewBatch,
    NewMessage,
    RevokeReason,
)
from mesh.core.clock import VirtualClock
from mesh.core.errors import Conflict, InvalidInput, NotFound
from mesh.streams.log import START
from mesh.streams.names import trust_overview, trust_stream
from mesh.trust import jcs
from mesh.trust.certificate import read_revocation
from mesh.trust.checkpoint import VerifierKey
from mesh.trust.provider import ClientTrustProvider
from mesh.trust.receipt import read_receipt
from mesh.trust.verdict import TrustPolicy
from mesh.trust.verify import verify


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(
    database_dsn: str, valkey_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    home = tmp_path_factory.mktemp("trust")
    async with open_house(settings_for(database_dsn, valkey_url, home, lease_s=30.0)) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def house(shared: House) -> House:
    """With a workspace of the test's own."""
    shared.workspace = await shared.new_workspace()
    return shared


async def policy(house: House) -> TrustPolicy:
    keys = await house.client.keys(timeout_s=T_S)
    return TrustPolicy(keys=tuple(map(VerifierKey.parse, keys.keys)))


async def test_every_mail_of_a_closed_batch_is_proven_in_both_forms(house: House) -> None:
    signed = {"DKIM-Signature": "v=1; d=shop.example; s=s1; b=x"}
    lines = [message(at, f"p{at}@example.org", dkim=dkim(), mailing=signed) for at in range(37)]
    batch, told = await house.closed(*lines)
    assert (batch.state, batch.size) == (BatchState.INCLUDED, 37)
    assert [line.index for line in told] == list(range(37))
    trusted = await policy(house)
    for line, new in zip(told, lines, strict=True):
        for form in ("json", "cbor"):
            data = await house.client.certificate_bytes(line.id, form, timeout_s=T_S)
            verdict = verify(data, str(new.message).encode(), trusted, recipient=new.recipient)
            assert verdict.holds
            assert verdict.level == "exact"
            assert verdict.recipient == "same"
    other = verify(data, mail(99), trusted)
    assert not other.holds


async def test_a_certificate_can_be_seen_before_it_is_proven(house: House) -> None:
    batch = await house.open("Spring")
    (line,) = await house.add(
        batch,
        message(
            1,
            mailing={"Subject": "=?utf-8?q?Gr=C3=BC=C3=9Fe?="},
            document=DocumentRef(id="d", version="1"),
        ),
    )
    view = await house.client.view(line.id, timeout_s=T_S)
    assert (view.state, view.size, view.root) == (CertificateState.OPEN, 0, None)
    assert (view.subject, view.domain) == ("Grüße", "shop.example")
    assert view.recipient_masked == "j…@e….org"
    assert view.document == DocumentRef(id="d", version="1")
    with pytest.raises(Conflict, match="still open"):
        await house.client.certificate_bytes(line.id, "json", timeout_s=T_S)
    await house.close(batch)
    view = await house.client.view(line.id.upper(), timeout_s=T_S)
    assert (view.state, view.size) == (CertificateState.INCLUDED, 1)


async def test_an_interrupted_stream_goes_on_and_nothing_is_twice(house: House) -> None:
    batch = await house.open(key="campaign 7")
    first = await house.add(batch, *messages(0, 100))
    assert await house.open(key="campaign 7") == batch
    again = await house.add(batch, *messages(50, 100))
    assert ids(again[:50]) == ids(first[50:])
    assert [line.repeated for line in again] == [True] * 50 + [False] * 50
    assert (await house.close(batch)).size == 150


async def test_another_message_with_the_same_message_id_is_refused_with_its_line(
    house: House,
) -> None:
    batch = await house.open()
    await house.add(batch, *messages(0, 3))
    other = message(1, "person1@example.org", mailing={"text": "Something else entirely."})
    with pytest.raises(Conflict) as caught:
        await house.add(batch, message(10), other, first_line=200)
    assert caught.value.details["line"] == 201
    # All or none.
    assert (await house.client.batch(house.workspace, batch, timeout_s=T_S)).size == 3
    to_other = message(1, "somebody@example.org")
    with pytest.raises(Conflict):
        await house.add(batch, to_other)
    twice = [message(30), message(30, mailing={"text": "Not the same."})]
    with pytest.raises(Conflict):
        await house.add(batch, *twice)
    same = [message(31), message(31)]
    lines = await house.add(batch, *same)
    assert [line.repeated for line in lines] == [False, True]
    assert lines[0].id == lines[1].id


async def test_messages_without_an_id_are_told_apart_by_what_they_are(house: House) -> None:
    batch = await house.open()
    bare = [
        NewMessage(message=f"From: a@shop.example\r\n\r\nHello {n}\r\n", recipient="j@e.org")
        for n in (1, 2, 1)
    ]
    lines = await house.add(batch, *bare)
    assert [line.index for line in lines] == [0, 1, 0]


async def test_a_wrong_line_is_named(house: House) -> None:
    batch = await house.open()
    good = message(1)
    for wrong, field in (
        (NewMessage(message_base64="AAA=", recipient="a@b.c"), None),
        (NewMessage(message="  ", recipient="a@b.c"), "message"),
        (NewMessage(message_base64="A", recipient="a@b.c"), "message_base64"),
        (NewMessage(message="x" * 3_000_000, recipient="a@b.c"), "message"),
    ):
        if field is None:
            continue
        with pytest.raises(InvalidInput) as caught:
            await house.add(batch, good, wrong, first_line=7)
        assert caught.value.details == {"field": field, "line": 8}
    with pytest.raises(InvalidInput):
        await house.add(batch, *messages(0, 1_025))


async def test_many_callers_share_commits_and_get_their_own(house: House) -> None:
    batch = await house.open()
    before = house.hosts.hosts["trust-host-0"].statistics()["groups"]
    parts = await asyncio.gather(*(house.add(batch, *messages(at * 20, 20)) for at in range(30)))
    assert sorted(line.index for part in parts for line in part) == list(range(600))
    for at, part in enumerate(parts):
        names = [f"<{n}@shop.example>" for n in range(at * 20, at * 20 + 20)]
        assert [line.message_id for line in part] == names
        assert [line.index for line in part] == list(range(part[0].index, part[0].index + 20))
    groups = house.hosts.hosts["trust-host-0"].statistics()["groups"] - before
    assert groups < 30
    page = await house.client.certificates(house.workspace, batch, after=9, limit=50, timeout_s=T_S)
    assert [line.index for line in page.certificates] == list(range(10, 60))
    assert page.next == 59
    known = {line.id: line.message_id for part in parts for line in part}
    assert all(known[line.id] == line.message_id for line in page.certificates)
    last = await house.client.certificates(
        house.workspace, batch, after=589, limit=50, timeout_s=T_S
    )
    assert (len(last.certificates), last.next) == (10, None)


async def test_a_closed_batch_takes_no_more_and_closes_once(house: House) -> None:
    batch, told = await house.closed(*messages(0, 5))
    with pytest.raises(Conflict, match="closed"):
        await house.add(batch.id, message(9))
    again = await house.close(batch.id)
    assert (again.root, again.checkpoint) == (batch.root, batch.checkpoint)
    empty = await house.open()
    with pytest.raises(Conflict, match="empty"):
        await house.close(empty)
    assert await house.client.id_of(bytes.fromhex(str(batch.root)), 4, timeout_s=T_S) == told[4].id
    assert await house.client.id_of(bytes(32), 0, timeout_s=T_S) is None


async def test_another_workspace_sees_and_changes_nothing(house: House) -> None:
    batch, told = await house.closed(*messages(0, 2))
    still = await house.open()
    stranger = await house.new_workspace()
    client = house.client
    for call in (
        client.batch(stranger, batch.id, timeout_s=T_S),
        client.close_batch(stranger, still, timeout_s=T_S),
        client.add(stranger, still, [message(1)], timeout_s=T_S),
        client.certificates(stranger, batch.id, timeout_s=T_S),
        client.revoke(stranger, told[0].id, RevokeReason.OTHER, timeout_s=T_S),
        client.forget(stranger, told[0].id, timeout_s=T_S),
        client.forget_recipient(stranger, batch.id, "person0@example.org", timeout_s=T_S),
    ):
        with pytest.raises(NotFound):
            await call
    assert (await client.batches(stranger, timeout_s=T_S)).batches == []
    # A key names a batch of the caller's own workspace.
    mine = await house.open(key="k")
    theirs = await client.open_batch(stranger, NewBatch(), key="k", timeout_s=T_S)
    assert mine != theirs.id
    for wrong in ("a" * 32, told[0].id[:-1] + ("a" if told[0].id[-1] != "a" else "b"), "x"):
        with pytest.raises(NotFound):
            await client.view(wrong, timeout_s=T_S)


async def test_states_follow_the_networks_and_are_told_once_in_order(house: House) -> None:
    batch, told = await house.closed(*messages(0, 3))
    root = bytes.fromhex(str(batch.root))
    sent, seen = AnchorState.SUBMITTED, AnchorState.CONFIRMED
    await house.anchor(root, sent, seen, seen, AnchorState.ORPHANED, sent, seen, AnchorState.FINAL)
    await house.tell()
    await house.tell()
    events: list[str] = []
    async for event in house.context.streams.read(trust_stream(batch.id), START):
        if event is None or event.type is not EventType.TRUST_BATCH:
            continue
        if not events or events[-1] != event.data["state"]:
            events.append(event.data["state"])
        if event.data["state"] == "final":
            break
    assert events == [
        "open",
        "included",
        "submitted",
        "confirmed",
        "orphaned",
        "submitted",
        "confirmed",
        "final",
    ]
    view = await house.client.view(told[1].id, timeout_s=T_S)
    assert view.state is CertificateState.FINAL
    assert [anchor.state for anchor in view.anchors] == [AnchorState.FINAL]
    receipt = read_receipt(await house.client.receipt(root, timeout_s=T_S))
    assert receipt.note == batch.checkpoint
    with pytest.raises(NotFound):
        await house.client.receipt(bytes(32), timeout_s=T_S)
    # Of the whole workspace, too.
    first = await house.context.streams.last(trust_overview(house.workspace))
    assert first is not None
    assert first.data["state"] == "final"


async def test_a_revoked_one_says_so_at_once_and_is_proven_soon(house: House) -> None:
    batch, told = await house.closed(*messages(0, 3))
    view = await house.client.revoke(
        house.workspace, told[1].id, RevokeReason.SENT_IN_ERROR, timeout_s=T_S
    )
    assert view.state is CertificateState.REVOKED
    assert view.revoked is not None
    assert view.revoked.reason is RevokeReason.SENT_IN_ERROR
    again = await house.client.revoke(
        house.workspace, told[1].id, RevokeReason.OTHER, timeout_s=T_S
    )
    assert again.revoked is not None
    assert again.revoked.at == view.revoked.at
    leaf = bytes.fromhex(str(view.leaf))

    async def proven() -> list[dict[str, object]]:
        page = await house.client.revocations(leaf=leaf, timeout_s=T_S)
        return page.revocations

    (document,) = await until(proven)
    revocation = read_revocation(jcs.write(document))
    data = await house.client.certificate_bytes(told[1].id, "json", timeout_s=T_S)
    original = str(messages(0, 3)[1].message).encode()
    trusted = await policy(house)
    assert verify(data, original, trusted).holds
    verdict = verify(data, original, trusted, revocations=[revocation])
    assert (verdict.state, verdict.failed_step) == ("revoked", 8)
    other = await house.client.certificate_bytes(told[0].id, "json", timeout_s=T_S)
    first = str(messages(0, 3)[0].message).encode()
    assert verify(other, first, trusted, revocations=[revocation]).holds
    page = await house.client.revocations(timeout_s=T_S)
    assert document in page.revocations
    listed = await house.client.batches(house.workspace, timeout_s=T_S)
    assert {item.kind for item in listed.batches} == {"campaign", "revocations"}
    assert listed.batches[-1].id == batch.id


async def test_a_document_is_as_far_as_its_least_certificate(house: House) -> None:
    spring = DocumentRef(id="spring", version="7")
    batch, told = await house.closed(*(message(n, document=spring) for n in range(3)))
    state = house.client.document_state
    found = await state(house.workspace, "spring", "7", timeout_s=T_S)
    assert (found.state, found.certificates) == (CertificateState.INCLUDED, 3)
    assert (await state(house.workspace, "spring", "8", timeout_s=T_S)).state is None
    await house.anchor(bytes.fromhex(str(batch.root)), AnchorState.FINAL)
    await house.tell()
    found = await state(house.workspace, "spring", "7", timeout_s=T_S)
    assert found.state is CertificateState.FINAL
    later = await house.open()
    await house.add(later, message(5, document=spring))
    found = await state(house.workspace, "spring", "7", timeout_s=T_S)
    assert (found.state, found.by_state) == (CertificateState.OPEN, {"final": 3, "open": 1})
    await house.client.revoke(house.workspace, told[0].id, RevokeReason.OTHER, timeout_s=T_S)
    found = await state(house.workspace, "spring", "7", timeout_s=T_S)
    assert (found.revoked, found.by_state["final"]) == (1, 2)
    stranger = await house.new_workspace()
    assert (await state(stranger, "spring", "7", timeout_s=T_S)).certificates == 0


async def test_a_provider_says_how_far_a_version_is(house: House) -> None:
    await house.closed(message(1, document=DocumentRef(id="d", version="1")))
    provider = ClientTrustProvider(house.client)
    found = await provider.state_of(house.workspace, "d", "1")
    assert (found.state, found.certificates) == (CertificateState.INCLUDED, 1)
    assert (await provider.state_of(house.workspace, "d", "2")).state is None


async def test_a_root_that_nobody_confirms_raises_an_alarm(
    house: House, capfd: pytest.CaptureFixture[str]
) -> None:
    batch, _ = await house.closed(*messages(0, 2))
    await house.anchor(bytes.fromhex(str(batch.root)), AnchorState.SUBMITTED)
    await house.tell()
    assert not (await house.client.batch(house.workspace, batch.id, timeout_s=T_S)).degraded
    parts = house.client._parts.reader._parts
    late = TrustReader(replace(parts, clock=VirtualClock(parts.clock.now() + 3_600)))
    view = await late.batch(house.workspace, batch.id)
    assert view.degraded
    assert "no network has confirmed it" in str(view.reason)

    teller = open_teller(house.context, await house.anchoring())
    teller._options = TellerOptions(alarm_s=0.0)
    await teller.look()
    await teller.look()
    said = [line for line in capfd.readouterr().err.splitlines() if str(batch.id) in line]
    assert sum("batch.overdue" in line for line in said) == 1
    assert teller.statistics()["pending"] > 0
    await house.anchor(bytes.fromhex(str(batch.root)), AnchorState.CONFIRMED)
    await house.tell()
    assert not (await late.batch(house.workspace, batch.id)).degraded


async def test_a_batch_into_which_nothing_came_goes(house: House) -> None:
    empty, filled = await house.open(), await house.open()
    await house.add(filled, message(1))
    batches = house.client._parts.batches
    shards = sorted(house.hosts.hosts["trust-host-0"].shards.held)
    await batches.drop_empty(shards, 3_600.0)
    await house.client.batch(house.workspace, empty, timeout_s=T_S)
    await batches.drop_empty(shards, 0.0)
    with pytest.raises(NotFound):
        await house.add(empty, message(2))
    assert (await house.close(filled)).size == 1


async def test_a_workspace_has_only_so_many_open_batches(house: House) -> None:
    batches = house.client._parts.batches
    for at in range(3):
        await batches.create(uuid.UUID(int=at + 1), house.workspace, 0, "campaign", most_open=3)
    with pytest.raises(Conflict, match="Too many"):
        await batches.create(uuid.UUID(int=9), house.workspace, 0, "campaign", most_open=3)
    same = uuid.UUID(int=2)
    assert (await batches.create(same, house.workspace, 0, "campaign", most_open=3)).id == same
    stranger = await house.new_workspace()
    with pytest.raises(NotFound):
        await batches.create(same, stranger, 0, "campaign", most_open=3)


async def test_pages_of_batches_go_on_where_the_last_ended(house: House) -> None:
    made = [await house.open(f"batch {n}") for n in range(5)]
    first = await house.client.batches(house.workspace, limit=2, timeout_s=T_S)
    second = await house.client.batches(house.workspace, limit=9, after=first.next, timeout_s=T_S)
    found = [item.id for item in (*first.batches, *second.batches)]
    assert found == made[::-1]
    assert second.next is None
    with pytest.raises(NotFound):
        await house.client.batch(house.workspace, uuid.uuid4(), timeout_s=T_S)
