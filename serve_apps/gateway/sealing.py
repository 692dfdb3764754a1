"""What the idempotency table keeps of answers is encrypted: some hold a key that is shown once."""

from __future__ import annotations

import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mesh.core.errors import Conflict

_NONCE = 12


class AesSealer:
    """AES-256-GCM under a key derived from the instance's secret; ``context`` is authenticated."""

    def __init__(self, secret: bytes) -> None:
        derived = HKDF(SHA256(), 32, salt=None, info=b"maily idempotent answers v1").derive(secret)
        self._cipher = AESGCM(derived)

    def seal(self, plain: bytes, context: bytes) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, plain, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Raises Conflict when it was sealed with another secret or for another row."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], context)
        except InvalidTag:
            raise Conflict(
                "The first answer for this Idempotency-Key can't be read any more; use a new key"
            ) from None
