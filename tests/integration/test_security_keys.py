"""API keys against a real database."""

from __future__ import annotations

import uuid

import pytest

from mesh.core.clock import VirtualClock
from mesh.core.errors import InvalidInput, NotFound, Unauthenticated
from mesh.security.keys import KeyService
from mesh.security.scopes import ALL_SCOPES, CHAT_WRITE, MODELS_READ
from mesh.storage.pool import Database


def _name() -> str:
    return f"w-{uuid.uuid4().hex}"


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def keys(database: Database, clock: VirtualClock) -> KeyService:
    return KeyService(database, clock)


async def test_a_key_is_verified_and_its_secret_is_nowhere(
    keys: KeyService, database: Database
) -> None:
    new = await keys.create(_name(), "ci", [CHAT_WRITE, MODELS_READ])
    principal = await keys.verify(new.key)
    assert principal.subject == principal.key_id == new.id
    assert principal.kind == "key"
    assert principal.scopes == {CHAT_WRITE, MODELS_READ}
    assert principal.workspace_id == new.info.workspace_id
    assert principal.expires_at is None
    secret = new.key.split("_")[2]
    assert secret not in repr(new)
    rows = await database.fetch("SELECT k::text AS dump FROM api_keys AS k WHERE id = $1", new.id)
    assert secret not in rows[0]["dump"]


@pytest.mark.parametrize("position", [0, 3, 18, 19, 20, 50, -1])
async def test_one_wrong_character_is_refused(keys: KeyService, position: int) -> None:
    key = (await keys.create(_name(), "k", ALL_SCOPES)).key
    other = "1" if key[position] == "0" else "0"
    index = position % len(key)
    with pytest.raises(Unauthenticated):
        await keys.verify(key[:index] + other + key[index + 1 :])


@pytest.mark.parametrize("text", ["", "mk_", "mk_x_y", "sk-123", "mk_\x00", "mk_" + "0" * 100_000])
async def test_what_is_no_key_is_refused(keys: KeyService, text: str) -> None:
    with pytest.raises(Unauthenticated):
        await keys.verify(text)


async def test_a_key_expires(keys: KeyService, clock: VirtualClock) -> None:
    new = await keys.create(_name(), "short", [CHAT_WRITE], expires_in_s=10)
    await clock.advance(9.9)
    assert (await keys.verify(new.key)).expires_at == pytest.approx(clock.now() + 0.1)
    await clock.advance(0.1)
    with pytest.raises(Unauthenticated, match="expired"):
        await keys.verify(new.key)


async def test_a_revoked_key_is_refused_and_the_first_time_stays(
    keys: KeyService, clock: VirtualClock
) -> None:
    new = await keys.create(_name(), "k", [CHAT_WRITE])
    first = await keys.revoke(new.id)
    await clock.advance(60)
    assert (await keys.revoke(new.id)).revoked_at == first.revoked_at
    with pytest.raises(Unauthenticated, match="revoked"):
        await keys.verify(new.key)
    with pytest.raises(NotFound):
        await keys.revoke("0" * 16)


async def test_last_use_is_noted_at_most_once_a_minute(
    keys: KeyService, clock: VirtualClock
) -> None:
    workspace = _name()
    new = await keys.create(workspace, "k", [CHAT_WRITE])
    assert new.info.last_used_at is None
    seen = []
    for _ in range(3):
        await keys.verify(new.key)
        (info,) = await keys.list(workspace)
        seen.append(info.last_used_at)
        await clock.advance(40)
    assert seen[0] == seen[1] != seen[2]


async def test_workspaces_are_made_once_and_listed_apart(keys: KeyService) -> None:
    one, other = _name(), _name()
    assert await keys.ensure_workspace(one) == await keys.ensure_workspace(one)
    first = await keys.create(one, "a", [CHAT_WRITE])
    second = await keys.create(one, "b", [CHAT_WRITE])
    third = await keys.create(other, "c", [CHAT_WRITE])
    assert {info.id for info in await keys.list(one)} == {first.id, second.id}
    assert {first.id, second.id, third.id} <= {info.id for info in await keys.list()}


async def test_bad_wishes_are_named(keys: KeyService) -> None:
    for arguments, field in [
        (("", "k", [CHAT_WRITE]), "workspace"),
        ((_name(), "k\x00", [CHAT_WRITE]), "name"),
        ((_name(), "k", ["root"]), "scopes"),
        ((_name(), "k", [CHAT_WRITE], 0), "expires_in_s"),
        ((_name(), "k", [CHAT_WRITE], float("nan")), "expires_in_s"),
    ]:
        with pytest.raises(InvalidInput) as caught:
            await keys.create(*arguments)
        assert caught.value.details["field"] == field


async def test_a_scope_that_no_longer_exists_gives_nothing(
    keys: KeyService, database: Database
) -> None:
    new = await keys.create(_name(), "old", [CHAT_WRITE])
    await database.fetch(
        "UPDATE api_keys SET scopes = scopes || ARRAY['gone:write'] WHERE id = $1", new.id
    )
    assert (await keys.verify(new.key)).scopes == {CHAT_WRITE}
