"""What the edge knows of a request once it has let it in, for the routes to read."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from mesh.core.errors import Internal

if TYPE_CHECKING:
    from starlette.requests import Request

    from mesh.llm.cache.note import CacheNote
    from mesh.security.principal import Principal
    from serve_apps.gateway.answers import Flavour

SCOPE_KEY = "maily"


@dataclass(slots=True)
class RequestContext:
    """One per request, under ``scope["maily"]``."""

    trace_id: str
    """32 hex digits."""
    traceparent: str
    """Of our own span: what the next hop is given."""
    method: str
    path: str
    headers: dict[bytes, bytes]
    started: float
    """Monotonic seconds."""
    peer: str = ""
    """Address at the other end of the connection; it may be our own proxy's."""
    route: str = "unmatched"
    """The path's template; the label of metrics."""
    flavour: Flavour = "plain"
    principal: Principal | None = None
    recheck: Callable[[], Awaitable[object]] | None = None
    """Raises Unauthenticated once the credential holds no longer: answers that last ask again."""
    timeout_s: float = 300.0
    """The whole request's, from ``started``."""
    idempotency_key: str | None = None
    body: bytes = b""
    body_read: bool = False
    cached: CacheNote | None = None
    """Whether the models' answer came out of the cache."""
    response_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    """Added to whatever answers."""

    @property
    def who(self) -> Principal:
        if self.principal is None:  # a route without a rule: the policy test forbids it
            raise Internal
        return self.principal

    def request_hash(self) -> bytes:
        """Of method, path and body, as an Idempotency-Key is bound to them. 32 bytes."""
        digest = hashlib.sha256(f"{self.method} {self.path}\n".encode())
        digest.update(self.body)
        return digest.digest()


def context_of(request: Request) -> RequestContext:
    return cast(RequestContext, request.scope[SCOPE_KEY])
