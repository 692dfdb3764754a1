"""Papers for the stand-alone verifier on a command line: genuine ones, and one defect each."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import cbor2
from eth_hash.auto import keccak

from benchmarks.trustworks.papers import (
    CHAIN,
    CONTRACT,
    KEY,
    NEXT_KEY,
    batch,
    calldata_anchor,
    event_anchor,
    mail,
    plain,
)
from mesh.trust import jcs
from mesh.trust.attach import with_header
from mesh.trust.certificate import Proof, Revocation
from mesh.trust.leaf import revocation_hash
from mesh.trust.receipt import Receipt


@dataclass(frozen=True)
class Paper:
    """Files for one run, and what is to come of it."""

    name: str
    certificate: bytes
    message: bytes
    step: int | None
    """Of the spec's §7 that must fail; None: all hold."""
    level: str
    receipt: bytes | None = None
    blocks: tuple[str, ...] = ()
    """``CHAIN:HASH`` that the reader knows."""
    revocation: bytes | None = None
    key: str = field(default_factory=lambda: str(KEY.verifier))
    state: str = "included"


class Desk:
    """A certified message, in both forms, with receipts of two kinds and a revocation."""

    def __init__(self, leaves: int = 10_000) -> None:
        """``leaves``: how many others are in the tree."""
        self.message = mail()
        closed = batch([self.message], filler=leaves)
        self.certificate = closed.certificates[0]
        self.json = self.certificate.to_json()
        self.cbor = self.certificate.compact().to_cbor()
        self.anchors = (event_anchor(closed.tree.root), calldata_anchor(closed.tree.root))
        self.receipts = tuple(Receipt(closed.note, (one,)).to_json() for one in self.anchors)
        self.blocks = tuple(f"{CHAIN}:{keccak(one.header).hex()}" for one in self.anchors)
        target = self.certificate.leaf.hash
        hashed = revocation_hash(target, 1_774_000_000, 1)
        later = batch([mail(number=2)], extra=(hashed,), filler=leaves)
        self.revocation = Revocation(
            target, 1_774_000_000, 1, Proof.of(later.tree, 1), later.note
        ).to_json()

    def genuine(self) -> Iterator[Paper]:
        footer = self.message.replace(b"</p>\r\n", b"</p>\r\n<p>Scanned by a gateway.</p>\r\n")
        sent = with_header(self.message, self.cbor)
        yield Paper("JSON", self.json, self.message, None, "exact")
        yield Paper("CBOR", self.cbor, self.message, None, "exact")
        yield Paper("with its own header", self.json, sent, None, "exact")
        yield Paper("below a footer", self.json, footer, None, "same text with additions")
        for method, receipt in zip(("event", "calldata"), self.receipts, strict=True):
            for form, paper in (("JSON", self.json), ("CBOR", self.cbor)):
                yield Paper(
                    f"{form} and receipt ({method})",
                    *(paper, self.message, None, "exact", receipt, self.blocks),
                    state="final",
                )

    def tampered(self) -> Iterator[Paper]:
        """Each with the one step that must tell it."""
        yield from self._messages()
        yield from self._certificates()
        yield from self._receipts()
        yield Paper(
            "revoked", self.json, self.message, 8, "exact",
            revocation=self.revocation, state="revoked",
        )  # fmt: skip

    def _messages(self) -> Iterator[Paper]:
        third = self.message.replace(b"a third off", b"two thirds off")
        link = self.message.replace(b"https://shop.example.com", b"https://shop.example.net")
        yield Paper("text changed", self.json, third, 4, "different")
        yield Paper("link changed", self.json, link, 4, "different")
        # The small form shows no text of its own: another one looks like another tree.
        yield Paper("text changed, CBOR", self.cbor, third, 7, "different")
        short = self.message.replace(b"a third off", b"")
        yield Paper("text cut, CBOR", self.cbor, short, 4, "different")
        yield Paper("link changed, CBOR", self.cbor, link, 7, "different")
        yield Paper("another message", self.json, mail(plain(), 5), 4, "different")

    def _certificates(self) -> Iterator[Paper]:
        def edited(name: str, step: int, edit: Callable[[Any], object]) -> Paper:
            document = json.loads(self.json)
            edit(document)
            return Paper(name, jcs.write(document), self.message, step, "different")

        leaf, proof = "leaf", "proof"
        yield edited("member added", 1, lambda d: d.update(note="mine"))
        yield edited("version 2", 2, lambda d: d.update(version=2))
        yield edited("message id", 6, lambda d: d[leaf].update(messageId="<2@example.com>"))
        yield edited("recipient", 6, lambda d: d[leaf].update(recipient="00" * 32))
        yield edited("sender's domain", 6, lambda d: d[leaf].update(domain="example.net"))
        yield edited("link list", 6, lambda d: d[leaf].update(links=["https://example.net"]))
        yield edited("index", 6, lambda d: d[proof].update(index=d[proof]["index"] + 2))
        yield edited("path cut", 5, lambda d: d[proof]["path"].pop())
        yield edited("path's node", 6, lambda d: d[proof]["path"].__setitem__(0, "00" * 32))
        yield edited("size", 5, lambda d: d[proof].update(size=d[proof]["size"] * 2))
        data = bytearray(self.cbor)
        data[-1] ^= 1
        yield Paper("signature, CBOR", bytes(data), self.message, 7, "different")
        items = cbor2.loads(self.cbor)
        items[2] = bytes(32)
        sealed = cbor2.dumps(items, canonical=True)
        yield Paper("seal, CBOR", sealed, self.message, 7, "different")
        other = batch([self.message], (NEXT_KEY,)).certificates[0].to_json()
        yield Paper("another issuer's key", other, self.message, 7, "different")
        line = self.certificate.note.rstrip("\n")
        forged = line[:-10] + ("A" if line[-10] != "A" else "B") + line[-9:] + "\n"
        paper = replace(self.certificate, note=forged).to_json()
        yield Paper("signature", paper, self.message, 7, "different")

    def _receipts(self) -> Iterator[Paper]:
        def edited(name: str, edit: Callable[[Any], object]) -> Paper:
            document = json.loads(self.receipts[0])
            edit(document["anchors"][0])
            return replace(whole, name=f"receipt: {name}", receipt=jcs.write(document))

        whole = Paper("", self.json, self.message, 9, "exact", self.receipts[0], self.blocks)
        unknown = (f"{CHAIN}:{'00' * 32}",)
        yield replace(whole, name="receipt: block that nobody knows", blocks=unknown)
        yield edited("header", lambda a: a.update(header=a["header"][:-2] + "01"))
        yield edited("node of its proof", lambda a: a["proof"].__setitem__(0, "c0"))
        yield edited("transaction", lambda a: a.update(index=a["index"] + 1))
        yield edited("log", lambda a: a.update(logIndex=0))
        yield edited("contract", lambda a: a.update(contract=bytes(reversed(CONTRACT)).hex()))
        yield edited("chain", lambda a: a.update(chainId=1))
        later = batch([mail(number=3)])
        foreign = Receipt(later.note, (event_anchor(later.tree.root),)).to_json()
        yield replace(whole, name="receipt: another batch's", receipt=foreign)
