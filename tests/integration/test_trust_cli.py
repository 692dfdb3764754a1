"""``maily trust`` before a whole gateway: what it sends, what it shows, how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio
from gateway_support import House, build_house
from streams_support import serving
from trust_memory import MemoryTrust
from typer.testing import CliRunner, Result

from benchmarks.trustworks.papers import mail
from cluster import cli
from cluster.cli import trust_certify
from cluster.failures import NOT_RUNNING, USAGE, Failure
from mesh.contracts.trust import BatchState
from mesh.core.errors import MailyError
from mesh.storage.pool import Database


@dataclass
class Desk:
    house: House
    trust: MemoryTrust
    url: str

    async def run(self, *arguments: str, given: bytes | None = None) -> Result:
        """In a thread: the gateway answers meanwhile."""
        every = ["trust", *arguments, "--url", self.url]
        return await asyncio.to_thread(CliRunner().invoke, cli.app, every, input=given)

    async def told(self, *arguments: str, given: bytes | None = None) -> Any:
        result = await self.run(*arguments, "--json", given=given)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    async def refused(self, *arguments: str, given: bytes | None = None) -> Failure:
        result = await self.run(*arguments, given=given)
        assert isinstance(result.exception, Failure), (result.exception, result.output)
        return result.exception


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(database: Database, valkey_url: str) -> AsyncIterator[House]:
    built = await build_house(database, valkey_url)
    built.gateway.trust = MemoryTrust(built.streams)
    yield built
    await built.gateway.apart.aclose()
    await built.redis.aclose()


@pytest_asyncio.fixture(loop_scope="session")
async def desk(
    house: House, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> AsyncIterator[Desk]:
    monkeypatch.setenv("MAILY_API_KEY", house.key)
    monkeypatch.setenv("MAILY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cli.console.current, "json", False)
    assert isinstance(house.gateway.trust, MemoryTrust)
    async with serving(house.app) as address:
        yield Desk(house, house.gateway.trust, f"http://{address}")


def folder(tmp_path: Path, first: int, count: int) -> str:
    place = tmp_path / f"mails-{first}"
    place.mkdir()
    for number in range(first, first + count):
        (place / f"{number:05}.eml").write_bytes(mail(number=number))
    return str(place)


async def test_a_folder_becomes_a_batch(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust_certify, "PIECE_LINES", 3)
    source, target = folder(tmp_path, 0, 7), tmp_path / "ids.ndjson"
    result = await desk.run("certify", source, "--name", "Spring", "--certificates", str(target))
    assert result.exit_code == 0, result.output
    assert "7 messages certified" in result.stdout
    assert "included" in result.stdout
    ids = [json.loads(line) for line in target.read_text().splitlines()]
    assert [one["index"] for one in ids] == list(range(7))
    batch = list(desk.trust._batches.values())[-1]
    assert (batch.view.name, batch.view.size, batch.view.state) == ("Spring", 7, "included")
    assert batch.recipients[0] == "anna0@example.org"
    shown = (await desk.run("batch", str(batch.view.id))).stdout
    assert f"{batch.view.id}  7 in it" in shown
    listed = (await desk.run("batches", "--limit", "5")).stdout
    assert "included" in listed
    assert str(batch.view.id) in listed, "whole, however narrow the terminal"
    lines = await desk.run("certificates", str(batch.view.id))
    assert [json.loads(line)["id"] for line in lines.stdout.splitlines()] == [
        one["id"] for one in ids
    ]


async def test_a_run_goes_on_under_its_key(desk: Desk, tmp_path: Path) -> None:
    source = folder(tmp_path, 100, 4)
    one = await desk.told("certify", source, "--key", "spring-1", "--keep-open")
    assert (one["batch"]["state"], one["messages"], one["repeated"]) == ("open", 4, 0)
    more = folder(tmp_path, 104, 2)
    two = await desk.told("certify", source, more, "--key", "spring-1")
    assert two["batch"]["id"] == one["batch"]["id"]
    assert (two["messages"], two["repeated"], two["batch"]["size"]) == (6, 4, 6)
    assert len(two["certificates"]) == 6


async def test_single_mails_and_closing_by_hand(desk: Desk) -> None:
    told = await desk.told("certify", "-", "--rolling", given=mail(number=200))
    assert (told["batch"], told["messages"]) == (None, 1)
    shown = await desk.run("show", told["certificates"][0]["id"])
    assert "200.spring@example.com" in shown.stdout
    again = await desk.run("certify", "-", "--rolling", given=mail(number=200))
    assert "1 message certified, 1 of them before" in again.stdout
    assert told["certificates"][0]["id"] in again.stdout
    left = await desk.told("certify", "-", "--keep-open", given=mail(number=201))
    closed = await desk.told("close", left["batch"]["id"])
    assert closed["state"] == "included"


async def test_a_wrong_message_is_named_as_the_user_has_it(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust_certify, "PIECE_LINES", 2)
    source = tmp_path / "lines.ndjson"
    good = [{"message": mail(number=n).decode(), "recipient": "a@b.c"} for n in range(300, 304)]
    lines = [json.dumps(one) for one in good]
    lines[3] = '{"message": "x", "recipient": 5}'
    source.write_text("\n".join(lines))
    failure = await desk.refused("certify", str(source), "--key", "lines-1")
    assert failure.exit_code == USAGE
    assert f"{source}, line 4: recipient" in failure.message
    assert "3 messages before are kept" in failure.message
    assert "--key lines-1" in failure.fix
    source.write_text("\n".join(json.dumps(one) for one in good))
    told = await desk.told("certify", str(source), "--key", "lines-1")
    assert (told["messages"], told["repeated"]) == (4, 3)


async def test_watching_ends_when_it_is_final(desk: Desk) -> None:
    told = await desk.told("certify", "-", given=mail(number=400))
    batch = UUID(told["batch"]["id"])
    watching = asyncio.create_task(desk.run("watch", str(batch)))
    for state in (BatchState.CONFIRMED, BatchState.ORPHANED, BatchState.FINAL):
        await asyncio.sleep(0.1)
        await desk.trust.anchor(batch, state)
    async with asyncio.timeout(20):
        result = await watching
    assert result.exit_code == 0, result.output
    assert "final" in result.stdout
    assert (
        "confirmed" in result.stdout or "orphaned" in result.stdout or "included" in result.stdout
    )
    lines = (await desk.run("watch", str(batch), "--json")).stdout.splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["snapshot"]
    waited = asyncio.create_task(desk.told("certify", "-", "--wait", given=mail(number=401)))
    async with asyncio.timeout(20):
        while not waited.done():
            newest = list(desk.trust._batches.values())[-1]
            if newest.view.state is BatchState.INCLUDED:
                await desk.trust.anchor(newest.view.id, BatchState.FINAL)
            await asyncio.sleep(0.05)
    assert (await waited)["batch"]["state"] == "final"


async def test_taking_back_and_forgetting(desk: Desk) -> None:
    told = await desk.told("certify", "-", given=mail(number=500))
    name = told["certificates"][0]["id"]
    stopped = await desk.run("revoke", name)
    assert stopped.exit_code == 1, "it asks first"
    revoked = await desk.run("revoke", name, "--yes", "--reason", "sent in error")
    assert "revoked" in revoked.stdout
    assert "sent in error" in revoked.stdout
    receipt = await desk.told(
        "forget", "--batch", told["batch"]["id"], "--recipient", "anna500@example.org"
    )
    assert receipt["certificates"] == [name]
    assert "forgotten" in (await desk.run("show", name)).stdout
    gone = await desk.run("forget", name, "--yes")
    assert "1 certificate tells" in gone.stdout


async def test_networks_and_keys(desk: Desk) -> None:
    shown = (await desk.run("networks")).stdout
    assert "local" in shown
    assert "10000" in shown, "coins, not wei"
    assert (await desk.told("networks"))["networks"][0]["balance_wei"] == 10**22
    assert (await desk.run("keys")).stdout.startswith("example.com/trust+")


async def test_wrong_usage_is_told(desk: Desk, tmp_path: Path) -> None:
    empty = tmp_path / "empty.ndjson"
    empty.write_text("\n")
    for arguments in (
        ("certify", str(empty)),
        ("certify", str(tmp_path / "nothing")),
        ("certify", "-", "--rolling", "--name", "x"),
        ("certify", "-", "--keep-open", "--wait"),
        ("forget",),
        ("forget", "x", "--batch", "b", "--recipient", "r"),
        ("certify", str(empty), "--certificates", str(tmp_path)),
    ):
        assert (await desk.refused(*arguments)).exit_code == USAGE, arguments
    result = await desk.run("batch", "../keys")
    assert isinstance(result.exception, MailyError)
    result = await desk.run("batch", str(UUID(int=1)))
    assert isinstance(result.exception, MailyError)


async def test_without_a_gateway_it_says_so(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.client.PATIENCE_S", 0.0)
    desk.url = "http://127.0.0.1:9"
    assert (await desk.refused("networks")).exit_code == NOT_RUNNING
