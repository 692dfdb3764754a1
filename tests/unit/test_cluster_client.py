"""The task client: event streams that break, gateways that restart, refusals."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import client as client_module
from cluster.client import Refused, StreamEvent, TaskClient, parse_sse
from cluster.failures import NOT_RUNNING, Failure

Handle = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def serve() -> Iterator[Callable[[Handle], str]]:
    servers: list[ThreadingHTTPServer] = []

    def start(handle: Handle) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                handle(self)

            do_POST = do_DELETE = do_GET

            def log_message(self, *_: Any) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module.time, "sleep", lambda seconds: None)


def answer(request: BaseHTTPRequestHandler, status: int, body: Any, **headers: str) -> None:
    data = json.dumps(body).encode()
    request.send_response(status)
    for name, value in headers.items():
        request.send_header(name, value)
    request.send_header("content-length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)


def frame(cursor: str, kind: str, data: dict[str, Any]) -> bytes:
    return f"id: {cursor}\nevent: {kind}\ndata: {json.dumps({'data': data})}\n\n".encode()


EVENTS = [
    ("1-1", "task.started", {"worker": "w"}),
    ("1-2", "tokens", {"text": "Hel"}),
    ("1-3", "tokens", {"text": "lo"}),
    ("2-1", "tokens", {"text": "!"}),
    ("2-2", "task.succeeded", {"degraded": False}),
]


def test_a_stream_that_breaks_after_each_event_is_read_whole(
    serve: Callable[[Handle], str],
) -> None:
    asked: list[str | None] = []

    def handle(request: BaseHTTPRequestHandler) -> None:
        after = request.headers.get("last-event-id")
        asked.append(after)
        begin = 0 if after is None else [cursor for cursor, _, _ in EVENTS].index(after) + 1
        request.send_response(200)
        request.end_headers()
        request.wfile.write(b": hello\n\n" + frame(*EVENTS[begin]))
        if begin + 1 < len(EVENTS):  # cut in the middle of the next one
            request.wfile.write(frame(*EVENTS[begin + 1])[:-1])

    with TaskClient(serve(handle), "mk") as client:
        found = [(e.cursor, e.type, dict(e.data)) for e in client.events("t")]
    assert found == EVENTS
    assert asked == [None, "1-1", "1-2", "1-3", "2-1"]


def test_a_stream_with_nothing_more_ends(serve: Callable[[Handle], str]) -> None:
    def handle(request: BaseHTTPRequestHandler) -> None:
        request.send_response(204)
        request.end_headers()

    with TaskClient(serve(handle), "mk") as client:
        assert list(client.events("t", "2-2")) == []


def test_a_task_is_asked_for_again_under_the_same_key(serve: Callable[[Handle], str]) -> None:
    keys: list[str | None] = []

    def handle(request: BaseHTTPRequestHandler) -> None:
        keys.append(request.headers.get("idempotency-key"))
        request.rfile.read(int(request.headers["content-length"]))
        if len(keys) == 1:
            request.close_connection = True  # died before it answered
        elif len(keys) == 2:
            answer(request, 503, {"code": "unavailable", "message": "starting"})
        else:
            answer(request, 202, {"id": "t"})

    waits: list[str] = []
    with TaskClient(serve(handle), "mk", waits.append) as client:
        assert client.create({"brief": {"goal": "x"}}) == {"id": "t"}
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert keys[0]
    assert "starting" in waits[1]


def test_a_refusal_is_final_and_says_why(serve: Callable[[Handle], str]) -> None:
    calls: list[str] = []

    def handle(request: BaseHTTPRequestHandler) -> None:
        calls.append(request.path)
        answer(request, 422, {"message": "no", "details": {"field": "brief.goal"}})

    with TaskClient(serve(handle), "mk") as client, pytest.raises(Refused, match=r"brief\.goal"):
        client.get("t")
    assert len(calls) == 1


def test_a_refused_key_says_where_keys_are(serve: Callable[[Handle], str]) -> None:
    def handle(request: BaseHTTPRequestHandler) -> None:
        answer(request, 401, {"message": "revoked"})

    with TaskClient(serve(handle), "mk") as client, pytest.raises(Failure) as caught:
        client.get("t")
    assert "maily key create" in caught.value.fix


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr(client_module.time, "monotonic", lambda: next(clock))
    with TaskClient("http://127.0.0.1:9", "mk") as client, pytest.raises(Failure) as caught:
        client.get("t")
    assert caught.value.exit_code == NOT_RUNNING


@given(
    st.lists(
        st.tuples(
            st.integers(1, 9).map(lambda n: f"1-{n}"),
            st.sampled_from(["tokens", "step.started"]),
            st.dictionaries(st.text(max_size=5), st.text(max_size=20), max_size=3),
        ),
        max_size=8,
    ),
    st.integers(0, 400),
)
def test_what_is_cut_off_is_no_event(
    events: list[tuple[str, str, dict[str, str]]], cut: int
) -> None:
    text = b"".join(frame(*event) for event in events).decode()
    whole = [StreamEvent(*event) for event in events]
    assert list(parse_sse(iter(text.split("\n")))) == whole
    part = list(parse_sse(iter(text[:cut].split("\n"))))
    assert part == whole[: len(part)]
