"""Work in a process apart: answers, deadlines, deaths, a short queue, no secrets."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from gateway_support import until

from benchmarks.trustworks.papers import KEY, batch, mail
from mesh.core.errors import (
    DeadlineExceeded,
    Internal,
    InvalidInput,
    Overloaded,
    Unavailable,
)
from mesh.trust.apart import Desk
from serve_apps.gateway.apart import Apart, ApartOptions

NOTHING = {"receipt": None, "revocations": [], "sightings": [], "networks": 1}
SLOW = b"From: a@b.c\r\nContent-Type: text/html\r\n\r\n" + b"<a b=c>https://x.org </a> " * 800_000
"""Takes five seconds and more to canonicalise."""


@pytest_asyncio.fixture
async def apart() -> AsyncIterator[Apart]:
    opened = Apart(ApartOptions(workers=1, queue=1, timeout_s=20.0))
    yield opened
    await opened.aclose()


def child_of(apart: Apart) -> int:
    ((child),) = [*apart._idle, *apart._held.values()]
    return child.pid


def environment(pid: int) -> bytes:
    return Path(f"/proc/{pid}/environ").read_bytes()


async def test_one_process_works_for_one_caller_after_the_other(apart: Apart) -> None:
    made = batch([mail(number=1), mail(number=2)])
    for at in (0, 1):
        async with apart.session() as session:
            found = await session.ask("open", message=made.mails[at], look=True)
            assert found == {"certificate": None, "links": []}
            verdict = await session.ask(
                "verify",
                certificate=made.certificates[at].to_json(),
                recipient=None,
                keys=[str(KEY.verifier)],
                **NOTHING,
            )
        assert (verdict["level"], verdict["holds"], verdict["index"]) == ("exact", True, at)
        assert verdict["root"] == made.tree.root
    assert apart.statistics()["started"] == 1


async def test_it_holds_no_secret(apart: Apart, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILY_SECURITY__SECRET", "a secret that must not be there")
    monkeypatch.setenv("MAILY_INSTANCE", "test-instance")
    await apart.once("badge", form="svg", host="example.com", theme="light", scale=1)
    environ = environment(child_of(apart))
    assert b"a secret that must" not in environ
    assert b"MAILY_INSTANCE=test-instance" in environ
    assert b"SECRET" not in environ.upper()


async def test_what_takes_too_long_is_ended() -> None:
    apart = Apart(ApartOptions(timeout_s=2.0))
    with pytest.raises(DeadlineExceeded):
        await apart.once("open", message=SLOW, look=True)
    assert apart.statistics()["killed"] == 1
    found = await apart.once("open", message=b"From: a@b.c\r\n\r\nx", look=True)
    assert found["certificate"] is None, "the next request gets a new process"
    await apart.aclose()


async def test_a_request_that_is_given_up_holds_nothing(apart: Apart) -> None:
    asking = asyncio.create_task(apart.once("open", message=SLOW, look=True))
    await until(lambda: bool(apart._held))
    pid = child_of(apart)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert not psutil.pid_exists(pid)
    assert (await apart.once("open", message=b"x", look=False))["links"] == []


async def test_a_process_that_dies_is_replaced(apart: Apart) -> None:
    await apart.once("open", message=b"x", look=False)
    os.kill(child_of(apart), signal.SIGKILL)
    psutil.wait_procs([psutil.Process(child_of(apart))], timeout=5)
    await apart.once("open", message=b"x", look=False)
    asking = asyncio.create_task(apart.once("open", message=SLOW, look=True))
    await until(lambda: bool(apart._held))
    os.kill(child_of(apart), signal.SIGKILL)
    with pytest.raises(Unavailable):
        await asking
    await apart.once("open", message=b"x", look=False)


async def test_a_full_queue_refuses(apart: Apart) -> None:
    async with apart.session():
        second = asyncio.create_task(apart.once("open", message=b"x", look=False))
        await asyncio.sleep(0)
        assert apart.statistics()["waiting"] == 1
        with pytest.raises(Overloaded):
            await apart.once("open", message=b"x", look=False)
    await second
    assert apart.statistics()["refused"] == 1


async def test_it_ends_with_its_owner() -> None:
    apart = Apart()
    await apart.once("open", message=b"x", look=False)
    pid = child_of(apart)
    await apart.aclose()
    assert not psutil.pid_exists(pid)
    with pytest.raises(Unavailable):
        await apart.once("open", message=b"x", look=False)


async def test_wrong_requests_end_nothing(apart: Apart) -> None:
    for _ in range(2):
        with pytest.raises(InvalidInput) as caught:
            await apart.once("verify", certificate=b"{}", recipient=None, keys=["wrong"], **NOTHING)
        assert caught.value.details["field"] == "message"
        with pytest.raises(InvalidInput):
            await apart.once("qr", form="png", text="x" * 9_000, whole=False, pixels=None)
        with pytest.raises(Internal):
            await apart.once("nothing that it knows")
    assert apart.statistics()["started"] == 1


def test_a_certificate_is_found_in_the_message() -> None:
    made = batch([mail(number=1)])
    linked = mail(f"<p>https://a.example/verify/{'b' * 32}</p>")
    desk = Desk()
    found = desk.answer({"do": "open", "message": linked, "look": True})["good"]
    assert found["links"] == [["https://a.example", "b" * 32]]
    told = desk.answer({"do": "open", "message": made.mails[0], "look": False})
    assert told == {"good": {"certificate": None, "links": []}}
