"""The clients in examples/ against a real gateway that cuts them off again and again."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.server
import json
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import websockets
from gateway_support import House, build_house
from streams_support import LIMIT_S, new_task, play, serving, text_of

from mesh.contracts.events import EventType
from mesh.storage.pool import Database
from mesh.streams.connect import connect
from mesh.streams.options import StreamOptions
from mesh.streams.valkey import ValkeyStreamLog
from serve_apps.gateway.app import create_app
from serve_apps.gateway.live import LiveStreams

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES / "python"))

from maily_streams import Backoff, StreamError, Streams, events  # noqa: E402

QUICK = Backoff(first_s=0.02, most_s=0.2)
NODE = shutil.which("node")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@pytest_asyncio.fixture
async def house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    redis = connect(valkey_url)
    log = ValkeyStreamLog(redis, StreamOptions(coalesce_s=0.001))
    built = await build_house(database, valkey_url, streams=log)
    yield built
    await built.gateway.live.aclose()
    await log.aclose()
    await redis.aclose()
    await built.redis.aclose()


class Gateways:
    """The same gateway again and again: ``cut`` hands all its streams over to the next."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.cuts = 0
        self._front: asyncio.Server | None = None
        self._app: Any = house.app
        self._live = house.gateway.live
        self.address = ""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app(scope, receive, send)

    def change(self, **gateway: Any) -> None:
        self.house = self.house.changed(**gateway)
        self._app, self._live = self.house.app, self.house.gateway.live

    async def cut(self) -> None:
        live = self._live
        new = replace(self.house.gateway, live=LiveStreams())
        self._app, self._live = create_app(new), new.live
        self.cuts += 1
        await live.drain(spread_s=0)
        await asyncio.sleep(0.05)
        await live.aclose()

    async def aclose(self) -> None:
        await self._live.aclose()


@pytest_asyncio.fixture
async def gateways(house: House) -> AsyncIterator[Gateways]:
    one = Gateways(house)
    async with serving(one) as address:
        one.address = f"http://{address}"
        yield one
    await one.aclose()


async def work_under_cuts(gateways: Gateways, row: Any, cuts: int = 5) -> str:
    """A task's whole life while every connection is cut ``cuts`` times; gives its text."""
    house = gateways.house
    writer = house.streams.writer(str(row.id), 1, workspace=row.workspace_id)
    said = []
    await writer.append(EventType.TASK_STARTED, {"worker": "w"})
    for part in range(cuts):
        for piece in range(30):
            said.append(f"<{part}.{piece}>")
            await writer.token("body", said[-1])
            await asyncio.sleep(0.002)
        await gateways.cut()
        await asyncio.sleep(0.1)
    await writer.append(EventType.TASK_SUCCEEDED, {})
    await writer.aclose()
    return "".join(said)


def check(found: list[dict[str, Any]], text: str) -> None:
    assert text_of(found) == text
    assert found[-1]["type"] == "task.succeeded"
    cursors = [e["cursor"] for e in found]
    assert len(set(cursors)) == len(cursors)


async def test_python_over_a_websocket_and_over_http(gateways: Gateways) -> None:
    row = await new_task(gateways.house)
    tokens = 0

    async def fresh() -> str:
        nonlocal tokens
        tokens += 1
        return gateways.house.key

    async with asyncio.timeout(LIMIT_S), Streams(gateways.address, fresh, QUICK) as streams:

        async def by_socket() -> list[dict[str, Any]]:
            return [event async for event in streams.task(str(row.id))]

        async def by_http() -> list[dict[str, Any]]:
            topics = [f"task:{row.id}"]
            return [e async for e in events(gateways.address, fresh, topics, backoff=QUICK)]

        one, two, text = await asyncio.gather(
            by_socket(), by_http(), work_under_cuts(gateways, row)
        )
        check(one, text)
        check(two, text)
        assert streams.reconnects >= 3
        assert tokens >= 2 * 4


async def test_python_rooms_and_refusals(gateways: Gateways) -> None:
    house = gateways.house
    async with asyncio.timeout(LIMIT_S), Streams(gateways.address, house.key, QUICK) as streams:
        heard = streams.subscribe("room:team.*", after="start")
        cursors = [await streams.publish("team.a", {"n": n}) for n in range(3)]
        assert len(set(cursors)) == 3
        await gateways.cut()
        await streams.publish("team.b", {"n": 3})
        numbers = []
        async for event in heard:
            numbers.append(event["data"]["data"]["n"])
            if numbers[-1] == 3:
                break
        assert numbers == [0, 1, 2, 3]
        with pytest.raises(StreamError) as refused:
            async for _ in streams.subscribe("task:nonsense"):
                pass
        assert refused.value.code == "invalid_input"
        foreign = await new_task(house, house.other)
        with pytest.raises(StreamError) as refused:
            async for _ in streams.task(str(foreign.id)):
                pass
        assert refused.value.code == "not_found"
    async with asyncio.timeout(LIMIT_S), Streams(gateways.address, "nonsense", QUICK) as streams:
        with pytest.raises(StreamError) as refused:
            async for _ in streams.subscribe("workspace:tasks"):
                pass
        assert refused.value.code == "unauthenticated"
    with pytest.raises(StreamError):
        async for _ in events(gateways.address, "nonsense", ["workspace:tasks"]):
            pass


async def test_python_leaves_a_topic_without_stopping_the_others(gateways: Gateways) -> None:
    row, other = await new_task(gateways.house), await new_task(gateways.house)
    async with (
        asyncio.timeout(LIMIT_S),
        Streams(gateways.address, gateways.house.key, QUICK) as streams,
    ):
        left = streams.task(str(other.id))
        assert (await anext(left))["type"] == "task.accepted"
        await left.aclose()  # type: ignore[attr-defined]
        await play(gateways.house, other)
        text = "".join(await play(gateways.house, row))
        check([event async for event in streams.task(str(row.id))], text)


SCRIPT = """
import { Streams, StreamError, events } from "./maily-streams.js";
const [url, key, task, foreign] = process.argv.slice(2);
const options = { firstMs: 20, mostMs: 200 };
let asked = 0;
const token = async () => (asked++, key);
const streams = new Streams(url, token, options);
const collect = async (source) => {
  const found = [];
  for await (const event of source) found.push(event);
  return found;
};
const code = (source) => collect(source).then(() => "none", (error) => error.code);
const refused = new Streams(url, "nonsense", options);
const [socket, http, notFound, invalid, unauthenticated] = await Promise.all([
  collect(streams.task(task)),
  collect(events(url, token, [`task:${task}`], options)),
  code(streams.task(foreign)),
  code(streams.subscribe("nonsense")),
  code(refused.subscribe("workspace:tasks")),
]);
const heard = streams.subscribe("room:js", { after: "start" });
const cursors = [await streams.publish("js", { n: 0 }), await streams.publish("js", { n: 1 })];
const said = [];
for await (const event of heard) if (said.push(event.data.data.n) === 2) break;
const reconnects = streams.reconnects;
streams.close();
refused.close();
const codes = { notFound, invalid, unauthenticated };
console.log(JSON.stringify({ socket, http, codes, cursors, said, reconnects, asked }));
"""


@pytest.mark.skipif(NODE is None, reason="no node here")
async def test_javascript_in_node(gateways: Gateways) -> None:
    row = await new_task(gateways.house)
    foreign = await new_task(gateways.house, gateways.house.other)
    version = await _output(str(NODE), "--version")
    flags = ["--experimental-websocket"] if int(version[1:].split(".")[0]) < 22 else []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("maily-streams.js", "package.json"):
            shutil.copy(EXAMPLES / "javascript" / name, folder)
        script = Path(folder) / "follow.mjs"
        script.write_text(SCRIPT)
        arguments = [gateways.address, gateways.house.key, str(row.id), str(foreign.id)]
        running = asyncio.create_task(
            _output(str(NODE), *flags, "--no-warnings", str(script), *arguments)
        )
        async with asyncio.timeout(LIMIT_S):
            while gateways.house.gateway.streams.statistics()["readers"] < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        text = await work_under_cuts(gateways, row)
        answer = json.loads(await running)
    check(answer["socket"], text)
    check(answer["http"], text)
    assert answer["codes"] == {
        "notFound": "not_found",
        "invalid": "invalid_input",
        "unauthenticated": "unauthenticated",
    }
    assert answer["said"] == [0, 1]
    assert len(set(answer["cursors"])) == 2
    assert answer["reconnects"] >= 3
    assert answer["asked"] >= 8


async def _output(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(3 * LIMIT_S):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-2_000:]
    return out.decode()


@contextlib.contextmanager
def page_server() -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(EXAMPLES / "javascript"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


class Page:
    """A page of a headless Chromium, spoken to by its DevTools protocol."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._number = 0

    async def ask(self, method: str, **params: Any) -> Any:
        self._number += 1
        await self._socket.send(
            json.dumps({"id": self._number, "method": method, "params": params})
        )
        while True:
            answer = json.loads(await self._socket.recv())
            if answer.get("id") == self._number:
                return answer["result"]

    async def run(self, script: str) -> Any:
        answer = await self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")


@contextlib.asynccontextmanager
async def chromium(url: str) -> AsyncIterator[Page]:
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--remote-debugging-port=0",
    ]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            str(CHROMIUM),
            *flags,
            f"--user-data-dir={profile}",
            url,
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
        )
        assert process.stderr is not None
        try:
            async with asyncio.timeout(3 * LIMIT_S):
                found = None
                while found is None:
                    line = (await process.stderr.readline()).decode()
                    found = re.search(r"ws://(127\.0\.0\.1:\d+)/", line)
                drain = asyncio.create_task(process.stderr.read())
                async with httpx.AsyncClient(trust_env=False) as client:
                    target = None
                    while target is None:
                        pages = (await client.get(f"http://{found[1]}/json")).json()
                        target = next((p for p in pages if p["url"].startswith(url)), None)
            async with websockets.connect(
                target["webSocketDebuggerUrl"], max_size=None, ping_interval=None
            ) as socket:
                yield Page(socket)
            drain.cancel()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")
async def test_the_page_shows_a_task_live_through_cuts(gateways: Gateways) -> None:
    with page_server() as origin:
        gateways.change(cors_origins=(origin,))
        async with chromium(f"{origin}/demo.html") as page, asyncio.timeout(3 * LIMIT_S):
            ready = "document.readyState === 'complete' && !!document.querySelector('[name=url]')"
            while not await page.run(ready):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            key = json.dumps(gateways.house.key)
            await page.run(f"document.querySelector('[name=url]').value = '{gateways.address}'")
            await page.run(f"document.querySelector('[name=key]').value = {key}")
            await page.run("document.querySelector('form').requestSubmit()")
            principal = await gateways.house.keys.verify(gateways.house.key)
            row = None
            while row is None:
                rows = await gateways.house.tasks.list(principal.workspace_id, limit=50)
                row = next((r for r in rows if r.request.get("brief")), None)
                await asyncio.sleep(0.05)
            while gateways.house.gateway.streams.statistics()["readers"] < 1:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            text = await work_under_cuts(gateways, row, cuts=3)
            status = ""
            while "succeeded" not in status or "reconnects" not in status:
                status = await page.run("document.querySelector('[role=status]').textContent")
                await asyncio.sleep(0.05)
            shown = await page.run("document.querySelector('pre').textContent")
            assert shown == text
            assert int(re.findall(r"(\d+) reconnects", status)[0]) >= 2
