"""Headers in and out: what we read is checked first, what we send is the same for every answer."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mesh.core.errors import HeadersTooLarge
from serve_apps.gateway.answers import invalid_field
from serve_apps.gateway.deps import Decision

MAX_HEADERS = 100
MAX_HEADER_BYTES = 8_192
MAX_TOTAL_BYTES = 32_768

_SINGLE = frozenset(
    {
        b"authorization",
        b"content-length",
        b"content-type",
        b"host",
        b"idempotency-key",
        b"last-event-id",
        b"origin",
        b"traceparent",
        b"x-priority",
        b"x-request-timeout-seconds",
    }
)
"""Two of one of these and two readers may see different requests."""

_IDEMPOTENCY_KEY = re.compile(rb"^[\x21-\x7e]{1,255}\Z")
_PRIORITY = re.compile(rb"^-?[0-9]{1,2}\Z")
_SECONDS = re.compile(rb"^[0-9]{1,9}(\.[0-9]{1,6})?\Z")

SECURITY: tuple[tuple[bytes, bytes], ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
"""Sent with every answer that does not set its own."""

EXPOSED = (
    "idempotency-replayed, location, ratelimit-limit, ratelimit-remaining, ratelimit-reset, "
    "retry-after, traceparent, x-maily-cache, x-trace-id"
)


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Names in lower case. Raises HeadersTooLarge, and InvalidInput for a doubled header that
    must be single."""
    headers: dict[bytes, bytes] = {}
    total = 0
    for count, (name, value) in enumerate(raw, 1):
        size = len(name) + len(value)
        total += size
        if size > MAX_HEADER_BYTES or total > MAX_TOTAL_BYTES or count > MAX_HEADERS:
            raise HeadersTooLarge(
                f"At most {MAX_HEADERS} headers of {MAX_HEADER_BYTES} bytes each, "
                f"{MAX_TOTAL_BYTES} in all",
                {"field": "header"},
            )
        if name in headers and name in _SINGLE:
            shown = name.decode("latin-1").title()
            raise invalid_field(f"header.{shown}", "is sent twice")
        headers[name] = value
    return headers


def idempotency_key(headers: dict[bytes, bytes]) -> str | None:
    """Raises InvalidInput unless it is 1 to 255 visible ASCII characters."""
    value = headers.get(b"idempotency-key")
    if value is None:
        return None
    if not _IDEMPOTENCY_KEY.match(value):
        raise invalid_field("header.Idempotency-Key", "must be 1 to 255 visible ASCII characters")
    return value.decode("ascii")


def timeout_of(headers: dict[bytes, bytes], most_s: float) -> float:
    """Seconds that this request may take: ``x-request-timeout-seconds``, at most ``most_s``.

    A little less than asked for, so that our own answer (504, in our shape) comes before that of
    a proxy that reads the same header.
    """
    value = headers.get(b"x-request-timeout-seconds")
    if value is None:
        return most_s
    if not _SECONDS.match(value) or float(value) <= 0:
        raise invalid_field("header.X-Request-Timeout-Seconds", "must be a number above 0")
    wanted = float(value)
    return min(max(wanted - 0.25, wanted * 0.8), most_s)


def priority_of(headers: dict[bytes, bytes]) -> int:
    """``x-priority``: -10 to 0, 0 where it isn't sent. A request may let others go first; it can't
    push itself before them, who may be another workspace's."""
    value = headers.get(b"x-priority")
    if value is None:
        return 0
    if not _PRIORITY.match(value) or not -10 <= int(value) <= 0:
        raise invalid_field("header.X-Priority", "must be a whole number from -10 to 0")
    return int(value)


def limit_headers(decision: Decision) -> list[tuple[bytes, bytes]]:
    """How much of a rate limit is left."""
    return [
        (b"ratelimit-limit", b"%d" % decision.limit),
        (b"ratelimit-remaining", b"%d" % max(0, decision.remaining)),
        (b"ratelimit-reset", b"%d" % max(0, round(decision.reset_s))),
    ]


class Cors:
    """Cross-origin answers for the origins that the settings name; ``*`` names every one."""

    def __init__(self, origins: Iterable[str]) -> None:
        self._origins = frozenset(o.encode() for o in origins)
        self._any = b"*" in self._origins

    def _allows(self, origin: bytes) -> bool:
        return self._any or origin in self._origins

    def welcomes(self, origin: bytes, host: bytes) -> bool:
        """Whether a page of this origin may open a WebSocket: one of ours, or of the settings."""
        return self._allows(origin) or origin.partition(b"://")[2] == host != b""

    def headers(self, origin: bytes | None) -> list[tuple[bytes, bytes]]:
        """For an actual request. Credentials are never cookies, so none are allowed."""
        if not self._origins:
            return []
        answer = [(b"vary", b"Origin")]
        if origin is not None and self._allows(origin):
            answer += [
                (b"access-control-allow-origin", b"*" if self._any else origin),
                (b"access-control-expose-headers", EXPOSED.encode()),
                (b"cross-origin-resource-policy", b"cross-origin"),
            ]
        return answer

    def preflight(self, origin: bytes | None, methods: list[str]) -> list[tuple[bytes, bytes]]:
        answer = self.headers(origin)
        if origin is not None and self._allows(origin):
            answer += [
                (b"access-control-allow-methods", ", ".join(methods).encode()),
                (
                    b"access-control-allow-headers",
                    b"authorization, content-type, idempotency-key, last-event-id, traceparent, "
                    b"x-priority, x-request-timeout-seconds",
                ),
                (b"access-control-max-age", b"600"),
            ]
        return answer
