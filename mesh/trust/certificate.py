"""The certificate in its two forms (spec §6): JSON shows all, CBOR is small enough for a QR code.

Reading checks shape alone; what holds is said by ``mesh.trust.verify``.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from typing import Any

import cbor2

from mesh.core.errors import InvalidInput
from mesh.trust import checkpoint, jcs
from mesh.trust.canonical.links import links_digest
from mesh.trust.fields import Members
from mesh.trust.leaf import KEY_BYTES, SALT_BYTES, UNSIGNED, DkimKey, Leaf, revocation_hash
from mesh.trust.merkle import HASH_BYTES, MAX_SIZE, Tree

VERSION = 1
TYPE = "maily-certificate"
REVOCATION = "maily-revocation"
MAX_PATH = 40
MAX_LINKS = 4096
MAX_COMPACT_BYTES = 2048
REASONS = ("other", "sent in error", "content withdrawn", "key compromised", "person's request")


@dataclass(frozen=True, slots=True)
class Proof:
    """Where a leaf is, and the nodes beside its way to the root."""

    index: int
    size: int
    path: tuple[bytes, ...]

    @classmethod
    def of(cls, tree: Tree, index: int) -> Proof:
        return cls(index, tree.size, tuple(tree.inclusion(index)))

    def as_json(self) -> dict[str, Any]:
        path = [node.hex() for node in self.path]
        return {"index": self.index, "path": path, "size": self.size}

    @classmethod
    def read(cls, value: Any) -> Proof:
        members = Members(value, "proof", "index path size")
        return cls(
            members.number("index", MAX_SIZE),
            members.number("size", MAX_SIZE),
            members.hexes("path", MAX_PATH, HASH_BYTES),
        )


@dataclass(frozen=True, slots=True)
class Certificate:
    """The full form."""

    leaf: Leaf
    origins: tuple[str, ...]
    """Of the links, sorted; ``leaf.links`` is their digest."""
    proof: Proof
    note: str
    """The signed checkpoint."""

    def to_json(self) -> bytes:
        leaf = self.leaf
        dkim = {"key": leaf.dkim.key.hex(), "selector": leaf.dkim.selector} if leaf.dkim else None
        return jcs.write(
            {
                "type": TYPE,
                "version": VERSION,
                "leaf": {
                    "salt": leaf.salt.hex(),
                    "domain": leaf.domain,
                    "messageId": leaf.message_id,
                    "exact": leaf.exact.hex(),
                    "text": leaf.text.hex(),
                    "textBytes": leaf.text_bytes,
                    "links": list(self.origins),
                    "recipient": leaf.recipient.hex(),
                    "dkim": dkim,
                },
                "proof": self.proof.as_json(),
                "checkpoint": self.note,
            }
        )

    def compact(self) -> Compact:
        """With the first of the signatures. What it lacks is read from the message."""
        note = checkpoint.read(self.note)
        return Compact(
            salt=self.leaf.salt,
            seal=self.leaf.seal,
            key=self.leaf.key,
            text_bytes=self.leaf.text_bytes,
            proof=self.proof,
            signature=note.signatures[0].data,
        )


@dataclass(frozen=True, slots=True)
class Compact:
    """The small form: proves "exact" and "same text" together with the message."""

    salt: bytes
    seal: bytes
    key: bytes
    """Sixteen zero bytes when the message was not signed."""
    text_bytes: int
    proof: Proof
    signature: bytes
    """Key id and Ed25519 signature."""

    def to_cbor(self) -> bytes:
        """At a million leaves at most 800 bytes."""
        return cbor2.dumps(
            [
                VERSION,
                self.salt,
                self.seal,
                None if self.key == UNSIGNED else self.key,
                self.text_bytes,
                self.proof.index,
                self.proof.size,
                b"".join(self.proof.path),
                self.signature,
            ],
            canonical=True,
        )


@dataclass(frozen=True, slots=True)
class Revocation:
    """Takes a certificate back; itself a leaf of a later batch."""

    leaf: bytes
    """Hash of the leaf that is revoked."""
    time_s: int
    """Seconds since 1970."""
    reason: int
    """Index in ``REASONS``."""
    proof: Proof
    note: str

    @property
    def hash(self) -> bytes:
        return revocation_hash(self.leaf, self.time_s, self.reason)

    def to_json(self) -> bytes:
        entry = {"leaf": self.leaf.hex(), "reason": self.reason, "time": self.time_s}
        return jcs.write(
            {
                "type": REVOCATION,
                "version": VERSION,
                "entry": entry,
                "proof": self.proof.as_json(),
                "checkpoint": self.note,
            }
        )


def certify(leaf: Leaf, origins: tuple[str, ...], tree: Tree, index: int, note: str) -> Certificate:
    """The certificate of a leaf of a closed tree. Raises InvalidInput if it is another's."""
    if tree.leaf(index) != leaf.hash or links_digest(origins) != leaf.links:
        raise InvalidInput("this leaf is not at this index", {"field": "index"})
    return Certificate(leaf, origins, Proof.of(tree, index), note)


def read_json(data: bytes) -> Certificate:
    """Raises InvalidInput that names the member."""
    members = Members(jcs.read(data), "", "checkpoint leaf proof type version")
    members.constant("type", TYPE)
    members.constant("version", VERSION)
    leaf, origins = _read_leaf(members["leaf"])
    return Certificate(
        leaf, origins, Proof.read(members["proof"]), members.text("checkpoint", 32_768)
    )


def _read_leaf(value: Any) -> tuple[Leaf, tuple[str, ...]]:
    names = "dkim domain exact links messageId recipient salt text textBytes"
    members = Members(value, "leaf", names)
    origins = tuple(members.items("links", MAX_LINKS))
    if not all(isinstance(item, str) and "\n" not in item for item in origins):
        raise members.wrong("links", "are not all texts of one line")
    encoded = [item.encode() for item in origins]
    if any(not a < b for a, b in pairwise(encoded)):
        raise members.wrong("links", "are not sorted, each once")
    domain = members.text("domain", 255)
    if not domain.isascii():
        raise members.wrong("domain", "is not ASCII")
    return Leaf(
        salt=members.hex("salt", SALT_BYTES),
        domain=domain,
        message_id=_bounded(members, "messageId", 4096),
        exact=members.hex("exact", HASH_BYTES),
        text=members.hex("text", HASH_BYTES),
        text_bytes=members.number("textBytes", 2**32 - 1),
        links=links_digest(origins),
        recipient=members.hex("recipient", HASH_BYTES),
        dkim=members.optional("dkim", lambda _: _read_dkim(members["dkim"])),
    ), origins


def _read_dkim(value: Any) -> DkimKey:
    members = Members(value, "leaf.dkim", "key selector")
    key = members.hex("key", KEY_BYTES)
    if key == UNSIGNED:
        raise members.wrong("key", "is the mark of unsigned messages")
    return DkimKey(_bounded(members, "selector", 255), key)


def _bounded(members: Members, name: str, limit: int) -> str:
    """Text whose UTF-8 has at most so many bytes."""
    value = members.text(name, limit)
    if len(value.encode()) > limit:
        raise members.wrong(name, f"has more than {limit} bytes")
    return value


def read_revocation(data: bytes) -> Revocation:
    """Raises InvalidInput that names the member."""
    members = Members(jcs.read(data), "", "checkpoint entry proof type version")
    members.constant("type", REVOCATION)
    members.constant("version", VERSION)
    entry = Members(members["entry"], "entry", "leaf reason time")
    return Revocation(
        leaf=entry.hex("leaf", HASH_BYTES),
        time_s=entry.number("time"),
        reason=entry.number("reason", len(REASONS) - 1),
        proof=Proof.read(members["proof"]),
        note=members.text("checkpoint", 32_768),
    )


def read_cbor(data: bytes) -> Compact:
    """Deterministic bytes and nothing after them. Raises InvalidInput."""
    if len(data) > MAX_COMPACT_BYTES:
        raise InvalidInput(f"more than {MAX_COMPACT_BYTES} bytes", {"field": "certificate"})
    try:
        value = cbor2.CBORDecoder(BytesIO(data)).decode()
    except Exception as error:  # the decoder raises many kinds; each means the same here
        raise InvalidInput(f"not CBOR: {error}", {"field": "certificate"}) from error
    if not isinstance(value, list) or len(value) != 9 or not all(map(_plain, value)):
        raise InvalidInput("not a certificate in compact form", {"field": "certificate"})
    if cbor2.dumps(value, canonical=True) != data:
        raise InvalidInput("not deterministic CBOR", {"field": "certificate"})
    if value[0] != VERSION:
        raise InvalidInput("version is not 1", {"field": "version"})
    _, salt, sealed, key, text_bytes, index, size, path, signature = value
    numbers = ((text_bytes, 2**32 - 1), (index, MAX_SIZE), (size, MAX_SIZE))
    strings = ((salt, SALT_BYTES), (sealed, HASH_BYTES), (signature, 68))
    good = (
        all(type(item) is bytes and len(item) == length for item, length in strings)
        and all(type(item) is int and 0 <= item <= limit for item, limit in numbers)
        and (key is None or (type(key) is bytes and len(key) == KEY_BYTES and key != UNSIGNED))
        and type(path) is bytes
        and len(path) % HASH_BYTES == 0
        and len(path) <= MAX_PATH * HASH_BYTES
    )
    if not good:
        raise InvalidInput("a member is not of its kind", {"field": "certificate"})
    nodes = tuple(path[at : at + HASH_BYTES] for at in range(0, len(path), HASH_BYTES))
    proof = Proof(index, size, nodes)
    return Compact(salt, sealed, key or UNSIGNED, text_bytes, proof, signature)


def _plain(item: Any) -> bool:
    """What members of the compact form are: a whole number, a byte string, or null."""
    return item is None or type(item) is bytes or (type(item) is int and 0 <= item < 2**64)


def read_certificate(data: bytes) -> Certificate | Compact:
    """Either form: JSON begins with a brace, CBOR with an array of nine."""
    return read_json(data) if data[:1] == b"{" else read_cbor(data)
