"""One forgetting, from the request to the receipt.

The order is chosen so that it can be broken off anywhere and finished by anybody: first it is
written down what is to be erased, then journals are blacked out (for that the texts are still
needed), then the owners erase rows, salts, index entries and snapshots, then caches and streams
go, then the salts leave the disk, and only then is everything looked for again and the receipt
sealed. What derives from an erased memory while that goes on is found by another round.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from actors.directory import Caller, Directory
from actors.memory_erased import ErasedPart
from actors.memory_journals import Journals
from actors.patience import PatienceOptions, pause
from mesh.contracts.memory import (
    ForgetReceipt,
    ForgetSelector,
    Namespace,
    NamespaceKind,
)
from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.errors import DeadlineExceeded, Fenced, MailyError, NotFound, Unavailable
from mesh.core.ids import uuid7
from mesh.core.logging import get_logger
from mesh.memory.forgetting import describe, sealed
from mesh.memory.placement import BUCKETS, bucket_of, shard_of
from mesh.memory.vault import Vault
from mesh.storage.memory_forget import ForgetRepository
from mesh.storage.memory_rows import Closure
from mesh.storage.scrub import Scrubber

log = get_logger("memory.forget")

ROUNDS = 8
"""Of looking for what was derived meanwhile."""
ERASED_AT_ONCE = 2_000
SHOWN_IDS = 1_000
"""A receipt lists so many ids; all of them are kept beside it for the check."""
ABANDONED_S = 60.0
"""A forgetting that was begun so long ago and is not done has lost whoever ran it."""
_PATIENCE = PatienceOptions(first_pause_s=0.05, longest_pause_s=0.5)


@dataclass(frozen=True, slots=True)
class ForgetParts:
    """What a forgetting works with."""

    caller: Caller
    directory: Directory
    forgets: ForgetRepository
    journals: Journals
    scrubber: Scrubber
    vault: Vault
    clock: Clock
    limit_s: float = 600.0
    """For the whole of one, whoever waits for it or not."""


class Forgetter:
    """One per process."""

    def __init__(self, parts: ForgetParts) -> None:
        self._parts = parts
        self._running: set[asyncio.Task[ForgetReceipt]] = set()

    async def forget(
        self, workspace: UUID, selector: ForgetSelector, timeout_s: float
    ) -> ForgetReceipt:
        """The finished receipt. Raises NotFound (there is no such memory) and DeadlineExceeded:
        it goes on, and the receipt, which ``details`` names, tells when it is done."""
        vault = self._parts.vault
        namespaces, contacts = self._meant(workspace, selector)
        items = [] if selector.item is None else [selector.item]
        closure = await self._parts.forgets.closure(
            workspace, items=items, namespaces=namespaces, contacts=contacts
        )
        if selector.item is not None and not closure.all:
            raise NotFound("There is no such memory.", {"id": str(selector.item)})
        receipt = ForgetReceipt(
            id=uuid7(),
            workspace_id=workspace,
            selector=vault.selector_hash(workspace, describe(selector)),
            requested_at=self._now(),
            finished_at=None,
            items=[],
            erased={},
        )
        await self._parts.forgets.begin(receipt, closure.all, namespaces)
        task = asyncio.get_running_loop().create_task(
            self._limited(receipt, closure, namespaces, contacts)
        )
        self._running.add(task)
        task.add_done_callback(self._ended)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(task)
        except TimeoutError:
            raise DeadlineExceeded(
                "It goes on being forgotten; ask for the receipt.", {"receipt": str(receipt.id)}
            ) from None

    async def resume(self, older_than_s: float = ABANDONED_S) -> int:
        """Finish what others began and did not end; gives how many."""
        begun = await self._parts.forgets.begun(older_than_s)
        for receipt, items, namespaces in begun:
            closure = await self._parts.forgets.closure(receipt.workspace_id, items=items)
            gone = tuple(i for i in items if i not in closure.shards)
            # Rows may be gone already while salts, snapshots and caches are not.
            whole = replace(closure, asked=(*closure.asked, *gone))
            await self._limited(receipt, whole, namespaces, [])
            log.info("forget.resumed", receipt=str(receipt.id))
        return len(begun)

    async def check(self, identity: UUID, workspace: UUID) -> ForgetReceipt:
        """The receipt, and whether anything of it can be found now. Raises NotFound."""
        receipt, rows = await self._parts.forgets.receipt(identity, workspace)
        ids = await self._parts.forgets.items_of(identity, workspace)
        remaining = rows + await self._in_indexes(workspace, ids)
        return receipt.model_copy(update={"verified_at": self._now(), "remaining": remaining})

    async def aclose(self) -> None:
        """Those that run are left to be resumed."""
        for task in tuple(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _meant(self, workspace: UUID, selector: ForgetSelector) -> tuple[list[UUID], list[UUID]]:
        """Blind ids of namespaces and contacts."""
        vault = self._parts.vault
        if selector.namespace is not None:
            return [vault.namespace_id(workspace, selector.namespace)], []
        if selector.contact is not None:
            own = Namespace(kind=NamespaceKind.CONTACT, id=selector.contact)
            return (
                [vault.namespace_id(workspace, own)],
                [vault.contact_id(workspace, selector.contact)],
            )
        return [], []

    async def _limited(
        self,
        receipt: ForgetReceipt,
        closure: Closure,
        namespaces: Sequence[UUID],
        contacts: Sequence[UUID],
    ) -> ForgetReceipt:
        async with asyncio.timeout(self._parts.limit_s):
            return await self._run(receipt, closure, namespaces, contacts)

    async def _run(
        self,
        receipt: ForgetReceipt,
        closure: Closure,
        namespaces: Sequence[UUID],
        contacts: Sequence[UUID],
    ) -> ForgetReceipt:
        parts, workspace = self._parts, receipt.workspace_id
        counts: Counter[str] = Counter(
            derived=len(closure.derived), merged=len(closure.merged), items=0
        )
        done: list[UUID] = []
        buckets = {bucket_of(shard_of(space)) for space in namespaces}
        surfaced = 0
        for _ in range(ROUNDS):
            ids = [identity for identity in closure.all if identity not in done]
            texts = await parts.journals.texts(workspace, ids)
            await parts.journals.black_out(workspace, texts, counts)
            where = _where(ids, closure.shards)
            buckets.update(map(bucket_of, where))
            erased = await self._erase(where, namespaces)
            counts.update(
                items=erased.items,
                keys=erased.keys,
                index=erased.index,
                snapshots=erased.snapshots,
                namespaces=erased.namespaces,
            )
            surfaced += erased.surfaced
            # A task may have read one between the first look and the erasure.
            await parts.journals.black_out(workspace, texts, counts)
            done.extend(ids)
            closure = await parts.forgets.closure(
                workspace, items=done, namespaces=namespaces, contacts=contacts
            )
            if not closure.all:
                break
            await parts.forgets.extend(receipt.id, [*done, *closure.all])
        await parts.journals.forget_answers(workspace, counts)
        scrub = await parts.scrubber.scrub(buckets)
        note = await parts.journals.after(done, counts)
        if note is not None:
            notes = [text for text in (scrub.note, note) if text]
            scrub = scrub.model_copy(update={"note": "; ".join(notes)})
        remaining = surfaced + await parts.forgets.remaining(done, namespaces, receipt.requested_at)
        remaining += await self._in_indexes(workspace, done)
        finished = sealed(
            receipt.model_copy(
                update={
                    "finished_at": self._now(),
                    "items": done[:SHOWN_IDS],
                    "erased": dict(sorted(counts.items())),
                    "scrub": scrub,
                }
            ),
            parts.vault,
        ).model_copy(update={"verified_at": self._now(), "remaining": remaining})
        await parts.forgets.finish(finished)
        metrics.MEMORY_FORGOTTEN.labels("asked").inc(counts["items"])
        return finished

    async def _erase(self, where: dict[int, list[UUID]], namespaces: Sequence[UUID]) -> ErasedPart:
        spaces: dict[int, list[UUID]] = defaultdict(list)
        for space in namespaces:
            spaces[shard_of(space)].append(space)
        total = ErasedPart(0, 0, 0, 0, 0, 0)
        for shard in sorted({*where, *spaces}):
            wanted = where.get(shard, [])
            for start in range(0, max(1, len(wanted)), ERASED_AT_ONCE):
                part = wanted[start : start + ERASED_AT_ONCE]
                last = start + ERASED_AT_ONCE >= len(wanted)
                args = (part, spaces[shard] if last else [], [shard])
                total = total.plus(await self._of_owner(shard, "erase", args))
        return total

    async def _of_owner(self, shard: int, method: str, args: tuple[object, ...]) -> ErasedPart:
        failures = 0
        while True:
            owner = (await self._parts.directory.owners([shard]))[shard]
            try:
                if owner is None:
                    raise Unavailable("No host owns this shard now.")
                part: ErasedPart = await self._parts.caller.call(owner, method, args, 120.0)
            except (Unavailable, DeadlineExceeded, Fenced):
                failures += 1
                self._parts.directory.invalidate()
                await self._parts.clock.sleep(pause(failures, _PATIENCE))
            else:
                return part

    async def _in_indexes(self, workspace: UUID, ids: Sequence[UUID]) -> int:
        """Entries in the indexes of all hosts that can be asked; one that can't has none."""
        if not ids:
            return 0
        hosts = set((await self._parts.directory.all()).values())

        async def ask(host: str) -> int:
            try:
                held: int = await self._parts.caller.call(
                    host, "holds", (workspace, list(ids)), 5.0
                )
            except MailyError:
                return 0
            return held

        return sum(await asyncio.gather(*(ask(host) for host in hosts)))

    def _ended(self, task: asyncio.Task[ForgetReceipt]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.warning("forget.later", error=type(task.exception()).__name__)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._parts.clock.now(), UTC)


def _where(ids: Sequence[UUID], shards: dict[UUID, int]) -> dict[int, list[UUID]]:
    """By shard. What has no row any more may have lain anywhere, and so may its salt."""
    by_shard: dict[int, list[UUID]] = defaultdict(list)
    for identity in ids:
        for shard in [shards[identity]] if identity in shards else range(BUCKETS):
            by_shard[shard].append(identity)
    return by_shard
