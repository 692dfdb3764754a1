"""The runtime's own services: what each may do at the gateway, and its first credential.

The table is closed and denies by default: a service that is missing here gets no token, a scope
that is missing is never granted. The first credential is an Ed25519 key that is derived from the
instance's secret, one per service and of no use for any other: it signs client assertions
(RFC 7523) and is never sent.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import OKPKey

from mesh.core.errors import InvalidInput
from mesh.security import scopes

PREFIX = "service:"
"""Of a service's subject. The ids of API keys are hexadecimal: they can't look like this."""


class Service(StrEnum):
    GATEWAY = "gateway"
    AGENT_WORKER = "agent-worker"
    MEMORY_HOST = "memory-host"
    COORDINATOR = "coordinator"
    SUPERVISOR = "supervisor"
    JOB = "job"

    @property
    def subject(self) -> str:
        return PREFIX + self.value


@dataclass(frozen=True, slots=True)
class Grant:
    """What a service may ask for."""

    own: frozenset[str]
    """Scopes of its own token, which names no workspace: only routes that read none take it."""
    acting: frozenset[str] = frozenset()
    """Scopes of a token with which it acts for one workspace; empty: it never may."""


_READS = frozenset({scopes.MODELS_READ, scopes.AGENTS_READ})
_MODELS = frozenset({scopes.CHAT_WRITE, scopes.EMBEDDINGS_WRITE, scopes.MODELS_READ})

GRANTS: dict[Service, Grant] = {
    Service.GATEWAY: Grant(_READS),
    Service.AGENT_WORKER: Grant(_READS, _MODELS | {scopes.TASKS_READ}),
    Service.MEMORY_HOST: Grant(_READS, _MODELS),
    Service.COORDINATOR: Grant(_READS),
    Service.SUPERVISOR: Grant(_READS | {scopes.METRICS_READ}),
    Service.JOB: Grant(
        _READS | {scopes.METRICS_READ, scopes.EMBEDDINGS_WRITE},
        _MODELS | {scopes.TASKS_READ, scopes.TASKS_WRITE},
    ),
}


_BY_SUBJECT = {service.subject: service for service in Service}


def service_of(subject: str) -> Service | None:
    """The service behind a subject; None: it is none of ours."""
    return _BY_SUBJECT.get(subject)


def service_key(secret: bytes, service: Service) -> OKPKey:
    """The service's first credential. The same for the same secret; unlike every other's."""
    if len(secret) < 32:
        raise InvalidInput(
            "The instance's secret needs at least 32 bytes.", {"field": "security.secret"}
        )
    info = f"maily service credential v1 {service.value}".encode()
    seed = HKDF(SHA256(), 32, salt=None, info=info).derive(secret)
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key()
    return OKPKey.import_key(
        {
            "kty": "OKP",
            "crv": "Ed25519",
            "x": _b64(public.public_bytes(Encoding.Raw, PublicFormat.Raw)),
            "d": _b64(seed),
        }
    )


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
