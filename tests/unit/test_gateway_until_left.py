"""Work is awaited until it is done, its time is up, its client leaves or somebody cancels it."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message

from mesh.core.errors import Cancelled, DeadlineExceeded
from serve_apps.gateway.sse import until_left


class Client:
    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}


class Work:
    """Hangs until it is cancelled, unless it shall end; remembers that it was freed."""

    def __init__(self, seconds: float = 60.0) -> None:
        self.seconds = seconds
        self.begun = asyncio.Event()
        self.freed = False

    async def __call__(self) -> str:
        try:
            self.begun.set()
            await asyncio.sleep(self.seconds)
            return "done"
        finally:
            self.freed = True


def cancels() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def test_its_answer_comes_back() -> None:
    assert await until_left(Client().receive, Work(0)(), 5) == "done"


async def test_a_client_that_leaves_frees_it_and_cancels_nothing_else() -> None:
    client, work = Client(), Work()
    asyncio.get_running_loop().call_later(0.01, client.gone.set)
    with pytest.raises(Cancelled):
        await until_left(client.receive, work(), 60)
    assert work.freed
    assert cancels() == 0
    await asyncio.sleep(0.01)  # and goes on


async def test_its_time_is_up() -> None:
    work = Work()
    with pytest.raises(DeadlineExceeded):
        await until_left(Client().receive, work(), 0.01)
    assert work.freed
    assert cancels() == 0


async def test_a_cancel_from_elsewhere_is_obeyed_also_when_the_client_leaves() -> None:
    for leaves in (False, True):
        client, work = Client(), Work()
        task = asyncio.create_task(until_left(client.receive, work(), 60))
        await work.begun.wait()
        if leaves:
            client.gone.set()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert work.freed


async def test_an_error_of_its_own_is_what_is_raised() -> None:
    async def fails() -> None:
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await until_left(Client().receive, fails(), 5)


async def test_a_timeout_inside_is_not_taken_for_ours() -> None:
    async def slow() -> None:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)

    with pytest.raises(TimeoutError):
        await until_left(Client().receive, slow(), 60)


async def test_work_that_turns_the_cancel_into_an_error_leaves_no_trace() -> None:
    client = Client()

    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError("instead") from None

    client.gone.set()
    with pytest.raises(ValueError, match="instead"):
        await until_left(client.receive, stubborn(), 60)
    assert cancels() == 0
