"""Trust on a whole runtime: certified, anchored, verified, taken back, forgotten."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest

from benchmarks.instance import Instance
from benchmarks.show.trust_client import Follower, Refused, Trust, following, trust_of
from benchmarks.show.trust_letters import Campaign
from benchmarks.show.trust_node import Node
from benchmarks.show.trust_verifiers import Known, Papers, ours, standalone

pytestmark = pytest.mark.runtime

PATIENCE_S = 60.0


async def certified(trust: Trust, campaign: Campaign) -> tuple[dict[str, Any], Follower]:
    """Three mails in a batch that is final, and what was told of it meanwhile."""
    batch = (await trust.open("three mails"))["id"]
    async with following(trust, batch) as follower:
        path = f"/v1/trust/batches/{batch}/messages"
        filled = await trust.send(path, campaign.pieces(0, 3), timeout_s=60)
        assert (filled["lines"], filled["repeated"]) == (3, 0)
        await trust.close(batch)
        await follower.until("final", PATIENCE_S)
    return await trust.batch(batch), follower


async def known(trust: Trust, node: Node, view: dict[str, Any]) -> Known:
    (anchor,) = view["anchors"]
    block = await node.block_hash(anchor["block_number"])
    assert block is not None
    assert block == anchor["block_hash"]
    return Known(
        await trust.keys(),
        await trust.receipt(view["root"]),
        ((anchor["chain_id"], block.removeprefix("0x")),),
    )


async def test_from_a_mail_to_a_proof_and_back(instance: Instance) -> None:
    campaign = Campaign(time.time_ns() // 1_000)
    async with trust_of(instance) as trust:
        view, follower = await certified(trust, campaign)
        assert view["state"] == "final"
        assert follower.states[-1] == "final"
        node = Node(trust.session, f"http://127.0.0.1:{instance.settings.evm.port}")
        assert len(await node.logs(view["root"])) == 1
        lines = await trust.certificates(view["id"])
        assert [line["index"] for line in lines] == [0, 1, 2]

        reader = await known(trust, node, view)
        papers: list[Papers] = []
        for line in lines:
            mail = campaign.mail(line["index"])
            forms = [await trust.form(line["id"], form) for form in ("json", "cbor")]
            papers += [Papers(form, mail.raw, mail.recipient) for form in forms]
        answers, _ = ours(papers, reader)
        assert answers == [(True, "exact", "final")] * 6
        source = await trust.fetch("GET", "/v1/trust/verifier.py", public=True)
        assert await standalone(source, papers, reader) == answers

        first, second, third = (line["id"] for line in lines)
        body = {"message": campaign.mail(0).raw.decode(), "id": first}
        verdict = await trust.ask("POST", "/v1/trust/verify", body, public=True)
        assert (verdict["level"], verdict["state"], verdict["holds"]) == ("exact", "final", True)
        await revoked(trust, second)
        await forgotten(trust, third)
        # The others' proofs are what they were.
        again, _ = ours(papers[:2], reader)
        assert again == answers[:2]
        assert await trust.form(first, "cbor") == papers[1].certificate


async def revoked(trust: Trust, certificate: str) -> None:
    path = f"/v1/trust/certificates/{certificate}/revoke"
    view = await trust.ask("POST", path, {"reason": "sent in error"})
    assert (view["state"], view["revoked"]["reason"]) == ("revoked", "sent in error")
    leaf = view["leaf"]
    until = time.monotonic() + PATIENCE_S
    while True:  # proven once its own batch is closed
        page = await trust.ask("GET", f"/v1/trust/revocations?leaf={leaf}", public=True)
        if page["revocations"] or time.monotonic() > until:
            break
        await asyncio.sleep(0.2)
    (entry,) = page["revocations"]
    assert entry["entry"]["leaf"] == leaf
    assert entry["type"] == "maily-revocation"


async def forgotten(trust: Trust, certificate: str) -> None:
    done = await trust.ask("POST", f"/v1/trust/certificates/{certificate}/forget")
    assert done["certificates"] == [certificate]
    view = await trust.view(certificate)
    assert view["forgotten"]
    told = json.dumps(view)
    assert "reader" not in told
    assert view["subject"] is view["recipient_masked"] is view["message_id"] is None
    with pytest.raises(Refused) as refused:
        await trust.form(certificate, "json")
    assert refused.value.status == 410
