"""Any OpenAI-compatible server as an Engine: vLLM, llama.cpp's own, a hosted one.

Closing the iterator closes the HTTP stream, by which such servers notice that nobody listens.
Timeouts are per phase; what is left of the caller's deadline bounds them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

import httpx
import orjson

from mesh.core.errors import (
    DeadlineExceeded,
    EngineError,
    MailyError,
    Unavailable,
    UnknownModel,
)
from mesh.llm.cancels import Cancels
from mesh.llm.engine import INTERNAL, EngineInfo, Wire, priority_of
from mesh.llm.raw import RawStreams
from mesh.llm.remote_errors import from_response, in_stream
from mesh.resilience.bulkhead import Bulkhead

_DONE = "[DONE]"


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """How patiently, and how much at once."""

    slots: int = 8
    queue_limit: int = 64
    context_tokens: int = 2_048
    """Of the model over there; told to callers, checked by the server itself."""
    connect_s: float = 5.0
    """Seconds to open a connection, and to get one from the pool."""
    write_s: float = 10.0
    read_s: float = 120.0
    """Seconds between two pieces of an answer."""
    max_line_bytes: int = 4_194_304
    """Of one event in a stream: a server that never ends a line must not fill our memory."""


class RemoteEngine(RawStreams):
    """``base_url`` ends before ``/chat/completions``: ``https://host/v1``."""

    def __init__(
        self,
        base_url: str,
        model_id: str,
        api_key: str | None = None,
        options: RemoteOptions | None = None,
        *,
        embedding_model: str | None = None,
        dimensions: int | None = None,
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise Unavailable("the remote engine needs `llm.remote_url`, http:// or https://")
        self.options = options or RemoteOptions()
        self.model_id = model_id
        self._embedding_model = embedding_model or model_id
        self._dimensions = dimensions
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.AsyncClient(
            base_url=base_url.rstrip("/") + "/",
            headers=headers,
            timeout=httpx.Timeout(
                connect=self.options.connect_s,
                pool=self.options.connect_s,
                write=self.options.write_s,
                read=self.options.read_s,
            ),
            limits=httpx.Limits(max_connections=self.options.slots + 4),
        )
        self._admission = Bulkhead(
            "llm", concurrency=self.options.slots, queue=self.options.queue_limit
        )
        self._cancels = Cancels(model_id)
        self._requests = self._tokens = 0

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            "openai",
            (self.model_id,),
            self.options.context_tokens,
            self.options.slots,
            self._dimensions,
        )

    async def chat(self, body: Wire, *, timeout_s: float) -> Wire:
        return await self._unary("chat/completions", body, timeout_s)

    async def complete(self, body: Wire, *, timeout_s: float) -> Wire:
        return await self._unary("completions", body, timeout_s)

    async def embed(self, texts: Sequence[str], *, timeout_s: float) -> list[list[float]]:
        body = {"model": self._embedding_model, "input": list(texts), "encoding_format": "float"}
        answer = await self._post("embeddings", body, timeout_s, 0)
        rows = sorted(answer.get("data") or (), key=lambda row: row.get("index", 0))
        if len(rows) != len(texts):
            raise EngineError("the remote engine answered another number of embeddings")
        return [row["embedding"] for row in rows]

    def statistics(self) -> dict[str, int | float]:
        return {
            "active": self._admission.active,
            "queued": self._admission.queued,
            "slots": self.options.slots,
            "refused": self._admission.refused,
            "requests": self._requests,
            "tokens_generated": self._tokens,
            **self._cancels.statistics(),
        }

    async def check(self) -> None:
        """Raises Unavailable when the server doesn't answer its model list."""
        try:
            response = await self._client.get("models", timeout=self.options.connect_s)
        except httpx.HTTPError as exc:
            raise Unavailable(f"the remote engine does not answer: {type(exc).__name__}") from exc
        if response.status_code >= 400:
            raise from_response(response.status_code, response.content)

    async def aclose(self) -> None:
        self._admission.close()
        await self._client.aclose()

    async def _unary(self, path: str, body: Wire, timeout_s: float) -> Wire:
        wire = self._body(body)
        wire.pop("stream", None)
        wire.pop("stream_options", None)
        answer = await self._post(path, wire, timeout_s, priority_of(body))
        if not answer.get("choices"):
            raise EngineError("the remote engine's answer holds no choices")
        self._tokens += int((answer.get("usage") or {}).get("completion_tokens") or 0)
        return answer

    async def stream_raw(
        self, body: Wire, *, chat: bool, timeout_s: float
    ) -> AsyncGenerator[list[bytes], None]:
        path = "chat/completions" if chat else "completions"
        wire = self._body(body) | {"stream": True}
        deadline = asyncio.get_running_loop().time() + timeout_s
        async with self._admission.slot(timeout_s, priority=priority_of(body)):
            self._requests += 1
            with self._counted(), _translated():
                yield []
                async with aclosing(self._chunks(path, wire)) as bursts:
                    while True:
                        # Per burst: a timeout around a yield would cancel whoever asked first.
                        try:
                            async with asyncio.timeout_at(deadline):
                                burst = await anext(bursts)
                        except StopAsyncIteration:
                            break
                        yield burst

    async def _chunks(self, path: str, wire: Wire) -> AsyncGenerator[list[bytes], None]:
        finished = False
        async with self._client.stream("POST", path, json=wire) as response:
            if response.status_code >= 400:
                raise from_response(response.status_code, await response.aread())
            async for events in _events(response, self.options.max_line_bytes):
                burst: list[bytes] = []
                for data in events:
                    if data == _DONE:
                        if burst:
                            yield burst
                        return
                    chunk = _parse(data)
                    if "error" in chunk:
                        raise in_stream(chunk)
                    for choice in chunk.get("choices") or ():
                        finished = finished or choice.get("finish_reason") is not None
                    self._tokens += 1
                    chunk.pop("timings", None)  # llama.cpp's own figures are no part of it
                    burst.append(orjson.dumps(chunk))
                if burst:
                    yield burst
            if not finished:
                raise EngineError("the remote engine's stream ended in the middle")

    def _body(self, body: Wire) -> Wire:
        if body.get("model", self.model_id) != self.model_id:
            raise UnknownModel(
                f"there is no model {str(body['model'])[:100]!r} here; there is {self.model_id!r}",
                {"field": "model"},
            )
        # Other servers refuse fields that they do not know.
        known = {name: value for name, value in body.items() if name not in INTERNAL}
        return known | {"model": self.model_id}

    async def _post(self, path: str, wire: Wire, timeout_s: float, priority: int) -> Wire:
        deadline = asyncio.get_running_loop().time() + timeout_s
        async with self._admission.slot(timeout_s, priority=priority):
            self._requests += 1
            with self._counted(), _translated():
                async with asyncio.timeout_at(deadline):
                    return _json(await self._client.post(path, json=wire))

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except (GeneratorExit, asyncio.CancelledError):
            self._cancels.add(0.0, 0)  # what the server over there still makes is not known here
            raise


@contextmanager
def _translated() -> Iterator[None]:
    """httpx's errors as ours."""
    try:
        yield
    except MailyError:
        raise
    except TimeoutError as exc:
        raise DeadlineExceeded("the deadline passed while generating") from exc
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as exc:
        raise Unavailable(
            "the remote engine can't be reached: check `llm.remote_url`", retry_after_s=5.0
        ) from exc
    except httpx.HTTPError as exc:
        raise EngineError(f"the remote engine broke off: {type(exc).__name__}") from exc


async def _events(response: httpx.Response, limit: int) -> AsyncIterator[list[str]]:
    """The data of Server-Sent Events (WHATWG HTML §9.2.6; only ``data`` matters here), those of
    one block of bytes together."""
    data: list[str] = []
    size = 0
    async for lines in _lines(response, limit):
        events: list[str] = []
        for line in lines:
            if not line:
                if data:
                    events.append("\n".join(data))
                data, size = [], 0
            elif line.startswith("data:"):
                data.append(line[5:].removeprefix(" "))
                size += len(line)
                if size > limit:
                    raise EngineError("the remote engine sent an event that never ends")
        if events:
            yield events
    if data:
        yield ["\n".join(data)]


async def _lines(response: httpx.Response, limit: int) -> AsyncIterator[list[str]]:
    """Lines of a bounded length; only \\n and \\r\\n end one, unlike str.splitlines."""
    buffer = bytearray()
    async for block in response.aiter_bytes():
        buffer += block
        *lines, rest = buffer.split(b"\n")
        yield [line.rstrip(b"\r").decode("utf-8", "replace") for line in lines]
        buffer = bytearray(rest)
        if len(buffer) > limit:
            raise EngineError("the remote engine sent a line that never ends")


def _parse(data: str) -> Wire:
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise EngineError("the remote engine sent something that is not JSON") from exc
    if not isinstance(chunk, dict):
        raise EngineError("the remote engine sent no JSON object")
    return chunk


def _json(response: httpx.Response) -> Wire:
    if response.status_code >= 400:
        raise from_response(response.status_code, response.content)
    return _parse(response.text)
