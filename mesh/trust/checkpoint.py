"""Checkpoints: a tree's size and root, signed as a C2SP signed note with Ed25519.

Several keys may sign one (rotation: the old and the new together), and a reader names the keys
that it trusts.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mesh.core.errors import InvalidInput

MAX_SIGNATURES = 100
"""C2SP's limit for a note."""
ORIGIN_DIGITS = 16

_ED25519 = b"\x01"
_NAME = re.compile(r"[!-*,-~]{1,200}")  # printable ASCII without space and "+"
_SIGNATURE = re.compile(r"— ([!-*,-~]+) ([A-Za-z0-9+/]+={0,2})")


@dataclass(frozen=True)
class VerifierKey:
    """A public key and the name that it signs for."""

    name: str
    """Schema-less URL, e.g. ``example.com/trust``. No space, no ``+``."""
    public: bytes
    """32 bytes."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or len(self.public) != 32:
            raise InvalidInput("not a verifier key", {"field": "key"})

    @property
    def id(self) -> bytes:
        """4 bytes that say which key a signature is of (C2SP signed-note)."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{_encode(_ED25519 + self.public)}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """``name+id+base64``. Raises InvalidInput."""
        name, _, rest = text.strip().partition("+")
        claimed, _, encoded = rest.partition("+")
        data = _decode(encoded)
        if data[:1] != _ED25519:
            raise InvalidInput("not an Ed25519 verifier key", {"field": "key"})
        key = cls(name, data[1:])
        if key.id.hex() != claimed:
            raise InvalidInput("the key's id is not the key's", {"field": "key"})
        return key

    def verifies(self, signature: bytes, text: str) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text.encode())
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True)
class SigningKey:
    """The private half. ``seed``: 32 bytes."""

    name: str
    seed: bytes

    def sign(self, text: str) -> bytes:
        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(text.encode())

    @property
    def verifier(self) -> VerifierKey:
        private = Ed25519PrivateKey.from_private_bytes(self.seed)
        return VerifierKey(self.name, private.public_key().public_bytes_raw())


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What is signed."""

    origin: str
    size: int
    root: bytes

    @classmethod
    def of(cls, name: str, size: int, root: bytes) -> Checkpoint:
        """Of a closed batch: each is a log of its own, named by its root."""
        return cls(f"{name}/{root.hex()[:ORIGIN_DIGITS]}", size, root)

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{_encode(self.root)}\n"

    @property
    def name(self) -> str:
        """The key name that the origin begins with; empty unless it ends with the root's digits."""
        name, _, digits = self.origin.rpartition("/")
        return name if digits == self.root.hex()[:ORIGIN_DIGITS] else ""


@dataclass(frozen=True, slots=True)
class Signature:
    """A line of a note. ``data``: key id and Ed25519 signature, 68 bytes."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Note:
    """A read note; nothing in it is verified yet."""

    checkpoint: Checkpoint
    signatures: tuple[Signature, ...]

    def signers(self, trusted: Iterable[VerifierKey]) -> list[VerifierKey]:
        """Trusted keys that signed this, each of the name that the origin begins with.

        None if a signature of one of them is wrong or stands twice, as C2SP asks: else a note
        could be changed and still hold. Lines of other keys are ignored.
        """
        name, text = self.checkpoint.name, self.checkpoint.text
        keys = {key.id: key for key in trusted if name and key.name == name}
        found: list[VerifierKey] = []
        for signature in self.signatures:
            key = keys.get(signature.data[:4])
            if key is None or key.name != signature.name:
                continue
            if key in found or not key.verifies(signature.data[4:], text):
                return []
            found.append(key)
        return found


def sign(checkpoint: Checkpoint, keys: Sequence[SigningKey]) -> str:
    """The note. Raises InvalidInput unless every key's name is the origin's."""
    if not keys or any(key.name != checkpoint.name for key in keys):
        raise InvalidInput("a checkpoint is signed by keys of its own name", {"field": "keys"})
    lines = [
        f"— {key.name} {_encode(key.verifier.id + key.sign(checkpoint.text))}\n" for key in keys
    ]
    return write(checkpoint, lines)


def write(checkpoint: Checkpoint, lines: Sequence[str]) -> str:
    return f"{checkpoint.text}\n{''.join(lines)}"


def signature_line(name: str, data: bytes) -> str:
    return f"— {name} {_encode(data)}\n"


def read(note: str) -> Note:
    """Strict, byte for byte. Raises InvalidInput."""
    text, blank, tail = note.partition("\n\n")
    lines = text.split("\n")
    if not blank or len(lines) != 3 or not tail.endswith("\n"):
        raise _wrong("it is not three lines, a blank one, and signatures")
    origin, size, root = lines
    if not re.fullmatch(r"[!-~]{1,300}", origin):
        raise _wrong("its origin is not a name")
    if not re.fullmatch(r"[1-9][0-9]{0,15}", size):
        raise _wrong("its size is not a number")
    checkpoint = Checkpoint(origin, int(size), _decode(root))
    if len(checkpoint.root) != 32:
        raise _wrong("its root has not 32 bytes")
    signatures: list[Signature] = []
    for line in tail.removesuffix("\n").split("\n"):
        match = _SIGNATURE.fullmatch(line)
        if match is None or len(signatures) == MAX_SIGNATURES:
            raise _wrong("a signature line is malformed, or there are too many")
        data = _decode(match[2])
        if len(data) < 5:
            raise _wrong("a signature is too short")
        signatures.append(Signature(match[1], data))
    return Note(checkpoint, tuple(signatures))


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    """Only the one canonical base64 of the bytes."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _wrong("base64 is broken") from error
    if _encode(data) != text:
        raise _wrong("base64 is not canonical")
    return data


def _wrong(why: str) -> InvalidInput:
    return InvalidInput(f"not a checkpoint: {why}", {"field": "checkpoint"})
