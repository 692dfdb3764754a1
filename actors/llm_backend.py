"""An engine's deployment as the router calls it, and the embedder: Serve handles.

They give our own errors back out of Ray's wrappings and cancel the replica's work when the caller
goes away. What to do about an error is the router's: each call here is one call there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError, WorkerCrashedError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
    RequestCancelledError,
)

from actors.names import EMBEDDER_DEPLOYMENT, LLM_APP, LLM_DEPLOYMENT
from mesh.core.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineError,
    MailyError,
    Overloaded,
    Unavailable,
)
from mesh.llm.engine import Wire

T = TypeVar("T")
_DIED = (RayActorError, WorkerCrashedError, ReplicaUnavailableError)
PATIENCE_S = 10.0
"""Without an answer for so long we ask whether there is a replica at all."""


class ServeHandles:
    """The handles of one deployment, kept per method. Getting one the first time asks Serve's
    controller, which blocks: so not on the loop."""

    def __init__(self, deployment: str, app: str) -> None:
        self.app = app
        self._deployment = deployment
        self._handles: dict[str, Any] = {}

    async def get(self, method: str, *, stream: bool = False) -> Any:
        """Raises Unavailable."""
        handle = self._handles.get(method)
        if handle is None:
            try:
                plain = await asyncio.to_thread(
                    serve.get_deployment_handle, self._deployment, self.app
                )
            except (KeyError, RayError, RayServeException) as error:
                raise Unavailable("the LLM service is not running", retry_after_s=5.0) from error
            handle = self._handles[method] = plain.options(method_name=method, stream=stream)
        return handle

    async def call(self, method: str, *args: Any, timeout_s: float) -> Any:
        """One unary call, cancelled over there when it is here."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        handle = await self.get(method)
        response: Any = None
        ended = False
        try:
            response = handle.remote(*args)
            result = await self._patiently(partial(_result, response), deadline)
            ended = True
            return result
        except _DIED as error:
            ended = True
            raise restarting() from error
        except (RayError, RayServeException) as error:
            ended = True
            raise translate(error) from error
        finally:
            if response is not None and not ended:
                response.cancel()

    async def broadcast(self, method: str, *args: Any) -> list[Any]:
        """The same call at every replica."""
        handle = await self.get(method)
        try:
            response = handle.broadcast(method, *args)
            results: list[Any] = await response.results_async()
        except (RayError, RayServeException) as error:
            raise translate(error) from error
        return results

    async def _patiently(self, ask: Callable[[], Awaitable[T]], deadline: float) -> T:
        """Await an answer; where none comes for long, ask whether anybody is there."""
        task = asyncio.ensure_future(ask())
        loop = asyncio.get_running_loop()
        try:
            while True:
                left = deadline - loop.time()
                if left <= 0:
                    raise DeadlineExceeded("the deadline passed before the answer")
                done, _ = await asyncio.wait({task}, timeout=min(left, PATIENCE_S))
                if done:
                    return task.result()
                if not await asyncio.to_thread(is_running, self.app):
                    raise Unavailable("the LLM service is not running", retry_after_s=5.0)
        finally:
            if not task.done():
                # How it ends is nobody's concern any more, also where that is no cancellation.
                task.add_done_callback(lambda left: left.cancelled() or left.exception())
                task.cancel()


class ServeEngine:
    """Implements ``mesh.llm.routing.Backend`` over the deployment of one engine."""

    def __init__(self, deployment: str = LLM_DEPLOYMENT, app: str = LLM_APP) -> None:
        self._handles = ServeHandles(deployment, app)

    async def frames(
        self,
        body: Wire,
        *,
        chat: bool,
        timeout_s: float,
        traceparent: str | None = None,
        avoid: str | None = None,
    ) -> AsyncGenerator[bytes, None]:
        handle = await self._handles.get("frames", stream=True)
        response: Any = None
        started = ended = False
        try:
            response = handle.remote(body, timeout_s, traceparent, chat, avoid)
            async for item in response:
                started = True
                yield item
            ended = True
        except _DIED as error:
            ended = True
            if started:
                raise EngineError("the engine's process ended in the middle") from error
            raise restarting() from error
        except (RayError, RayServeException) as error:
            ended = True
            raise translate(error) from error
        finally:
            if response is not None and not ended:
                response.cancel()

    async def answer(
        self,
        body: Wire,
        *,
        chat: bool,
        timeout_s: float,
        traceparent: str | None = None,
        avoid: str | None = None,
    ) -> Wire:
        answer: Wire = await self._handles.call(
            "answer", body, timeout_s, traceparent, chat, avoid, timeout_s=timeout_s
        )
        return answer

    async def info(self, *, timeout_s: float = 10.0) -> dict[str, Any]:
        """Of one replica of the engine."""
        info: dict[str, Any] = await self._handles.call("info", timeout_s=timeout_s)
        return info

    async def statistics(self, *, timeout_s: float = 10.0) -> dict[str, int | float]:
        """Of one replica of the engine."""
        figures: dict[str, int | float] = await self._handles.call(
            "statistics", timeout_s=timeout_s
        )
        return figures

    async def all_statistics(self) -> list[dict[str, int | float]]:
        """Of every replica of the engine."""
        return await self._handles.broadcast("statistics")

    async def set_faults(self, faults: dict[str, Any]) -> int:
        """Of a fake engine, at every replica; gives how many there are. Raises InvalidInput."""
        return len(await self._handles.broadcast("set_faults", faults))


class ServeEmbedder:
    """Implements ``mesh.llm.routing.target.Embed``."""

    def __init__(self, app: str = LLM_APP) -> None:
        self._handles = ServeHandles(EMBEDDER_DEPLOYMENT, app)

    async def __call__(self, texts: Sequence[str], *, timeout_s: float) -> list[list[float]]:
        """Asks once more when the replica dies: embedding changes nothing."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            return await self._embed(texts, timeout_s)
        except Unavailable:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                raise
            return await self._embed(texts, left)

    async def _embed(self, texts: Sequence[str], timeout_s: float) -> list[list[float]]:
        vectors: list[list[float]] = await self._handles.call(
            "embed", list(texts), timeout_s, timeout_s=timeout_s
        )
        return vectors


async def _result(response: Any) -> Any:
    return await response


def is_running(app: str) -> bool:
    """Whether a replica of the app serves or is being started. Blocks; asks Serve's controller."""
    try:
        status = serve.status().applications.get(app)
    except (RayError, RayServeException):
        return False
    return status is not None and status.status.value in ("RUNNING", "DEPLOYING", "UNHEALTHY")


def translate(exc: BaseException) -> MailyError:
    """Ray's and Serve's errors → ours; what a replica raised itself comes back as it was."""
    if isinstance(exc, RayTaskError):
        cause = exc.cause
        if isinstance(cause, MailyError):
            return cause
        return EngineError(f"the engine failed: {type(cause).__name__}")
    if isinstance(exc, BackPressureError):
        return Overloaded("too many requests wait for the engine", retry_after_s=1.0)
    if isinstance(exc, RequestCancelledError):
        return Cancelled()
    if isinstance(exc, (DeploymentUnavailableError, *_DIED)):
        return Unavailable("the LLM service is not running", retry_after_s=5.0)
    return EngineError(f"the engine could not be reached: {type(exc).__name__}")


def restarting() -> Unavailable:
    return Unavailable("the engine's process ended; it is being restarted", retry_after_s=5.0)
