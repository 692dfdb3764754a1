"""A batch in memory, and taking messages into it: the inner half of ``trust_memory``."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from mesh.contracts.trust import BatchState, BatchView, CertificateLine, NewMessage, RevokedView
from mesh.core.errors import Conflict
from mesh.trust.canonical import Canonical, canonicalise
from mesh.trust.ids import CertificateIds
from mesh.trust.leaf import Leaf, make_leaf
from mesh.trust.merkle import Tree
from mesh.trust.receipt import Anchor


@dataclass
class Kept:
    view: BatchView
    workspace: UUID
    leaves: list[Leaf] = field(default_factory=list)
    messages: list[Canonical] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    documents: list[Any] = field(default_factory=list)
    known: dict[tuple[str, str], int] = field(default_factory=dict)
    tree: Tree | None = None
    anchors: list[Anchor] = field(default_factory=list)
    revoked: dict[int, RevokedView] = field(default_factory=dict)
    forgotten: set[int] = field(default_factory=set)

    def change(self, **changes: Any) -> None:
        self.view = self.view.model_copy(update={**changes, "state_at": datetime.now(UTC)})


def take(
    kept: Kept, ids: CertificateIds, lines: Sequence[NewMessage], first_line: int
) -> list[CertificateLine]:
    """All of them or none. Raises Conflict with the line."""
    answer: list[CertificateLine] = []
    fresh: list[tuple[Canonical, str, Any]] = []
    known = dict(kept.known)
    for number, line in enumerate(lines, start=first_line):
        raw = (
            line.message.encode()
            if line.message is not None
            else base64.b64decode(line.message_base64 or "")
        )
        message = canonicalise(raw)
        name = (message.domain, message.message_id)
        at = known.get(name)
        if at is not None:
            before = len(kept.messages)
            there = (
                (kept.messages[at], kept.recipients[at]) if at < before else fresh[at - before][:2]
            )
            if (there[0].exact, there[1]) != (message.exact, line.recipient):
                raise Conflict(
                    f"line {number}: another message has this Message-ID",
                    {"field": f"line {number}", "line": number},
                )
            answer.append(told(kept, ids, at, message, repeated=True))
            continue
        if kept.view.state is not BatchState.OPEN:
            raise Conflict("The batch is closed", {"line": number})
        at = len(kept.messages) + len(fresh)
        if line.certificate not in (None, ids.make(kept.view.serial, at)):
            raise Conflict(f"Line {number}: its own place is {at}.", {"line": number})
        known[name] = at
        fresh.append((message, line.recipient, line.document))
        answer.append(told(kept, ids, at, message, repeated=False))
    kept.known = known
    for message, recipient, document in fresh:
        kept.leaves.append(make_leaf(message, recipient))
        kept.messages.append(message)
        kept.recipients.append(recipient)
        kept.documents.append(document)
    kept.change(size=len(kept.leaves))
    return answer


def told(
    kept: Kept, ids: CertificateIds, index: int, message: Canonical, *, repeated: bool
) -> CertificateLine:
    return CertificateLine(
        index=index,
        id=ids.make(kept.view.serial, index),
        message_id=message.message_id,
        repeated=repeated,
    )
