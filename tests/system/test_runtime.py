"""The running whole, as its users meet it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import aiohttp
import pytest
from runtime_instance import Runtime

from benchmarks.instance import Instance
from benchmarks.show import bad_input, fuzz, openai_client, resume
from benchmarks.show.lifecycle import clone_processes
from benchmarks.show.mesh_client import get_task, read_events, submit
from benchmarks.show.table import Claim
from cluster.processes import listeners

pytestmark = pytest.mark.runtime


def all_hold(claims: list[Claim]) -> None:
    assert claims
    short = [claim for claim in claims if not claim.holds]
    assert not short, "\n".join(f"{claim.claim}: {claim.figure}" for claim in short)


def test_every_part_is_healthy(runtime: Runtime) -> None:
    status = runtime.status()
    assert status["healthy"], status["parts"]
    assert {part["part"] for part in status["parts"]} >= {
        "postgres", "valkey", "evm", "ray", "llm", "embedder",
        "gateway", "coordinator", "workers", "haproxy",
    }  # fmt: skip


def test_nothing_listens_beyond_loopback(runtime: Runtime) -> None:
    heard = listeners(clone_processes(runtime.status()))
    assert len(heard) >= 8
    assert [f"{one.name} {one.address}:{one.port}" for one in heard if not one.loopback] == []


async def test_the_openai_client_works_unmodified(instance: Instance) -> None:
    all_hold(await openai_client.run(instance))


async def test_readers_that_disconnect_get_the_same_bytes(instance: Instance) -> None:
    all_hold(await resume.run(instance, cuts=10))


async def test_rubbish_gets_the_right_answer(instance: Instance) -> None:
    all_hold(await bad_input.run(instance))


async def test_no_undocumented_answer(instance: Instance) -> None:
    all_hold(await fuzz.run(instance, examples=3, timeout_s=200))


async def test_an_email_is_written(instance: Instance) -> None:
    async with aiohttp.ClientSession() as session:
        task = await submit(session, instance, "one email")
        frames, _, ended = await read_events(session, instance, task, None)
        view = await get_task(session, instance, task)
    assert ended
    assert view["state"] == "succeeded"
    result = view["result"]
    assert "https://shop.example/sale" in result["html"]
    assert "https://shop.example/sale" in result["text"]
    assert len(result["email"]["subject_candidates"]) == 3
    assert next(step["name"] for step in view["steps"]) == "strategy"
    assert all(step["decisions"] for step in view["steps"])
    assert sum(b"event: tokens" in frame for frame in frames) >= 5


async def test_a_running_task_is_cancelled(instance: Instance) -> None:
    headers = {"Authorization": f"Bearer {instance.key}"}
    async with aiohttp.ClientSession() as session:
        task = await submit(session, instance, "cancel me")
        await read_events(session, instance, task, None, limit=4)
        async with session.delete(
            f"{instance.url}/v1/mesh/tasks/{task}", headers=headers
        ) as response:
            assert response.status in (200, 202)
        frames, _, ended = await read_events(session, instance, task, None)
        assert ended
        assert b"event: task.cancelled" in frames[-1]
        assert (await get_task(session, instance, task))["state"] == "cancelled"


async def test_metrics_count_the_whole_node(instance: Instance) -> None:
    headers = {"Authorization": f"Bearer {instance.key}"}
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{instance.url}/v1/models", headers=headers) as response:
            trace = response.headers["traceparent"]
        async with session.get(f"{instance.url}/metrics", headers=headers) as response:
            assert response.status == 200
            text = await response.text()
        async with session.get(f"{instance.url}/metrics") as response:
            assert response.status == 401
    assert len(trace.split("-")) == 4
    assert "maily_requests_total" in text
    assert 'route="/v1/models"' in text
    assert "maily_tasks_total" in text


def test_a_second_up_says_who_is_there(runtime: Runtime) -> None:
    again = runtime.maily("up", "--detach")
    assert again.returncode == 3
    assert str(runtime.status()["pid"]) in again.stdout + again.stderr


def test_write_prints_an_email_and_saves_it(runtime: Runtime) -> None:
    out = runtime.folder / "email.html"
    done = runtime.maily("write", "Invite our customers to a tea tasting", "--out", str(out),
                         "--json", timeout_s=120)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "<html" in out.read_text().lower()
    assert json.loads(done.stdout)["state"] == "succeeded"


def test_keys_are_made_listed_and_revoked(runtime: Runtime) -> None:
    made = json.loads(
        runtime.maily("key", "create", "temporary", "--scope", "models:read", "--json").stdout
    )
    listed = runtime.maily("key", "list", "--json").stdout
    assert made["id"] in listed
    assert made["key"] not in listed
    instance = runtime.instance()

    async def models() -> int:
        headers = {"Authorization": f"Bearer {made['key']}"}
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{instance.url}/v1/models", headers=headers) as response,
        ):
            return response.status

    assert asyncio.run(models()) == 200
    assert runtime.maily("key", "revoke", made["id"], "--json").returncode == 0
    assert asyncio.run(models()) == 401


def test_secrets_stay_out_of_the_logs(runtime: Runtime, instance: Instance) -> None:
    secrets = [instance.key.encode()]
    home = Path(runtime.environ["MAILY_HOME"])
    secrets += [
        path.read_bytes().strip() for path in (home / "secrets").iterdir() if path.is_file()
    ]
    checked = 0
    for log in (home / "logs").rglob("*"):
        if log.is_file():
            content = log.read_bytes()
            checked += 1
            assert not any(secret in content for secret in secrets), log
    assert checked
