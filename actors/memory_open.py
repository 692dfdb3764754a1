"""The parts of memory, made from what a process holds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from actors.context import ProcessContext, stream_options
from actors.directory import Caller, Directory, RayCaller
from actors.memory_client import ClientParts
from actors.memory_fallback import Fallback
from actors.memory_forget import ForgetParts, Forgetter
from actors.memory_journals import Journals
from actors.memory_keeper import KeeperOptions
from actors.memory_loop import HostOptions, HostParts
from actors.memory_store import MemoryStore
from actors.names import NAMESPACE
from actors.shards import ShardOptions
from mesh.core.errors import Unavailable
from mesh.core.settings import Settings
from mesh.llm.cache.store import PURPOSE, CacheStore
from mesh.llm.client import ModelClient
from mesh.memory.options import GateOptions, IndexOptions, MemoryOptions
from mesh.memory.placement import BUCKETS, RING
from mesh.memory.vault import Vault
from mesh.security.sealing import Sealer
from mesh.storage.memory import MemoryRepository
from mesh.storage.memory_forget import ForgetRepository
from mesh.storage.scrub import Scrubber


def memory_options(settings: Settings) -> MemoryOptions:
    memory = settings.memory
    return MemoryOptions(
        gate=GateOptions(
            max_text_chars=memory.max_text_chars,
            max_items_per_namespace=memory.max_items_per_namespace,
        ),
        index=IndexOptions(exact_up_to=memory.exact_up_to),
    )


def snapshot_folder(settings: Settings) -> Path:
    return settings.memory.snapshots or settings.home / "data" / "memory"


def host_options(settings: Settings) -> HostOptions:
    memory = settings.memory
    return HostOptions(
        keeper=KeeperOptions(
            folder=snapshot_folder(settings),
            idle_s=memory.idle_s,
            snapshot_changes=memory.snapshot_changes,
        ),
        shards=ShardOptions(memory.lease_s, memory.heartbeat_s, memory.settle_s),
        memory=memory_options(settings),
        threads=memory.threads,
        queue_limit=memory.queue_limit,
        pass_s=memory.pass_s,
        consolidate=memory.consolidate,
    )


def open_vault(settings: Settings) -> Vault:
    """Raises Unavailable without the instance's secret."""
    if settings.security.secret is None:
        raise Unavailable("security.secret is not set for this process")
    return Vault(settings.security.secret.get_secret_value().encode())


def open_host_parts(context: ProcessContext) -> HostParts:
    return HostParts(
        repository=MemoryRepository(context.db),
        forgets=ForgetRepository(context.db),
        leases=context.leases,
        scrubber=Scrubber(context.settings.postgres_url, "memory_keys", BUCKETS),
        vault=open_vault(context.settings),
        clock=context.clock,
    )


def open_journals(context: ProcessContext, parts: HostParts) -> Journals:
    secret = context.settings.security.secret
    assert secret is not None  # the vault was opened with it
    return Journals(
        repository=parts.repository,
        forgets=parts.forgets,
        redis=context.redis,
        vault=parts.vault,
        stream_prefix=stream_options(context.settings).prefix,
        answers=CacheStore(context.redis, Sealer(secret.get_secret_value().encode(), PURPOSE)),
    )


def open_forgetter(
    context: ProcessContext,
    parts: HostParts,
    journals: Journals,
    caller: Caller,
    directory: Directory,
) -> Forgetter:
    forgetter = Forgetter(
        ForgetParts(
            caller=caller,
            directory=directory,
            forgets=parts.forgets,
            journals=journals,
            scrubber=parts.scrubber,
            vault=parts.vault,
            clock=context.clock,
        )
    )
    context.closing.push_async_callback(forgetter.aclose)
    return forgetter


def open_memory(
    context: ProcessContext,
    models: ModelClient | None,
    *,
    caller: Caller | None = None,
    namespace: str = NAMESPACE,
) -> MemoryStore:
    """What it opens closes with ``context``. ``models``: None where nothing can be embedded (then
    only what brings its vector is remembered, and only words are looked for). ``caller``: other
    hosts than Ray's actors, for tests. Raises Unavailable without the instance's secret."""
    host = open_host_parts(context)
    caller = caller or RayCaller(namespace)
    directory = Directory(RING, context.leases, context.clock)
    journals = open_journals(context, host)
    forgetter = open_forgetter(context, host, journals, caller, directory)
    options = memory_options(context.settings)

    async def embed(texts: Sequence[str], timeout_s: float) -> list[list[float]]:
        if models is None:
            raise Unavailable("There is no embedding model in this process.")
        return await models.embed(texts, timeout_s=timeout_s)

    return MemoryStore(
        ClientParts(
            caller=caller,
            directory=directory,
            repository=host.repository,
            fallback=Fallback(
                host.repository,
                host.vault,
                context.clock,
                options,
                context.settings.memory.fallback_items,
            ),
            vault=host.vault,
            clock=context.clock,
            embed=embed,
            forget=forgetter.forget,
            changed=journals.changed,
            memory=options,
        ),
        forgetter,
    )
