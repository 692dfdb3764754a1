"""Puts a certificate into its message: as a header field, and as a MIME part (spec §1.2)."""

from __future__ import annotations

import base64
import textwrap

from mesh.core.errors import InvalidInput
from mesh.trust.canonical import canonicalise
from mesh.trust.canonical.headers import split_message
from mesh.trust.canonical.mime import CERTIFICATE_TYPES, content_type, pieces
from mesh.trust.certificate import Certificate, read_certificate

HEADER = "Maily-Certificate"
_WIDTH = 76


def attached(message: bytes, certificate: bytes) -> bytes:
    """Both, as far as form and message allow: the header always, the part with a JSON form and a
    multipart/mixed message.

    Raises InvalidInput when the message has a certificate already, or when it would not be read
    as before (its digests would change).
    """
    if compact_in(message) or part_in(message):
        raise InvalidInput("the message has a certificate already", {"field": "message"})
    form = read_certificate(certificate)
    compact = form.compact() if isinstance(form, Certificate) else form
    out = with_header(message, compact.to_cbor())
    if isinstance(form, Certificate):
        out = with_part(out, certificate)
    if canonicalise(out) != canonicalise(message) or compact_in(out) is None:
        raise InvalidInput(
            "the message is too broken to be given a certificate", {"field": "message"}
        )
    return out


def with_header(message: bytes, compact: bytes) -> bytes:
    """The compact form in a field of its own, folded; it is in no digest. Lines end as the
    message's do."""
    lines = textwrap.wrap(base64.b64encode(compact).decode(), _WIDTH)
    start = message.find(b"\n") + 1 if message.startswith(b"From ") else 0
    end = _line_end(message[start:])
    field = f"{HEADER}:{end} " + f"{end} ".join(lines) + end
    return message[:start] + field.encode() + message[start:]


def _line_end(message: bytes) -> str:
    first, newline, _ = message.partition(b"\n")
    return "\n" if newline and not first.endswith(b"\r") else "\r\n"


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
    at = message.rfind(b"\n--" + boundary.encode("latin-1") + b"--")
    if kind != "multipart/mixed" or not boundary or at < 0:
        return message
    end = "\r\n" if message[:at].endswith(b"\r") else "\n"
    at -= len(end) - 1
    lines = [
        *("", f"--{boundary}", f"Content-Type: {CERTIFICATE_TYPES[0]}"),
        'Content-Disposition: attachment; filename="maily-certificate.json"',
        *("Content-Transfer-Encoding: base64", ""),
        *textwrap.wrap(base64.b64encode(certificate).decode(), _WIDTH),
    ]
    return message[:at] + end.join(lines).encode("latin-1") + message[at:]


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
