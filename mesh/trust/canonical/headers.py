"""Header and body of a message as bytes, and DKIM's relaxed forms (RFC 6376 §3.4).

Python's ``email`` package is not used: what it makes of broken messages changes with its version,
and a digest may not.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

SIGNED = tuple(
    """
    from sender reply-to to cc subject date message-id in-reply-to references mime-version
    content-type content-transfer-encoding list-id list-unsubscribe list-unsubscribe-post
    """.split()  # noqa: SIM905 - a list is harder to read
)
"""The fields under the exact digest, in its order (spec §2)."""


class Field(NamedTuple):
    """A header field: ``name`` in lower case, ``raw`` what follows the colon, lines ended by LF."""

    name: str
    raw: bytes

    @property
    def relaxed(self) -> bytes:
        """The value on one line, runs of space and tab made one space (RFC 6376 §3.4.2)."""
        return _single_spaces(self.raw.replace(b"\n", b"")).strip(b" ")


class Message(NamedTuple):
    """Fields in their order, and the body. Lines end with LF."""

    fields: tuple[Field, ...]
    body: bytes

    def all(self, name: str) -> list[Field]:
        return [field for field in self.fields if field.name == name]

    def first(self, name: str) -> bytes:
        """The relaxed value of the first field of this name; empty without one."""
        return next((field.relaxed for field in self.fields if field.name == name), b"")


def split_message(raw: bytes) -> Message:
    """Any bytes give a message; nothing is refused (spec §1.1)."""
    data = raw.replace(b"\r\n", b"\n")
    if data.startswith(b"From "):
        data = data.partition(b"\n")[2]
    return split_entity(data)


def split_entity(data: bytes) -> Message:
    """Of a part too. ``data`` has LF line ends."""
    if data.startswith(b"\n"):
        return Message((), data[1:])
    head, _, body = data.partition(b"\n\n")
    fields: list[Field] = []
    name: str | None = None
    lines: list[bytes] = []
    for line in [*head.removesuffix(b"\n").split(b"\n"), b":"]:
        if line[:1] in (b" ", b"\t"):
            lines.append(line)
            continue
        if name is not None:
            fields.append(Field(name, b"\n".join(lines)))
        before, colon, after = line.partition(b":")
        name = before.rstrip(b" \t").decode("latin-1").lower() if colon else None
        lines = [after]
    return Message(tuple(fields), body)


def relaxed_field(field: Field) -> bytes:
    """``name:value`` with CRLF, as DKIM hashes it."""
    return field.name.encode("latin-1") + b":" + field.relaxed + b"\r\n"


def relaxed_body(body: bytes) -> bytes:
    """RFC 6376 §3.4.4. ``body`` has LF line ends, the result CRLF."""
    text = _single_spaces(body).replace(b" \n", b"\n").removesuffix(b" ").rstrip(b"\n")
    return text.replace(b"\n", b"\r\n") + b"\r\n" if text else b""


def _single_spaces(data: bytes) -> bytes:
    """Runs of space and tab made one space. Halving runs costs no more than twice their length,
    and where there are none it is a search."""
    data = data.replace(b"\t", b" ")
    while b"  " in data:
        data = data.replace(b"  ", b" ")
    return data


def body_hash(body: bytes) -> bytes:
    """``bh=`` of a DKIM signature with c=…/relaxed and a=…-sha256."""
    return hashlib.sha256(relaxed_body(body)).digest()


def exact_digest(message: Message) -> bytes:
    """L3 (spec §2)."""
    by_name: dict[str, list[Field]] = {}
    for field in message.fields:
        by_name.setdefault(field.name, []).append(field)
    head = b"".join(relaxed_field(field) for name in SIGNED for field in by_name.get(name, ()))
    parts = (b"maily-exact-v1\n", body_hash(message.body), hashlib.sha256(head).digest())
    return hashlib.sha256(b"".join(parts)).digest()


def address_of(value: bytes) -> str:
    """The address in a From or To value (spec §1.3)."""
    text = value.decode("utf-8", "replace")
    if "<" in text:
        text = text.rpartition("<")[2].partition(">")[0]
    text = text.replace(" ", "").replace("\t", "")
    return normal_address(text)


def normal_address(address: str) -> str:
    """ASCII letters in lower case, no spaces around: what a recipient's commitment is made of."""
    return _ascii_lower(address.strip(" \t\r\n"))


def _ascii_lower(text: str) -> str:
    return "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in text)


def domain_of(message: Message) -> str:
    """The sender's domain, or empty where the message does not name one clearly."""
    fields = message.all("from")
    if len(fields) != 1:
        return ""
    domain = address_of(fields[0].relaxed).rpartition("@")[2]
    return domain if re.fullmatch(r"[a-z0-9.-]{1,255}", domain) else ""


def message_id_of(message: Message) -> str:
    fields = message.all("message-id")
    if len(fields) != 1 or len(fields[0].relaxed) > 998:
        return ""
    return fields[0].relaxed.decode("utf-8", "replace")


def selectors_of(message: Message) -> list[str]:
    """The ``s=`` tags of the first five DKIM-Signature fields."""
    found = []
    for field in message.all("dkim-signature")[:5]:
        match = re.search(rb"(?:^|;)\s*s\s*=\s*([A-Za-z0-9._-]+)", field.relaxed)
        if match:
            found.append(match[1].decode("ascii"))
    return found


def recipients_of(message: Message) -> list[str]:
    """The addresses in To, at most 50: whom the message says that it is for."""
    found = []
    for field in message.all("to"):
        for piece in field.relaxed.split(b","):
            address = address_of(piece)
            if "@" in address:
                found.append(address)
    return found[:50]
