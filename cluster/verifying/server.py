"""What an instance gives to anyone: certificates, receipts, revocations, keys."""

from __future__ import annotations

from typing import Any

import httpx

from cluster.failures import NO_NETWORK, USAGE, Failure
from cluster.verifying.fetch import fetch, read_json
from mesh.core.errors import InvalidInput
from mesh.trust import jcs
from mesh.trust.certificate import Revocation, read_revocation
from mesh.trust.checkpoint import VerifierKey
from mesh.trust.present.links import public_base
from mesh.trust.receipt import Receipt, read_receipt

MAX_PAGES = 100


class TrustServer:
    """No credential is sent. Raises Failure: not reachable, or it answers with something else."""

    def __init__(self, url: str, http: httpx.Client) -> None:
        try:
            self.base = public_base(url)
        except InvalidInput as error:
            raise Failure(f"--server {url}: {error.message}", "https://…", USAGE) from None
        self._http = http

    def certificate(self, id: str) -> bytes | None:
        return self._bytes(f"/v1/trust/certificates/{id}.json")

    def receipt(self, root: bytes) -> Receipt | None:
        path = f"/v1/trust/receipts/{root.hex()}"
        data = self._bytes(path)
        try:
            return None if data is None else read_receipt(data)
        except InvalidInput as error:
            raise self._odd(path, error) from None

    def keys(self) -> tuple[VerifierKey, ...]:
        answer = self._json("/v1/trust/keys")
        try:
            return tuple(VerifierKey.parse(str(line)) for line in answer["keys"])
        except (InvalidInput, KeyError, TypeError) as error:
            raise self._odd("/v1/trust/keys", error) from None

    def revocations(self, leaf: bytes) -> list[Revocation]:
        """All that it has of this leaf."""
        out: list[Revocation] = []
        path = after = f"/v1/trust/revocations?leaf={leaf.hex()}"
        for _ in range(MAX_PAGES):
            page = self._json(after)
            try:
                out += [read_revocation(jcs.canonical(item)) for item in page["revocations"]]
                following = page.get("next")
            except (InvalidInput, KeyError, TypeError, AttributeError) as error:
                raise self._odd(path, error) from None
            if following is None:
                break
            after = f"{path}&{httpx.QueryParams(after=str(following))}"
        return out

    def _bytes(self, path: str) -> bytes | None:
        """None: it has no such thing (any more)."""
        status, data = fetch(self._http, "GET", self.base + path)
        if status in (404, 409, 410):
            return None
        if status != 200:
            raise Failure(f"{self.base}{path} answered with status {status}", "", NO_NETWORK)
        return data

    def _json(self, path: str) -> Any:
        data = self._bytes(path)
        if data is None:
            raise Failure(
                f"{self.base}{path} is not there", "is it an instance of Maily?", NO_NETWORK
            )
        return read_json(data, self.base + path)

    def _odd(self, path: str, error: Exception) -> Failure:
        return Failure(f"{self.base}{path} answered with something else: {error}", "", NO_NETWORK)
