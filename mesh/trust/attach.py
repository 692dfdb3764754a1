"""Puts a certificate into its message: as a header field, and as a MIME part (spec §1.2)."""

from __future__ import annotations

import base64
import textwrap

from mesh.trust.canonical.headers import split_message
from mesh.trust.canonical.mime import CERTIFICATE_TYPES, content_type, pieces

HEADER = "Maily-Certificate"
_WIDTH = 76


def with_header(message: bytes, compact: bytes) -> bytes:
    """The compact form in a field of its own, folded; it is in no digest. Lines end with CRLF."""
    lines = textwrap.wrap(base64.b64encode(compact).decode(), _WIDTH)
    field = f"{HEADER}:\r\n " + "\r\n ".join(lines) + "\r\n"
    return field.encode() + message


def compact_in(message: bytes) -> bytes | None:
    """The certificate in the header field, if there is one that is base64."""
    value = split_message(message).first(HEADER.lower()).replace(b" ", b"")
    try:
        return base64.b64decode(value, validate=True) or None
    except ValueError:
        return None


def with_part(message: bytes, certificate: bytes) -> bytes:
    """The JSON form as the last part of a multipart/mixed. Other messages come back as they are:
    to wrap them would change the fields that are under the exact digest, so who wants the part
    builds the message as multipart/mixed before it is certified."""
    kind, boundary, _ = content_type(split_message(message))
    mark = b"\r\n--" + boundary.encode("latin-1") + b"--"
    at = message.rfind(mark)
    if kind != "multipart/mixed" or not boundary or at < 0:
        return message
    body = "\r\n".join(textwrap.wrap(base64.b64encode(certificate).decode(), _WIDTH))
    part = (
        f"\r\n--{boundary}\r\nContent-Type: {CERTIFICATE_TYPES[0]}\r\n"
        'Content-Disposition: attachment; filename="maily-certificate.json"\r\n'
        f"Content-Transfer-Encoding: base64\r\n\r\n{body}"
    )
    return message[:at] + part.encode("latin-1") + message[at:]


def part_in(message: bytes) -> bytes | None:
    """The certificate in the first part of its type, if there is one."""
    whole = split_message(message)
    kind, boundary, _ = content_type(whole)
    if not kind.startswith("multipart/"):
        return None
    for _, start, end in pieces(whole.body, boundary):
        head, _, body = whole.body[start:end].partition(b"\n\n")
        if content_type(split_message(head + b"\n\n")).kind in CERTIFICATE_TYPES:
            try:
                return base64.b64decode(body.replace(b"\n", b""), validate=True)
            except ValueError:
                return None
    return None
