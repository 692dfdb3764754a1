"""What a verification is asked to trust, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mesh.trust.checkpoint import VerifierKey
from mesh.trust.levels import Level, Window
from mesh.trust.receipt import HeaderPolicy

State = Literal["included", "confirmed", "final", "revoked"]
Same = Literal["same", "other", "unknown"]


@dataclass(frozen=True)
class TrustPolicy:
    """Whom the reader believes."""

    keys: tuple[VerifierKey, ...]
    """Issuers' keys."""
    headers: HeaderPolicy | None = None
    """Needed to judge receipts."""
    contracts: frozenset[tuple[int, bytes]] = frozenset()
    """Chain id and address of the registries whose events count; empty: any."""
    networks: int = 1
    """How many different chains must have the root, once a receipt is given."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An anchor that holds."""

    chain_id: int
    number: int
    time_s: int
    """Of the block, seconds since 1970: the message existed by then."""
    block_hash: bytes
    final: bool


@dataclass(frozen=True)
class Verdict:
    """The answer, and why."""

    level: Level
    state: State
    signers: tuple[str, ...] = ()
    failed_step: int | None = None
    """None when every step held."""
    reason: str = ""
    """Of the failed step, for people."""
    differs: tuple[str, ...] = ()
    """What is not as certified: headers or body, text, links, sender, message id, recipient."""
    sender: Same = "unknown"
    message_id: Same = "unknown"
    recipient: Same = "unknown"
    domain: str = ""
    """The certified sender's domain."""
    added_bytes: int = 0
    """Bytes of text around the certified one."""
    added_before: str = ""
    added_after: str = ""
    added_origins: tuple[str, ...] = ()
    missing_origins: tuple[str, ...] = ()
    seen: tuple[Seen, ...] = ()
    leaf: bytes = b""
    root: bytes = b""

    @property
    def holds(self) -> bool:
        """Signed, not revoked, and the text is the certified one, or more."""
        return self.failed_step is None


@dataclass(frozen=True)
class Match:
    """What was found of the certified message in the one at hand."""

    level: Level
    leaf: bytes
    window: Window | None = None
    facts: dict[str, Same] = field(default_factory=dict)
    differs: tuple[str, ...] = ()
    domain: str = ""


class Failed(Exception):
    """A step that did not hold, with what was known by then."""

    def __init__(self, step: int, reason: str, partial: Verdict | None = None) -> None:
        super().__init__(reason)
        self.step, self.reason, self.partial = step, reason, partial
