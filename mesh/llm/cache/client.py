"""The caching layer: looks before it asks, keeps what is worth it, and says which it was.

A route without settings passes as it is, at the price of one look into a dictionary.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any
from uuid import UUID

import orjson

from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.errors import MailyError
from mesh.core.settings_spending import CacheSettings
from mesh.llm.assemble import assemble_chat, assemble_completion
from mesh.llm.cache.note import Outcome, tell
from mesh.llm.cache.replay import again, chunks
from mesh.llm.cache.request import CacheRequest, cache_request, repeatable, whole
from mesh.llm.cache.store import CacheStore, Kept
from mesh.llm.call import current_call
from mesh.llm.client import ModelClient
from mesh.llm.engine import Wire

_EMBED_S = 2.0


class _Look:
    """One look into the cache: what it found, and how the new answer is kept."""

    def __init__(self, cache: CachedClient, workspace_id: UUID, route: CacheSettings) -> None:
        self._cache = cache
        self._workspace_id = workspace_id
        self._route = route
        self._request: CacheRequest
        self._epoch: int | None = None
        self._vector: Sequence[float] | None = None
        self.outcome: Outcome = "miss"

    async def find(self, policy: str, body: Wire, chat: bool) -> Wire | None:
        semantic = self._route.mode == "semantic"
        self._request = request = cache_request(
            self._workspace_id, policy, body, chat=chat, semantic=semantic
        )
        store = self._cache.store
        self._epoch, answer = await store.find(self._workspace_id, request.digest)
        if answer is not None:
            self.outcome = "hit"
        elif request.partition is not None and self._epoch is not None:
            answer = await self._meant(request)
        route = metrics.bounded("llm_route", str(body.get("model", "")))
        metrics.LLM_CACHE.labels(route, self.outcome).inc()
        tell(self.outcome)
        return None if answer is None else again(answer)

    async def _meant(self, request: CacheRequest) -> Wire | None:
        try:
            vectors = await self._cache.inner.embed([request.question], timeout_s=_EMBED_S)
        except MailyError:
            return None
        self._vector = vectors[0]
        assert request.partition is not None
        store = self._cache.store
        near = await store.nearest(self._workspace_id, request.partition, vectors[0])
        if near is None or near[1] < self._route.similarity:
            return None
        epoch, answer = await store.find(self._workspace_id, near[0])
        if answer is not None and epoch == self._epoch:
            self.outcome = "semantic"
            return answer
        return None

    async def keep(self, answer: Wire, body: Wire) -> None:
        if self._epoch is None or not whole(answer, body):
            return
        if len(orjson.dumps(answer)) > self._route.max_bytes:
            return
        kept = Kept(
            digest=self._request.digest,
            answer=answer,
            epoch=self._epoch,
            ttl_s=self._route.ttl_s,
            max_entries=self._route.max_entries,
            partition=self._request.partition,
            vector=self._vector,
        )
        await self._cache.store.put(self._workspace_id, kept, self._cache.clock.now())

    @property
    def max_bytes(self) -> int:
        return self._route.max_bytes


class CachedClient:
    """Implements ``mesh.llm.client.ModelClient`` over another."""

    def __init__(
        self,
        inner: ModelClient,
        store: CacheStore,
        routes: Mapping[str, CacheSettings],
        clock: Clock,
    ) -> None:
        self.inner = inner
        self.store = store
        self.clock = clock
        self._routes = dict(routes)

    async def chat(self, body: Wire, *, timeout_s: float, traceparent: str | None = None) -> Wire:
        return await self._whole(self.inner.chat, body, True, timeout_s, traceparent)

    async def complete(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> Wire:
        return await self._whole(self.inner.complete, body, False, timeout_s, traceparent)

    async def stream_chat(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[Wire]:
        async with aclosing(
            self._encoded(self.inner.stream_chat_encoded, body, True, timeout_s, traceparent)
        ) as frames:
            async for burst in frames:
                for chunk in _parsed(burst):
                    yield chunk

    async def stream_completion(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[Wire]:
        async with aclosing(
            self._encoded(self.inner.stream_completion_encoded, body, False, timeout_s, traceparent)
        ) as frames:
            async for burst in frames:
                for chunk in _parsed(burst):
                    yield chunk

    def stream_chat_encoded(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[bytes]:
        ask = self.inner.stream_chat_encoded
        if self._look(body) is None:
            return ask(body, timeout_s=timeout_s, traceparent=traceparent)
        return self._encoded(ask, body, True, timeout_s, traceparent)

    def stream_completion_encoded(
        self, body: Wire, *, timeout_s: float, traceparent: str | None = None
    ) -> AsyncIterator[bytes]:
        ask = self.inner.stream_completion_encoded
        if self._look(body) is None:
            return ask(body, timeout_s=timeout_s, traceparent=traceparent)
        return self._encoded(ask, body, False, timeout_s, traceparent)

    async def embed(self, texts: Sequence[str], *, timeout_s: float) -> list[list[float]]:
        return await self.inner.embed(texts, timeout_s=timeout_s)

    def _look(self, body: Wire) -> tuple[_Look, str] | None:
        """None: this request is neither answered from the cache nor kept in it."""
        route = self._routes.get(body.get("model") or "")
        if route is None:
            return None
        call = current_call()
        if call is None or not repeatable(body, route.max_temperature):
            return None
        return _Look(self, call.workspace_id, route), call.policy

    async def _whole(
        self,
        ask: Callable[..., Awaitable[Wire]],
        body: Wire,
        chat: bool,
        timeout_s: float,
        trace: str | None,
    ) -> Wire:
        looked = self._look(body)
        if looked is None:
            return await ask(body, timeout_s=timeout_s, traceparent=trace)
        look, policy = looked
        found = await look.find(policy, body, chat)
        if found is not None:
            return found
        answer = await ask(body, timeout_s=timeout_s, traceparent=trace)
        await look.keep(answer, body)
        return answer

    async def _encoded(
        self,
        ask: Callable[..., Any],
        body: Wire,
        chat: bool,
        timeout_s: float,
        trace: str | None,
    ) -> AsyncGenerator[bytes, None]:
        looked = self._look(body)
        found = None
        if looked is not None:
            found = await looked[0].find(looked[1], body, chat)
        if found is not None:
            asked = (body.get("stream_options") or {}).get("include_usage")
            made = chunks(found, usage=bool(asked))
            yield b"".join(b"data: %s\n\n" % orjson.dumps(chunk) for chunk in made)
            return
        seen: list[bytes] = []
        size = 0
        async with aclosing(ask(body, timeout_s=timeout_s, traceparent=trace)) as bursts:
            async for burst in bursts:
                if looked is not None:
                    size += len(burst)
                    if size <= looked[0].max_bytes * 8:  # chunks are mostly their own frame
                        seen.append(burst)
                yield burst
        if looked is not None and size <= looked[0].max_bytes * 8:
            parsed = [chunk for burst in seen for chunk in _parsed(burst)]
            try:
                answer = assemble_chat(parsed) if chat else assemble_completion(parsed)
            except (MailyError, IndexError):
                return
            await looked[0].keep(answer, body)


def _parsed(burst: bytes) -> list[Wire]:
    return [
        orjson.loads(frame[6:]) for frame in burst.split(b"\n\n") if frame.startswith(b"data: {")
    ]
