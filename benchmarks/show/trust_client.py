"""The trust routes, as the demonstrations call them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import aiohttp

from benchmarks.instance import Instance

NDJSON = "application/x-ndjson"


class Refused(RuntimeError):
    """The instance answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text[:300]}")
        self.status = status
        self.text = text


@dataclass(frozen=True, slots=True)
class Trust:
    """Calls one instance as the workspace that has its key."""

    session: aiohttp.ClientSession
    instance: Instance

    async def ask(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """Raises Refused, aiohttp.ClientError, TimeoutError."""
        return json.loads(await self.fetch(method, path, body, **more))

    async def fetch(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        timeout_s: float = 60.0,
        public: bool = False,
        key: str | None = None,
    ) -> bytes:
        """``public``: without a credential. ``key``: an Idempotency-Key."""
        headers = {} if public else self.headers(key)
        async with self.session.request(
            method,
            f"{self.instance.url}{path}",
            json=body,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as response:
            return await _read(response)

    async def send(
        self, path: str, pieces: Iterable[bytes], *, timeout_s: float, key: str | None = None
    ) -> Any:
        """A streaming body of lines, made as it is sent."""

        async def body() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        async with self.session.post(
            f"{self.instance.url}{path}",
            data=body(),
            headers={"content-type": NDJSON, **self.headers(key)},
            timeout=aiohttp.ClientTimeout(total=timeout_s),
        ) as response:
            return json.loads(await _read(response))

    async def patiently(
        self, work: Callable[[], Any], *, until: float, pause_s: float = 0.2
    ) -> Any:
        """Tries again what got no answer or 5xx, 429, until monotonic ``until``."""
        while True:
            try:
                return await work()
            except Refused as refused:
                if (refused.status < 500 and refused.status != 429) or time.monotonic() > until:
                    raise
            except (aiohttp.ClientError, TimeoutError):
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(pause_s)

    async def open(self, name: str, *, key: str | None = None) -> dict[str, Any]:
        path = f"/v1/trust/batches?close=false&name={quote(name)}"
        found = await self.send(path, (), timeout_s=60, key=key)
        return dict(found["batch"])

    async def batch(self, batch: str) -> dict[str, Any]:
        return dict(await self.ask("GET", f"/v1/trust/batches/{batch}"))

    async def close(self, batch: str, *, timeout_s: float = 120.0) -> dict[str, Any]:
        path = f"/v1/trust/batches/{batch}/close"
        return dict(await self.ask("POST", path, timeout_s=timeout_s))

    async def certificates(self, batch: str) -> list[dict[str, Any]]:
        """Every line of a batch: ``index``, ``id``, ``message_id``."""
        path = f"/v1/trust/batches/{batch}/certificates"
        text = await self.fetch("GET", path, timeout_s=300)
        return [json.loads(line) for line in text.splitlines() if line]

    async def view(self, certificate: str) -> dict[str, Any]:
        return dict(await self.ask("GET", f"/v1/trust/certificates/{certificate}", public=True))

    async def form(self, certificate: str, form: str) -> bytes:
        """``json``, ``cbor`` or ``pdf``."""
        return await self.fetch("GET", f"/v1/trust/certificates/{certificate}.{form}", public=True)

    async def networks(self) -> list[dict[str, Any]]:
        found = await self.ask("GET", "/v1/trust/networks", timeout_s=10)
        return list(found["networks"])

    async def keys(self) -> tuple[str, ...]:
        found = await self.ask("GET", "/v1/trust/keys", public=True)
        return tuple(found["keys"])

    async def receipt(self, root: str) -> bytes:
        return await self.fetch("GET", f"/v1/trust/receipts/{root}", public=True)

    async def until_state(
        self, batch: str, state: str, patience_s: float, pause_s: float = 0.2
    ) -> dict[str, Any]:
        """The batch when it is in this state. Raises RuntimeError."""
        until = time.monotonic() + patience_s
        while True:
            view = await self.patiently(lambda: self.batch(batch), until=until)
            if view["state"] == state:
                return dict(view)
            if time.monotonic() > until:
                raise RuntimeError(
                    f"the batch is {view['state']}, not {state}, after {patience_s:.0f} s: "
                    f"{view['reason']} {view['anchors']}"
                )
            await asyncio.sleep(pause_s)

    def headers(self, key: str | None = None) -> dict[str, str]:
        found = {"authorization": f"Bearer {self.instance.key}"}
        return found if key is None else {**found, "idempotency-key": key}


@dataclass(frozen=True, slots=True)
class Told:
    """One event of a batch's stream."""

    at: float
    """Monotonic seconds."""
    cursor: str
    type: str
    data: dict[str, Any]


@dataclass(slots=True)
class Follower:
    """Reads a batch's events live, over as many connections as it takes."""

    trust: Trust
    batch: str
    told: list[Told] = field(default_factory=list)
    new: asyncio.Event = field(default_factory=asyncio.Event)
    connections: int = 0

    @property
    def states(self) -> list[str]:
        """Of the batch, in the order told; a repeat of the same change counts once."""
        seen: dict[int, str] = {}
        for one in self.told:
            if one.type == "trust.batch":
                seen.setdefault(one.data["change"], one.data["state"])
        return list(seen.values())

    async def until(self, state: str, patience_s: float, *, after: int = 0) -> Told:
        """The first event with this state behind the first ``after`` ones. Raises RuntimeError."""
        ends = time.monotonic() + patience_s
        while True:
            self.new.clear()
            for one in self.told[after:]:
                if one.type == "trust.batch" and one.data["state"] == state:
                    return one
            left = ends - time.monotonic()
            if left <= 0:
                raise RuntimeError(
                    f"{state!r} was not told within {patience_s:.0f} s: {self.states}"
                )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.new.wait(), left)

    async def run(self) -> None:
        """Until cancelled."""
        cursor: str | None = None
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, Refused):
                async for frame in self._frames(cursor):
                    cursor = frame.cursor
                    self.told.append(frame)
                    self.new.set()
            await asyncio.sleep(0.1)

    async def _frames(self, cursor: str | None) -> AsyncIterator[Told]:
        headers = {"accept": "text/event-stream", **self.trust.headers()}
        if cursor is not None:
            headers["last-event-id"] = cursor
        self.connections += 1
        async with self.trust.session.get(
            f"{self.trust.instance.url}/v1/trust/batches/{self.batch}/events",
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_read=60),
        ) as response:
            if response.status != 200:
                raise Refused(response.status, await response.text())
            buffer = b""
            async for data in response.content.iter_any():
                *frames, buffer = (buffer + data).split(b"\n\n")
                for frame in frames:
                    found = dict(
                        line.split(b": ", 1) for line in frame.split(b"\n") if b": " in line
                    )
                    if b"id" in found and b"data" in found:
                        body = json.loads(found[b"data"])
                        yield Told(
                            time.monotonic(),
                            found[b"id"].decode(),
                            found.get(b"event", b"").decode(),
                            body.get("data", body),
                        )


async def _read(response: aiohttp.ClientResponse) -> bytes:
    data = await response.read()
    if response.status >= 300:
        raise Refused(response.status, data.decode(errors="replace"))
    return data


@asynccontextmanager
async def following(trust: Trust, batch: str) -> AsyncIterator[Follower]:
    follower = Follower(trust, batch)
    task = asyncio.create_task(follower.run())
    try:
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def trust_of(instance: Instance) -> AsyncIterator[Trust]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Trust(session, instance)
