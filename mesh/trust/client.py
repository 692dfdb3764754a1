"""Trust as the gateway, agents and tools hold it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol
from uuid import UUID

from mesh.contracts.trust import (
    AheadIds,
    BatchPage,
    BatchView,
    CertificateLine,
    CertificatePage,
    CertificateView,
    DocumentTrustView,
    ForgetTrustReceipt,
    KeysView,
    NetworksView,
    NewBatch,
    NewMessage,
    RevocationPage,
    RevokeReason,
)

ROLLING: Literal["rolling"] = "rolling"
"""Names a workspace's batch of single mails: there always is one, and it closes by itself."""
Rolling = Literal["rolling"]


class TrustClient(Protocol):
    """Errors: InvalidInput, NotFound, Conflict, Overloaded, Unavailable, DeadlineExceeded.

    What takes a workspace is within it: another's batches and certificates are NotFound. What
    takes a certificate's id or a root alone is public: who has the one may see the other.
    A change of a batch is told on ``mesh.streams.names.trust_stream(batch)``.
    """

    async def open_batch(
        self, workspace_id: UUID, request: NewBatch, *, key: str | None = None, timeout_s: float
    ) -> BatchView:
        """``key``: the caller's own name for it (an Idempotency-Key): a repeat gives the batch
        that is there. Raises Conflict: too many are open."""
        ...

    async def ids(
        self,
        workspace_id: UUID,
        batch: UUID,
        *,
        first: int | None = None,
        count: int = 1_000,
        timeout_s: float,
    ) -> AheadIds:
        """The ids of ``count`` places from ``first`` (None: the next one) of an open batch, for
        messages that are to show their own. Nothing is reserved: a line of ``add`` that names its
        id is refused if it gets another place. Raises Conflict: it is closed."""
        ...

    async def add(
        self,
        workspace_id: UUID,
        batch: UUID | Rolling,
        lines: Sequence[NewMessage],
        *,
        first_line: int = 1,
        timeout_s: float,
    ) -> list[CertificateLine]:
        """In the order of ``lines`` (at most ``MAX_LINES``), when all of them are committed.

        The very same message again gives its first certificate, so what was interrupted can be
        sent again. All or none: raises InvalidInput and Conflict (closed batch; another message
        with the Message-ID of one that is there) with ``details["line"]``, counted from
        ``first_line``.
        """
        ...

    async def close_batch(self, workspace_id: UUID, batch: UUID, *, timeout_s: float) -> BatchView:
        """Take no more, build the tree, sign its root. Idempotent; goes on even when the deadline
        passes. Raises Conflict: it is empty."""
        ...

    async def batch(self, workspace_id: UUID, batch: UUID, *, timeout_s: float) -> BatchView: ...

    async def batches(
        self, workspace_id: UUID, *, after: str | None = None, limit: int = 50, timeout_s: float
    ) -> BatchPage:
        """Newest first."""
        ...

    async def certificates(
        self,
        workspace_id: UUID,
        batch: UUID,
        *,
        after: int = -1,
        limit: int = 1_000,
        timeout_s: float,
    ) -> CertificatePage:
        """In the order of their index, those behind ``after``; forgotten ones with an empty
        message id."""
        ...

    async def view(self, certificate: str, *, timeout_s: float) -> CertificateView: ...

    async def certificate_bytes(
        self, certificate: str, form: Literal["json", "cbor"], *, timeout_s: float
    ) -> bytes:
        """Raises Conflict while its batch is open, and Gone once it is forgotten."""
        ...

    async def id_of(self, root: bytes, index: int, *, timeout_s: float) -> str | None:
        """The id of the certificate at this place of this tree; None: the tree is not ours."""
        ...

    async def receipt(self, root: bytes, *, timeout_s: float) -> bytes:
        """The receipt so far, as in the specification, §6; it grows with each network."""
        ...

    async def revoke(
        self, workspace_id: UUID, certificate: str, reason: RevokeReason, *, timeout_s: float
    ) -> CertificateView:
        """Take it back, at once and for good. A repeat changes nothing."""
        ...

    async def revocations(
        self,
        *,
        leaf: bytes | None = None,
        after: str | None = None,
        limit: int = 100,
        timeout_s: float,
    ) -> RevocationPage:
        """Proven ones alone, oldest first. ``leaf``: of this leaf hash."""
        ...

    async def forget(
        self, workspace_id: UUID, certificate: str, *, timeout_s: float
    ) -> ForgetTrustReceipt:
        """Erase what tells of the person and the message, from disk, too. Others' proofs hold."""
        ...

    async def forget_recipient(
        self, workspace_id: UUID, batch: UUID, recipient: str, *, timeout_s: float
    ) -> ForgetTrustReceipt:
        """``forget`` of all that went to this address in this batch."""
        ...

    async def networks(self, *, timeout_s: float) -> NetworksView: ...

    async def keys(self, *, timeout_s: float) -> KeysView: ...

    async def document_state(
        self, workspace_id: UUID, document: str, version: str, *, timeout_s: float
    ) -> DocumentTrustView: ...
