"""Tokens: what a stranger may try is refused, what we signed is accepted, also after a rotation."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import OctKey, OKPKey

from mesh.core.clock import VirtualClock
from mesh.core.errors import Forbidden, InvalidInput, Unauthenticated, Unavailable
from mesh.security.keyring import Keyring
from mesh.security.principal import Principal
from mesh.security.scopes import ALL_SCOPES, CHAT_WRITE, MODELS_READ
from mesh.security.tokens import REFRESH_S, TokenService
from mesh.storage.pool import Database

SECRET = b"s" * 32


@dataclass(frozen=True)
class Options:
    token_ttl_s: int = 900
    issuer: str = "maily"
    audience: str = "maily-api"
    clock_skew_s: int = 30


@pytest_asyncio.fixture(loop_scope="session")
async def db(database: Database) -> AsyncIterator[Database]:
    yield database
    await database.fetch("DELETE FROM signing_keys")


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def tokens(db: Database, clock: VirtualClock) -> TokenService:
    return TokenService(db, Options(), SECRET, clock)


@pytest.fixture
def holder() -> Principal:
    return Principal("k1", uuid.uuid4(), frozenset({CHAT_WRITE, MODELS_READ}), "key", "k1")


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any], str]:
    header, payload, signature = token.split(".")
    decoded = [json.loads(base64.urlsafe_b64decode(p + "==")) for p in (header, payload)]
    return decoded[0], decoded[1], signature


async def signed(
    db: Database, header: dict[str, Any] | None = None, claims: dict[str, Any] | None = None
) -> str:
    """A token by our own key, with some parts changed (None: taken out)."""
    keys = await Keyring(db, SECRET).load()
    full_header = {"alg": "EdDSA", "typ": "at+jwt", "kid": keys.signer.kid, **(header or {})}
    full_claims = {
        "iss": "maily",
        "aud": "maily-api",
        "sub": "k1",
        "client_id": "k1",
        "workspace": str(uuid.uuid4()),
        "scope": CHAT_WRITE,
        "iat": 1_700_000_000,
        "exp": 1_700_000_900,
        **(claims or {}),
    }
    clean_header = {k: v for k, v in full_header.items() if v is not None}
    clean_claims = {k: v for k, v in full_claims.items() if v is not None}
    signing = f"{b64(json.dumps(clean_header).encode())}.{b64(json.dumps(clean_claims).encode())}"
    private: Any = keys.signer.private_key
    return f"{signing}.{b64(private.sign(signing.encode()))}"


async def test_what_is_issued_is_verified(tokens: TokenService, holder: Principal) -> None:
    token = await tokens.issue(holder, [CHAT_WRITE])
    principal = await tokens.verify(token)
    assert principal.kind == "token"
    assert principal.scopes == {CHAT_WRITE}
    assert principal.workspace_id == holder.workspace_id
    assert (principal.subject, principal.key_id) == ("k1", "k1")
    assert principal.expires_at == 1_700_000_000 + 900


async def test_the_published_keys_verify_and_hold_nothing_private(
    tokens: TokenService, holder: Principal
) -> None:
    token = await tokens.issue(holder)
    published = await tokens.jwks()
    assert all("d" not in key for key in published["keys"])
    header, _, _ = parts(token)
    (jwk,) = [key for key in published["keys"] if key["kid"] == header["kid"]]
    assert jwk["alg"] == header["alg"] == "EdDSA"
    public: Any = OKPKey.import_key(jwk).public_key
    signing, _, signature = token.rpartition(".")
    public.verify(base64.urlsafe_b64decode(signature + "=="), signing.encode())  # raises if wrong


async def test_our_forge_makes_valid_tokens(tokens: TokenService, db: Database) -> None:
    """Else the refusals below would prove nothing."""
    assert (await tokens.verify(await signed(db))).subject == "k1"


@pytest.mark.parametrize(
    ("header", "claims"),
    [
        ({"alg": "none"}, {}),
        ({"alg": "HS256"}, {}),
        ({"alg": "Ed25519"}, {}),
        ({"alg": None}, {}),
        ({"typ": "JWT"}, {}),
        ({"typ": None}, {}),
        ({"kid": None}, {}),
        ({"kid": "other"}, {}),
        ({"kid": ["a"]}, {}),
        ({"crit": ["exp"]}, {}),
        ({"b64": False, "crit": ["b64"]}, {}),
        ({}, {"iss": "someone"}),
        ({}, {"iss": None}),
        ({}, {"aud": "someone"}),
        ({}, {"aud": ["someone", "else"]}),
        ({}, {"aud": None}),
        ({}, {"exp": None}),
        ({}, {"exp": "1700000900"}),
        ({}, {"exp": 1_700_000_000 - 30}),
        ({}, {"iat": 1_700_000_000 + 31}),
        ({}, {"iat": None}),
        ({}, {"nbf": 1_700_000_000 + 31}),
        ({}, {"sub": None}),
        ({}, {"sub": 1}),
        ({}, {"workspace": "no uuid"}),
        ({}, {"workspace": 1}),
        ({}, {"workspace": None}),
        ({}, {"scope": None}),
        ({}, {"scope": [CHAT_WRITE]}),
        ({}, {"client_id": None}),
    ],
)
async def test_one_wrong_part_is_refused(
    tokens: TokenService, db: Database, header: dict[str, Any], claims: dict[str, Any]
) -> None:
    with pytest.raises(Unauthenticated):
        await tokens.verify(await signed(db, header, claims))


async def test_no_signature_and_foreign_signatures_are_refused(
    tokens: TokenService, holder: Principal
) -> None:
    token = await tokens.issue(holder)
    header, claims, signature = parts(token)
    signing, _, _ = token.rpartition(".")
    none = b64(json.dumps({"alg": "none", "typ": "at+jwt", "kid": header["kid"]}).encode())
    stranger = OKPKey.generate_key("Ed25519")
    foreign: Any = stranger.private_key
    # The classic confusion: HMAC with our public key, which anybody has, as the secret.
    public = base64.urlsafe_b64decode((await tokens.jwks())["keys"][0]["x"] + "==")
    confused = jws.serialize_compact(
        {"alg": "HS256", "typ": "at+jwt", "kid": header["kid"]},
        json.dumps(claims),
        OctKey.import_key(public),
        algorithms=["HS256"],
    )
    embedded = b64(json.dumps({**header, "jwk": stranger.as_dict(private=False)}).encode())
    embedded_signing = f"{embedded}.{signing.split('.')[1]}"
    for forged in (
        f"{signing}.",
        f"{none}.{signing.split('.')[1]}.",
        f"{signing}.{b64(foreign.sign(signing.encode()))}",
        f"{embedded_signing}.{b64(foreign.sign(embedded_signing.encode()))}",
        confused,
        f"{signing}.{signature[::-1]}",
    ):
        with pytest.raises(Unauthenticated):
            await tokens.verify(forged)


@given(text=st.one_of(st.text(max_size=60), st.from_regex(r"[\w-]{0,20}(\.[\w-]{0,20}){1,4}")))
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
async def test_any_text_is_refused_and_nothing_else_is_raised(
    tokens: TokenService, text: str
) -> None:
    with pytest.raises(Unauthenticated):
        await tokens.verify(text)


async def test_a_changed_payload_is_refused(tokens: TokenService, holder: Principal) -> None:
    token = await tokens.issue(holder, [MODELS_READ])
    header, payload, signature = token.split(".")
    _, claims, _ = parts(token)
    more = b64(json.dumps({**claims, "scope": " ".join(ALL_SCOPES)}).encode())
    assert more != payload
    with pytest.raises(Unauthenticated):
        await tokens.verify(f"{header}.{more}.{signature}")
    with pytest.raises(Unauthenticated):
        await tokens.verify("x" * 5_000)


async def test_a_token_expires_with_the_allowed_skew(
    tokens: TokenService, holder: Principal, clock: VirtualClock
) -> None:
    token = await tokens.issue(holder, ttl_s=60)
    await clock.advance(60 + 29)
    await tokens.verify(token)
    await clock.advance(1)
    with pytest.raises(Unauthenticated, match="expired"):
        await tokens.verify(token)


async def test_issuing_never_gives_more_than_the_key_has(
    tokens: TokenService, holder: Principal, clock: VirtualClock
) -> None:
    with pytest.raises(Forbidden) as caught:
        await tokens.issue(holder, ALL_SCOPES)
    assert caught.value.details["scope"] not in holder.scopes
    with pytest.raises(InvalidInput):
        await tokens.issue(holder, ["root"])
    token = await tokens.issue(holder, ttl_s=10**9)
    principal = await tokens.verify(token)
    assert principal.expires_at == clock.now() + 900
    with pytest.raises(Forbidden):
        await tokens.issue(principal)
    dying = Principal("k", holder.workspace_id, holder.scopes, "key", "k", clock.now() + 5)
    assert (await tokens.verify(await tokens.issue(dying))).expires_at == clock.now() + 5
    dead = Principal("k", holder.workspace_id, holder.scopes, "key", "k", clock.now())
    with pytest.raises(InvalidInput):
        await tokens.issue(dead)


async def test_rotation_overlaps(
    db: Database, tokens: TokenService, holder: Principal, clock: VirtualClock
) -> None:
    old = await tokens.issue(holder)
    other = TokenService(db, Options(), SECRET, clock)
    await other.verify(old)
    kid = await tokens.rotate()
    new = await tokens.issue(holder)
    assert parts(new)[0]["kid"] == kid != parts(old)[0]["kid"]
    await clock.advance(2)  # the other process may look for new keys again
    for service in (tokens, other):
        await service.verify(old)
        await service.verify(new)
        assert len((await service.jwks())["keys"]) == 2


async def test_a_retired_key_is_refused_everywhere_and_deleted(
    db: Database, tokens: TokenService, holder: Principal, clock: VirtualClock
) -> None:
    old = await tokens.issue(holder)
    await tokens.rotate()
    await db.fetch("UPDATE signing_keys SET retires_at = now() WHERE retires_at IS NOT NULL")
    await clock.advance(REFRESH_S)
    with pytest.raises(Unauthenticated, match="don't know"):
        await tokens.verify(old)
    await tokens.rotate()
    assert len(await db.fetch("SELECT 1 FROM signing_keys")) == 2


async def test_strangers_with_unknown_kids_do_not_make_us_read_for_each(
    db: Database, tokens: TokenService, monkeypatch: pytest.MonkeyPatch
) -> None:
    await tokens.jwks()
    reads = 0
    load = Keyring.load

    async def counted(self: Keyring) -> Any:
        nonlocal reads
        reads += 1
        return await load(self)

    monkeypatch.setattr(Keyring, "load", counted)
    forged = [await signed(db, {"kid": f"unknown-{i}"}) for i in range(20)]
    reads = 0
    for token in forged:
        with pytest.raises(Unauthenticated):
            await tokens.verify(token)
    assert reads == 0  # the clock stands still: the keys were read less than a second ago


async def test_many_processes_that_start_at_once_make_one_key(
    db: Database, holder: Principal, clock: VirtualClock
) -> None:
    services = [TokenService(db, Options(), SECRET, clock) for _ in range(8)]
    issued = await asyncio.gather(*(service.issue(holder) for service in services))
    assert len({parts(token)[0]["kid"] for token in issued}) == 1
    assert len(await db.fetch("SELECT 1 FROM signing_keys")) == 1


async def test_the_private_key_is_encrypted_with_the_instances_secret(
    db: Database, tokens: TokenService, clock: VirtualClock, holder: Principal
) -> None:
    keys = await Keyring(db, SECRET).load()
    (row,) = await db.fetch("SELECT private_jwk FROM signing_keys")
    private = keys.signer.as_dict(private=True)["d"]
    assert str(private).encode() not in row["private_jwk"]
    with pytest.raises(Unavailable, match="another secret"):
        await TokenService(db, Options(), b"t" * 32, clock).issue(holder)
    with pytest.raises(InvalidInput):
        TokenService(db, Options(), b"short", clock)
