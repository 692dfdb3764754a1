"""What is let in, and as what: junk is refused, what is left unsaid is filled in.

Memories that fill up with junk are worse than none. A text must say something; what is there
already (the same words in the same namespace, or the same ``client_id``) is not written again;
every memory says where it comes from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mesh.contracts.memory import MemoryKind, NamespaceKind, NewMemory
from mesh.core.errors import InvalidInput
from mesh.memory.options import GateOptions, KindPolicy


@dataclass(frozen=True, slots=True)
class Admitted:
    """A new memory with nothing left open."""

    new: NewMemory
    text: str
    importance: float
    created_at: datetime
    expires_at: datetime | None
    contacts: tuple[str, ...]
    """Whom it is about, the namespace's own contact too."""


def admit(
    new: NewMemory, now: float, policies: Mapping[MemoryKind, KindPolicy], options: GateOptions
) -> Admitted:
    """Raises InvalidInput: too long, says nothing, or is over before it began. ``now``: Unix s."""
    text = new.text.strip()
    if len(text) > options.max_text_chars:
        raise InvalidInput(
            f"A memory has at most {options.max_text_chars} characters.",
            {"field": "text", "limit": options.max_text_chars},
        )
    if sum(map(str.isalnum, text)) < options.min_letters:
        raise InvalidInput("The text says nothing: it has no words.", {"field": "text"})
    policy = policies[new.kind]
    moment = datetime.fromtimestamp(now, UTC)
    created = min(new.created_at or moment, moment)
    expires = new.expires_at
    if expires is None and policy.expires_s is not None and not new.pinned:
        expires = created + timedelta(seconds=policy.expires_s)
    if expires is not None and expires <= moment and not new.pinned:
        raise InvalidInput("It would expire before it is written.", {"field": "expires_at"})
    own = (new.namespace.id,) if new.namespace.kind is NamespaceKind.CONTACT else ()
    return Admitted(
        new=new,
        text=text,
        importance=policy.importance if new.importance is None else new.importance,
        created_at=created,
        expires_at=expires,
        contacts=tuple(dict.fromkeys((*own, *new.contacts))),
    )
