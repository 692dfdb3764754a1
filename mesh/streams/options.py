"""How a stream log behaves: every limit, wait and size in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """Defaults suit one machine; seconds, counts, bytes and characters as the names say."""

    coalesce_s: float = 0.015
    """How long later tokens of a step wait for company. 0: each goes at once."""
    coalesce_most_s: float = 0.1
    """… and at most, while the event loop lags: larger pieces then cost less."""
    coalesce_pieces: int = 64
    """So many waiting tokens go without waiting longer."""
    buffer_chars: int = 65_536
    """Text that may wait in a writer; beyond it ``token`` waits for the log."""
    max_events: int = 10_000
    """Kept per stream (Valkey trims in blocks, so up to some hundred more)."""
    ttl_s: float = 86_400.0
    """A stream goes so long after its last event."""
    max_event_bytes: int = 262_144
    """A larger event is refused with InvalidInput."""
    feed_events: int = 256
    """Live events that wait for one reader; a slower one is sent back to the log."""
    feed_bytes: int = 1_048_576
    """… and so many bytes of them."""
    hold_most_s: float = 0.1
    """Live tokens wait so long at most for company while the readers' event loop lags; nothing
    waits in a loop that keeps up."""
    frames_bytes: int = 16_777_216
    """Encoded events that a process keeps for its readers to share."""
    page_events: int = 256
    """Events read from the log at once."""
    append_timeout_s: float = 15.0
    """How long an append goes on trying while the log is away, then Unavailable."""
    first_timeout_s: float = 5.0
    """How long a reader that has seen nothing yet waits for a log that is away."""
    away_timeout_s: float = 30.0
    """How long a reader under way does; it heartbeats meanwhile."""
    backoff_s: float = 0.02
    backoff_max_s: float = 0.5
    verify_s: float = 5.0
    """How often live streams are compared with the log: finds those that expired."""
    batch_streams: int = 128
    """Streams written in one round trip."""
    batch_pages: int = 64
    """Pages read in one round trip."""
    repeat_s: float = 600.0
    """How long a message to a room is known by its key: a repeat is told the first one's place."""
    prefix: str = "maily:stream:"
    """Of the keys in Valkey."""
