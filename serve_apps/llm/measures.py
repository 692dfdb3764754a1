"""What a replica counts of its requests: time to first token, tokens, tokens a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

from mesh.core.errors import MailyError
from mesh.core.genai import Operation, provider
from mesh.core.metrics import (
    GENAI_SERVER_FIRST_TOKEN,
    GENAI_SERVER_SECONDS,
    LLM_REQUESTS,
    LLM_SLOTS,
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

    @contextmanager
    def request(self, operation: Operation) -> Iterator[Request]:
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
            names = (operation, provider(self._engine.info.name), self._model)
            error = "" if outcome == "ok" else outcome
            GENAI_SERVER_SECONDS.labels(*names, error).observe(request.seconds())
            if request.ttft_s is not None:
                GENAI_SERVER_FIRST_TOKEN.labels(*names).observe(request.ttft_s)
            self.refresh()


class Request:
    """One generation's figures. Tokens are counted as chunks unless usage came."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._start = time.perf_counter()
        self._first: float | None = None
        self._chunks = 0
        self._counted = False
        self._usage: dict[str, Any] | None = None

    @property
    def ttft_s(self) -> float | None:
        """Seconds to the first token of a stream; None: there was none."""
        return None if self._first is None else self._first - self._start

    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def answer(self) -> dict[str, Any]:
        """What is known of the answer, as OpenAI's objects name it."""
        return {"model": self._model, "usage": self._usage}

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
        self._usage = usage
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
