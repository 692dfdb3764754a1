"""Idempotency-Keys: the first answer is given again, two requests never run at once."""

from __future__ import annotations

import asyncio
import hashlib
import uuid

import pytest

from mesh.core.errors import Conflict, IdempotencyMismatch
from mesh.storage.idempotency import MAX_BODY_BYTES, IdempotencyRepository, Stored
from mesh.storage.pool import Database

HASH = hashlib.sha256(b"body").digest()
OTHER = hashlib.sha256(b"other body").digest()
ROUTE = "/v1/chat/completions"


@pytest.fixture
def repository(database: Database) -> IdempotencyRepository:
    return IdempotencyRepository(database)


@pytest.fixture
def workspace() -> uuid.UUID:
    return uuid.uuid4()


async def lapse(database: Database, workspace: uuid.UUID) -> None:
    await database.fetch(
        "UPDATE idempotency SET locked_until = now() - interval '1s' WHERE workspace_id = $1",
        workspace,
    )


async def complete(
    repository: IdempotencyRepository, workspace: uuid.UUID, body: bytes = b"{}"
) -> None:
    await repository.complete(
        workspace, ROUTE, "k", status=200, content_type="application/json", body=body
    )


async def test_the_first_answer_is_given_again(
    repository: IdempotencyRepository, workspace: uuid.UUID
) -> None:
    assert await repository.begin(workspace, ROUTE, "k", HASH, 60) is None
    await complete(repository, workspace, b"\x00first")
    await complete(repository, workspace, b"second")
    stored = await repository.begin(workspace, ROUTE, "k", HASH, 60)
    assert stored == Stored(200, "application/json", b"\x00first")


async def test_another_body_under_the_same_key_is_refused(
    repository: IdempotencyRepository, workspace: uuid.UUID, database: Database
) -> None:
    await repository.begin(workspace, ROUTE, "k", HASH, 60)
    with pytest.raises(IdempotencyMismatch):
        await repository.begin(workspace, ROUTE, "k", OTHER, 60)
    await lapse(database, workspace)
    with pytest.raises(IdempotencyMismatch):
        await repository.begin(workspace, ROUTE, "k", OTHER, 60)
    await complete(repository, workspace)
    with pytest.raises(IdempotencyMismatch):
        await repository.begin(workspace, ROUTE, "k", OTHER, 60)


async def test_while_the_first_runs_others_are_told_when_to_come_back(
    repository: IdempotencyRepository, workspace: uuid.UUID
) -> None:
    await repository.begin(workspace, ROUTE, "k", HASH, 60)
    with pytest.raises(Conflict) as caught:
        await repository.begin(workspace, ROUTE, "k", HASH, 60)
    assert caught.value.retry_after_s is not None
    assert 1 <= caught.value.retry_after_s <= 5


async def test_keys_routes_and_workspaces_do_not_touch(
    repository: IdempotencyRepository, workspace: uuid.UUID
) -> None:
    await repository.begin(workspace, ROUTE, "k", HASH, 60)
    await complete(repository, workspace)
    assert await repository.begin(workspace, ROUTE, "k2", OTHER, 60) is None
    assert await repository.begin(workspace, "/v1/embeddings", "k", OTHER, 60) is None
    assert await repository.begin(uuid.uuid4(), ROUTE, "k", OTHER, 60) is None


async def test_an_abandoned_key_and_a_dead_holders_key_are_free(
    repository: IdempotencyRepository, workspace: uuid.UUID, database: Database
) -> None:
    await repository.begin(workspace, ROUTE, "k", HASH, 60)
    await repository.abandon(workspace, ROUTE, "k")
    assert await repository.begin(workspace, ROUTE, "k", OTHER, 60) is None
    await lapse(database, workspace)
    assert await repository.begin(workspace, ROUTE, "k", OTHER, 60) is None


async def test_abandoning_too_late_keeps_the_answer(
    repository: IdempotencyRepository, workspace: uuid.UUID
) -> None:
    await repository.begin(workspace, ROUTE, "k", HASH, 60)
    await complete(repository, workspace)
    await repository.abandon(workspace, ROUTE, "k")
    assert await repository.begin(workspace, ROUTE, "k", HASH, 60) is not None


async def test_of_many_at_once_one_goes_on(
    repository: IdempotencyRepository, workspace: uuid.UUID
) -> None:
    outcomes = await asyncio.gather(
        *(repository.begin(workspace, ROUTE, "k", HASH, 60) for _ in range(20)),
        return_exceptions=True,
    )
    assert outcomes.count(None) == 1
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 19


async def test_an_answer_too_large_is_not_kept(
    repository: IdempotencyRepository, workspace: uuid.UUID
) -> None:
    await repository.begin(workspace, ROUTE, "k", HASH, 60)
    await complete(repository, workspace, b"x" * (MAX_BODY_BYTES + 1))
    assert await repository.begin(workspace, ROUTE, "k", HASH, 60) is None


async def test_the_sweep_takes_old_ones_but_no_running_one(
    repository: IdempotencyRepository, workspace: uuid.UUID, database: Database
) -> None:
    for key in ("old", "old-running", "new"):
        await repository.begin(workspace, ROUTE, key, HASH, 60 if "running" in key else 0)
    await database.fetch(
        "UPDATE idempotency SET created_at = now() - interval '2 days'"
        " WHERE workspace_id = $1 AND key LIKE 'old%'",
        workspace,
    )
    assert await repository.sweep() == 1
    rows = await database.fetch("SELECT key FROM idempotency WHERE workspace_id = $1", workspace)
    assert {row["key"] for row in rows} == {"old-running", "new"}
