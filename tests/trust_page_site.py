"""A site with one certificate: what the gateway would answer, for the page under test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from eth_hash.auto import keccak

from benchmarks.trustworks.papers import (
    CHAIN,
    CONTRACT,
    KEY,
    batch,
    calldata_anchor,
    event_anchor,
    mail,
)
from mesh.trust.certificate import Proof, Revocation
from mesh.trust.leaf import revocation_hash
from mesh.trust.present.links import fragment_of
from mesh.trust.receipt import Receipt
from serve_apps.gateway.routers.trust_pages import MEDIA, POLICY, page_files
from tests.trust_page_support import Files, served

ID = "abcdefghijklmnopqrstuvwxyz234567"
BODY = (
    "<p>Hello <b>Anna</b>, our spring sale has begun: everything for the garden "
    'is a third off until Sunday. <a href="https://shop.example.com/spring?c=7">Look</a></p>'
)


@dataclass
class Site:
    """What there is. Change it before the page is opened."""

    message: bytes
    certificate: bytes | None
    compact: bytes
    keys: list[str]
    receipt: bytes | None
    view: dict[str, Any] | None
    root: str
    leaf: str
    revocations: list[dict[str, Any]] = field(default_factory=list)
    revocation: dict[str, Any] = field(default_factory=dict)
    """A proven one, to be put among ``revocations``."""
    block: str = ""
    """``chain:hash`` of the block that has the root."""
    asked: list[str] = field(default_factory=list)
    """Paths in the order of the requests."""
    down: bool = False
    """Whether the papers' routes answer 503."""
    address: str = ""

    @property
    def url(self) -> str:
        return f"{self.address}/verify/{ID}"

    @property
    def url_with_proof(self) -> str:
        return f"{self.url}#{fragment_of(self.compact)}"

    def answer(self, path: str) -> tuple[int, str, bytes]:
        """Status, media type and body of one of the public routes."""
        base = "/v1/trust/"
        if self.down:
            return 503, "application/json", b"{}"
        known: dict[str, bytes | None] = {
            f"{base}certificates/{ID}": self.view and json.dumps(self.view).encode(),
            f"{base}certificates/{ID}.json": self.certificate,
            f"{base}keys": json.dumps({"keys": self.keys, "live": self.keys}).encode(),
            f"{base}receipts/{self.root}": self.receipt,
            f"{base}revocations?leaf={self.leaf}": json.dumps(
                {"revocations": self.revocations, "next": None, "as_of": "2026-03-21T10:00:00Z"}
            ).encode(),
        }
        body = known.get(path)
        gone = self.view is not None and self.view["forgotten"] and path.endswith(".json")
        missing = 410 if gone else 404
        return (200, "application/json", body) if body else (missing, "application/json", b"{}")


def new_site(leaves: int = 5000) -> Site:
    """A certified message among so many others, anchored on two chains' blocks."""
    message = mail(BODY)
    closed = batch([message], filler=leaves)
    certificate, root = closed.certificates[0], closed.tree.root
    anchors = (event_anchor(root), calldata_anchor(root))
    leaf = certificate.leaf.hash
    hashed = revocation_hash(leaf, 1_774_100_000, 1)
    later = batch([mail(number=77)], extra=(hashed,), filler=5)
    entry = Revocation(leaf, 1_774_100_000, 1, Proof.of(later.tree, 1), later.note)
    block = keccak(anchors[0].header).hex()
    view = {
        "id": ID,
        "state": "final",
        "batch": "0d3f6a4e-2f5e-4c57-9a54-3f4f2f6f7d10",
        "index": 0,
        "size": closed.tree.size,
        "root": root.hex(),
        "leaf": leaf.hex(),
        "subject": "Spring has begun",
        "date": "Fri, 20 Mar 2026 09:00:00 +0100",
        "domain": "example.com",
        "recipient_masked": "a…@e….org",
        "message_id": "<1.spring@example.com>",
        "document": None,
        "certified_at": "2026-03-20T08:00:02Z",
        "as_of": "2026-03-21T10:00:00Z",
        "revoked": None,
        "forgotten": False,
        "anchors": [
            {
                "network": "local",
                "chain_id": CHAIN,
                "state": "final",
                "tx": "0x" + "ab" * 32,
                "block_number": 4711,
                "block_hash": f"0x{block}",
                "confirmations": 12,
                "gas_used": 22_900,
                "fee_wei": 22_900 * 10**9,
                "at": "2026-03-20T09:46:40Z",
                "reason": None,
            }
        ],
    }
    return Site(
        message=message,
        certificate=certificate.to_json(),
        compact=certificate.compact().to_cbor(),
        keys=[str(KEY.verifier)],
        receipt=Receipt(closed.note, anchors[:1]).to_json(),
        view=view,
        root=root.hex(),
        leaf=leaf.hex(),
        revocation=json.loads(entry.to_json()),
        block=f"{CHAIN}:{block}",
    )


@contextmanager
def running(site: Site) -> Iterator[Site]:
    """The site on loopback, with the gateway's own policy for the page."""
    files = page_files()

    class Handler(Files):
        def do_GET(self) -> None:
            site.asked.append(self.path)
            name = self.path.rpartition("/")[2]
            if self.path.startswith("/verify/assets/") and name in files:
                self._send(200, MEDIA[name.rpartition(".")[2]], files[name])
            elif self.path == f"/verify/{ID}":
                self._send(200, "text/html; charset=utf-8", files["page.html"])
            else:
                self._send(*site.answer(self.path))

        def do_OPTIONS(self) -> None:
            self.send_response(204)
            self._allow()
            self.end_headers()

        def do_POST(self) -> None:
            """A node that has one block, and counts it as finalized."""
            question = json.loads(self.rfile.read(int(self.headers["content-length"])))
            chain, _, block = site.block.partition(":")
            known = {"hash": f"0x{block}", "number": hex(4711)}
            answers = {"eth_chainId": hex(int(chain)), "eth_getBlockByNumber": known}
            site.asked.append(question["method"])
            body = json.dumps({"jsonrpc": "2.0", "id": 1, "result": answers[question["method"]]})
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self._allow()
            self.end_headers()
            self.wfile.write(body.encode())

        def _allow(self) -> None:
            self.send_header("access-control-allow-origin", "*")
            self.send_header("access-control-allow-headers", "content-type")

        def _send(self, status: int, kind: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.send_header("x-content-type-options", "nosniff")
            if kind.startswith("text/html"):
                self.send_header("content-security-policy", POLICY)
            self.end_headers()
            self.wfile.write(body)

    with served(handler=Handler) as address:
        site.address = address
        yield site


CONTRACT_HEX = CONTRACT.hex()
