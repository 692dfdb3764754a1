"""The leaf: what the tree commits to for one message (spec §5).

Two ways to the same bytes: ``Leaf`` for one message, and ``hash_columns`` for millions, which takes
columns instead of objects and spends its time in SHA-256 and little else.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mesh.core.errors import InvalidInput
from mesh.trust.canonical import Canonical
from mesh.trust.canonical.headers import normal_address

SALT_BYTES = 16
KEY_BYTES = 16
UNSIGNED = bytes(KEY_BYTES)

_RECIPIENT = b"maily-rcpt-v1\n"
_SEAL = b"maily-seal-v1\n"
_LEAF = b"maily-leaf-v1\n"
_REVOKE = b"maily-revoke-v1\n"
_LEAF_PREFIX = b"\x00"  # RFC 9162 §2.1.1
_STEP = 1024

_sha256 = hashlib.sha256


@dataclass(frozen=True, slots=True)
class DkimKey:
    """The key that signed the message."""

    selector: str
    """``s=``; at most 255 characters."""
    key: bytes
    """First 16 bytes of SHA-256 of the public key as DNS shows it."""

    @classmethod
    def pin(cls, selector: str, public_key: bytes) -> DkimKey:
        """``public_key``: the decoded ``p=`` of the DNS record."""
        return cls(selector, _sha256(public_key).digest()[:KEY_BYTES])


@dataclass(frozen=True, slots=True)
class Leaf:
    """One message's leaf. Digests are 32 bytes."""

    salt: bytes
    """16 bytes, fresh for each leaf. Erasing it forgets the person."""
    domain: str
    message_id: str
    exact: bytes
    text: bytes
    text_bytes: int
    links: bytes
    recipient: bytes
    """Salted commitment: see ``recipient_commitment``."""
    dkim: DkimKey | None = None

    @property
    def seal(self) -> bytes:
        selector = self.dkim.selector if self.dkim else ""
        return seal(self.exact, self.recipient, selector, self.message_id)

    @property
    def key(self) -> bytes:
        return self.dkim.key if self.dkim else UNSIGNED

    @property
    def hash(self) -> bytes:
        return leaf_hash(
            self.salt, self.links, self.text, self.text_bytes, self.key, self.seal, self.domain
        )


def make_leaf(
    message: Canonical,
    recipient: str,
    dkim: DkimKey | None = None,
    salt: bytes | None = None,
) -> Leaf:
    """``salt``: drawn from the system if none is given. Raises InvalidInput for a wrong length."""
    salt = os.urandom(SALT_BYTES) if salt is None else salt
    if len(salt) != SALT_BYTES:
        raise InvalidInput(f"a salt has {SALT_BYTES} bytes", {"field": "salt"})
    return Leaf(
        salt=salt,
        domain=message.domain,
        message_id=message.message_id,
        exact=message.exact,
        text=message.text_digest,
        text_bytes=len(message.text.data),
        links=message.links_digest,
        recipient=recipient_commitment(salt, recipient),
        dkim=dkim,
    )


def recipient_commitment(salt: bytes, address: str) -> bytes:
    """Who has salt and address can check it; the leaf's hash alone tells nothing."""
    return _sha256(_RECIPIENT + salt + normal_address(address).encode("utf-8", "replace")).digest()


def seal(exact: bytes, recipient: bytes, selector: str, message_id: str) -> bytes:
    """Binds what a rewritten copy no longer shows; one digest stands for it in compact form."""
    name = message_id.encode("utf-8", "replace")
    return _sha256(
        _SEAL + exact + recipient + _counted(selector.encode()) + _counted(name)
    ).digest()


def _counted(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def leaf_hash(
    salt: bytes, links: bytes, text: bytes, text_bytes: int, key: bytes, sealed: bytes, domain: str
) -> bytes:
    """RFC 9162 hash of the leaf's bytes."""
    name, size = domain.encode("ascii"), text_bytes.to_bytes(4, "big")
    head = _LEAF_PREFIX + _LEAF + salt + links + text + size
    return _sha256(head + key + sealed + bytes([len(name)]) + name).digest()


def revocation_hash(leaf: bytes, time_s: int, reason: int) -> bytes:
    """The leaf hash of a revocation of the leaf with hash ``leaf`` (spec §6)."""
    return _sha256(
        _LEAF_PREFIX + _REVOKE + leaf + time_s.to_bytes(8, "big") + bytes([reason])
    ).digest()


@dataclass(frozen=True, slots=True)
class Columns:
    """Many messages of one sender, as columns. All of the same length."""

    domain: str
    dkim: DkimKey | None
    message_ids: Sequence[bytes]
    """UTF-8."""
    recipients: Sequence[bytes]
    """Addresses in lower case, UTF-8."""
    exact: Sequence[bytes]
    links: Sequence[bytes]
    text: Sequence[bytes]
    text_bytes: Sequence[int]

    def __len__(self) -> int:
        return len(self.message_ids)


def hash_columns(
    columns: Columns, random: Callable[[int], bytes] = os.urandom
) -> tuple[bytes, bytes]:
    """Salts and leaf hashes, each one flat run of bytes: 16 and 32 a message.

    The same bytes as ``make_leaf`` gives. ``random`` gives so many random bytes.
    """
    count = len(columns)
    salts = random(SALT_BYTES * count)
    # What few different values stand for is written once. Locals, few pieces to join, and steps
    # over no more messages than a core's cache holds: two thirds of the time is SHA-256 itself.
    sha256, join, dkim = _sha256, b"".join, columns.dkim
    key = dkim.key if dkim else UNSIGNED
    selector = _counted(dkim.selector.encode() if dkim else b"")
    sizes = {size: size.to_bytes(4, "big") + key for size in set(columns.text_bytes)}
    lengths = {n: selector + n.to_bytes(2, "big") for n in set(map(len, columns.message_ids))}
    name = columns.domain.encode("ascii")
    head, tail = _LEAF_PREFIX + _LEAF, bytes([len(name)]) + name
    hashes = []
    for low in range(0, count, _STEP):
        step = slice(low, low + _STEP)
        ours = [
            salts[at : at + SALT_BYTES]
            for at in range(SALT_BYTES * low, min(SALT_BYTES * step.stop, len(salts)), SALT_BYTES)
        ]
        recipients = [
            sha256(_RECIPIENT + salt + recipient).digest()
            for salt, recipient in zip(ours, columns.recipients[step], strict=True)
        ]
        ids = columns.message_ids[step]
        seals = [
            sha256(join((_SEAL, exact, recipient, lengths[len(one)], one))).digest()
            for exact, recipient, one in zip(columns.exact[step], recipients, ids, strict=True)
        ]
        digests = (columns.links[step], columns.text[step], columns.text_bytes[step], seals)
        leaves = [
            sha256(join((head, salt, links, text, sizes[size], sealed, tail))).digest()
            for salt, links, text, size, sealed in zip(ours, *digests, strict=True)
        ]
        hashes.append(join(leaves))
    return salts, join(hashes)
