"""Identifiers. UUIDv7 (RFC 9562 §5.7): they sort by the time they were made."""

from __future__ import annotations

import secrets
import time
import uuid


def uuid7(now_ms: int | None = None) -> uuid.UUID:
    """48 bits of Unix milliseconds, 74 random bits, version and variant."""
    ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    value = (ms & (2**48 - 1)) << 80 | 0x7 << 76 | secrets.randbits(12) << 64
    value |= 0b10 << 62 | secrets.randbits(62)
    return uuid.UUID(int=value)


def trace_id() -> str:
    """32 hex digits, never all zero (W3C Trace Context §3.2.2.3)."""
    return f"{secrets.randbits(128) or 1:032x}"
