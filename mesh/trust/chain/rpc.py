"""JSON-RPC over web3's HTTP provider: one deadline a call, errors mapped to ours.

Answers are taken as the node gave them: web3's formatters drop what is needed to hash a block.
No error says the URL, which often holds an access key.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import aiohttp
from web3 import AsyncHTTPProvider, AsyncWeb3
from web3.exceptions import Web3Exception
from web3.types import RPCEndpoint

from mesh.core import metrics
from mesh.core.errors import DeadlineExceeded, Unavailable

CONNECTIONS = 8


class RpcError(Exception):
    """The node's own refusal: it was reached, and said no."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message

    @property
    def unsupported(self) -> bool:
        words = ("not supported", "not found", "does not exist", "unsupported", "not available")
        return self.code in (-32601, -32004) or any(w in self.message.lower() for w in words)


class _Provider(AsyncHTTPProvider):
    """Over a session of our own. web3's own one is found under a lock that a cancelled call takes
    and never gives back: from then on no call of the process gets through."""

    def __init__(self, url: str, timeout_s: float) -> None:
        super().__init__(url, exception_retry_configuration=None)
        self._url = url
        self._total_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def _make_request(self, method: RPCEndpoint, request_data: bytes) -> bytes:
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS),
                timeout=aiohttp.ClientTimeout(total=self._total_s),
                headers=self.get_request_headers(),
            )
        async with self._session.post(self._url, data=request_data) as response:
            if response.status >= 500 or response.status in _NOT_OURS:
                response.raise_for_status()
            return await response.read()

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


_NOT_OURS = (401, 403, 404, 407, 408, 429)
"""Said by what stands before the node; other refusals may hold the node's own words."""


class Rpc:
    """``await rpc.call("eth_chainId")``. ``name`` (of the network) stands in errors."""

    def __init__(self, name: str, url: str, timeout_s: float) -> None:
        self.name = name
        self._label = metrics.bounded("network", name)
        self._timeout_s = timeout_s
        self._provider = _Provider(url, timeout_s)
        self.web3: AsyncWeb3[AsyncHTTPProvider] = AsyncWeb3(self._provider, middleware=[])
        self.calls = 0
        self.failures = 0

    async def call(self, method: str, *params: Any) -> Any:
        """The result. Raises RpcError, Unavailable and DeadlineExceeded."""
        self.calls += 1
        began = time.monotonic()
        outcome = "failed"
        try:
            result = await self._call(method, params)
            outcome = "ok"
        except RpcError:
            outcome = "refused"
            raise
        finally:
            spent = time.monotonic() - began
            metrics.TRUST_CHAIN_SECONDS.labels(self._label, outcome).observe(spent)
        return result

    async def _call(self, method: str, params: Sequence[Any]) -> Any:
        try:
            async with asyncio.timeout(self._timeout_s):
                answer: Any = await self._provider.make_request(RPCEndpoint(method), [*params])
        except TimeoutError as error:
            self.failures += 1
            raise DeadlineExceeded(
                f"The node of {self.name} did not answer within {self._timeout_s:g} s.",
                {"network": self.name, "method": method},
            ) from error
        except (aiohttp.ClientError, Web3Exception, OSError, ValueError) as error:
            self.failures += 1
            raise self.nonsense(method, type(error).__name__) from None
        if not isinstance(answer, dict):
            self.failures += 1
            raise self.nonsense(method, "no object")
        refused = answer.get("error")
        if refused is not None:
            if isinstance(refused, dict):
                code, message = refused.get("code"), str(refused.get("message", ""))[:300]
                raise RpcError(code if isinstance(code, int) else 0, message)
            raise RpcError(0, str(refused)[:300])
        if "result" not in answer:
            self.failures += 1
            raise self.nonsense(method, "no result")
        return answer["result"]

    async def call_all(self, calls: Sequence[tuple[str, tuple[Any, ...]]]) -> list[Any]:
        """Some calls at once, ``CONNECTIONS`` at a time; the first error ends them all."""
        gate = asyncio.Semaphore(CONNECTIONS)

        async def one(method: str, params: tuple[Any, ...]) -> Any:
            async with gate:
                return await self.call(method, *params)

        tasks = [asyncio.ensure_future(one(method, params)) for method, params in calls]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    def nonsense(self, method: str, what: str) -> Unavailable:
        return Unavailable(
            f"The node of {self.name} can't be used ({what}).",
            {"network": self.name, "method": method, "cause": what},
            retry_after_s=1.0,
        )

    def refusal(self, method: str, error: RpcError) -> Unavailable:
        """A refusal where none was to be expected."""
        self.failures += 1
        return Unavailable(
            f"The node of {self.name} refuses {method}: {error.message}",
            {"network": self.name, "method": method, "code": error.code},
            retry_after_s=1.0,
        )

    async def aclose(self) -> None:
        await self._provider.aclose()
