"""Addresses of a certificate: ``/verify/{id}#{digits}``, its QR code and the badge.

The fragment holds the compact certificate as one decimal number: the big-endian integer of the
byte 0x01 followed by the CBOR, so that no leading byte gets lost. Digits need no escaping in a
URL and are stored by QR codes at 3.33 bits each (numeric mode), as dense as bytes. A browser never
sends the fragment to a server, so the proof is in nobody's log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from mesh.core.errors import InvalidInput

MAX_PROOF_BYTES = 1536
"""Of a certificate in a link: the compact form of the largest tree that is read (path of 40) has
1,452. Its digits stay below Python's own limit for reading a number (4,300)."""
MAX_DIGITS = len(str((2 << (8 * MAX_PROOF_BYTES)) - 1))
MAX_LINK = 2048 + MAX_DIGITS
"""Characters of a link that is read."""

_ID = re.compile(r"[a-z2-7]{32}")
_NUMBER = re.compile(r"[1-9][0-9]*", re.ASCII)
_BASE = re.compile(r"https?://[A-Za-z0-9.\-_:\[\]]+(?:/[A-Za-z0-9.\-_~%/]*)?", re.ASCII)
_VERIFY = re.compile(r"(.+)/verify/([A-Za-z2-7]{32})(?:\?[^#]*)?(?:#(.*))?", re.ASCII)
_IMAGE = re.compile(r"(.+)/(qr|badge)/([A-Za-z2-7]{32})\.(png|svg)(?:\?([^#]*))?(?:#.*)?", re.ASCII)

ImageForm = Literal["png", "svg"]


@dataclass(frozen=True, slots=True)
class VerifyLink:
    """A read link to a page. ``base`` has no slash at its end."""

    base: str
    id: str
    proof: bytes | None
    """The compact certificate, if the fragment holds it; only its wrapping has been checked."""

    def __str__(self) -> str:
        return verify_url(self.base, self.id, self.proof)


@dataclass(frozen=True, slots=True)
class ImageLink:
    """A read link to an image of a certificate."""

    base: str
    kind: Literal["qr", "badge"]
    id: str
    form: ImageForm
    whole: bool = False
    """Of a QR code: with the whole proof."""


def certificate_id(text: str) -> str:
    """In lower case. Raises InvalidInput for anything that can't be an id."""
    lowered = text.lower() if text.isascii() else text
    if not _ID.fullmatch(lowered):
        raise InvalidInput("a certificate's id is 32 letters and digits 2 to 7", {"field": "id"})
    return lowered


def public_base(text: str) -> str:
    """An http or https URL without query, fragment, user and closing slash. InvalidInput."""
    base = text.rstrip("/")
    wrong = not _BASE.fullmatch(base) or len(base) > 1024
    try:
        parts = urlsplit(base)
        wrong = wrong or not parts.hostname or parts.port == 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        wrong = True
    if wrong:
        raise InvalidInput("not a public http or https address", {"field": "base"})
    return base


def host_of(base: str) -> str:
    """What people read of an address: the host, and the port unless it is the scheme's own."""
    return urlsplit(public_base(base)).netloc.lower()


def fragment_of(compact: bytes) -> str:
    """The decimal digits that stand for a compact certificate. InvalidInput if it is too long."""
    if not 0 < len(compact) <= MAX_PROOF_BYTES:
        raise InvalidInput(
            f"a proof in a link has 1 to {MAX_PROOF_BYTES} bytes", {"field": "proof"}
        )
    return str(int.from_bytes(b"\x01" + compact, "big"))


def proof_of_fragment(text: str) -> bytes:
    """The certificate's bytes again; one ``#`` may stand before the digits.

    Raises InvalidInput unless ``fragment_of`` would give the same digits.
    """
    digits = text.removeprefix("#")
    if len(digits) > MAX_DIGITS or not _NUMBER.fullmatch(digits):
        raise InvalidInput("the part behind # is not a proof: it is not one number", _FRAGMENT)
    number = int(digits)
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    if data[0] != 1 or not 0 < len(data) - 1 <= MAX_PROOF_BYTES:
        raise InvalidInput("the part behind # is not a proof: digits are missing", _FRAGMENT)
    return data[1:]


_FRAGMENT = {"field": "fragment"}


def verify_url(base: str, id: str, compact: bytes | None = None) -> str:
    """Of the page that shows and checks the certificate; with its whole proof if given."""
    url = f"{public_base(base)}/verify/{certificate_id(id)}"
    return url if compact is None else f"{url}#{fragment_of(compact)}"


def qr_url(base: str, id: str, form: ImageForm = "png", *, whole: bool = False) -> str:
    """Of the QR code; ``whole``: with the proof, once the batch is closed."""
    query = "?proof=true" if whole else ""
    return f"{public_base(base)}/qr/{certificate_id(id)}.{form}{query}"


def badge_url(base: str, id: str, form: ImageForm = "png", *, scale: int = 1) -> str:
    """``scale``: pixels of a PNG for each CSS pixel."""
    query = f"?scale={scale}" if scale != 1 else ""
    return f"{public_base(base)}/badge/{certificate_id(id)}.{form}{query}"


def read_link(text: str) -> VerifyLink:
    """A link as it was clicked, typed or scanned. Raises InvalidInput that says what is wrong.

    A query is passed over: link trackers add one.
    """
    path, _, fragment = _split(text)
    match = _VERIFY.fullmatch(path)
    if not match:
        raise InvalidInput("not a link to a certificate: …/verify/ID", {"field": "link"})
    proof = proof_of_fragment(fragment) if fragment else None
    return VerifyLink(public_base(match[1]), certificate_id(match[2]), proof)


def read_image_link(text: str) -> ImageLink:
    """The address of a QR code or badge. Raises InvalidInput."""
    path, query, _ = _split(text)
    match = _IMAGE.fullmatch(path)
    if not match:
        raise InvalidInput("not the address of a QR code or badge: …/qr/ID.png", {"field": "link"})
    kind: Literal["qr", "badge"] = "qr" if match[2] == "qr" else "badge"
    form: ImageForm = "png" if match[4] == "png" else "svg"
    whole = kind == "qr" and "proof=true" in query.split("&")
    return ImageLink(public_base(match[1]), kind, certificate_id(match[3]), form, whole)


def _split(text: str) -> tuple[str, str, str]:
    """Path, query and fragment."""
    text = text.strip()
    if len(text) > MAX_LINK:
        raise InvalidInput(f"a link has at most {MAX_LINK} characters", {"field": "link"})
    head, _, fragment = text.partition("#")
    path, _, query = head.partition("?")
    return path, query, fragment
