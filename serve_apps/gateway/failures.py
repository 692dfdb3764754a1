"""The last frame of a stream that failed."""

from __future__ import annotations

from mesh.core.errors import Internal, MailyError
from mesh.core.logging import get_logger
from serve_apps.gateway.answers import dumps, error_body
from serve_apps.gateway.context import RequestContext

_log = get_logger("gateway.streams")


def failure_frame(error: Exception, context: RequestContext, what: str) -> bytes:
    """A typed ``error`` event, without an id: who reconnects goes on after the last real one."""
    if not isinstance(error, MailyError):
        _log.error("stream failed", what=what, exc_info=error, trace_id=context.trace_id)
        error = Internal()
    body = error_body(error, context.trace_id, context.flavour)
    return b"event: error\ndata: %s\n\n" % dumps(body)
