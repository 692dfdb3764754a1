"""Bounded reading over HTTP: no redirects, no proxies from the environment, a limit of bytes."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx

from cluster.failures import NO_NETWORK, USAGE, Failure

MAX_BYTES = 8 << 20
TIMEOUT_S = 10.0
"""For the next bytes of an answer."""
DEADLINE_S = 30.0
"""For all of an answer, however slowly it drips."""


def client() -> httpx.Client:
    return httpx.Client(timeout=httpx.Timeout(TIMEOUT_S, connect=5.0), trust_env=False)


def fetch(
    http: httpx.Client, method: str, url: str, *, body: Any = None, limit: int = MAX_BYTES
) -> tuple[int, bytes]:
    """Status and body. Raises Failure when nobody answers in time, or with more than ``limit``
    bytes."""
    until = time.monotonic() + DEADLINE_S
    try:
        with http.stream(method, url, json=body) as answer:
            data = b""
            for piece in answer.iter_bytes():
                data += piece
                if time.monotonic() > until:
                    raise Failure(f"{url} takes longer than {DEADLINE_S:.0f} s", "", NO_NETWORK)
                if len(data) > limit:
                    raise Failure(f"{url} answered with more than {limit} bytes", "", NO_NETWORK)
            return answer.status_code, data
    except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
        raise Failure(f"{url} is no address: {error}", "http:// or https://", USAGE) from None
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        raise Failure(
            f"{url} can't be reached: {why}", "try again, or verify with --offline", NO_NETWORK
        ) from None


def read_json(data: bytes, url: str) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise Failure(f"{url} did not answer with JSON", "", NO_NETWORK) from None
