"""A verification for anybody: what the message needs is looked up, the work is done apart.

Whom the answer believes is said in it: this instance's own keys, and the networks that this
instance anchors on, as it saw them itself.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from mesh.contracts.trust import (
    CertificateView,
    RevocationPage,
    SeenView,
    VerdictView,
    VerifyRequest,
)
from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.errors import NotFound
from mesh.trust import jcs
from mesh.trust.client import TrustClient
from serve_apps.gateway.answers import invalid_field
from serve_apps.gateway.apart import Apart, Session

_SHOWN = ("confirmed", "final")
"""States of an anchor whose block this instance saw."""


@dataclass(frozen=True, slots=True)
class VerifierOptions:
    public_url: str
    """Links to certificates of this instance begin with it."""
    networks_needed: int = 1
    """So many networks make a root final."""
    timeout_s: float = 5.0
    """Of one look-up."""


class Verifier:
    def __init__(
        self, trust: TrustClient, apart: Apart, clock: Clock, options: VerifierOptions
    ) -> None:
        self._trust = trust
        self._apart = apart
        self._clock = clock
        self._options = options

    async def verify(self, request: VerifyRequest) -> VerdictView:
        """Raises InvalidInput (nothing to verify with, or it can't be read), NotFound (no such
        certificate here), Overloaded, Unavailable, DeadlineExceeded."""
        message = _message(request)
        given = await self._given(request)
        keys = await self._trust.keys(timeout_s=self._options.timeout_s)
        async with self._apart.session() as session:
            found = await session.ask("open", message=message, look=given is None)
            certificate = given or await self._from_message(found)
            ask = {
                "certificate": certificate,
                "recipient": request.recipient or None,
                "keys": keys.keys,
            }
            nothing: dict[str, Any] = {
                "receipt": None,
                "revocations": [],
                "sightings": [],
                "networks": 1,
            }
            first = await session.ask("verify", **ask, **nothing)
            verdict = await self._with_records(session, ask, first, request)
        metrics.TRUST_VERIFIED.labels(
            verdict.level, "holds" if verdict.holds else f"step {verdict.failed_step}"
        ).inc()
        return verdict

    async def _given(self, request: VerifyRequest) -> bytes | None:
        if request.certificate is not None:
            return jcs.write(request.certificate)
        if request.certificate_base64 is not None:
            return _decoded(request.certificate_base64, "certificate_base64")
        if request.id is not None:
            return await self._by_id(request.id)
        return None

    async def _by_id(self, certificate: str) -> bytes:
        return await self._trust.certificate_bytes(
            certificate.lower(), "json", timeout_s=self._options.timeout_s
        )

    async def _from_message(self, found: dict[str, Any]) -> bytes:
        if found["certificate"] is not None:
            return bytes(found["certificate"])
        for base, certificate in found["links"]:
            if base == self._options.public_url:
                try:
                    return await self._by_id(certificate)
                except NotFound:
                    continue
        raise invalid_field(
            "certificate",
            "the message carries none: send certificate, certificate_base64 or id with it",
        )

    async def _with_records(
        self, session: Session, ask: dict[str, Any], first: dict[str, Any], request: VerifyRequest
    ) -> VerdictView:
        """The verdict with what this instance knows: revocations and networks."""
        timeout_s = self._options.timeout_s
        root, leaf, index = first["root"], first["leaf"], first["index"]
        identity: str | None = None
        view: CertificateView | None = None
        if root and index is not None:
            identity = await self._trust.id_of(root, index, timeout_s=timeout_s)
        if identity is not None:
            view = await self._trust.view(identity, timeout_s=timeout_s)
            if view.leaf is not None and leaf and view.leaf != leaf.hex():
                identity = view = None  # another leaf claims this place
        told = first
        if first["failed_step"] is None and root:
            receipt = await self._receipt(request, root)
            revocations = await self._trust.revocations(leaf=leaf, limit=1, timeout_s=timeout_s)
            sightings = _sightings(view)
            seen = {chain for _, chain, _, _ in sightings} & _chains(receipt)
            if request.receipt is None and not seen:
                receipt = None
            needed = self._options.networks_needed
            if receipt is not None or revocations.revocations:
                told = await session.ask(
                    "verify",
                    **ask,
                    receipt=receipt,
                    revocations=_entries(revocations),
                    sightings=sightings,
                    networks=max(1, min(needed, len(seen))),
                )
            if told["failed_step"] == 9 and request.receipt is None:
                told = first  # a block is just being dropped: nothing is said of networks
            if told["state"] == "final" and len(seen) < needed:
                told["state"] = "confirmed"  # so many are final, but not yet as many as it takes
        return self._view(told, identity, view)

    async def _receipt(self, request: VerifyRequest, root: bytes) -> bytes | None:
        if request.receipt is not None:
            return jcs.write(request.receipt)
        try:
            return await self._trust.receipt(root, timeout_s=self._options.timeout_s)
        except NotFound:
            return None

    def _view(
        self,
        told: dict[str, Any],
        identity: str | None,
        view: CertificateView | None,
    ) -> VerdictView:
        revoked = None if view is None else view.revoked
        holds, state, reason, step = (
            told["holds"],
            told["state"],
            told["reason"],
            told["failed_step"],
        )
        if revoked is not None and holds:
            # Taken back here, though its revocation is in no closed tree yet.
            holds, state, step, reason = False, "revoked", 8, "the issuer has revoked it"
        looked = ", ".join(sorted({str(name) for name, *_ in _sightings(view)})) or "none of them"
        needed = self._options.networks_needed
        return VerdictView(
            level=told["level"],
            state=state,
            holds=holds,
            failed_step=step,
            reason=reason,
            differs=told["differs"],
            sender=told["sender"],
            message_id=told["message_id"],
            recipient=told["recipient"],
            domain=told["domain"],
            signers=told["signers"],
            seen=[
                SeenView(
                    chain_id=seen["chain_id"],
                    block_number=seen["number"],
                    block_hash=f"0x{seen['block_hash'].hex()}",
                    time=datetime.fromtimestamp(seen["time_s"], UTC),
                    final=seen["final"],
                )
                for seen in told["seen"]
            ],
            header_policy=(
                f"what this instance's own nodes say; final with {needed} networks; "
                f"{looked} had it when this was looked up"
            ),
            added_bytes=told["added_bytes"],
            added_before=told["added_before"],
            added_after=told["added_after"],
            added_origins=told["added_origins"],
            missing_origins=told["missing_origins"],
            leaf=told["leaf"].hex() or None,
            root=told["root"].hex() or None,
            id=identity,
            revoked=revoked,
            as_of=datetime.fromtimestamp(self._clock.now(), UTC),
        )


def _message(request: VerifyRequest) -> bytes:
    if request.message is not None:
        return request.message.encode("utf-8", "surrogatepass")
    return _decoded(request.message_base64 or "", "message_base64")


def _decoded(text: str, field: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise invalid_field(field, "is not base64") from None


def _entries(page: RevocationPage) -> list[bytes]:
    return [jcs.write(entry) for entry in page.revocations]


def _chains(receipt: bytes | None) -> set[int]:
    """Those that a receipt speaks of; none of one that can't be read."""
    try:
        anchors = orjson.loads(receipt or b"{}").get("anchors", [])
        return {anchor["chainId"] for anchor in anchors if type(anchor["chainId"]) is int}
    except (ValueError, TypeError, KeyError, AttributeError):
        return set()


def _sightings(view: CertificateView | None) -> list[list[Any]]:
    """Blocks that this instance saw on its own networks."""
    return [
        [
            anchor.network,
            anchor.chain_id,
            bytes.fromhex(anchor.block_hash.removeprefix("0x")),
            anchor.state.value == "final",
        ]
        for anchor in (view.anchors if view is not None else [])
        if anchor.state.value in _SHOWN and anchor.block_hash
    ]
