"""From messages to leaves that are ready to be stored. Pure, and made to run far away: in tasks.

This is where the time goes (some 2,000 letters of 8 kB a second and core, most of it for the
canonical form); what the owner of a batch does after it is looking up, numbering and writing.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from mesh.contracts.trust import NewMessage
from mesh.core.errors import InvalidInput, NotFound
from mesh.trust.canonical import canonicalise
from mesh.trust.canonical.headers import Message, split_message
from mesh.trust.certificate import MAX_LINKS
from mesh.trust.ids import CertificateIds
from mesh.trust.leaf import SALT_BYTES, UNSIGNED, DkimKey
from mesh.trust.pages import Prepared
from mesh.trust.record import record_of
from mesh.trust.vault import TrustVault

Claims = dict[int, tuple[int, int]]
"""By row: serial of the batch and index that the message shows as its own."""

_BLANK = re.compile(rb"\n\r?\n")


@dataclass(frozen=True, slots=True)
class Line:
    """A message to one recipient, as bytes."""

    message: bytes
    recipient: str
    dkim: DkimKey | None = None
    document: tuple[str, str] | None = None


def read_lines(lines: Sequence[NewMessage], first_line: int, max_bytes: int) -> list[Line]:
    """Raises InvalidInput with the number of the line that is wrong."""
    return [_read(line, first_line + at, max_bytes) for at, line in enumerate(lines)]


def prepare(
    vault: TrustVault,
    workspace: UUID,
    lines: Sequence[Line],
    first_line: int = 1,
    random: Callable[[int], bytes] = os.urandom,
) -> Prepared:
    """Salts are drawn here. Raises InvalidInput with the number of the line that is wrong."""
    salts = random(SALT_BYTES * len(lines))
    leaves, marks, people = [], [], []
    sealed, message_ids, documents = [], [], []
    for at, line in enumerate(lines):
        salt = salts[at * SALT_BYTES : (at + 1) * SALT_BYTES]
        message = canonicalise(line.message)
        if len(message.origins) > MAX_LINKS:
            raise wrong(f"more than {MAX_LINKS} different links", "message", first_line + at)
        record = record_of(
            message, _head(line.message), salt, line.recipient, line.dkim, line.document
        )
        leaves.append(record.leaf(salt).hash)
        content = vault.content_mark(workspace, message.exact, line.recipient)
        # Without a Message-ID only the very same message is a repeat.
        name = message.message_id or f"\0{content.hex()}"
        marks.append(vault.message_mark(workspace, message.domain, name) + content)
        people.append(vault.person_mark(workspace, line.recipient))
        sealed.append(vault.seal(salt, workspace, record.pack()))
        message_ids.append(message.message_id)
        documents.append(
            None if line.document is None else vault.document_mark(workspace, *line.document)
        )
    return Prepared(
        salts,
        b"".join(leaves),
        b"".join(marks),
        b"".join(people),
        tuple(sealed),
        tuple(message_ids),
        tuple(documents),
    )


def claims_of(lines: Sequence[NewMessage], first_line: int, ids: CertificateIds) -> Claims:
    """Places that messages show. Raises InvalidInput for an id that was never given out."""
    claims: dict[int, tuple[int, int]] = {}
    for at, line in enumerate(lines):
        if line.certificate is not None:
            try:
                claims[at] = ids.read(line.certificate)
            except NotFound:
                raise wrong("no such id was given out", "certificate", first_line + at) from None
    return claims


def wrong(what: str, field: str, line: int) -> InvalidInput:
    return InvalidInput(f"Line {line}: {what}.", {"field": field, "line": line})


def _head(message: bytes) -> Message:
    """Its fields alone: a body is long."""
    blank = _BLANK.search(message)
    return split_message(message[: blank.start()] if blank else message)


def _read(line: NewMessage, number: int, max_bytes: int) -> Line:
    if line.message_base64 is not None:
        field, message = "message_base64", _decoded(line.message_base64, "message_base64", number)
    else:
        field, message = "message", (line.message or "").encode("utf-8", "surrogatepass")
    if not message.strip():
        raise wrong("the message is empty", field, number)
    if len(message) > max_bytes:
        raise wrong(f"a message has at most {max_bytes} bytes", field, number)
    dkim = None
    if line.dkim is not None:
        public = _decoded(line.dkim.public_key, "dkim.public_key", number)
        dkim = DkimKey.pin(line.dkim.selector, public)
        if dkim.key == UNSIGNED:
            raise wrong("this is no public key", "dkim.public_key", number)
    document = None if line.document is None else (line.document.id, line.document.version)
    return Line(message, line.recipient, dkim, document)


def _decoded(text: str, field: str, number: int) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except binascii.Error as error:
        raise wrong("this is not base64", field, number) from error
