"""API keys: ``mk_<id>_<secret>``. The secret is shown once; the database knows its hash alone.

The secret is 256 random bits, so one SHA-256 is as good as a slow hash: there is no list of likely
ones to try. The same key is an OAuth client: ``client_id`` is its id, ``client_secret`` the key.
"""

from __future__ import annotations

import builtins
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from mesh.core.clock import Clock
from mesh.core.errors import InvalidInput, NotFound, Unauthenticated
from mesh.core.ids import uuid7
from mesh.security.principal import Principal
from mesh.security.scopes import ALL_SCOPES, known_scopes
from mesh.storage.pool import Connection, Database

_KEY = re.compile(r"mk_([0-9a-f]{16})_([0-9a-f]{64})")
_NO_SUCH_HASH = bytes(32)
MAX_LIFETIME_S = 10 * 365 * 86_400

# Last use is noted at most once a minute: reads must not turn into a write each.
LAST_USED_STEP_S = 60.0

_ENSURE_WORKSPACE = "INSERT INTO workspaces (id, name) VALUES ($1, $2) ON CONFLICT DO NOTHING"
_WORKSPACE = "SELECT id FROM workspaces WHERE name = $1"
_WORKSPACE_EXISTS = "SELECT EXISTS (SELECT FROM workspaces WHERE id = $1)"
_COLUMNS = """
SELECT api_keys.*, workspaces.name AS workspace
FROM api_keys JOIN workspaces ON workspaces.id = api_keys.workspace_id
"""
_CREATE = """
INSERT INTO api_keys (id, workspace_id, name, secret_hash, scopes, created_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (id) DO NOTHING
"""
_GET = _COLUMNS + "WHERE api_keys.id = $1"
_LIST = _COLUMNS + "ORDER BY api_keys.created_at, api_keys.id"
_LIST_BY_NAME = _COLUMNS + "WHERE workspaces.name = $1 ORDER BY api_keys.created_at, api_keys.id"
_LIST_BY_ID = _COLUMNS + "WHERE workspaces.id = $1 ORDER BY api_keys.created_at, api_keys.id"
_REVOKE = "UPDATE api_keys SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1 RETURNING id"
_USED = "UPDATE api_keys SET last_used_at = $2 WHERE id = $1"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """What may be shown of a key."""

    id: str
    workspace: str
    workspace_id: UUID
    name: str
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To within a minute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A fresh key: the only time that ``key`` is seen."""

    key: str
    info: KeyInfo

    @property
    def id(self) -> str:
        return self.info.id

    def __repr__(self) -> str:  # a log line must not hold the secret
        return f"NewKey(id={self.id!r})"


def _info(record: asyncpg.Record) -> KeyInfo:
    return KeyInfo(
        id=record["id"],
        workspace=record["workspace"],
        workspace_id=record["workspace_id"],
        name=record["name"],
        scopes=frozenset(record["scopes"]) & ALL_SCOPES,
        created_at=record["created_at"],
        expires_at=record["expires_at"],
        revoked_at=record["revoked_at"],
        last_used_at=record["last_used_at"],
    )


def _check_name(value: str, field: str) -> None:
    if not 1 <= len(value) <= 100 or not value.isprintable():
        raise InvalidInput(f"{field}: 1 to 100 printable characters.", {"field": field})


class KeyService:
    def __init__(self, db: Database, clock: Clock) -> None:
        self._db = db
        self._clock = clock

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock.now(), UTC)

    async def ensure_workspace(self, name: str) -> UUID:
        """The workspace of that name; made when there is none."""
        _check_name(name, "workspace")

        async def work(connection: Connection) -> UUID:
            await connection.execute(_ENSURE_WORKSPACE, uuid7(), name)
            found: UUID = await connection.fetchval(_WORKSPACE, name)
            return found

        return await self._db.transact(work)

    async def workspace_exists(self, workspace_id: UUID) -> bool:
        record = await self._db.fetchrow(_WORKSPACE_EXISTS, workspace_id)
        return record is not None and bool(record["exists"])

    async def create(
        self,
        workspace: str | UUID,
        name: str,
        scopes: Iterable[str],
        expires_in_s: float | None = None,
    ) -> NewKey:
        """A new key for the workspace of that name (made when there is none) or of that id.

        Raises InvalidInput (unknown scope, bad name, lifetime not in (0, ten years]).
        """
        granted = known_scopes(scopes)
        _check_name(name, "name")
        if expires_in_s is not None and not 0 < expires_in_s <= MAX_LIFETIME_S:
            raise InvalidInput(
                f"expires_in_s: more than 0, at most {MAX_LIFETIME_S}.", {"field": "expires_in_s"}
            )
        if isinstance(workspace, UUID):
            workspace_id = workspace
        else:
            workspace_id = await self.ensure_workspace(workspace)
        key_id, secret = secrets.token_hex(8), secrets.token_hex(32)
        now = self._now()
        await self._db.fetch(
            _CREATE,
            key_id,
            workspace_id,
            name,
            _hash(secret),
            sorted(granted),
            now,
            None if expires_in_s is None else now + timedelta(seconds=expires_in_s),
        )
        return NewKey(key=f"mk_{key_id}_{secret}", info=await self.info(key_id))

    async def verify(self, key: str) -> Principal:
        """Raises Unauthenticated. Takes as long for an unknown id as for a wrong secret."""
        match = _KEY.fullmatch(key)
        if match is None:
            raise Unauthenticated("This is not an API key (mk_…).")
        key_id, secret = match.groups()
        record = await self._db.fetchrow(_GET, key_id)
        expected = _NO_SUCH_HASH if record is None else record["secret_hash"]
        same = hmac.compare_digest(_hash(secret), expected)
        if record is None or not same:
            raise Unauthenticated("The API key is not known.")
        # Only who knows the secret learns the rest.
        now = self._now()
        expires_at: datetime | None = record["expires_at"]
        if record["revoked_at"] is not None:
            raise Unauthenticated("The API key was revoked.")
        if expires_at is not None and expires_at <= now:
            raise Unauthenticated("The API key has expired.")
        used: datetime | None = record["last_used_at"]
        if used is None or (now - used).total_seconds() >= LAST_USED_STEP_S:
            await self._db.fetch(_USED, key_id, now)
        info = _info(record)
        return Principal(
            subject=key_id,
            workspace_id=info.workspace_id,
            scopes=info.scopes,
            kind="key",
            key_id=key_id,
            expires_at=None if expires_at is None else expires_at.timestamp(),
        )

    async def info(self, key_id: str) -> KeyInfo:
        """Raises NotFound."""
        record = await self._db.fetchrow(_GET, key_id)
        if record is None:
            raise NotFound("There is no such key.", {"id": key_id[:100]})
        return _info(record)

    async def list(self, workspace: str | UUID | None = None) -> builtins.list[KeyInfo]:
        """All keys (of the workspace of that name or id), oldest first, revoked ones too."""
        if workspace is None:
            records = await self._db.fetch(_LIST)
        elif isinstance(workspace, UUID):
            records = await self._db.fetch(_LIST_BY_ID, workspace)
        else:
            records = await self._db.fetch(_LIST_BY_NAME, workspace)
        return [_info(record) for record in records]

    async def revoke(self, key_id: str) -> KeyInfo:
        """From now on the key is refused; the first revocation's time stays. Raises NotFound.

        Caches of verified keys may hold it until they are told or their time runs out.
        """
        if await self._db.fetchrow(_REVOKE, key_id, self._now()) is None:
            raise NotFound("There is no such key.", {"id": key_id[:100]})
        return await self.info(key_id)


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
