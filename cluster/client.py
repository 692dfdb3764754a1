"""A small client of the gateway's task API, for the command line and the demonstrations.

It survives what happens to a gateway: it repeats a refused or broken request (a task is created
under an Idempotency-Key, so never twice) and goes on reading events from its last cursor.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import httpx

from cluster.failures import NOT_RUNNING, UNHEALTHY, Failure
from mesh.core.errors import MailyError

PATIENCE_S = 60.0
"""How long it tries again while nothing goes forward."""
HELD_S = 5.0
"""A stream that was open for longer counts as an answer of the gateway."""
_RETRYABLE = frozenset({429, 502, 503, 504})
_TIMEOUT = httpx.Timeout(30.0, connect=5.0)
_STREAM_TIMEOUT = httpx.Timeout(60.0, connect=5.0)


class Refused(MailyError):
    """The gateway answered with an error that trying again does not change."""

    code = "refused"
    answer: Mapping[str, Any] = MappingProxyType({})
    """The error's body as it came."""


@dataclass(frozen=True, slots=True)
class StreamEvent:
    cursor: str
    type: str
    data: Mapping[str, Any]

    @property
    def terminal(self) -> bool:
        return self.type in ("task.succeeded", "task.failed", "task.cancelled", "error")


class TaskClient:
    """Blocking. ``on_wait``: told why it waits before it tries again."""

    def __init__(
        self, url: str, key: str, on_wait: Callable[[str], None] = lambda reason: None
    ) -> None:
        self._url = url
        self._on_wait = on_wait
        self._http = httpx.Client(
            base_url=url,
            headers={"authorization": f"Bearer {key}"},
            timeout=_TIMEOUT,
            trust_env=False,
        )

    def __enter__(self) -> TaskClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def create(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Accept a task; the TaskView."""
        key = str(uuid.uuid4())
        return self._call("POST", "/v1/mesh/tasks", {"idempotency-key": key}, body)

    def get(self, task_id: str) -> dict[str, Any]:
        return self._call("GET", f"/v1/mesh/tasks/{task_id}")

    def trace(self, task_id: str) -> dict[str, Any]:
        """Why it came out as it did; the TaskTrace."""
        return self._call("GET", f"/v1/mesh/tasks/{task_id}/trace")

    def replay(self, task_id: str) -> dict[str, Any]:
        """Whether its graph takes the recorded path again; the Replay."""
        return self._call("GET", f"/v1/mesh/tasks/{task_id}/replay")

    def cancel(self, task_id: str) -> dict[str, Any]:
        return self._call("DELETE", f"/v1/mesh/tasks/{task_id}")

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Any request that may be repeated; the JSON of its answer."""
        return self._call(method, path, None, body)

    def upload(
        self,
        path: str,
        content: bytes,
        media: str,
        *,
        key: str | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """A POST that may be repeated, of something else than JSON; the JSON of its answer.
        ``key``: its Idempotency-Key. ``timeout_s``: for the answer, where the usual is too short.
        """
        headers = {"content-type": media} | ({} if key is None else {"idempotency-key": key})
        timeout = _TIMEOUT if timeout_s is None else httpx.Timeout(timeout_s, connect=5.0)
        return self._call("POST", path, headers, content=content, timeout=timeout)

    def download(self, path: str, params: Mapping[str, str]) -> Iterator[bytes]:
        """What a GET answers, in parts. Raises Failure where it breaks off: it is not repeated."""
        try:
            with self._http.stream("GET", path, params=params) as response:
                if response.status_code != 200:
                    response.read()
                    _check(response)
                yield from response.iter_bytes()
        except (httpx.HTTPError, _TryAgain) as error:
            words = str(error) or type(error).__name__
            raise Failure(f"the download broke off: {words}", "try again", UNHEALTHY) from None

    def events(self, task_id: str, after: str = "") -> Iterator[StreamEvent]:
        """Every event of a task after the cursor, each once, until the terminal one, whatever
        breaks."""
        return self.follow(f"/v1/mesh/tasks/{task_id}/events", after)

    def follow(self, path: str, after: str = "") -> Iterator[StreamEvent]:
        """The same of any stream of events; one that never ends is left by closing the iterator."""
        cursor = after
        patience = _Patience(self._url, self._on_wait)
        while True:
            opened: list[float] = []
            try:
                for event in self._stream(path, cursor, opened):
                    cursor = event.cursor or cursor
                    patience.progress()
                    yield event
                    if event.terminal:
                        return
                reason = "the stream ended early"
            except _Ended:
                return
            except (httpx.HTTPError, _TryAgain) as error:
                reason = str(error) or type(error).__name__
            if opened and time.monotonic() - opened[0] > HELD_S:
                patience.progress()  # it was there, and had nothing to tell
            patience.wait(reason)

    def _stream(self, path: str, cursor: str, opened: list[float]) -> Iterator[StreamEvent]:
        """``opened``: is given the time at which the gateway answered."""
        headers = {"accept": "text/event-stream"} | ({"last-event-id": cursor} if cursor else {})
        with self._http.stream("GET", path, headers=headers, timeout=_STREAM_TIMEOUT) as response:
            if response.status_code == 204:
                raise _Ended
            if response.status_code != 200:
                response.read()
                _check(response)
            opened.append(time.monotonic())
            yield from parse_sse(response.iter_lines())

    def _call(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        timeout: httpx.Timeout = _TIMEOUT,
    ) -> dict[str, Any]:
        patience = _Patience(self._url, self._on_wait)
        while True:
            try:
                response = self._http.request(
                    method,
                    path,
                    headers=dict(headers or {}),
                    json=body,
                    content=content,
                    timeout=timeout,
                )
                _check(response)
                answer: dict[str, Any] = response.json()
            except (httpx.HTTPError, _TryAgain) as error:
                patience.wait(str(error) or type(error).__name__)
            else:
                return answer


class _TryAgain(Exception):
    pass


class _Ended(Exception):
    pass


class _Patience:
    """Waits longer each time; gives up when nothing went forward for too long."""

    def __init__(self, url: str, on_wait: Callable[[str], None]) -> None:
        self._url = url
        self._on_wait = on_wait
        self.progress()

    def progress(self) -> None:
        self._since = time.monotonic()
        self._delay = 0.2

    def wait(self, reason: str) -> None:
        if time.monotonic() - self._since > PATIENCE_S:
            raise Failure(
                f"the gateway at {self._url} does not answer: {reason}",
                "`maily status` says which part is unwell; `maily up` starts it",
                NOT_RUNNING,
            )
        self._on_wait(reason)
        time.sleep(self._delay * random.uniform(0.5, 1.0))  # noqa: S311  (jitter)
        self._delay = min(3.0, self._delay * 2)


def parse_sse(lines: Iterator[str]) -> Iterator[StreamEvent]:
    """Server-sent events (WHATWG HTML §9.2.6) whose data is our Event as JSON. An event that is
    cut off before its blank line is not one."""
    cursor, kind = "", "message"
    data: list[str] = []
    for line in lines:
        if line == "":
            if data:
                yield _event(cursor, kind, "\n".join(data))
            kind, data = "message", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            cursor = value
        elif name == "event":
            kind = value
        elif name == "data":
            data.append(value)


def _event(cursor: str, kind: str, text: str) -> StreamEvent:
    try:
        body = json.loads(text)
    except ValueError:
        body = {}
    data = body.get("data", body) if isinstance(body, dict) else {}
    return StreamEvent(cursor, kind, data)


def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    try:
        body = response.json()
        message = str(body.get("message", response.text))
        details = body.get("details") or {}
    except ValueError:
        body, message, details = {}, response.text[:300], {}
    words = f"{response.status_code} {message}" + (f" {details}" if details else "")
    if response.status_code in _RETRYABLE:
        raise _TryAgain(words)
    if response.status_code in (401, 403):
        raise Failure(
            f"the gateway refused the key: {message}",
            "use the key in $MAILY_HOME/secrets/api-key, or make one with `maily key create`",
            UNHEALTHY,
        )
    refused = Refused(words)
    refused.answer = body
    raise refused
