"""What the tests of trust's hosts share: hosts without Ray, chains without nodes, mails."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from actors_support import workspace
from local_hosts import LocalHosts
from pydantic import SecretStr

from actors.context import ProcessContext
from actors.trust_client import ActorTrustClient
from actors.trust_loop import TrustLoop
from actors.trust_open import host_options, open_host_parts, open_teller, open_trust
from mesh.contracts.networks import AnchorState
from mesh.contracts.trust import BatchView, CertificateLine, DkimRef, NewBatch, NewMessage
from mesh.core.settings import PostgresSettings, RedisSettings, Settings
from mesh.core.settings_tree import SecuritySettings
from mesh.core.settings_trust import TrustSettings
from mesh.storage.anchor_ledger import PostgresAnchorLedger
from mesh.storage.leases import Lease
from mesh.trust.anchoring.records import AnchorRow, Step
from mesh.trust.client import Rolling
from mesh.trust.placement import ANCHORING, RING
from mesh.trust.work import ThreadWork, Work

SECRET = "a secret of more than thirty-two bytes for tests"
T_S = 20.0


def mail(number: int, to: str = "jane@example.org", **more: str) -> bytes:
    """One of a campaign. ``more``: other fields, and ``text``."""
    text = more.pop("text", f"Dear customer {number}, your order has shipped to you today.")
    fields = {
        "From": "Shop <news@shop.example>",
        "To": to,
        "Subject": f"Your order {number}",
        "Date": "Tue, 24 Nov 2026 10:00:00 +0000",
        "Message-ID": f"<{number}@shop.example>",
    } | more
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{head}\r\n{text} https://shop.example/o/{number}\r\n".encode()


def message(number: int, to: str = "jane@example.org", **more: Any) -> NewMessage:
    mailing = more.pop("mailing", {})
    return NewMessage(message=mail(number, to, **mailing).decode(), recipient=to, **more)


def messages(first: int, count: int) -> list[NewMessage]:
    return [message(at, f"person{at}@example.org") for at in range(first, first + count)]


def dkim() -> DkimRef:
    return DkimRef(selector="s1", public_key="bWFpbHk=")


def die_once(marker: str) -> str:
    """A task whose first worker is killed."""
    path = Path(marker)
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def settings_for(dsn: str, valkey: str, home: Path, **trust: Any) -> Settings:
    return Settings(
        home=home,
        postgres=PostgresSettings(url=SecretStr(dsn), pool_max=8),
        redis=RedisSettings(url=SecretStr(valkey)),
        security=SecuritySettings(secret=SecretStr(SECRET)),
        trust=TrustSettings(
            **{
                "lease_s": 0.8,
                "heartbeat_s": 0.1,
                "settle_s": 0.3,
                "batch_close_s": 3_600.0,
                "revocations_close_s": 0.2,
            }
            | trust
        ),
    )


@dataclass
class House:
    """Hosts, a client and a workspace."""

    context: ProcessContext
    hosts: LocalHosts[TrustLoop]
    client: ActorTrustClient
    workspace: UUID
    _lease: Lease | None = field(default=None, repr=False)

    async def new_workspace(self) -> UUID:
        return await workspace(self.context.db)

    async def open(self, name: str = "", key: str | None = None) -> UUID:
        batch = await self.client.open_batch(
            self.workspace, NewBatch(name=name), key=key, timeout_s=T_S
        )
        return batch.id

    async def add(
        self, batch: UUID | Rolling, *lines: NewMessage, first_line: int = 1
    ) -> list[CertificateLine]:
        return await self.client.add(
            self.workspace, batch, lines, first_line=first_line, timeout_s=T_S
        )

    async def close(self, batch: UUID) -> BatchView:
        return await self.client.close_batch(self.workspace, batch, timeout_s=T_S)

    async def closed(self, *lines: NewMessage) -> tuple[BatchView, list[CertificateLine]]:
        """A batch of these."""
        batch = await self.open()
        told = await self.add(batch, *lines)
        return await self.close(batch), told

    async def anchor(self, root: bytes, *states: AnchorState, network: str = "one") -> None:
        """The chains say so, one after the other."""
        lease = await self.anchoring()
        ledger = PostgresAnchorLedger(self.context.db, lease)
        for at, state in enumerate(states):
            row = AnchorRow(
                root=root,
                network=network,
                chain_id=1 + sum(network.encode()),
                state=state,
                at=datetime.now(UTC).timestamp(),
                tx=bytes([at]) * 32,
            )
            await ledger.write(Step(anchors=(row,)))

    async def anchoring(self) -> Lease:
        """The lease of who speaks to the networks."""
        if self._lease is None:
            self._lease = await self.context.leases.acquire(ANCHORING, "test/1", 3_600.0)
            assert self._lease is not None
        return self._lease

    async def tell(self) -> None:
        """All that is to be told, is."""
        teller = open_teller(self.context, await self.anchoring())
        while await teller.take() or await teller.tell():
            pass


@asynccontextmanager
async def open_house(
    settings: Settings, *names: str, work: Work | None = None
) -> AsyncIterator[House]:
    context = await ProcessContext.open(settings, "test")
    work = work or ThreadWork()
    hosts = LocalHosts[TrustLoop](
        RING, lambda name: TrustLoop(name, open_host_parts(context, work), options)
    )
    options = host_options(settings)
    house = House(context, hosts, open_trust(context, work, caller=hosts), UUID(int=0))
    try:
        for name in names or ("trust-host-0",):
            hosts.start(name)
        await hosts.settled(*hosts.hosts)
        house.workspace = await house.new_workspace()
        yield house
    finally:
        for name in list(hosts.hosts):
            await hosts.stop(name)
        await context.aclose()


async def until(true: Any, limit_s: float = 15.0) -> Any:
    """``true``: called again and again until it gives something true."""
    async with asyncio.timeout(limit_s):
        while not (found := await true()):  # noqa: ASYNC110 - a database has no event
            await asyncio.sleep(0.02)
        return found


def ids(lines: Sequence[CertificateLine]) -> list[str]:
    return [line.id for line in lines]
