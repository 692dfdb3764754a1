"""``maily key``: API keys. It speaks to the database, so it works without the gateway, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.console import JsonFlag, answer, err, load_resolved, out

if TYPE_CHECKING:
    from mesh.core.settings import Settings
    from mesh.security.keys import KeyInfo, KeyService
    from mesh.storage.pool import Database
    from mesh.storage.trust_keys import TrustKey

app = typer.Typer(help="API keys, and keys that sign tokens and checkpoints.", no_args_is_help=True)

Workspace = Annotated[str | None, typer.Option(help="Only this workspace's.")]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="To tell keys apart.")],
    workspace: Annotated[str, typer.Option(help="Made when there is none.")] = "default",
    scope: Annotated[
        list[str] | None, typer.Option(help="May be repeated; default: all but keys:admin.")
    ] = None,
    days: Annotated[float | None, typer.Option(help="It ends after so many days.")] = None,
    json: JsonFlag = False,
) -> None:
    """Make a key. It is shown once and kept only as a hash."""
    from mesh.security.scopes import ALL_SCOPES, KEYS_ADMIN

    settings, _ = load_resolved()
    scopes = frozenset(scope) if scope else ALL_SCOPES - {KEYS_ADMIN}
    lifetime = None if days is None else days * 86_400

    async def make() -> tuple[str, KeyInfo]:
        async with _keys(settings) as keys:
            made = await keys.create(workspace, name, scopes, lifetime)
            return made.key, made.info

    key, info = asyncio.run(make())
    if json:
        answer({"key": key} | _as_json(info))
        return
    out.print(key, highlight=False, soft_wrap=True)
    err.print(f"[dim]key {info.id} of {info.workspace}: shown once, keep it safe[/]")


@app.command("list")
def list_keys(workspace: Workspace = None, json: JsonFlag = False) -> None:
    """All keys, revoked ones too; never the keys themselves."""
    from rich.table import Table

    settings, _ = load_resolved()

    async def read() -> list[KeyInfo]:
        async with _keys(settings) as keys:
            return await keys.list(workspace)

    found = asyncio.run(read())
    if json:
        answer({"keys": [_as_json(info) for info in found]})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("id", "name", "workspace", "state", "scopes", "last used"):
        table.add_column(column)
    for info in found:
        used = info.last_used_at.strftime("%Y-%m-%d %H:%M") if info.last_used_at else "never"
        state = "[red]revoked[/]" if info.revoked_at else "[green]valid[/]"
        table.add_row(
            info.id, info.name, info.workspace, state, " ".join(sorted(info.scopes)), used
        )
    out.print(table)


@app.command("revoke")
def revoke(
    key_id: Annotated[str, typer.Argument(help="Its id: `maily key list`.")],
    json: JsonFlag = False,
) -> None:
    """From now on the key, and every token made with it, is refused."""
    settings, _ = load_resolved()
    info, told = asyncio.run(_revoke(settings, key_id))
    if json:
        answer(_as_json(info) | {"gatewaysTold": told})
        return
    out.print(f"Key {info.id} ({info.name}) is revoked.")
    if not told:
        err.print(
            "[yellow]The gateways could not be told: they may take it for "
            f"{settings.security.key_cache_s:g} s more.[/]"
        )


@app.command("rotate-signing")
def rotate_signing(
    leaked: Annotated[
        bool,
        typer.Option(help="The old key is worthless at once: every token that it signed ends now."),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Sign tokens with a new key from now on; those signed before live out their time."""
    settings, _ = load_resolved()
    kid, told = asyncio.run(_rotate(settings, 0.0 if leaked else None))
    if json:
        answer({"kid": kid, "gatewaysTold": told})
        return
    out.print(f"Tokens are signed by {kid} from now on.")
    if not told:
        err.print("[yellow]The gateways could not be told: they notice within a minute.[/]")


@app.command("rotate-trust")
def rotate_trust(
    retire: Annotated[
        bool,
        typer.Option(
            help="The keys before never sign again. Without it they sign beside the new one, so "
            "that readers who know them alone go on as before."
        ),
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Sign checkpoints with a new key from now on. What was signed stays valid."""
    settings, _ = load_resolved()
    made, keys = asyncio.run(_rotate_trust(settings, retire))
    live = [str(item.key) for item in keys if item.retired_at is None]
    if json:
        answer({"key": str(made.key), "live": live, "keys": [str(item.key) for item in keys]})
        return
    out.print(str(made.key), highlight=False, soft_wrap=True)
    err.print(f"[dim]signs from the next batch on, with {len(live) - 1} other keys[/]")


async def _rotate_trust(settings: Settings, retire: bool) -> tuple[TrustKey, list[TrustKey]]:
    from mesh.storage.trust_keys import TrustKeys

    secret = settings.security.secret
    assert secret is not None  # load_resolved fills it in
    async with open_database(settings) as database:
        keys = TrustKeys(database, secret.get_secret_value().encode(), settings.trust.key_name)
        return await keys.rotate(retire=retire)


async def _rotate(settings: Settings, overlap_s: float | None) -> tuple[str, bool]:
    from mesh.core.clock import SystemClock
    from mesh.security.tokens import SIGNING, TokenService

    secret = settings.security.secret
    assert secret is not None  # load_resolved fills it in
    async with open_database(settings) as database:
        tokens = TokenService(
            database, settings.security, secret.get_secret_value().encode(), SystemClock()
        )
        kid = await tokens.rotate(overlap_s)
    return kid, await _tell(settings, SIGNING)


async def _revoke(settings: Settings, key_id: str) -> tuple[KeyInfo, bool]:
    async with _keys(settings) as keys:
        info = await keys.revoke(key_id)
    return info, await _tell(settings, key_id)


async def _tell(settings: Settings, what: str) -> bool:
    """Tell the gateways what they must forget. False: they could not be told."""
    from redis.exceptions import RedisError

    from mesh.streams.connect import connect
    from serve_apps.gateway.key_admin import REVOKED_CHANNEL

    client = connect(settings.redis_url, max_connections=1)
    try:
        await client.publish(REVOKED_CHANNEL, what)
    except (OSError, RedisError):
        return False
    finally:
        await client.aclose()
    return True


@asynccontextmanager
async def _keys(settings: Settings) -> AsyncIterator[KeyService]:
    from mesh.core.clock import SystemClock
    from mesh.security.keys import KeyService

    async with open_database(settings) as database:
        yield KeyService(database, SystemClock())


@asynccontextmanager
async def open_database(settings: Settings) -> AsyncIterator[Database]:
    """Failure when the database can't be reached."""
    import asyncpg

    from cluster.failures import NOT_RUNNING, Failure
    from mesh.core.errors import Unavailable
    from mesh.storage.pool import Database

    try:
        # Asked once by ourselves first: the pool would wait for a server that restarts.
        probe = await asyncpg.connect(settings.postgres_url, timeout=3.0)
        await probe.close(timeout=2.0)
        database = await Database.open(settings.postgres_url, max_size=2, application_name="cli")
    except (OSError, TimeoutError, asyncpg.PostgresError, Unavailable) as error:
        raise Failure(
            f"the database can't be reached: {error}", "`maily up` starts it", NOT_RUNNING
        ) from None
    try:
        yield database
    finally:
        await database.aclose()


def _as_json(info: KeyInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "name": info.name,
        "workspace": info.workspace,
        "scopes": sorted(info.scopes),
        "createdAt": info.created_at.isoformat(),
        "expiresAt": info.expires_at.isoformat() if info.expires_at else None,
        "revokedAt": info.revoked_at.isoformat() if info.revoked_at else None,
        "lastUsedAt": info.last_used_at.isoformat() if info.last_used_at else None,
    }
