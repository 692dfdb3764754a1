"""Judges one message: finds its certificate, gets what is missing, verifies, says what was done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from cluster.failures import USAGE, Failure
from cluster.verifying import headers, papers
from cluster.verifying.server import TrustServer
from mesh.trust.canonical import canonicalise
from mesh.trust.certificate import Revocation
from mesh.trust.checkpoint import VerifierKey
from mesh.trust.finding import certificate_in, links_in
from mesh.trust.present.links import VerifyLink
from mesh.trust.receipt import Receipt
from mesh.trust.verdict import TrustPolicy, Verdict
from mesh.trust.verify import verify


@dataclass(frozen=True)
class Wanted:
    """What the user gave."""

    keys: tuple[VerifierKey, ...] = ()
    certificate: str | None = None
    """File, link, digits or id; None: the message's own."""
    recipient: str | None = None
    receipts: tuple[Receipt, ...] = ()
    revocations: tuple[Revocation, ...] = ()
    revocations_given: bool = False
    headers: headers.HeaderSpec | None = None
    contracts: frozenset[tuple[int, bytes]] = frozenset()
    networks: int = 1


@dataclass
class Outcome:
    """Of one message. Without a verdict there was no certificate."""

    name: str
    as_of: datetime
    verdict: Verdict | None = None
    source: str = ""
    """Where the certificate was."""
    form: str = ""
    revocations: int | None = None
    """How many were looked at; None: none could be."""
    receipt: bool = False
    """Whether step 9 was tried."""
    notes: list[str] = field(default_factory=list)
    unreachable: bool = False
    """A node that was to be asked did not answer."""

    def as_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "file": self.name,
            "as_of": self.as_of.isoformat(timespec="seconds"),
            "certificate": {"source": self.source, "form": self.form} if self.source else None,
            "checked": {"revocations": self.revocations, "receipt": self.receipt},
            "notes": self.notes,
        }
        return out | (_verdict(self.verdict) if self.verdict else {"holds": False})


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "holds": verdict.holds,
        "level": str(verdict.level),
        "state": verdict.state,
        "failed_step": verdict.failed_step,
        "reason": verdict.reason,
        "differs": list(verdict.differs),
        "sender": verdict.sender,
        "message_id": verdict.message_id,
        "recipient": verdict.recipient,
        "domain": verdict.domain,
        "signers": list(verdict.signers),
        "seen": [
            {
                "chain_id": seen.chain_id,
                "block_number": seen.number,
                "block_hash": f"0x{seen.block_hash.hex()}",
                "time": as_time(seen.time_s),
                "final": seen.final,
            }
            for seen in verdict.seen
        ],
        "added_bytes": verdict.added_bytes,
        "added_before": verdict.added_before,
        "added_after": verdict.added_after,
        "added_origins": list(verdict.added_origins),
        "missing_origins": list(verdict.missing_origins),
        "leaf": verdict.leaf.hex() or None,
        "root": verdict.root.hex() or None,
    }


def as_time(seconds: int) -> str | None:
    """A block's time; None where no calendar has it."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None


class Judge:
    """``server``: gets what is missing from there; None: asks nobody but the header policy's."""

    def __init__(self, wanted: Wanted, server: TrustServer | None, http: httpx.Client) -> None:
        self._wanted, self._server, self._http = wanted, server, http

    def judge(self, name: str, message: bytes, path: Path | None) -> Outcome:
        """Raises Failure when a server that was named does not answer."""
        outcome = Outcome(name, datetime.now(UTC))
        certificate = self._certificate(message, path, outcome)
        if certificate is None:
            return outcome
        outcome.form = "JSON" if certificate[:1] == b"{" else "CBOR"
        wanted = self._wanted
        canonical = canonicalise(message)
        bare = verify(certificate, canonical, TrustPolicy(wanted.keys), recipient=wanted.recipient)
        outcome.verdict = bare
        if not bare.holds:
            return outcome
        revocations = self._revocations(bare, outcome)
        receipt = self._receipt(bare, outcome)
        policy = TrustPolicy(wanted.keys)
        if receipt and wanted.headers:
            outcome.receipt = True
            trusted, silent = headers.policy(wanted.headers, receipt, self._http)
            outcome.notes += silent
            outcome.unreachable = bool(silent)
            policy = TrustPolicy(wanted.keys, trusted, wanted.contracts, wanted.networks)
        outcome.verdict = verify(
            certificate,
            canonical,
            policy,
            recipient=wanted.recipient,
            receipt=receipt if wanted.headers else None,
            revocations=revocations,
        )
        return outcome

    def _certificate(self, message: bytes, path: Path | None, outcome: Outcome) -> bytes | None:
        if self._wanted.certificate is not None:
            named = papers.certificate(self._wanted.certificate)
            outcome.source = "named"
            return named if isinstance(named, bytes) else self._from_server(named, outcome)
        if found := certificate_in(message):
            outcome.source = f"in the message ({found.where})"
            return papers.trimmed(found.data)
        if path and (near := papers.beside(path)):
            outcome.source = near[1].name
            return near[0]
        pages = links_in(message)
        if self._server:
            for link in pages:
                if link.base == self._server.base and (got := self._from_server(link, outcome)):
                    return got
        outcome.source = ""
        if pages:
            outcome.notes.append(
                f"the message has no certificate in it, but links to {pages[0]}: "
                f"if you trust that address, --server {pages[0].base} gets it"
            )
        return None

    def _from_server(self, named: VerifyLink | str, outcome: Outcome) -> bytes | None:
        if self._server is None:
            raise Failure(
                "the certificate has to be got from where it was issued",
                "--server https://… says where",
                USAGE,
            )
        id = named if isinstance(named, str) else named.id
        outcome.source = f"{self._server.base} ({id})"
        data = self._server.certificate(id)
        if data is None:
            outcome.source = ""
            outcome.notes.append(
                f"{self._server.base} has no certificate {id}: it is unknown, its batch is still "
                "open, or the person was forgotten"
            )
        return data

    def _revocations(self, verdict: Verdict, outcome: Outcome) -> Sequence[Revocation]:
        known = list(self._wanted.revocations)
        if self._server:
            known += self._server.revocations(verdict.leaf)
        if self._server or self._wanted.revocations_given:
            outcome.revocations = len(known)
        return known

    def _receipt(self, verdict: Verdict, outcome: Outcome) -> Receipt | None:
        given = self._wanted.receipts
        found = next((one for one in given if one.root == verdict.root), None)
        if found is None and given:
            return given[0]  # of another batch: step 9 says so
        if found is None and self._server:
            found = self._server.receipt(verdict.root)
            if found is not None and not found.anchors:
                outcome.notes.append("no network has the batch yet, says the server")
                return None
            if found is not None and not self._wanted.headers:
                outcome.notes.append(
                    "there is a receipt, but whom to believe about the chain was not said: "
                    "--headers node:URL, quorum:URL,URL/N or pinned:FILE"
                )
        return found
