"""llama.cpp in this process (xllamacpp): its scheduler batches all slots, we feed and drain it.

A request occupies one thread, which llama.cpp calls back once per token; chunks pass to the
event loop through a deque with one wake-up per burst. Chunks stay the JSON bytes that llama.cpp
made: whoever relays them never pays for parsing. A request asks for prompt progress, so that even
a long prompt can be cancelled between two batches, and nobody takes it for a hanging one.

xllamacpp also opens llama.cpp's own HTTP server on a loopback port; it can't be turned off, so
it gets a random API key that nobody else knows.
"""

from __future__ import annotations

import asyncio
import gc
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import xllamacpp

from mesh.core.errors import (
    EngineError,
    InvalidInput,
    MailyError,
    Unavailable,
    UnknownModel,
)
from mesh.llm.cancels import Cancels
from mesh.llm.engine import INTERNAL, EngineInfo, Wire, priority_of
from mesh.llm.forced_tools import as_tool_calls, force_tools
from mesh.llm.llamacpp_chunks import Cleaner
from mesh.llm.llamacpp_errors import from_exception
from mesh.llm.raw import RawStreams
from mesh.llm.reading import ReadingGate
from mesh.llm.run import Run
from mesh.resilience.bulkhead import Bulkhead

_OURS = (INTERNAL | {"model"}) - {"cache_prompt"}


@dataclass(frozen=True, slots=True)
class LlamaCppOptions:
    """How the engine uses the machine."""

    threads: int = 1
    """That generate. llama.cpp's threads spin: fewer than there are cores."""
    batch_threads: int = 1
    """That read prompts."""
    slots: int = 8
    """Requests at once."""
    context_tokens: int = 2_048
    """Prompt and answer together, per slot."""
    queue_limit: int = 64
    """Requests that wait for a slot; more are refused."""
    batch_tokens: int = 64
    """Prompt tokens per step: between two steps others get their token, and a cancelled prompt
    stops."""
    poll: int = 50
    """0 to 100: how long idle compute threads spin before they sleep."""
    prompt_cache_mib: int = 256
    """Memory for prompts that have lost their slot. Questions that begin alike (agents' worked
    examples) then need not be read anew: twice the requests per second in the email pipeline."""
    short_bytes: int = 512
    """Requests up to this size (about 100 tokens) are read at once; longer ones in turn, as six
    of an agent's questions at 200 tokens each are five seconds of reading on one core."""


class LlamaCppEngine(RawStreams):
    """An Engine; see ``mesh.llm.engine`` for errors. Build it off the event loop: loading a
    model blocks. Raises Unavailable when the file is missing or is no model."""

    def __init__(
        self, model_path: Path, model_id: str, options: LlamaCppOptions | None = None
    ) -> None:
        self.options = options or LlamaCppOptions()
        self.model_id = model_id
        self.api_key = secrets.token_urlsafe(32)
        self._server = _start(model_path, model_id, self.options, self.api_key)
        self._admission = Bulkhead(
            "llm", concurrency=self.options.slots, queue=self.options.queue_limit
        )
        room = self.options.slots + self.options.queue_limit
        self._reading = ReadingGate(
            "reading",
            queue=room,
            short_bytes=self.options.short_bytes,
            step_tokens=self.options.batch_tokens,
        )
        self._threads = ThreadPoolExecutor(self.options.slots, thread_name_prefix="llama")
        self._runs: set[Run] = set()
        self._requests = 0
        self._tokens = 0
        self._cancels = Cancels(model_id)

    @property
    def info(self) -> EngineInfo:
        return EngineInfo(
            name="llama.cpp",
            models=(self.model_id,),
            context_tokens=self.options.context_tokens,
            slots=self.options.slots,
        )

    @property
    def listening_address(self) -> str:
        """Of llama.cpp's own HTTP server, ``http://127.0.0.1:PORT``; wants ``api_key``."""
        return str(self._server.listening_address) if self._server is not None else ""

    async def stream_raw(
        self, body: Wire, *, chat: bool, timeout_s: float
    ) -> AsyncGenerator[list[bytes], None]:
        """Chunks as the JSON bytes that llama.cpp wrote."""
        forced = force_tools(body) if chat else None
        bursts = self._generate(forced or body, chat=chat, timeout_s=timeout_s)
        async with aclosing(as_tool_calls(bursts) if forced else bursts) as chosen:
            async for burst in chosen:
                yield burst

    async def _generate(
        self, body: Wire, *, chat: bool, timeout_s: float
    ) -> AsyncGenerator[list[bytes], None]:
        self._check_model(body)
        wire = _engine_body(body)
        request = _encode(wire)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        priority = priority_of(body)
        async with (
            self._reading.turn(len(request), timeout_s, priority=priority) as reading,
            self._admission.slot(deadline - loop.time(), priority=priority),
        ):
            self._requests += 1
            # What is not kept would be read from its beginning.
            pausable = wire.get("cache_prompt", True) is True
            while True:
                run = self._begin(request, chat)
                reading.running(run.pause if pausable else None)
                clean = Cleaner(chat)
                unread = True
                try:
                    yield []
                    async with aclosing(run.bursts(deadline)) as bursts:
                        async for burst in bursts:
                            chunks = clean(burst)
                            if unread:
                                unread = clean.unread > 0
                                await reading.told(clean.unread)
                            yield chunks
                except MailyError:
                    raise
                except (RuntimeError, ValueError) as exc:
                    raise from_exception(exc) from exc
                finally:
                    await self._end(run)
                if not run.paused:
                    return
                await reading.again(deadline - loop.time())

    def _begin(self, request: bytes, chat: bool) -> Run:
        server = self._server
        if server is None:
            raise Unavailable("the engine is shutting down", retry_after_s=1.0)
        run = Run(asyncio.get_running_loop())
        self._runs.add(run)
        run.start(
            self._threads,
            server.handle_chat_completions if chat else server.handle_completions,
            request,
        )
        return run

    async def embed(self, texts: Sequence[str], *, timeout_s: float) -> list[list[float]]:
        raise InvalidInput(
            "this model gives no embeddings; ask the embedding model", {"field": "model"}
        )

    def statistics(self) -> dict[str, int | float]:
        return {
            "active": self._admission.active,
            "queued": self._admission.queued + self._reading.queued,
            "slots": self.options.slots,
            "refused": self._admission.refused + self._reading.refused,
            "requests": self._requests,
            "gave_way": self._reading.given_way,
            "tokens_generated": self._tokens + sum(run.tokens for run in self._runs),
            **self._cancels.statistics(),
        }

    async def check(self) -> None:
        """Raises Unavailable once closed. llama.cpp lives in this process: it can't die alone."""
        if self._server is None:
            raise Unavailable("the engine is shutting down", retry_after_s=1.0)

    async def aclose(self) -> None:
        """Cancel what runs, then free the model."""
        self._reading.close()
        self._admission.close()
        for run in tuple(self._runs):
            run.cancel()
        server, self._server = self._server, None
        await asyncio.to_thread(self._threads.shutdown, True)
        await asyncio.to_thread(_free, [server])

    def _check_model(self, body: Wire) -> None:
        model = body.get("model", self.model_id)
        if model != self.model_id:
            raise UnknownModel(
                f"there is no model {str(model)[:100]!r} here; there is {self.model_id!r}",
                {"field": "model"},
            )

    async def _end(self, run: Run) -> None:
        """Keep the slot until llama.cpp's thread has let go of it, whatever comes."""
        cut = not run.finished
        began = time.perf_counter()
        if cut:
            run.cancel()
        await run.wait_finished()
        self._runs.discard(run)
        self._tokens += run.tokens
        if cut:
            self._cancels.add(time.perf_counter() - began, run.after_cancel)


def _engine_body(body: Wire) -> Wire:
    """What llama.cpp gets. The same seed shall give the same text, and reusing another
    request's cached prompt changes rounding: a seeded request reads its prompt afresh."""
    wire = {key: value for key, value in body.items() if key not in _OURS}
    wire["stream"] = True
    wire["return_progress"] = True
    if "seed" in wire:
        wire.setdefault("cache_prompt", False)
    return wire


def _encode(body: Wire) -> bytes:
    try:
        return orjson.dumps(body)
    except orjson.JSONEncodeError as exc:  # integers beyond 64 bits
        raise InvalidInput(f"the request can't be encoded: {exc}", {"field": "body"}) from exc


def server_params(path: Path, model_id: str, options: LlamaCppOptions, api_key: str) -> Any:
    """llama.cpp's parameters; the benchmark gives the same ones to its bare server."""
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {model_id}
    params.n_parallel = options.slots
    params.n_ctx = options.slots * options.context_tokens
    params.n_batch = options.batch_tokens
    params.n_ubatch = options.batch_tokens
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.batch_threads
    params.cpuparams.poll = options.poll
    params.cpuparams_batch.poll = options.poll
    params.cache_ram_mib = options.prompt_cache_mib
    params.api_keys = [api_key]
    params.n_threads_http = 1
    params.ui = False
    params.endpoint_slots = False
    params.verbosity = -1
    return params


def _start(path: Path, model_id: str, options: LlamaCppOptions, api_key: str) -> Any:
    if not path.is_file():
        raise Unavailable(f"the model file {path.name} is missing: run `maily models pull`")
    try:
        return xllamacpp.Server(server_params(path, model_id, options, api_key))
    except (RuntimeError, ValueError) as exc:
        raise EngineError(f"llama.cpp can't load {path.name}: {exc}") from exc


def _free(holder: list[Any]) -> None:
    """The destructor stops llama.cpp's loop and waits for it: so it must not run on the loop."""
    holder.clear()
    gc.collect()
