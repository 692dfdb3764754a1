"""Keys that sign checkpoints: one for all who start at once, sealed, rotated with an overlap."""

from __future__ import annotations

import asyncio

import pytest

from mesh.core.errors import Unavailable
from mesh.storage.pool import Database
from mesh.storage.trust_keys import TrustKeys
from mesh.trust.checkpoint import Checkpoint, SigningKey, read, sign

SECRET = b"a secret of more than thirty-two bytes for tests"
NAME = "shop.example/trust"


def keys_of(database: Database, secret: bytes = SECRET, name: str = NAME) -> TrustKeys:
    return TrustKeys(database, secret, name)


async def test_many_first_users_make_one_key(database: Database) -> None:
    found = await asyncio.gather(*(keys_of(database).signers() for _ in range(8)))
    assert len({key.seed for (key,) in found}) == 1
    row = await database.fetchrow("SELECT * FROM trust_keys WHERE name = $1", NAME)
    assert row is not None
    seed = found[0][0].seed
    assert seed not in row["private"]
    assert SigningKey(NAME, seed).verifier.public == row["public"]


async def test_a_rotation_overlaps_and_a_retired_key_signs_no_more(database: Database) -> None:
    keys = keys_of(database, name="two.example/trust")
    (first,) = await keys.signers()
    made, _ = await keys.rotate(retire=False)
    signers = await keys.signers()
    assert [key.verifier.public for key in signers] == [made.key.public, first.verifier.public]
    checkpoint = Checkpoint.of("two.example/trust", 3, bytes(range(32)))
    note = read(sign(checkpoint, signers))
    # Who knows only the old key, or only the new one, finds a signature.
    assert note.signers([first.verifier])
    assert note.signers([made.key])

    last, every = await keys.rotate(retire=True)
    assert [key.verifier for key in await keys.signers()] == [last.key]
    own = [item for item in every if item.key.name == "two.example/trust"]
    assert [item.retired_at is None for item in own] == [True, False, False]
    row = await database.fetchrow(
        "SELECT private FROM trust_keys WHERE public = $1", first.verifier.public
    )
    assert row is not None
    assert row["private"] is None


async def test_another_secret_reads_no_key(database: Database) -> None:
    await keys_of(database, name="three.example/trust").signers()
    other = keys_of(database, SECRET + b"!", "three.example/trust")
    with pytest.raises(Unavailable, match="another secret"):
        await other.signers()
