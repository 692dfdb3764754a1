"""Submitting tasks and reading their events, as the demonstrations need it."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import aiohttp

from benchmarks.instance import Instance

TERMINAL = {b"task.succeeded", b"task.failed", b"task.cancelled", b"error"}


def brief(topic: str) -> dict[str, Any]:
    return {
        "goal": f"Announce our spring sale of running shoes ({topic})",
        "audience": "customers who bought last year",
        "tone": "friendly",
        "links": [{"label": "Shop the sale", "url": "https://shop.example/sale"}],
        "merge_tags": [{"name": "first_name", "fallback": "there"}],
    }


async def submit(
    session: aiohttp.ClientSession,
    instance: Instance,
    topic: str,
    *,
    key: str | None = None,
    patience_s: float = 60.0,
) -> str:
    """POST a task until it is accepted (201 or 202); a repeat carries the same Idempotency-Key,
    so that an answer lost on the way never makes a second task. Returns its id."""
    headers = {
        "Authorization": f"Bearer {instance.key}",
        "Idempotency-Key": key or str(uuid4()),
    }
    loop = asyncio.get_running_loop()
    until = loop.time() + patience_s
    while True:
        problem = ""
        try:
            async with session.post(
                f"{instance.url}/v1/mesh/tasks",
                json={"kind": "write_email", "brief": brief(topic)},
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=15),
            ) as response:
                if response.status in (200, 201, 202):
                    return str((await response.json())["id"])
                problem = f"{response.status}: {(await response.text())[:200]}"
                if response.status < 500 and response.status != 429:
                    raise RuntimeError(problem)
        except (aiohttp.ClientError, TimeoutError) as caught:
            problem = repr(caught)
        if loop.time() > until:
            raise RuntimeError(f"no task was accepted within {patience_s} s: {problem}")
        await asyncio.sleep(0.3)


async def get_task(session: aiohttp.ClientSession, instance: Instance, task: str) -> dict[str, Any]:
    async with session.get(
        f"{instance.url}/v1/mesh/tasks/{task}",
        headers={"Authorization": f"Bearer {instance.key}"},
        timeout=aiohttp.ClientTimeout(total=15),
    ) as response:
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {(await response.text())[:200]}")
        return dict(await response.json())


async def read_events(
    session: aiohttp.ClientSession,
    instance: Instance,
    task: str,
    cursor: str | None,
    limit: int | None = None,
) -> tuple[list[bytes], str | None, bool]:
    """Read SSE frames after ``cursor``; stop after ``limit`` of them by dropping the connection.

    Returns the frames (heartbeats and ``retry`` lines left out), the new cursor, and whether the
    stream ended by a terminal event.
    """
    headers = {"Authorization": f"Bearer {instance.key}", "Accept": "text/event-stream"}
    if cursor is not None:
        headers["Last-Event-ID"] = cursor
    frames: list[bytes] = []
    async with session.get(
        f"{instance.url}/v1/mesh/tasks/{task}/events",
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=None, sock_read=60),
    ) as response:
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {(await response.text())[:200]}")
        buffer = b""
        async for data in response.content.iter_any():
            buffer += data
            while b"\n\n" in buffer:
                frame, buffer = buffer.split(b"\n\n", 1)
                fields = dict(line.split(b": ", 1) for line in frame.split(b"\n") if b": " in line)
                if b"id" not in fields:
                    continue
                frames.append(frame)
                cursor = fields[b"id"].decode()
                if fields.get(b"event") in TERMINAL:
                    return frames, cursor, True
                if limit is not None and len(frames) >= limit:
                    response.close()
                    return frames, cursor, False
    return frames, cursor, False
