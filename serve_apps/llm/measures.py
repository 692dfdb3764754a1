"""What a replica counts of its requests: time to first token, tokens, tokens a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from mesh.core.errors import MailyError
from mesh.core.metrics import (
    LLM_REQUESTS,
    LLM_SLOTS,
    QUEUE_DEPTH,
    TOKENS,
    TOKENS_PER_SECOND,
    TTFT_SECONDS,
)
from mesh.llm.engine import Engine

_USAGE = b'"usage":{'


class Measures:
    """Of one replica. ``model``: the configured id, so that the label stays bounded."""

    def __init__(self, model: str, engine: Engine) -> None:
        self.started_at = int(time.time())
        self._model = model
        self._engine = engine

    def refresh(self) -> None:
        """Gauges of the slots; called now and then."""
        figures = self._engine.statistics()
        LLM_SLOTS.labels(self._model, "total").set(figures["slots"])
        LLM_SLOTS.labels(self._model, "busy").set(figures["active"])
        QUEUE_DEPTH.labels("llm").set(figures["queued"])

    @contextmanager
    def request(self) -> Iterator[Request]:
        request = Request(self._model)
        self.refresh()
        outcome = "cancelled"
        try:
            yield request
            outcome = "ok"
        except MailyError as exc:
            outcome = exc.code
            raise
        except (GeneratorExit, asyncio.CancelledError):
            raise
        except Exception:
            outcome = "internal"
            raise
        finally:
            LLM_REQUESTS.labels(self._model, outcome).inc()
            request.ended()
            self.refresh()


class Request:
    """One generation's figures. Tokens are counted as chunks unless usage came."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._start = time.perf_counter()
        self._first: float | None = None
        self._chunks = 0
        self._counted = False

    def burst(self, chunks: list[bytes]) -> None:
        if self._first is None:
            self._first = time.perf_counter()
            TTFT_SECONDS.labels(self._model).observe(self._first - self._start)
        self._chunks += len(chunks)
        if _USAGE in chunks[-1]:
            self.usage(orjson.loads(chunks[-1]).get("usage"))

    def usage(self, usage: dict[str, Any] | None) -> None:
        if not usage:
            return
        self._counted = True
        written = int(usage.get("completion_tokens") or 0)
        TOKENS.labels(self._model, "prompt").inc(int(usage.get("prompt_tokens") or 0))
        self._written(written)

    def ended(self) -> None:
        if not self._counted and self._chunks:
            self._written(max(0, self._chunks - 2))  # role and finish carry no token

    def _written(self, tokens: int) -> None:
        TOKENS.labels(self._model, "completion").inc(tokens)
        seconds = time.perf_counter() - self._start
        if tokens and seconds > 0:
            TOKENS_PER_SECOND.labels(self._model).observe(tokens / seconds)
