"""The one algorithm that signs and verifies here: a stranger's header has no choice."""

from __future__ import annotations

from typing import Any

from joserfc import jws
from joserfc.errors import UnsupportedAlgorithmError

ALGORITHM = "EdDSA"


class OneAlgorithm(jws.JWSRegistry):
    """Knows EdDSA and nothing else.

    The library warns at each use that RFC 9864 prefers the name ``Ed25519``, as ``EdDSA`` leaves
    the curve open. Our keys leave no choice of curve, and verifiers know the older name best.
    """

    def get_alg(self, name: str) -> Any:
        if name != ALGORITHM:
            raise UnsupportedAlgorithmError(f"Algorithm of '{name}' is not allowed")
        return self.algorithms[name]


REGISTRY = OneAlgorithm(algorithms=[ALGORITHM])
