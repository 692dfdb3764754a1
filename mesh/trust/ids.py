"""Ids of certificates: public, not to be guessed, and nothing is stored for them.

Batch serial (6 bytes), index (4 bytes) and a keyed MAC of both (10 bytes: a guess hits once in
2⁸⁰), in base32 without padding: 32 letters and digits, as a QR code and a URL like them.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from hashlib import blake2b

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mesh.core.errors import NotFound

MAC_BYTES = 10
_ID = re.compile(r"[a-zA-Z2-7]{32}", re.ASCII)


class CertificateIds:
    """``secret``: the instance's; another instance's ids are NotFound here."""

    def __init__(self, secret: bytes) -> None:
        info = b"maily trust certificate ids v1"
        self._key = HKDF(SHA256(), 32, salt=None, info=info).derive(secret)

    def make(self, serial: int, index: int) -> str:
        """``serial``: below 2⁴⁸; ``index``: below 2³²."""
        place = serial.to_bytes(6, "big") + index.to_bytes(4, "big")
        return base64.b32encode(place + self._mac(place)).decode().lower()

    def read(self, text: str) -> tuple[int, int]:
        """Serial and index. Raises NotFound for whatever ``make`` did not give."""
        if not _ID.fullmatch(text):
            raise _unknown()
        try:
            data = base64.b32decode(text.upper())
        except binascii.Error as error:
            raise _unknown() from error
        place, mac = data[:10], data[10:]
        if not hmac.compare_digest(mac, self._mac(place)):
            raise _unknown()
        return int.from_bytes(place[:6], "big"), int.from_bytes(place[6:], "big")

    def _mac(self, place: bytes) -> bytes:
        return blake2b(place, digest_size=MAC_BYTES, key=self._key).digest()


def _unknown() -> NotFound:
    return NotFound("There is no such certificate.")
