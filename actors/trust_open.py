"""The parts of trust, made from what a process holds."""

from __future__ import annotations

from actors.context import ProcessContext
from actors.directory import Caller, Directory, RayCaller
from actors.names import NAMESPACE
from actors.owners import Owners
from actors.shards import ShardOptions
from actors.trust_client import ActorTrustClient, ClientOptions, ClientParts
from actors.trust_forget import TrustForgetter
from actors.trust_loop import HostOptions, HostParts
from actors.trust_reader import ReaderParts, TrustReader
from actors.trust_teller import Teller, TellerOptions
from mesh.core.errors import Unavailable
from mesh.core.settings import Settings
from mesh.storage.anchor_ledger import PostgresAnchorLedger
from mesh.storage.leases import Lease
from mesh.storage.scrub import Scrubber
from mesh.storage.trust_batches import TrustBatches
from mesh.storage.trust_erasures import TrustErasures
from mesh.storage.trust_keys import TrustKeys
from mesh.storage.trust_leaves import TrustLeaves
from mesh.storage.trust_revocations import TrustRevocations
from mesh.storage.trust_telling import TrustTelling
from mesh.trust.ids import CertificateIds
from mesh.trust.placement import BUCKETS, RING
from mesh.trust.vault import TrustVault
from mesh.trust.work import ThreadWork, Work

NEAR = 2
"""Single mails that are made into leaves at once in one process."""


def secret_of(settings: Settings) -> bytes:
    """Raises Unavailable without the instance's secret."""
    if settings.security.secret is None:
        raise Unavailable("security.secret is not set for this process")
    return settings.security.secret.get_secret_value().encode()


def host_options(settings: Settings) -> HostOptions:
    trust = settings.trust
    return HostOptions(
        shards=ShardOptions(trust.lease_s, trust.heartbeat_s, trust.settle_s),
        rolling_s=trust.batch_close_s,
        rolling_leaves=trust.batch_close_leaves,
        revocations_s=trust.revocations_close_s,
        max_leaves=trust.max_batch_leaves,
        queue_bytes=trust.queue_bytes,
    )


def open_keys(context: ProcessContext) -> TrustKeys:
    settings = context.settings
    return TrustKeys(context.db, secret_of(settings), settings.trust.key_name)


def open_scrubber(context: ProcessContext) -> Scrubber:
    return Scrubber(context.settings.postgres_url, "trust_salts", BUCKETS)


def open_host_parts(context: ProcessContext, work: Work) -> HostParts:
    return HostParts(
        batches=TrustBatches(context.db),
        leaves=TrustLeaves(context.db),
        revocations=TrustRevocations(context.db),
        erasures=TrustErasures(context.db),
        keys=open_keys(context),
        leases=context.leases,
        scrubber=open_scrubber(context),
        work=work,
        want=PostgresAnchorLedger.want,
        clock=context.clock,
    )


def open_teller(context: ProcessContext, lease: Lease) -> Teller:
    trust = context.settings.trust
    return Teller(
        TrustBatches(context.db),
        TrustTelling(context.db, trust.networks_needed),
        PostgresAnchorLedger(context.db),
        context.streams,
        context.clock,
        lease,
        TellerOptions(alarm_s=trust.pending_alarm_s),
    )


def open_reader(context: ProcessContext) -> TrustReader:
    secret = secret_of(context.settings)
    return TrustReader(
        ReaderParts(
            batches=TrustBatches(context.db),
            leaves=TrustLeaves(context.db),
            revocations=TrustRevocations(context.db),
            keys=open_keys(context),
            ledger=PostgresAnchorLedger(context.db),
            vault=TrustVault.of(secret),
            ids=CertificateIds(secret),
            clock=context.clock,
            pending_alarm_s=context.settings.trust.pending_alarm_s,
        )
    )


def open_trust(
    context: ProcessContext,
    work: Work,
    *,
    caller: Caller | None = None,
    namespace: str = NAMESPACE,
) -> ActorTrustClient:
    """``work``: where messages are made into leaves. ``caller``: other hosts than Ray's actors,
    for tests. Raises Unavailable without the instance's secret."""
    trust, secret = context.settings.trust, secret_of(context.settings)
    caller = caller or RayCaller(namespace)
    options = ClientOptions(
        max_open_batches=trust.max_open_batches,
        max_message_bytes=trust.max_message_bytes,
        networks_needed=trust.networks_needed,
    )
    reader = open_reader(context)
    vault, ids, batches = TrustVault.of(secret), CertificateIds(secret), TrustBatches(context.db)
    directory = Directory(RING, context.leases, context.clock)
    return ActorTrustClient(
        ClientParts(
            caller=caller,
            owners=Owners(caller, directory, context.clock, options.patience),
            leases=context.leases,
            batches=batches,
            reader=reader,
            forgetter=TrustForgetter(
                reader,
                batches,
                TrustLeaves(context.db),
                TrustErasures(context.db),
                open_scrubber(context),
                vault,
                ids,
                context.clock,
            ),
            vault=vault,
            ids=ids,
            work=work,
            near=ThreadWork(NEAR),
            clock=context.clock,
            options=options,
        )
    )
