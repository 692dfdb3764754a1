"""Rubbish in: the right 4xx out, in our shape, and nothing is harmed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import aiohttp

from benchmarks.instance import Instance
from benchmarks.show.mesh_client import submit
from benchmarks.show.table import Claim

MESSAGES = [{"role": "user", "content": "hi"}]


@dataclass(frozen=True, slots=True)
class Case:
    name: str
    path: str
    expect: tuple[int, ...]
    body: bytes = b""
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    names_field: str | None = None


def chat(**fields: Any) -> bytes:
    return json.dumps({"model": "MODEL", "messages": MESSAGES, **fields}).encode()


def cases(model: str) -> list[Case]:
    deep = b'{"model":' + b"[" * 500 + b"]" * 500 + b"}"
    task = {"kind": "write_email", "brief": {"goal": "Sell shoes"}}
    nul = {**task, "brief": {"goal": "Sell \u0000 shoes"}}
    chats = "/v1/chat/completions"
    return [
        Case("malformed JSON", chats, (400,), b'{"model": '),
        Case("not UTF-8", chats, (400,), b'{"model": "\xff\xfe"}'),
        Case("a 10 MB body", chats, (413,), chat(user="x" * 10_000_000)),
        Case("wrong types", chats, (422,), chat(messages="hi"), names_field="messages"),
        Case("unknown field", chats, (422,), chat(tempreature=1), names_field="tempreature"),
        Case("unknown model", chats, (404,), chat(model="no-such-model"), names_field="model"),
        Case("negative max_tokens", chats, (422,), chat(max_tokens=-1), names_field="max_tokens"),
        Case("temperature 99", chats, (422,), chat(temperature=99), names_field="temperature"),
        Case("NUL in a brief", "/v1/mesh/tasks", (400, 422), json.dumps(nul).encode()),
        Case("NUL byte in JSON", "/v1/mesh/tasks", (400,), b'{"kind": "\x00"}'),
        Case("500 levels deep", chats, (400,), deep),
        Case("no body", "/v1/mesh/tasks", (400, 422), b""),
        Case("text instead of JSON", chats, (415,), b"hi", headers={"Content-Type": "text/plain"}),
        Case("no credentials", chats, (401,), chat(), headers={"Authorization": ""}),
        Case("expired token", chats, (401,), chat(), headers={"Authorization": "Bearer EXPIRED"}),
        Case("forged token", chats, (401,), chat(), headers={"Authorization": "Bearer FORGED"}),
        Case("task id of nobody", f"/v1/mesh/tasks/{uuid4()}", (404,), method="GET"),
        Case("task id that is none", "/v1/mesh/tasks/xyz", (422,), method="GET"),
        Case("bad Last-Event-ID", f"/v1/mesh/tasks/{uuid4()}/events", (404, 422), method="GET",
             headers={"Last-Event-ID": "yesterday"}),
        Case("unknown path", "/v1/nothing", (404,), method="GET"),
        Case("wrong method", "/v1/models", (405,), b"{}", method="PUT"),
    ]  # fmt: skip


SHAPE = {"code", "message", "details", "traceId"}


async def run(instance: Instance) -> list[Claim]:
    wrong: list[str] = []
    checked = cases(instance.model)
    async with aiohttp.ClientSession() as session:
        expired = await instance.expired_token()
        for case in checked:
            headers = {
                "Authorization": f"Bearer {instance.key}",
                "Content-Type": "application/json",
                **case.headers,
            }
            headers["Authorization"] = (
                headers["Authorization"]
                .replace("EXPIRED", expired)
                .replace("FORGED", expired[:-8] + "AAAAAAAA")
            )
            if not headers["Authorization"]:
                del headers["Authorization"]
            body = case.body.replace(b'"MODEL"', json.dumps(instance.model).encode())
            try:
                async with session.request(
                    case.method, instance.url + case.path, data=body or None, headers=headers
                ) as response:
                    text = await response.text()
                    status = response.status
            except aiohttp.ClientError as caught:
                wrong.append(f"{case.name}: {caught!r}")
                continue
            problem = judge(case, status, text)
            if problem:
                wrong.append(f"{case.name}: {problem}")
        wrong += await foreign(session, instance)
        async with session.get(instance.url + "/readyz") as response:
            if response.status != 200:
                wrong.append(f"afterwards /readyz answers {response.status}")
    return [
        Claim(
            "bad input: " + ", ".join(case.name for case in checked) + ", foreign task",
            f"{len(checked)} cases and a foreign workspace, {len(wrong)} wrong"
            + "".join(f"; {w}" for w in wrong),
            "the right 4xx in our shape",
            not wrong,
        )
    ]


async def foreign(session: aiohttp.ClientSession, instance: Instance) -> list[str]:
    """Another workspace's key must not see, follow or cancel our task."""
    task = await submit(session, instance, "foreign")
    headers = {"Authorization": f"Bearer {await instance.other_key()}"}
    problems = []
    path = f"/v1/mesh/tasks/{task}"
    for method, url in (("GET", path), ("GET", path + "/events"), ("DELETE", path)):
        case = Case(f"foreign task id: {method} {url[-7:]}", url, (404,), method=method)
        async with session.request(method, instance.url + url, headers=headers) as response:
            if problem := judge(case, response.status, await response.text()):
                problems.append(f"{case.name}: {problem}")
    async with session.get(instance.url + "/v1/mesh/tasks", headers=headers) as response:
        if task in await response.text():
            problems.append("another workspace's list holds our task")
    return problems


def judge(case: Case, status: int, text: str) -> str:
    """What is wrong with an answer; empty when nothing is."""
    if status not in case.expect:
        return f"{status}, not {case.expect}: {text[:120]}"
    try:
        answer = json.loads(text)
    except ValueError:
        return f"not JSON: {text[:120]}"
    if not set(answer) >= SHAPE:
        return f"not our shape: {sorted(answer)}"
    if not re.fullmatch(r"[0-9a-f]{32}", answer["traceId"]):
        return f"traceId {answer['traceId']!r}"
    if "Traceback" in text or 'File "' in text:
        return "a traceback"
    if case.names_field and case.names_field not in text:
        return f"does not name {case.names_field}: {text[:160]}"
    return ""
