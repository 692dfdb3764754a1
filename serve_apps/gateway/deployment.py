"""The gateway on Ray Serve: stateless replicas behind the ingress."""

from __future__ import annotations

from ray import serve
from ray.serve import Application

from actors.context import settings_of_process
from mesh.core.settings import Settings
from serve_apps import loopback, replica
from serve_apps.gateway.edge import Edge
from serve_apps.gateway.opening import OpenGateway
from serve_apps.gateway.policy import streams_body

loopback.apply()

DEPLOYMENT = "Gateway"


class GatewayReplica:
    """One process. Its code runs on the replica's own event loop: nothing here may block."""

    async def __init__(self) -> None:  # type: ignore[misc]  # Serve awaits it
        # Serve ships this class by value, so the module's own call may not have run here.
        loopback.apply()
        replica.plain_stderr()
        replica.readable_headers()
        replica.direct_bodies(streams_body)
        settings = settings_of_process()
        replica.lean_sockets(settings.streams.socket_message_bytes)
        self._opened = await OpenGateway.open(settings)
        replica.before_shutdown(self._opened.drain)

    def __serve_build_asgi_app__(self) -> Edge:
        return self._opened.app

    async def check_health(self) -> None:
        """That it is called shows that the loop runs. Parts that are away are no reason to
        restart a gateway: ``/readyz`` tells of them."""

    async def __del__(self) -> None:
        opened = getattr(self, "_opened", None)
        if opened is not None:
            await opened.aclose()


def build_gateway_app(settings: Settings) -> Application:
    """The application for ``serve.run(app, name=GATEWAY_APP, route_prefix="/")``.

    Replicas read their settings (and secrets) from their environment: Serve keeps a deployment's
    arguments where others may see them.
    """
    gateway = settings.gateway
    deployment = serve.deployment(
        serve.ingress()(GatewayReplica),
        name=DEPLOYMENT,
    ).options(
        num_replicas=gateway.replicas,
        ray_actor_options={"num_cpus": 0},
        max_ongoing_requests=gateway.max_ongoing_requests,
        logging_config={"enable_access_log": False},  # the edge writes its own
        health_check_period_s=1,
        health_check_timeout_s=10,
        # Event streams never end by themselves; their readers reconnect and go on.
        graceful_shutdown_timeout_s=2,
        graceful_shutdown_wait_loop_s=0.2,
    )
    return deployment.bind()
