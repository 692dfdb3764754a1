"""The gateway as actors and jobs call it: an HTTP client that carries the service's own tokens.

::

    async with gateway_client(settings, Service.JOB, workspace_id) as client:
        answer = await client.post("/v1/embeddings", json={…})

Never an API key: those are the users'. The token is fetched by a credential of the service's own,
kept, and renewed before it runs out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import httpx

from mesh.core.clock import Clock, SystemClock
from mesh.core.errors import Unavailable
from mesh.core.settings import Settings
from mesh.core.tracing import current_traceparent
from mesh.security.service_tokens import HttpTokenEndpoint, ServiceAuth, ServiceTokenSource
from mesh.security.services import Service, service_key


@asynccontextmanager
async def service_tokens(
    settings: Settings, service: Service, clock: Clock | None = None
) -> AsyncIterator[ServiceTokenSource]:
    """The service's tokens for this process: open it once and share it.

    Raises Unavailable when this process was not given the instance's secret.
    """
    secret = settings.security.secret
    if secret is None:
        raise Unavailable("security.secret is not set for this process")
    clock = clock or SystemClock()
    endpoint = HttpTokenEndpoint(
        settings.gateway_url,
        service,
        service_key(secret.get_secret_value().encode(), service),
        settings.security.issuer,
        clock,
    )
    source = ServiceTokenSource(service, endpoint, clock)
    try:
        yield source
    finally:
        await source.aclose()
        await endpoint.aclose()


@asynccontextmanager
async def gateway_client(
    settings: Settings,
    service: Service,
    workspace_id: UUID | None = None,
    *,
    timeout_s: float = 30.0,
    tokens: ServiceTokenSource | None = None,
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway. ``workspace_id``: for which it acts; None: for nobody, then only
    routes that read no workspace take it. ``tokens``: shared ones; None: its own."""
    if tokens is None:
        async with (
            service_tokens(settings, service) as own,
            gateway_client(
                settings, service, workspace_id, timeout_s=timeout_s, tokens=own
            ) as client,
        ):
            yield client
        return
    async with httpx.AsyncClient(
        base_url=settings.gateway_url,
        auth=ServiceAuth(tokens, settings.gateway_url, workspace_id),
        timeout=timeout_s,
        trust_env=False,
        follow_redirects=False,
        event_hooks={"request": [_traced]},
    ) as client:
        yield client


async def _traced(request: httpx.Request) -> None:
    if traceparent := current_traceparent():
        request.headers.setdefault("traceparent", traceparent)
