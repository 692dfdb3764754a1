"""The LLM service as agents and the gateway hold it: a Serve handle that speaks LLMClient.

It flattens bursts, gives our own errors back out of Ray's wrappings, keeps the caller's deadline
on this side too, cancels the replica's work when the caller goes away, and asks once more when a
replica died before its first token. After the first token a death is EngineError: what was said
can't be said again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
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

from actors.context import ProcessContext
from actors.names import EMBEDDER_DEPLOYMENT, LLM_APP, LLM_DEPLOYMENT
from mesh.core.errors import (
    Cancelled,
    DeadlineExceeded,
    EngineError,
    Internal,
    MailyError,
    Overloaded,
    Unavailable,
)
from mesh.llm.client import ModelClient
from mesh.llm.engine import Wire

T = TypeVar("T")
_DIED = (RayActorError, WorkerCrashedError, ReplicaUnavailableError)
PATIENCE_S = 10.0
"""Without an answer for so long we ask whether there is a replica at all."""


async def open_models(context: ProcessContext) -> ModelClient:
    """The models as a gateway or a worker calls them. What it opens closes with ``context``."""
    return ServeLLMClient()


class ServeLLMClient:
    """Implements ``mesh.llm.engine.LLMClient`` and what the gateway needs besides."""

    def __init__(self, app: str = LLM_APP) -> None:
        self._app = app
        self._handles: dict[str, Any] = {}

    def stream_chat(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[Wire]:
        return self._flat("stream_chat", body, timeout_s, traceparent)

    def stream_completion(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[Wire]:
        return self._flat("stream_completion", body, timeout_s, traceparent)

    def stream_chat_encoded(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[bytes]:
        """Bytes of whole SSE frames (``data: {…}``), several at once; no ``[DONE]``."""
        return self._stream("stream_chat_encoded", (body, timeout_s, traceparent), timeout_s)

    def stream_completion_encoded(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[bytes]:
        return self._stream("stream_completion_encoded", (body, timeout_s, traceparent), timeout_s)

    async def chat(self, body: Wire, *, timeout_s: float, traceparent: str | None = None) -> Wire:
        answer: Wire = await self._call("chat", (body, timeout_s, traceparent), timeout_s)
        return answer

    async def complete(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> Wire:
        answer: Wire = await self._call("complete", (body, timeout_s, traceparent), timeout_s)
        return answer

    async def embed(self, texts: Sequence[str], *, timeout_s: float) -> list[list[float]]:
        vectors: list[list[float]] = await self._call(
            "embed", (list(texts), timeout_s), timeout_s, EMBEDDER_DEPLOYMENT
        )
        return vectors

    async def info(self, *, timeout_s: float = 10.0) -> dict[str, Any]:
        info: dict[str, Any] = await self._call("info", (), timeout_s)
        return info

    async def statistics(self, *, timeout_s: float = 10.0) -> dict[str, int | float]:
        """Of one replica of the engine."""
        figures: dict[str, int | float] = await self._call("statistics", (), timeout_s)
        return figures

    async def _flat(
        self, method: str, body: Wire, timeout_s: float, traceparent: str | None
    ) -> AsyncIterator[Wire]:
        stream = self._stream(method, (body, timeout_s, traceparent), timeout_s)
        async with aclosing(stream) as bursts:
            async for burst in bursts:
                for chunk in burst:
                    yield chunk

    async def _stream(
        self, method: str, args: tuple[Any, ...], timeout_s: float
    ) -> AsyncGenerator[Any, None]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        for last_try in (False, True):
            started = False
            response: Any = None
            ended = False
            try:
                handle = await self._handle(method, LLM_DEPLOYMENT, stream=True)
                response = handle.remote(*_with_timeout(args, deadline - loop.time()))
                while True:
                    try:
                        item = await self._next(response, deadline, started)
                    except StopAsyncIteration:
                        ended = True
                        return
                    started = True
                    yield item
            except _DIED as exc:
                ended = True
                if started:
                    raise EngineError("the engine's process ended in the middle") from exc
                if last_try or deadline - loop.time() <= 0:
                    raise _restarting() from exc
            except (RayError, RayServeException) as exc:
                ended = True
                raise translate(exc) from exc
            finally:
                if response is not None and not ended:
                    response.cancel()

    async def _next(self, response: Any, deadline: float, started: bool) -> Any:
        if started:
            return await _by(deadline, response.__anext__())
        return await self._patiently(response.__anext__, deadline)

    async def _call(
        self,
        method: str,
        args: tuple[Any, ...],
        timeout_s: float,
        deployment: str = LLM_DEPLOYMENT,
    ) -> Any:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        for last_try in (False, True):
            response: Any = None
            ended = False
            try:
                handle = await self._handle(method, deployment)
                response = handle.remote(*_with_timeout(args, deadline - loop.time()))
                result = await self._patiently(partial(_result, response), deadline)
                ended = True
                return result
            except _DIED as exc:
                ended = True
                if last_try or deadline - loop.time() <= 0:
                    raise _restarting() from exc
            except (RayError, RayServeException) as exc:
                ended = True
                raise translate(exc) from exc
            finally:
                if response is not None and not ended:
                    response.cancel()
        raise Internal

    async def _patiently(self, ask: Callable[[], Awaitable[T]], deadline: float) -> T:
        """Await an answer; where none comes for long, ask whether anybody is there."""
        task = asyncio.ensure_future(ask())
        loop = asyncio.get_running_loop()
        try:
            while True:
                left = deadline - loop.time()
                if left <= 0:
                    raise DeadlineExceeded("the deadline passed before the first token")
                done, _ = await asyncio.wait({task}, timeout=min(left, PATIENCE_S))
                if done:
                    return task.result()
                if not await asyncio.to_thread(is_running, self._app):
                    raise Unavailable("the LLM service is not running", retry_after_s=5.0)
        finally:
            if not task.done():
                task.cancel()

    async def _handle(self, method: str, deployment: str, *, stream: bool = False) -> Any:
        """Kept per method. The first time it asks Serve's controller, which blocks: so not on
        the loop."""
        key = f"{deployment}.{method}"
        if key not in self._handles:
            try:
                handle = await asyncio.to_thread(serve.get_deployment_handle, deployment, self._app)
            except (KeyError, RayError, RayServeException) as exc:
                raise Unavailable("the LLM service is not running", retry_after_s=5.0) from exc
            self._handles[key] = handle.options(method_name=method, stream=stream)
        return self._handles[key]


async def _result(response: Any) -> Any:
    return await response


async def _by(deadline: float, awaitable: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout_at(deadline):
            return await awaitable
    except TimeoutError as exc:
        raise DeadlineExceeded("the deadline passed while generating") from exc


def _with_timeout(args: tuple[Any, ...], left: float) -> tuple[Any, ...]:
    """What is left of the deadline travels on: argument 1 of every method that has any."""
    return args if len(args) < 2 else (args[0], max(left, 0.001), *args[2:])


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


def _restarting() -> Unavailable:
    return Unavailable("the engine's process ended; it is being restarted", retry_after_s=5.0)
