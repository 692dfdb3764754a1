"""A message's canonical form: all that a leaf is made of, from the message alone (spec §1–§4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from mesh.trust.canonical import headers, mime
from mesh.trust.canonical.links import links_digest
from mesh.trust.canonical.text import Text, read_text, text_digest


@dataclass(frozen=True)
class Canonical:
    """What the message says of itself. Digests are 32 bytes."""

    exact: bytes
    """L3: relaxed body hash and signed fields."""
    text: Text
    """The folded text and where its links lead."""
    domain: str
    """Sender's domain; empty where From does not name one clearly."""
    message_id: str
    recipients: tuple[str, ...]
    """Addresses in To, at most 50, in lower case."""
    selectors: tuple[str, ...]
    """Of its DKIM signatures."""

    @cached_property
    def text_digest(self) -> bytes:
        return text_digest(self.text.data)

    @cached_property
    def links_digest(self) -> bytes:
        return links_digest(self.text.origins)

    @cached_property
    def origins(self) -> tuple[str, ...]:
        """Sorted by their bytes, as certificates list them."""
        return tuple(sorted(self.text.origins, key=lambda origin: origin.encode()))


def canonicalise(raw: bytes) -> Canonical:
    """Any bytes at all give a canonical form: a mail that crashes a verifier can't be refused."""
    message = mime.without_certificate(headers.split_message(raw))
    return Canonical(
        exact=headers.exact_digest(message),
        text=read_text(mime.shown_parts(message)),
        domain=headers.domain_of(message),
        message_id=headers.message_id_of(message),
        recipients=tuple(headers.recipients_of(message)),
        selectors=tuple(headers.selectors_of(message)),
    )
