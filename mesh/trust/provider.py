"""The trust of documents' versions: what a canvas or an editor asks, whoever answers."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from mesh.contracts.trust import DocumentTrustView
from mesh.trust.client import TrustClient

DocumentTrust = DocumentTrustView


class TrustProvider(Protocol):
    async def state_of(self, workspace: UUID, document: str, version: str) -> DocumentTrust:
        """Raises Unavailable, DeadlineExceeded. An unknown version has no state."""
        ...


class ClientTrustProvider:
    """Answers from the certificates that were made of the version (``NewMessage.document``)."""

    def __init__(self, client: TrustClient, timeout_s: float = 5.0) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def state_of(self, workspace: UUID, document: str, version: str) -> DocumentTrust:
        return await self._client.document_state(
            workspace, document, version, timeout_s=self._timeout_s
        )
