"""Requests whose body is a stream of messages: into a new batch, or into one that is there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive

from mesh.contracts.trust import BatchFilled, BatchState, BatchView, NewBatch
from mesh.core import metrics
from mesh.core.errors import DeadlineExceeded, MailyError, Overloaded
from mesh.trust.client import ROLLING, Rolling, TrustClient
from serve_apps.gateway.answers import Json, invalid_field
from serve_apps.gateway.body import discard
from serve_apps.gateway.context import RequestContext, context_of
from serve_apps.gateway.deps import Gateway
from serve_apps.gateway.idempotency import REPLAYED
from serve_apps.gateway.lines import LineLimits, LineReader
from serve_apps.gateway.trust_intake import Intake, IntakeOptions, Opening

ADD_TIMEOUT_S = 60.0
"""For a page of messages to be canonicalised, hashed and committed."""


class Filling:
    """Reads so many bodies at once and no more: each holds a few pages in memory. Those that say
    that they are no longer than a page are as other requests' bodies, and not counted."""

    def __init__(self, gateway: Gateway) -> None:
        trust, limits = gateway.settings.trust, gateway.settings.gateway
        self._most = trust.streams
        self._running = 0
        self._lines = LineLimits(
            line_bytes=2 * trust.max_message_bytes,  # in base64, or escaped as JSON
            silence_s=trust.stream_silence_s,
        )
        self._intake = IntakeOptions(
            pages=trust.stream_pages,
            page_timeout_s=ADD_TIMEOUT_S,
            max_depth=limits.max_json_depth,
        )

    async def new_batch(self, request: Request, trust: TrustClient, new: NewBatch) -> Response:
        """A batch from a body. With an Idempotency-Key the batch is the key's: what was cut off
        goes on where it was, and what was done is answered again."""
        async with _body(request) as body:
            return await self._new_batch(context_of(request), body, trust, new)

    async def more(self, request: Request, trust: TrustClient, batch: UUID | Rolling) -> Response:
        """More messages for a batch, which stays open."""
        async with _body(request) as body:
            return await self._more(context_of(request), body, trust, batch)

    async def _new_batch(
        self, context: RequestContext, body: _Body, trust: TrustClient, new: NewBatch
    ) -> Response:
        workspace, key = context.who.workspace_id, context.idempotency_key
        view: BatchView | None = None

        async def opened() -> BatchView:
            return await trust.open_batch(workspace, new, key=key, timeout_s=_a_while(context))

        if key is not None:
            view = await opened()
            if view.state is not BatchState.OPEN:
                return await self._again(body, view)

        async def opening() -> UUID:
            nonlocal view
            view = view or await opened()
            return view.id

        intake = await self._take_in(context, body, trust, opening)
        closing = new.close == "now"
        if view is None or (view.size == 0 and intake.taken.lines == 0):
            if closing:
                raise invalid_field("body", "has no messages")
            view = view or await opened()
        if closing:
            view = await trust.close_batch(workspace, view.id, timeout_s=context.timeout_s)
        else:
            view = await trust.batch(workspace, view.id, timeout_s=_a_while(context))
        return _filled(intake, view, 201)

    async def _more(
        self, context: RequestContext, body: _Body, trust: TrustClient, batch: UUID | Rolling
    ) -> Response:
        async def opening() -> UUID | Rolling:
            return batch

        if batch == ROLLING:
            return _filled(await self._take_in(context, body, trust, opening), None, 200)
        workspace = context.who.workspace_id
        # Before the first line is read: another workspace's batch is not found.
        await trust.batch(workspace, batch, timeout_s=_a_while(context))
        intake = await self._take_in(context, body, trust, opening)
        view = await trust.batch(workspace, batch, timeout_s=_a_while(context))
        return _filled(intake, view, 200)

    async def _again(self, body: _Body, view: BatchView) -> Response:
        """What came of the first time; the body is read to its end, for a client that is still
        sending does not hear the answer."""
        reader = LineReader(body, self._lines)
        try:
            await reader.skip()
        finally:
            await reader.aclose()
        again = BatchFilled(batch=view, lines=view.size, repeated=view.size, certificates=None)
        return Json(again.model_dump_json().encode(), 201, headers={**_place(view), **REPLAYED})

    async def _take_in(
        self, context: RequestContext, body: _Body, trust: TrustClient, opening: Opening
    ) -> Intake:
        counts = not self._is_short(context)
        if counts and self._running >= self._most:
            metrics.OVERLOADED.labels("trust streams").inc()
            raise Overloaded("Too many bodies are being read: try again", retry_after_s=2.0)
        self._running += counts
        reader = LineReader(body, self._lines)
        intake = Intake(trust, context.who.workspace_id, opening, self._intake)
        try:
            await intake.run(reader)
        finally:
            self._running -= counts
            await reader.aclose()
        return intake

    def _is_short(self, context: RequestContext) -> bool:
        length = context.headers.get(b"content-length", b"")
        return length.isdigit() and len(length) < 10 and int(length) <= self._lines.page_bytes

    def statistics(self) -> dict[str, int | float]:
        return {"running": self._running}


class _Body:
    """A request's ``receive`` that knows whether there is more."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.ended = message["type"] != "http.request" or not message.get("more_body", False)
        return message


@asynccontextmanager
async def _body(request: Request) -> AsyncIterator[_Body]:
    """A client that is still sending when it is refused often never reads why: what it sends is
    read for a while, and then the connection is closed. One that is silent hears at once."""
    body = _Body(request.receive)
    try:
        yield body
    except MailyError as error:
        silent = isinstance(error, DeadlineExceeded)
        if not body.ended and (silent or not await discard(body)):
            context_of(request).response_headers.append((b"connection", b"close"))
        raise


def _a_while(context: RequestContext) -> float:
    """Seconds for one look-up or change within a request that may last for hours."""
    return min(context.timeout_s, 30.0)


def _place(view: BatchView) -> dict[str, str]:
    return {"location": f"/v1/trust/batches/{view.id}"}


def _filled(intake: Intake, view: BatchView | None, status: int) -> Response:
    taken = intake.taken
    filled = BatchFilled(
        batch=view,
        lines=taken.lines,
        repeated=taken.repeated,
        certificates=taken.certificates,
    )
    headers = _place(view) if view is not None and status == 201 else {}
    return Json(filled.model_dump_json().encode(), status, headers=headers)
