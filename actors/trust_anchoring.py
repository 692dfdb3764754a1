"""The anchoring, made from what a process holds: nodes, wallets, breakers, ledger."""

from __future__ import annotations

from actors.context import ProcessContext
from mesh.core.errors import InvalidInput
from mesh.core.settings_trust import NetworkSettings, TrustSettings
from mesh.resilience.breaker import BreakerOptions, CircuitBreaker
from mesh.storage.anchor_ledger import PostgresAnchorLedger
from mesh.storage.leases import Lease
from mesh.trust.anchoring.options import GWEI, AnchoringOptions, NetworkOptions
from mesh.trust.anchoring.run import Anchoring, NetworkParts
from mesh.trust.chain.evm_chain import EvmChain
from mesh.trust.chain.wallet import KeyWallet

BREAKER = BreakerOptions(failures=3, min_calls=20, open_s=1.0, open_max_s=15.0)
"""A node is asked every second or so: three failures in a row say enough."""


def open_anchoring(context: ProcessContext, lease: Lease) -> Anchoring:
    """``await anchoring.run()`` until the lease is lost, then ``await anchoring.aclose()``.

    ``lease``: that of the one owner; every write checks its epoch. Raises InvalidInput for a
    network without a key.
    """
    trust = context.settings.trust
    return Anchoring(
        [_parts(name, network, context) for name, network in trust.networks.items()],
        PostgresAnchorLedger(context.db, lease),
        context.clock,
        anchoring_options(trust),
    )


def anchoring_options(trust: TrustSettings) -> AnchoringOptions:
    return AnchoringOptions(
        needed=trust.networks_needed,
        fallback_after_s=trust.fallback_after_s,
        alarm_s=trust.pending_alarm_s,
    )


def network_options(name: str, network: NetworkSettings) -> NetworkOptions:
    contract = network.contract
    return NetworkOptions(
        name=name,
        chain_id=network.chain_id,
        method=network.method,
        contract=None if contract is None else bytes.fromhex(contract.removeprefix("0x")),
        confirmations=network.confirmations,
        final_depth=network.final_depth if network.finality == "depth" else None,
        poll_s=network.poll_s,
        replace_after_s=network.replace_after_s,
        max_fee=int(network.max_fee_gwei * GWEI),
        max_tip=int(network.max_tip_gwei * GWEI),
        budget_wei=network.budget_wei_per_day,
        low_balance_wei=network.low_balance_wei,
        development=network.development,
    )


def _parts(name: str, network: NetworkSettings, context: ProcessContext) -> NetworkParts:
    if network.key is None:
        field = f"trust.networks.{name}.key"
        raise InvalidInput(f"{field} is not set: nobody can pay.", {"field": field})
    return NetworkParts(
        options=network_options(name, network),
        chain=EvmChain(
            name, network.url, timeout_s=network.timeout_s, development=network.development
        ),
        wallet=KeyWallet.of_hex(network.key.get_secret_value()),
        breaker=CircuitBreaker(f"network {name}", BREAKER, context.clock),
    )
