"""Trust: batches of certified messages, their certificates, anchors and verdicts.

A message is taken into a batch; when the batch closes its tree's root is signed, and then written
to public networks. Certificates, receipts and revocations themselves have forms of their own,
byte for byte (``docs/spec/certificate-v1.md``); here is what is said *about* them.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import Field, StringConstraints, model_validator

from mesh.contracts.base import Contract
from mesh.contracts.networks import AnchorState as AnchorState
from mesh.contracts.networks import AnchorView as AnchorView
from mesh.contracts.networks import NetworksView as NetworksView
from mesh.contracts.networks import NetworkView as NetworkView

VERSION = 1
MAX_LINES = 1_024
"""Messages of one ``add``."""
MAX_IDS = 10_000
"""Certificates' ids that are given out ahead in one answer."""
MAX_VERIFY_CHARS = 8_388_608
"""Of a message (or its base64) that is verified."""

CertificateId = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z2-7]{32}$")]
Hex32 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Address = Annotated[str, StringConstraints(max_length=320, pattern=r"^[^\x00-\x1f]*$")]
Base64 = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/\s]*={0,2}\s*$")]


class BatchState(StrEnum):
    """How far a batch is, and with it its certificates."""

    OPEN = "open"
    """Takes messages; has no root yet."""
    INCLUDED = "included"
    """The tree is closed and signed; nobody outside has seen it yet."""
    SUBMITTED = "submitted"
    """A transaction with the root is on its way."""
    CONFIRMED = "confirmed"
    """A block has it."""
    FINAL = "final"
    """As many networks as the policy needs have it for good."""
    ORPHANED = "orphaned"
    """The block that had it is gone; it is sent again."""

    @property
    def pending(self) -> bool:
        """Not yet on any network, in people's language."""
        return self in (BatchState.OPEN, BatchState.INCLUDED, BatchState.SUBMITTED)


class CertificateState(StrEnum):
    """Of one certificate: its batch's, or taken back."""

    OPEN = "open"
    INCLUDED = "included"
    SUBMITTED = "submitted"
    CONFIRMED = "confirmed"
    FINAL = "final"
    ORPHANED = "orphaned"
    REVOKED = "revoked"


class RevokeReason(StrEnum):
    """In the order of their numbers in the specification, §6."""

    OTHER = "other"
    SENT_IN_ERROR = "sent in error"
    CONTENT_WITHDRAWN = "content withdrawn"
    KEY_COMPROMISED = "key compromised"
    PERSONS_REQUEST = "person's request"

    @property
    def code(self) -> int:
        return list(RevokeReason).index(self)


class NewBatch(Contract):
    """Body of a batch that is opened before its messages are known."""

    name: str = Field(default="", max_length=200, pattern=r"^[^\x00-\x1f]*$")
    """For people: a campaign's name."""
    close: Literal["now", "later"] = "later"
    """now: with the end of the stream that fills it. later: when it is asked for."""


class DkimRef(Contract):
    """The key that signed the message."""

    selector: str = Field(min_length=1, max_length=255, pattern=r"^[!-~]+$")
    public_key: Base64 = Field(min_length=4, max_length=8_192)
    """The ``p=`` of the DNS record, base64."""


class DocumentRef(Contract):
    """Which version of which document the message was made of."""

    id: str = Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")
    version: str = Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")


class NewMessage(Contract):
    """A line of the stream that fills a batch: one message to one recipient."""

    message: str | None = None
    """RFC 5322, as text; or"""
    message_base64: Base64 | None = None
    """… its bytes, which is exact for any charset."""
    recipient: Annotated[
        str, StringConstraints(min_length=1, max_length=320, pattern=r"^[^\x00-\x1f]+$")
    ]
    """Whom this copy goes to. Kept sealed; the certificate holds a salted hash alone."""
    dkim: DkimRef | None = None
    document: DocumentRef | None = None
    certificate: CertificateId | None = None
    """The id that the message itself shows, given out ahead: refused if it gets another place."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.message is None) == (self.message_base64 is None):
            raise ValueError("give exactly one of message and message_base64")
        return self


class BatchView(Contract):
    id: UUID
    serial: int
    name: str
    kind: Literal["campaign", "rolling", "revocations"]
    state: BatchState
    size: int
    """Messages (or revocations) in it."""
    root: Hex32 | None = None
    checkpoint: str | None = None
    """The signed note, once it is closed."""
    created_at: datetime
    closed_at: datetime | None = None
    state_at: datetime
    """Since when it is in this state."""
    anchors: list[AnchorView] = Field(default_factory=list)
    degraded: bool = False
    """Fewer networks than the policy needs have answered of late, or it has waited too long."""
    reason: str | None = None
    """Why it is degraded."""


class BatchPage(Contract):
    batches: list[BatchView]
    next: str | None = None
    """What ``after`` is for the next page; None: that was all."""


class CertificateLine(Contract):
    """What is answered for a message, once it can't be lost any more."""

    index: int
    """In the batch."""
    id: str
    """Of the certificate: public, and not to be guessed."""
    message_id: str
    repeated: bool = False
    """This very message was there already; it is its first certificate."""


class BatchFilled(Contract):
    """What became of a stream of messages."""

    batch: BatchView | None
    """None of the rolling one: it may have closed meanwhile."""
    lines: int
    """Messages of this stream that are kept, however often they were sent."""
    repeated: int
    """Of them, those that were there before."""
    certificates: list[CertificateLine] | None
    """In the order of the stream; None: they are too many, ``…/certificates`` gives them."""


class AheadIds(Contract):
    """Ids of places in an open batch, for messages that are to show their own."""

    first: int
    """The place of the first; a batch's first message has 0."""
    size: int
    """Messages that the batch had by now: the next one gets this place."""
    ids: list[str]


class CertificatePage(Contract):
    certificates: list[CertificateLine]
    next: int | None = None
    """What ``after`` is for the next page; None: that was all."""


class RevokedView(Contract):
    reason: RevokeReason
    at: datetime
    state: CertificateState
    """Of the revocation's own batch: ``open`` until its tree is closed."""


class CertificateView(Contract):
    """What anybody may see who has the certificate's id."""

    id: str
    state: CertificateState
    batch: UUID
    index: int
    size: int
    """Of the batch; 0 while it is open."""
    root: Hex32 | None = None
    leaf: Hex32 | None = None
    """Hash of the leaf."""
    subject: str | None = None
    """None of a forgotten one, as with all that tells of the person or the message."""
    date: str | None = None
    """As the message says it."""
    domain: str | None = None
    """The sender's."""
    recipient_masked: str | None = None
    """``j…@e….com``: who has the address knows it again, nobody can read it from this."""
    message_id: str | None = None
    document: DocumentRef | None = None
    certified_at: datetime | None = None
    """When it was taken in."""
    as_of: datetime
    """When this was looked up: what is said of revocation and networks holds for then."""
    revoked: RevokedView | None = None
    forgotten: bool = False
    anchors: list[AnchorView] = Field(default_factory=list)


class KeysView(Contract):
    """Public halves of the keys that signed or sign, as C2SP verifier keys."""

    keys: list[str]
    """``name+id+base64``; a checkpoint is signed by all live ones."""
    live: list[str]
    """Those of ``keys`` that sign now."""


class VerifyRequest(Contract):
    """Body of ``POST /v1/trust/verify``. Without a certificate: the one in the message itself."""

    message: Annotated[str, StringConstraints(max_length=MAX_VERIFY_CHARS)] | None = None
    message_base64: Annotated[Base64, StringConstraints(max_length=MAX_VERIFY_CHARS)] | None = None
    certificate: dict[str, Any] | None = None
    """The JSON form; or"""
    certificate_base64: Annotated[Base64, StringConstraints(max_length=1_500_000)] | None = None
    """… either form's bytes; or"""
    id: CertificateId | None = None
    """… the one of this instance with this id."""
    recipient: Address | None = None
    """Whom the message came to, if it is known; else the addresses in To."""
    receipt: dict[str, Any] | None = None
    """Unset: the one that this instance has."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.message is None) == (self.message_base64 is None):
            raise ValueError("give exactly one of message and message_base64")
        given = (self.certificate, self.certificate_base64, self.id)
        if sum(item is not None for item in given) > 1:
            raise ValueError("give at most one of certificate, certificate_base64 and id")
        return self


class SeenView(Contract):
    """An anchor that holds."""

    chain_id: int
    block_number: int
    block_hash: str
    time: datetime
    """Of the block: the message existed by then."""
    final: bool


class VerdictView(Contract):
    """What a verification found (specification §7)."""

    level: Literal["exact", "same text", "same text with additions", "same links only", "different"]
    state: Literal["included", "confirmed", "final", "revoked"]
    holds: bool
    failed_step: int | None = None
    reason: str = ""
    differs: list[str] = Field(default_factory=list)
    sender: Literal["same", "other", "unknown"]
    message_id: Literal["same", "other", "unknown"]
    recipient: Literal["same", "other", "unknown"]
    domain: str = ""
    signers: list[str] = Field(default_factory=list)
    seen: list[SeenView] = Field(default_factory=list)
    header_policy: str = ""
    """Whom this answer believes that a block is of its chain."""
    added_bytes: int = 0
    added_before: str = ""
    added_after: str = ""
    added_origins: list[str] = Field(default_factory=list)
    missing_origins: list[str] = Field(default_factory=list)
    leaf: Hex32 | None = None
    root: Hex32 | None = None
    id: str | None = None
    """Of the certificate, if this instance has it."""
    revoked: RevokedView | None = None
    """Also what is not in a tree yet, of this instance's own certificates."""
    as_of: datetime


class RevokeRequest(Contract):
    reason: RevokeReason = RevokeReason.OTHER


class ForgetRecipient(Contract):
    """Forget a person's certificates of one batch. The address is not kept in clear."""

    recipient: Annotated[
        str, StringConstraints(min_length=1, max_length=320, pattern=r"^[^\x00-\x1f]+$")
    ]


class ForgetTrustReceipt(Contract):
    """What a forgetting did."""

    certificates: list[str]
    """Ids; their hashes stay in their trees, and tell nothing of the person."""
    batch: UUID
    forgotten_at: datetime
    scrubbed: bool
    """The bytes are gone from table and log on disk, too."""
    note: str | None = None


class RevocationPage(Contract):
    """Proven revocations, oldest first, each as in the specification, §6."""

    revocations: list[dict[str, Any]]
    next: str | None = None
    as_of: datetime


class DocumentTrustView(Contract):
    """How far the certificates of a document's version are."""

    document: str
    version: str
    state: CertificateState | None = None
    """The least of its certificates that are not revoked; None: it has none."""
    certificates: int = 0
    revoked: int = 0
    by_state: dict[str, int] = Field(default_factory=dict)
    batches: list[UUID] = Field(default_factory=list)
    as_of: datetime


class TrustEvent(Contract):
    """Data of an event of ``trust:{batch}``: the batch's (and its certificates') new state."""

    change: int
    """Number of the change: it grows, and a repeat (after a crash) has the same."""
    batch: UUID
    state: BatchState
    size: int
    root: Hex32 | None = None
    anchors: list[AnchorView] = Field(default_factory=list)
    certificate: str | None = None
    """Of an event about one certificate: it was revoked or forgotten."""
    revoked: RevokeReason | None = None
    forgotten: bool = False
