"""MIME without the ``email`` package: the parts that a reader sees, the certificate cut out."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import NamedTuple

from mesh.trust.canonical.charsets import decode_text
from mesh.trust.canonical.headers import Message, split_entity

MAX_DEPTH = 20
MAX_PARTS = 1000
CERTIFICATE_TYPES = (
    "application/vnd.maily.certificate+json",
    "application/vnd.maily.certificate+cbor",
)

_TYPE = re.compile(r"\s*([A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+)\s*(?:;|$)", re.ASCII)
_PARAMETER = r'(?:^|;)\s*%s\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+))'
_BOUNDARY = re.compile(_PARAMETER % "boundary", re.IGNORECASE | re.ASCII)
_CHARSET = re.compile(_PARAMETER % "charset", re.IGNORECASE | re.ASCII)
_ESCAPE = re.compile(r"\\(.)")
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/]+")
_HEX = "0123456789ABCDEFabcdef"
_QP_BYTE = {(a + b).encode(): bytes([int(a + b, 16)]) for a in _HEX for b in _HEX}


class Shown(NamedTuple):
    """A part that a reader sees."""

    text: str
    is_html: bool


class ContentType(NamedTuple):
    """``kind`` as type/subtype in lower case; text/plain where none or a malformed one is given."""

    kind: str
    boundary: str
    charset: str


def content_type(entity: Message) -> ContentType:
    value = entity.first("content-type").decode("latin-1")
    match = _TYPE.match(value)
    kind = match[1].lower() if match else "text/plain"
    # White space may follow a delimiter, so none can end one (RFC 2046 §5.1.1).
    boundary = _parameter(_BOUNDARY, value).rstrip(" \t")
    return ContentType(kind, boundary, _parameter(_CHARSET, value))


def _parameter(pattern: re.Pattern[str], value: str) -> str:
    match = pattern.search(value)
    if match is None:
        return ""
    return _ESCAPE.sub(r"\1", match[1]) if match[1] is not None else match[2]


def pieces(body: bytes, boundary: str) -> list[tuple[int, int, int]]:
    """Parts of a multipart: (start of the delimiter line, start and end of the part).

    The line end before a delimiter belongs to the delimiter (RFC 2046 §5.1.1).
    """
    if not boundary:
        return []
    mark = b"--" + boundary.encode("latin-1")
    found: list[tuple[int, int, int]] = []
    opened: tuple[int, int] | None = None
    at = -1
    while (at := body.find(mark, at + 1)) >= 0:
        if at and body[at - 1] != 0x0A:
            continue
        end = body.find(b"\n", at)
        end = len(body) if end < 0 else end
        rest = body[at + len(mark) : end].rstrip(b" \t")
        if rest not in (b"", b"--"):
            continue
        if opened is not None:
            found.append((*opened, max(opened[1], at - 1)))
        opened = (at, end + 1) if not rest else None
        if rest or len(found) > MAX_PARTS:
            break
    if opened is not None and len(found) <= MAX_PARTS:
        found.append((*opened, len(body)))
    return found


def without_certificate(message: Message) -> Message:
    """The message less its first certificate part (spec §1.2): a digest can't hold itself."""
    kind, boundary, _ = content_type(message)
    if not kind.startswith("multipart/"):
        return message
    body = message.body
    for at, start, end in pieces(body, boundary):
        if content_type(split_entity(body[start:end])).kind in CERTIFICATE_TYPES:
            after = end + 1 if end < len(body) else end
            return message._replace(body=body[:at] + body[after:])
    return message


def shown_parts(entity: Message) -> list[Shown]:
    """In reading order (spec §3)."""
    return list(_walk(entity, 0, [MAX_PARTS]))


def _walk(entity: Message, depth: int, left: list[int]) -> Iterator[Shown]:
    left[0] -= 1
    if left[0] < 0 or depth > MAX_DEPTH:
        return
    kind, boundary, charset = content_type(entity)
    if kind.startswith("multipart/"):
        children = [
            split_entity(entity.body[start:end])
            for _, start, end in pieces(entity.body, boundary)[:MAX_PARTS]
        ]
        if children:
            yield from _children(kind, children, depth, left)
            return
        kind = "text/plain"
    if kind not in ("text/plain", "text/html"):
        return
    if entity.first("content-disposition").lower().startswith(b"attachment"):
        return
    encoding = entity.first("content-transfer-encoding").lower()
    yield Shown(decode_text(decode_bytes(entity.body, encoding), charset), kind == "text/html")


def _children(kind: str, children: list[Message], depth: int, left: list[int]) -> Iterator[Shown]:
    if kind == "multipart/alternative":
        for child in reversed(children):
            found = list(_walk(child, depth + 1, left))
            if found:
                yield from found
                return
    else:
        for child in children:
            yield from _walk(child, depth + 1, left)


def decode_bytes(body: bytes, encoding: bytes) -> bytes:
    """Lenient, by spec §3: broken encodings give bytes, never an error."""
    if encoding == b"base64":
        return _base64(body)
    if encoding == b"quoted-printable":
        return _quoted_printable(body)
    return body


def _quoted_printable(body: bytes) -> bytes:
    lines = b"\n".join([line.rstrip(b" \t") for line in body.split(b"\n")])
    first, *rest = lines.split(b"=")
    out = [first]
    for piece in rest:  # what follows an equals sign
        code = _QP_BYTE.get(piece[:2])
        if code is not None:
            out += (code, piece[2:])
        elif piece.startswith(b"\n"):
            out.append(piece[1:])
        else:
            out += (b"=", piece)
    return b"".join(out)


def _base64(body: bytes) -> bytes:
    letters = _NOT_BASE64.sub(b"", body.partition(b"=")[0])
    if len(letters) % 4 == 1:
        letters = letters[:-1]
    try:
        return base64.b64decode(letters + b"=" * (-len(letters) % 4))
    except binascii.Error:  # left over: nothing that the two lines above let through
        return b""
