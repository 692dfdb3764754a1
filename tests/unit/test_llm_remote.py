"""The remote engine against servers that refuse, babble, stall and hang up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from llm_support import USER, collect, text_of

from mesh.core.errors import (
    DeadlineExceeded,
    EngineError,
    InvalidInput,
    MailyError,
    Overloaded,
    RateLimited,
    Unavailable,
    UnknownModel,
)
from mesh.llm.remote import RemoteEngine, RemoteOptions

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
CHUNK = b'{"choices":[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}'
END = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
BODY = {"messages": USER, "stream": True}


@asynccontextmanager
async def answering(
    answer: Answer, options: RemoteOptions | None = None
) -> AsyncIterator[RemoteEngine]:
    """A server that reads a request's head and then does as ``answer`` says."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await answer(writer)
        except (OSError, asyncio.IncompleteReadError):
            return  # the client went away, which is its right
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    engine = RemoteEngine(f"http://127.0.0.1:{port}/v1", "m", "key", options)
    try:
        yield engine
    finally:
        await engine.aclose()
        server.close()


def saying(*parts: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return answer


def status(code: int, body: bytes = b"{}") -> Answer:
    return saying(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (code, len(body)), body)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (400, InvalidInput),
        (401, EngineError),
        (403, EngineError),
        (404, UnknownModel),
        (408, DeadlineExceeded),
        (422, InvalidInput),
        (429, RateLimited),
        (500, EngineError),
        (502, Unavailable),
        (503, Overloaded),
    ],
)
@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"error":"text"}', b'{"error":{"message":"m"}}']
)
async def test_refusals(code: int, error: type[MailyError], body: bytes) -> None:
    async with answering(status(code, body)) as engine:
        with pytest.raises(MailyError) as caught:
            await engine.chat({"messages": USER}, timeout_s=10)
        assert type(caught.value) is error
        with pytest.raises(error):
            await collect(engine.stream_chat(BODY, timeout_s=10))
        assert engine.statistics()["active"] == 0


async def test_the_refused_field_is_named() -> None:
    body = b'{"error":{"message":"too hot","param":"temperature"}}'
    async with answering(status(400, body)) as engine:
        with pytest.raises(InvalidInput) as caught:
            await engine.chat({"messages": USER}, timeout_s=10)
    assert caught.value.details["field"] == "temperature"


async def test_events_may_be_cut_anywhere() -> None:
    """Inside a line, a character or an ending; with comments and with CRLF."""
    events = (
        b": hello\n\ndata: " + CHUNK % "gr\u00fc\u00df ".encode() + b"\r\n\r\n"
        b"event: x\ndata:" + CHUNK % "\u2028dich".encode() + b"\n\n" + END
    )
    parts = [HEAD, *(events[i : i + 1] for i in range(len(events)))]
    async with answering(saying(*parts)) as engine:
        chunks = await collect(engine.stream_chat(BODY, timeout_s=10))
    assert text_of(chunks) == "grüß \u2028dich"


@pytest.mark.parametrize(
    "stream",
    [
        b"data: " + CHUNK % b"half" + b"\n\n",
        b"data: {nonsense\n\n",
        b"data: [1]\n\n",
        b'data: {"error":{"message":"out of memory","code":500}}\n\n',
        b"data: " + b"x" * 300,
        b"data: xxxxxxxx\n" * 50,
    ],
    ids=["cut", "no json", "no object", "error", "endless line", "endless event"],
)
async def test_streams_that_go_wrong(stream: bytes) -> None:
    async with answering(saying(HEAD, stream), RemoteOptions(max_line_bytes=200)) as engine:
        with pytest.raises(EngineError):
            await collect(engine.stream_chat(BODY, timeout_s=10))
        assert engine.statistics()["active"] == 0


async def test_a_silent_server_meets_the_deadline() -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"data: " + CHUNK % b"a" + b"\n\n")
        await asyncio.sleep(30)

    async with answering(silent) as engine:
        with pytest.raises(DeadlineExceeded):
            await collect(engine.stream_chat(BODY, timeout_s=0.2))
        assert engine.statistics()["active"] == 0
    async with answering(silent, RemoteOptions(read_s=0.1)) as engine:
        with pytest.raises(EngineError):
            await collect(engine.stream_chat(BODY, timeout_s=10))


async def test_nobody_is_there() -> None:
    async with answering(status(200)) as engine:
        pass
    engine = RemoteEngine("http://127.0.0.1:1/v1", "m")
    with pytest.raises(Unavailable):
        await engine.chat({"messages": USER}, timeout_s=10)
    with pytest.raises(Unavailable):
        await engine.check()
    await engine.aclose()
    with pytest.raises(Unavailable):
        RemoteEngine("", "m")


async def test_embeddings_come_in_the_order_asked() -> None:
    rows = b'{"data":[{"index":1,"embedding":[2.0]},{"index":0,"embedding":[1.0]}]}'
    async with answering(status(200, rows)) as engine:
        assert await engine.embed(["a", "b"], timeout_s=10) == [[1.0], [2.0]]
        with pytest.raises(EngineError):
            await engine.embed(["a"], timeout_s=10)
