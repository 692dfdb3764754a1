"""Keep what Serve's replicas listen on at 127.0.0.1.

Each replica opens a gRPC server for calls between deployments on ``[::]``, whatever address the
node has. Serve has no setting for it, so the one function that opens the port is wrapped. Ray's
own addresses are dealt with where Ray is started; this is the part that replicas must do
themselves. Only with ``MAILY_LOOPBACK=1`` in the environment: a cluster of several hosts needs the
wide address.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

LOOPBACK_VARIABLE = "MAILY_LOOPBACK"
ADDRESS = "127.0.0.1"
_WIDE = ("[::]", "0.0.0.0", "*")  # noqa: S104 (what is replaced, not what is bound)


def narrow(address: str) -> str:
    """``[::]:0`` → ``127.0.0.1:0``; other addresses as they are."""
    host, _, port = address.rpartition(":")
    return f"{ADDRESS}:{port}" if host in _WIDE else address


def apply(environ: Mapping[str, str] | None = None) -> bool:
    """Wrap the function in this process. Call it before Serve opens the replica's server: when
    the replica's module is imported or in its constructor. Says whether it holds now."""
    environ = os.environ if environ is None else environ
    if environ.get(LOOPBACK_VARIABLE) != "1":
        return False
    from ray.serve._private import replica

    inner = replica.add_port_to_grpc_server
    if getattr(inner, "narrowed", False):
        return True

    def add_port(server: Any, address: str) -> Any:
        return inner(server, narrow(address))

    add_port.narrowed = True  # type: ignore[attr-defined]
    replica.add_port_to_grpc_server = add_port
    return True
