"""How memories lie on disk: encrypted, each under a key of its own that can be destroyed.

A database never overwrites in place: what was deleted stays in pages, in the write-ahead log and
in copies. So nothing readable is ever written. Each memory has 32 random bytes of salt in a small
table of its own; its key is HMAC(instance key, salt). Without the salt there is no key, for
the holder of the instance's secret neither, and whatever is left of the row is noise. Erasing a
memory therefore means to erase a salt, and the table of salts is small enough to be rewritten.

Names (namespaces, contacts, clients' ids) and the words of the full text are kept as keyed hashes:
they can be looked up, and not read. Words are hashed under their namespace's salt, so the same
word in two namespaces has nothing in common, and a forgotten namespace's words mean nothing.
"""

from __future__ import annotations

import base64
import hmac
import secrets
from collections.abc import Iterable
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mesh.contracts.memory import MemoryKind, Namespace
from mesh.core.errors import Conflict, InvalidInput

SALT_BYTES = 32
MIN_SECRET_BYTES = 32
_NONCE = 12


class Unreadable(Conflict):
    """It was sealed under another secret, or its key is gone."""

    code = "unreadable"


class Vault:
    """Everything that depends on the instance's secret. Holds no state: share it freely."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < MIN_SECRET_BYTES:
            raise InvalidInput(
                f"The instance's secret needs at least {MIN_SECRET_BYTES} bytes.",
                {"field": "security.secret"},
            )
        self._items = _derive(secret, b"items")
        self._names = _derive(secret, b"names")
        self._words = _derive(secret, b"words")
        self._receipts = _derive(secret, b"receipts")

    def new_salt(self) -> bytes:
        return secrets.token_bytes(SALT_BYTES)

    def namespace_id(self, workspace: UUID, namespace: Namespace) -> UUID:
        return self._name(workspace, f"namespace/{namespace.kind}/{namespace.id}")

    def contact_id(self, workspace: UUID, contact: str) -> UUID:
        return self._name(workspace, f"contact/{contact}")

    def client_hash(self, namespace: UUID, client_id: str) -> bytes:
        """16 bytes."""
        return self._hash(self._names, namespace.bytes, b"client/", client_id.encode())

    def content_hash(self, namespace: UUID, kind: MemoryKind, text: str) -> bytes:
        """16 bytes; the same for texts that differ only in case and blanks."""
        plain = f"content/{kind}/{' '.join(text.casefold().split())}"
        return self._hash(self._names, namespace.bytes, plain.encode())

    def selector_hash(self, workspace: UUID, selector: str) -> str:
        """32 hex digits: what a receipt says of what was asked for."""
        return self._hash(self._names, workspace.bytes, b"selector/", selector.encode()).hex()

    def words(self, salt: bytes, lexemes: Iterable[str]) -> list[str]:
        """Hashes of words, 13 letters and digits each, under the namespace's salt."""
        key = hmac.digest(self._words, salt, "sha256")
        return [
            base64.b32encode(hmac.digest(key, lexeme.encode(), "sha256")[:8])
            .decode()
            .rstrip("=")
            .lower()
            for lexeme in lexemes
        ]

    def seal(self, salt: bytes, context: bytes, plain: bytes) -> bytes:
        """AES-256-GCM; ``context`` (what it is and whose) is authenticated."""
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher(salt).encrypt(nonce, plain, context)

    def open(self, salt: bytes, context: bytes, sealed: bytes) -> bytes:
        """Raises Unreadable."""
        try:
            return self._cipher(salt).decrypt(sealed[:_NONCE], sealed[_NONCE:], context)
        except (InvalidTag, ValueError):
            raise Unreadable(
                "A memory was sealed under another secret. Put the instance's old secret back "
                "(security.secret)."
            ) from None

    def receipt_seal(self, digest: str) -> str:
        return hmac.digest(self._receipts, digest.encode(), "sha256").hex()

    def receipt_holds(self, digest: str, seal: str) -> bool:
        return hmac.compare_digest(self.receipt_seal(digest), seal)

    def _cipher(self, salt: bytes) -> AESGCM:
        return AESGCM(hmac.digest(self._items, salt, "sha256"))

    def _name(self, workspace: UUID, name: str) -> UUID:
        return UUID(bytes=self._hash(self._names, workspace.bytes, name.encode()))

    @staticmethod
    def _hash(key: bytes, *parts: bytes) -> bytes:
        return hmac.digest(key, b"".join(parts), "sha256")[:16]


def item_context(workspace: UUID, item: UUID, what: bytes) -> bytes:
    """Binds a sealed part to its row. ``what``: ``text`` or ``vector``."""
    return b"item/" + what + b"/" + workspace.bytes + item.bytes


def namespace_context(workspace: UUID, namespace: UUID) -> bytes:
    return b"namespace/" + workspace.bytes + namespace.bytes


def _derive(secret: bytes, purpose: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt=None, info=b"maily memory " + purpose + b" v1").derive(secret)
