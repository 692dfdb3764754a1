"""From a mail with its own code to somebody who checks it: through the real routes."""

from __future__ import annotations

import asyncio
import json
from io import BytesIO
from pathlib import Path
from uuid import UUID

import httpx
import zxingcpp
from eth_hash.auto import keccak
from PIL import Image
from streams_support import serving

from benchmarks.trustworks.papers import CHAIN, KEY, mail
from cluster.verifying import fetch
from cluster.verifying.headers import read_spec
from cluster.verifying.judge import Judge, Outcome, Wanted
from cluster.verifying.server import TrustServer
from mesh.contracts.trust import BatchState
from mesh.trust.attach import attached
from mesh.trust.present import links
from mesh.trust.present.snippet import email_snippet
from mesh.trust.receipt import read_receipt
from mesh.trust.standalone import maily_verify
from mesh.trust.verdict import TrustPolicy
from mesh.trust.verify import verify
from tests.integration.test_trust_gateway import NDJSON, Both, anybody, both, client

__all__ = ["anybody", "both", "client"]

BASE = "https://mail.example.com"


async def campaign(client: httpx.AsyncClient, numbers: range) -> tuple[str, list[str], list[bytes]]:
    """A closed batch whose mails show their own codes: its id, the ids, the mails."""
    opened = await client.post("/v1/trust/batches?close=false", content=b"", headers=NDJSON)
    batch = opened.json()["batch"]["id"]
    url = f"/v1/trust/batches/{batch}"
    ids = (await client.get(f"{url}/ids?count={len(numbers)}")).json()["ids"]
    mails, body = [], b""
    for number, id in zip(numbers, ids, strict=True):
        shown = email_snippet(BASE, id).html
        mails.append(mail(f"<p>Hello, our spring sale has begun.</p>{shown}", number=number))
        fields = {
            "message": mails[-1].decode(),
            "recipient": f"anna{number}@example.org",
            "certificate": id,
        }
        body += json.dumps(fields).encode() + b"\n"
    filled = await client.post(f"{url}/messages", content=body, headers=NDJSON)
    assert [told["id"] for told in filled.json()["certificates"]] == ids
    assert (await client.post(f"{url}/close")).status_code == 200
    return batch, ids, mails


def judged(url: str, message: bytes, wanted: Wanted, *, server: bool = True) -> Outcome:
    with fetch.client() as http:
        source = TrustServer(url, http) if server else None
        return Judge(wanted, source, http).judge("m.eml", message, None)


async def test_a_mail_is_checked_by_the_code_that_it_shows(
    client: httpx.AsyncClient, both: Both, anybody: httpx.AsyncClient, tmp_path: Path
) -> None:
    batch, ids, mails = await campaign(client, range(700, 703))
    await both.trust.anchor(UUID(batch), BatchState.FINAL)
    picture = await anybody.get(f"/qr/{ids[1]}.png?proof=true&size=720")
    assert picture.headers["content-type"] == "image/png"
    (code,) = zxingcpp.read_barcodes(Image.open(BytesIO(picture.content)).convert("L"))
    link = links.read_link(code.text)
    assert link.id == ids[1]
    assert link.proof is not None
    # Alone: the digits and the mail, with a file that shares no code with ours.
    keys = [maily_verify.Key(line) for line in (await anybody.get("/v1/trust/keys")).json()["keys"]]
    alone = maily_verify.verify(maily_verify.named(code.text), mails[1], keys)
    assert (alone["holds"], alone["level"]) == (True, "exact")
    # In the header, for those who get it later.
    sent = attached(mails[1], (await anybody.get(f"/v1/trust/certificates/{ids[1]}.json")).content)
    assert maily_verify.verify(maily_verify.inside(sent), sent, keys)["level"] == "exact"
    # With a server that was named, and a policy for blocks.
    receipt = read_receipt((await anybody.get(f"/v1/trust/receipts/{root_of(sent)}")).content)
    block = f"{CHAIN}:{keccak(receipt.anchors[0].header).hex()}"
    (tmp_path / "blocks").write_text(block)
    wanted = Wanted(
        keys=(KEY.verifier,), certificate=ids[1], headers=read_spec(f"pinned:{tmp_path / 'blocks'}")
    )
    async with serving(both.house.app) as place:
        url = f"http://{place}"
        outcome = await asyncio.to_thread(judged, url, mails[1], wanted)
        assert outcome.verdict is not None
        assert (outcome.verdict.level, outcome.verdict.state) == ("exact", "final")
        assert outcome.revocations == 0
        other = await asyncio.to_thread(judged, url, mails[0], wanted)
        assert other.verdict is not None
        # The same words to somebody else: that is what it is, and not the mail of the id.
        assert (other.verdict.level, other.verdict.recipient) == ("same text", "other")
        trusted = await asyncio.to_thread(_keys, url)
        assert str(KEY.verifier) in map(str, trusted)
        # Taken back: a server that is asked says so, whoever holds old papers does not know.
        await client.post(f"/v1/trust/certificates/{ids[1]}/revoke", json={"reason": "other"})
        alone_again = Wanted(keys=(KEY.verifier,))
        offline = await asyncio.to_thread(judged, url, sent, alone_again, server=False)
        assert offline.verdict is not None
        assert offline.verdict.holds
        assert offline.revocations is None


def root_of(sent: bytes) -> str:
    """The root that the certificate in a mail leads to."""
    return verify(maily_verify.inside(sent), sent, TrustPolicy((KEY.verifier,))).root.hex()


def _keys(url: str) -> tuple[object, ...]:
    with fetch.client() as http:
        return TrustServer(url, http).keys()


async def test_what_a_server_has_not(both: Both) -> None:
    async with serving(both.house.app) as place:
        for unknown in ("a" * 32, links.verify_url(BASE, "b" * 32)):
            wanted = Wanted(keys=(KEY.verifier,), certificate=unknown)
            outcome = await asyncio.to_thread(judged, f"http://{place}", mail(), wanted)
            assert outcome.verdict is None
            assert "has no certificate" in outcome.notes[0]
