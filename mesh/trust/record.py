"""What is kept of a certified message besides its leaf's hash: enough to show its certificate."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header, make_header

import cbor2

from mesh.trust.canonical import Canonical
from mesh.trust.canonical.headers import Message, normal_address
from mesh.trust.canonical.links import links_digest
from mesh.trust.leaf import DkimKey, Leaf, recipient_commitment

MAX_SHOWN_CHARS = 998


@dataclass(frozen=True, slots=True)
class Record:
    """The facts of one leaf. Sealed at rest (``mesh.trust.vault``)."""

    domain: str
    message_id: str
    exact: bytes
    text: bytes
    text_bytes: int
    origins: tuple[str, ...]
    recipient: bytes
    """The commitment."""
    dkim: DkimKey | None
    subject: str
    date: str
    masked: str
    """The recipient, masked."""
    document: tuple[str, str] | None
    """Id and version."""

    def leaf(self, salt: bytes) -> Leaf:
        return Leaf(
            salt=salt,
            domain=self.domain,
            message_id=self.message_id,
            exact=self.exact,
            text=self.text,
            text_bytes=self.text_bytes,
            links=links_digest(self.origins),
            recipient=self.recipient,
            dkim=self.dkim,
        )

    def pack(self) -> bytes:
        return cbor2.dumps(
            [
                self.domain,
                self.message_id,
                self.exact,
                self.text,
                self.text_bytes,
                self.origins,
                self.recipient,
                None if self.dkim is None else (self.dkim.selector, self.dkim.key),
                self.subject,
                self.date,
                self.masked,
                self.document,
            ]
        )

    @classmethod
    def unpack(cls, data: bytes) -> Record:
        (
            domain,
            message_id,
            exact,
            text,
            text_bytes,
            origins,
            recipient,
            dkim,
            subject,
            date,
            masked,
            document,
        ) = cbor2.loads(data)
        return cls(
            domain,
            message_id,
            exact,
            text,
            text_bytes,
            tuple(origins),
            recipient,
            None if dkim is None else DkimKey(*dkim),
            subject,
            date,
            masked,
            None if document is None else (document[0], document[1]),
        )


def record_of(
    message: Canonical,
    head: Message,
    salt: bytes,
    recipient: str,
    dkim: DkimKey | None,
    document: tuple[str, str] | None,
) -> Record:
    """``head``: the message's fields, for what people are shown."""
    return Record(
        domain=message.domain,
        message_id=message.message_id,
        exact=message.exact,
        text=message.text_digest,
        text_bytes=len(message.text.data),
        origins=message.origins,
        recipient=recipient_commitment(salt, recipient),
        dkim=dkim,
        subject=shown(head.first("subject")),
        date=shown(head.first("date")),
        masked=masked(recipient),
        document=document,
    )


def shown(value: bytes) -> str:
    """A field for people: encoded words read, control characters gone, bounded."""
    text = value.decode("utf-8", "replace")
    with suppress(HeaderParseError, ValueError, LookupError):  # shown as it stands
        text = str(make_header(decode_header(text)))
    return "".join(c for c in text if c.isprintable())[:MAX_SHOWN_CHARS]


def masked(address: str) -> str:
    """``j…@e….com``: who has the address knows it again, nobody can read it from this."""
    local, at, domain = normal_address(address).rpartition("@")
    if not at or not local:
        return "…"
    name, dot, last = domain.rpartition(".")
    first = name if dot else domain
    return f"{local[:1]}…@{first[:1]}…" + (f".{last}" if dot else "")
