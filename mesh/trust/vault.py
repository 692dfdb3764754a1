"""How what a certificate tells of a person lies on disk, so that it can be forgotten.

A leaf's facts are sealed under HMAC(instance key, salt). Without the salt there is no key, for the
holder of the instance's secret neither: to erase the salt is to erase the facts, in every copy.
What has to be looked up (has this message come before, what went to this address) is kept as
keyed hashes beside the salts, and erased with them.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Self
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mesh.core.errors import Conflict, InvalidInput
from mesh.trust.canonical.headers import normal_address

MIN_SECRET_BYTES = 32
MESSAGE_MARK_BYTES = 16
CONTENT_MARK_BYTES = 8
MARK_BYTES = MESSAGE_MARK_BYTES + CONTENT_MARK_BYTES
PERSON_BYTES = 8
DOCUMENT_BYTES = 16

# A key is made from 16 fresh random bytes and seals one thing once, so its nonce may be fixed.
_NONCE = bytes(12)


@dataclass(frozen=True, slots=True)
class TrustVault:
    """Derived keys: they go to the tasks that prepare leaves, the secret itself does not."""

    facts: bytes = field(repr=False)
    marks: bytes = field(repr=False)

    @classmethod
    def of(cls, secret: bytes) -> Self:
        """Raises InvalidInput for a secret that is too short."""
        if len(secret) < MIN_SECRET_BYTES:
            raise InvalidInput(
                f"The instance's secret needs at least {MIN_SECRET_BYTES} bytes.",
                {"field": "security.secret"},
            )
        return cls(_derive(secret, b"facts"), _derive(secret, b"marks"))

    def seal(self, salt: bytes, workspace: UUID, plain: bytes) -> bytes:
        return self._cipher(salt).encrypt(_NONCE, plain, workspace.bytes)

    def open(self, salt: bytes, workspace: UUID, sealed: bytes) -> bytes:
        """Raises Conflict: it was sealed under another secret, or it is damaged."""
        try:
            return self._cipher(salt).decrypt(_NONCE, sealed, workspace.bytes)
        except InvalidTag:
            raise Conflict(
                "A certificate was sealed under another secret. Put the instance's old secret "
                "back (security.secret)."
            ) from None

    def message_mark(self, workspace: UUID, domain: str, message_id: str) -> bytes:
        """What two messages of one sender with the same Message-ID have in common."""
        return self._mark(
            MESSAGE_MARK_BYTES, workspace, b"message", domain.encode(), message_id.encode()
        )

    def content_mark(self, workspace: UUID, exact: bytes, recipient: str) -> bytes:
        """What the very same message to the same address has in common."""
        address = normal_address(recipient).encode("utf-8", "replace")
        return self._mark(CONTENT_MARK_BYTES, workspace, b"content", exact, address)

    def person_mark(self, workspace: UUID, recipient: str) -> bytes:
        address = normal_address(recipient).encode("utf-8", "replace")
        return self._mark(PERSON_BYTES, workspace, b"person", address)

    def document_mark(self, workspace: UUID, document: str, version: str) -> bytes:
        return self._mark(
            DOCUMENT_BYTES, workspace, b"document", document.encode(), version.encode()
        )

    def _cipher(self, salt: bytes) -> AESGCM:
        return AESGCM(hmac.digest(self.facts, salt, "sha256"))

    def _mark(self, size: int, workspace: UUID, *parts: bytes) -> bytes:
        counted = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        return blake2b(workspace.bytes + counted, digest_size=size, key=self.marks).digest()


def _derive(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=b"maily trust " + purpose + b" v1").derive(secret)
