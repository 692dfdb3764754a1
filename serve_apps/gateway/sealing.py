"""What the idempotency table keeps of answers is encrypted: some hold a key that is shown once."""

from __future__ import annotations

from mesh.core.errors import Conflict
from mesh.security.sealing import Sealer, Unreadable


class AesSealer:
    """For the idempotency table; ``context`` binds an answer to its row."""

    def __init__(self, secret: bytes) -> None:
        self._sealer = Sealer(secret, "maily idempotent answers v1")

    def seal(self, plain: bytes, context: bytes) -> bytes:
        return self._sealer.seal(plain, context)

    def open(self, sealed: bytes, context: bytes) -> bytes:
        """Raises Conflict when it was sealed with another secret or for another row."""
        try:
            return self._sealer.open(sealed, context)
        except Unreadable:
            raise Conflict(
                "The first answer for this Idempotency-Key can't be read any more; use a new key"
            ) from None
