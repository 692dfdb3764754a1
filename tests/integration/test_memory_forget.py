"""Forgetting is real: nothing of it is left in the database's files, the snapshots, the journals.

The server is the test's own, so that its whole data folder can be searched byte by byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import pytest_asyncio
from disk import DiskServer, places
from memory_support import (
    BRAND,
    House,
    asked,
    contact,
    embed_text,
    memory,
    open_house,
    settings_for,
)

from actors.memory_forget import Forgetter
from mesh.contracts.memory import (
    ForgetReceipt,
    ForgetSelector,
    Namespace,
    NamespaceKind,
    Source,
)
from mesh.contracts.tasks import TaskKind
from mesh.core.errors import DeadlineExceeded, NotFound
from mesh.core.ids import uuid7
from mesh.llm.cache.store import Kept
from mesh.llm.call import Call, calling
from mesh.memory.forgetting import authentic
from mesh.storage.migrate import migrate
from mesh.storage.task_rows import NewTask

TEXT = "Zephyrine Quillfeather adores vermilion snapdragons since Michaelmas"
WORDS = ("Zephyrine", "zephyrin", "quillfeather", "vermilion", "snapdragon", "michaelma")
OTHER = "Barnaby Thistlewood prefers cornflowers"
CONVERSATION = Namespace(kind=NamespaceKind.CONVERSATION, id="chat-4711")
CONTACT = contact("zephyrine@quillfeather.example")


@pytest.fixture(scope="module")
def server() -> Iterator[DiskServer]:
    with DiskServer() as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def shared(
    server: DiskServer, valkey_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    await migrate(server.dsn())
    home = tmp_path_factory.mktemp("memory")
    settings = settings_for(server.dsn(), valkey_url, home, snapshot_changes=1)
    async with open_house(settings, "memory-host-0", "memory-host-1") as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="session")
async def house(shared: House) -> House:
    shared.workspace = await shared.new_workspace()
    return shared


async def forget(house: House, **selector: Any) -> ForgetReceipt:
    return await house.client.forget(house.workspace, ForgetSelector(**selector), timeout_s=60)


def traces(text: str) -> list[bytes]:
    """All the ways in which a text and its vector might lie in a file."""
    vector = np.asarray(embed_text(text))
    needles = [text.encode(), text.encode("utf-16-le"), text.casefold().encode()]
    needles += [word.encode() for word in WORDS if word.casefold() in text.casefold()]
    needles += [word.encode("utf-16-le") for word in WORDS if word.casefold() in text.casefold()]
    for dtype in (np.float64, np.float32, np.float16):
        needles.append(vector.astype(dtype).tobytes()[:16])
    return needles


async def salts(house: House, *ids: UUID) -> list[bytes]:
    async with house.context.db.connection() as connection:
        rows = await connection.fetch(
            "SELECT salt FROM memory_keys WHERE id = ANY($1::uuid[])", list(ids)
        )
    return [row["salt"] for row in rows]


async def test_nothing_readable_is_ever_written_and_keys_leave_the_disk(
    house: House, server: DiskServer
) -> None:
    (item,) = await house.remember(
        memory(TEXT, CONTACT, tags=["vermilion"], metadata={"who": "Zephyrine"})
    )
    others = [f"{OTHER} number {n}" for n in range(80)]
    kept = await house.remember(*(memory(text, CONTACT) for text in others))
    for host in house.hosts.hosts.values():
        await host._passes.round()
    await server.flushed()
    (salt,) = await salts(house, item.id)
    (other_salt,) = await salts(house, kept[0].id)
    home = house.context.settings.home
    snapshots = await asyncio.to_thread(lambda: list(home.rglob("*.snapshot")))
    assert snapshots
    readable = (*traces(TEXT), b"zephyrine@quillfeather")
    assert await places(server.data, *readable) == []
    assert await places(home, *readable) == []
    # The search is able to find what is there: the keys, in the table and in the log.
    before = await places(server.data, salt)
    assert {place.split("/")[0] for place in before} == {"base", "pg_wal"}

    receipt = await forget(house, item=item.id)

    assert receipt.scrub is not None
    assert (receipt.scrub.keys, receipt.scrub.log, receipt.scrub.note) == (True, True, None)
    assert await places(server.data, salt) == []
    assert await places(home, salt, *readable) == []
    assert not await asyncio.to_thread(lambda: any(path.exists() for path in snapshots))
    assert await places(server.data, other_salt), "what was not forgotten has its key"
    assert receipt.items == [item.id]
    assert receipt.erased["items"] == receipt.erased["keys"] - receipt.erased["snapshots"] == 1
    assert receipt.erased["index"] == 1
    assert receipt.remaining == 0
    assert str(item.id) in receipt.model_dump_json()
    assert not any(word in receipt.model_dump_json() for word in WORDS)
    answer = await house.recall(asked(TEXT, CONTACT, k=100))
    assert item.id not in {hit.item.id for hit in answer.hits}
    assert len(answer.hits) == 80


async def test_the_receipt_can_be_checked_and_not_forged(house: House) -> None:
    (item,) = await house.remember(memory(TEXT))
    receipt = await forget(house, item=item.id)
    vault = house.client._parts.vault
    again = await house.client.receipt(house.workspace, receipt.id)
    assert authentic(again, vault)
    assert again.remaining == 0
    assert again.hash == receipt.hash
    for change in ({"items": []}, {"erased": {"items": 7}}, {"selector": "x"}):
        assert not authentic(again.model_copy(update=change), vault)
    with pytest.raises(NotFound):
        await house.client.receipt(await house.new_workspace(), receipt.id)
    # A row that comes back (from a backup, say) is seen.
    async with house.context.db.connection() as connection:
        await connection.execute(
            "INSERT INTO memory_keys (bucket, id, salt) VALUES (3, $1, $2)", item.id, b"x" * 32
        )
    assert (await house.client.receipt(house.workspace, receipt.id)).remaining == 1


async def test_what_was_derived_or_merged_goes_along(house: House) -> None:
    (turn,) = await house.remember(memory("I like red tulips.", CONVERSATION))
    (fact,) = await house.remember(
        memory("Anna likes red tulips.", contact("anna"), source=Source(derived_from=[turn.id]))
    )
    (twice,) = await house.remember(
        memory("Recommend red tulips to Anna.", source=Source(derived_from=[fact.id]))
    )
    (bystander,) = await house.remember(memory("Tulips grow in spring."))
    receipt = await forget(house, item=turn.id)
    assert set(receipt.items) == {turn.id, fact.id, twice.id}
    assert (receipt.erased["items"], receipt.erased["derived"]) == (3, 2)
    for gone in (turn, fact, twice):
        with pytest.raises(NotFound):
            await house.client.get(house.workspace, gone.id, timeout_s=5)
    await house.client.get(house.workspace, bystander.id, timeout_s=5)

    first, second = await house.remember(
        memory("Ben really likes blue cornflowers a lot", contact("ben")),
        memory("Blue cornflowers Ben really likes a lot", contact("ben")),
    )
    done = await house.client.consolidate(house.workspace, contact("ben"), timeout_s=20)
    assert done.merged == 1
    receipt = await forget(house, item=first.id)
    assert set(receipt.items) == {first.id, second.id}, "they say the same"


async def test_a_person_is_forgotten_everywhere(house: House) -> None:
    await house.remember(
        memory("Likes tulips.", contact("anna")),
        memory("Anna complained about the delivery.", CONVERSATION, contacts=["anna"]),
        memory("Ben was glad.", CONVERSATION, contacts=["ben"]),
        memory("Likes daisies.", contact("ben")),
    )
    receipt = await forget(house, contact="anna")
    assert receipt.erased["items"] == 2
    assert receipt.erased["namespaces"] == 1
    left = await house.recall(asked("likes complained glad", contact("anna"), CONVERSATION))
    assert [hit.item.text for hit in left.hits] == ["Ben was glad."]
    # The name may be used again, and its receipt still holds.
    await house.remember(memory("A new Anna.", contact("anna")))
    assert (await house.client.receipt(house.workspace, receipt.id)).remaining == 0


async def test_a_namespace_is_forgotten_whole_and_others_stay(house: House) -> None:
    stranger = await house.new_workspace()
    await house.remember(memory("Stays.", contact("anna")), workspace=stranger)
    await house.remember(*(memory(f"Goes {n}.", contact("anna")) for n in range(30)))
    await house.remember(memory("Stays, too."))
    receipt = await forget(house, namespace=contact("anna"))
    assert receipt.erased["items"] == 30
    assert (await house.recall(asked("goes", contact("anna")))).hits == []
    assert (await house.client.stats(house.workspace)).namespaces == 1
    assert len((await house.recall(asked("stays", contact("anna")), stranger)).hits) == 1
    nothing = await forget(house, namespace=contact("anna"))
    assert nothing.erased["items"] == 0
    with pytest.raises(NotFound):
        await forget(house, item=uuid7())
    other = await house.remember(memory("Not yours."), workspace=stranger)
    with pytest.raises(NotFound):
        await forget(house, item=other[0].id)


async def test_tasks_that_read_it_are_blacked_out(house: House) -> None:
    (item,) = await house.remember(memory(TEXT, contact("z")))
    tasks = house.context.tasks
    row, _ = await tasks.create(
        NewTask(
            id=uuid7(),
            workspace_id=house.workspace,
            kind=TaskKind.WRITE_EMAIL,
            request={"kind": "write_email", "brief": {"goal": f"say hello. {TEXT.lower()}!"}},
            deadline_at=datetime.now(UTC) + timedelta(seconds=60),
        )
    )
    with calling(Call(house.workspace, task_id=row.id)):
        await house.recall(asked("vermilion", contact("z")))
    stream = f"maily:stream:{row.id}"
    await house.context.redis.xadd(stream, {"data": TEXT})
    async with house.context.db.connection() as connection:
        await connection.execute(
            """INSERT INTO steps (task_id, name, position, attempt, output, decisions, started_at)
               VALUES ($1, 'strategy', 0, 1, $2, $3, now())""",
            row.id,
            {"angle": [f"because {TEXT}, roses"], "other": "untouched"},
            [{"agent": "a", "what": TEXT.replace(" ", "\n")}],
        )
        await connection.execute(
            "UPDATE tasks SET state = 'cancelled', finished_at = now() WHERE id = $1", row.id
        )
    receipt = await forget(house, item=item.id)
    assert receipt.erased["journal"] == 3
    assert receipt.erased["streams"] == 1
    assert not await house.context.redis.exists(stream)
    (step,) = await tasks.steps(row.id)
    assert step.output == {"angle": ["because [forgotten], roses"], "other": "untouched"}
    assert step.decisions[0]["what"] == "[forgotten]"
    task = await tasks.get(row.id, house.workspace)
    assert task.request["brief"]["goal"] == "say hello. [forgotten]!"


async def test_cached_answers_of_the_workspace_are_gone(house: House) -> None:
    (item,) = await house.remember(memory(TEXT))
    store = house.client._forgetter._parts.journals.answers
    assert store is not None
    epoch, _ = await store.find(house.workspace, "digest")
    assert epoch == 1, "writing counts, too"
    kept = Kept("digest", {"answer": TEXT}, epoch, ttl_s=60.0, max_entries=10)
    await store.put(house.workspace, kept, now=1.0)
    assert (await store.find(house.workspace, "digest"))[1] is not None
    receipt = await forget(house, item=item.id)
    assert receipt.erased["answers"] == 1
    assert await store.find(house.workspace, "digest") == (2, None)
    assert await house.context.redis.keys(f"maily:cache:*{house.workspace}*e:*") == []


async def test_what_was_begun_is_finished_by_others(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    (item,) = await house.remember(memory(TEXT))
    forgetter = house.client._forgetter
    never = asyncio.Event()

    async def stuck(*_: object) -> None:
        await never.wait()

    monkeypatch.setattr(forgetter, "_run", stuck)
    with pytest.raises(DeadlineExceeded) as caught:
        await house.client.forget(house.workspace, ForgetSelector(item=item.id), timeout_s=0.05)
    await forgetter.aclose()  # its process dies
    monkeypatch.undo()
    identity = UUID(caught.value.details["receipt"])
    assert (await house.client.receipt(house.workspace, identity)).remaining == 3  # row, key, index
    other = Forgetter(forgetter._parts)
    assert await other.resume(older_than_s=0.0) == 1
    receipt = await house.client.receipt(house.workspace, identity)
    assert (receipt.remaining, receipt.erased["items"]) == (0, 1)
    assert receipt.finished_at is not None
    assert await other.resume(older_than_s=0.0) == 0


async def test_a_host_that_dies_meanwhile_only_delays_it(house: House) -> None:
    items = await house.remember(*(memory(f"{OTHER} {n}", contact(f"c{n}")) for n in range(8)))
    (source,) = await house.remember(memory("The source of them all."))
    derived = await house.remember(
        *(
            memory(f"derived {n}", contact(f"c{n}"), source=Source(derived_from=[source.id]))
            for n in range(8)
        )
    )
    await house.hosts.kill("memory-host-1")
    forgetting = asyncio.create_task(forget(house, item=source.id))
    await asyncio.sleep(0.1)
    house.hosts.start("memory-host-1")
    receipt = await forgetting
    assert receipt.erased["items"] == 9
    assert receipt.remaining == 0
    for item in derived:
        with pytest.raises(NotFound):
            await house.client.get(house.workspace, item.id, timeout_s=5)
    for item in items:
        await house.client.get(house.workspace, item.id, timeout_s=5)
    assert (await house.recall(asked("source", BRAND))).hits == []
