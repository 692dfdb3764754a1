"""How a network is doing, in the words of the contracts."""

from __future__ import annotations

from collections.abc import Callable

from mesh.contracts.networks import AnchorState, NetworkView
from mesh.resilience.breaker import BreakerState
from mesh.trust.anchoring.book import Roots
from mesh.trust.anchoring.network import Network
from mesh.trust.anchoring.records import MOST

_BREAKER = {
    BreakerState.CLOSED: "closed",
    BreakerState.OPEN: "open",
    BreakerState.HALF_OPEN: "half-open",
}
_DONE = (AnchorState.CONFIRMED, AnchorState.FINAL, AnchorState.FAILED)


def pending_since(
    network: Network, roots: Roots, chosen: Callable[[bytes], frozenset[str]]
) -> list[float]:
    """Since when (Unix seconds) each root that shall be on this network, and is not confirmed
    there, is wanted."""
    since = []
    for wanted in roots.unsettled():
        row = roots.row(wanted.root, network.name)
        done = row is not None and row.state in _DONE
        if not done and network.name in chosen(wanted.root):
            since.append(wanted.wanted_at)
    return since


def view(
    network: Network,
    roots: Roots,
    now: float,
    alarm_s: float,
    chosen: Callable[[bytes], frozenset[str]],
) -> NetworkView:
    link, signing, options = network.link, network.signing, network.options
    pending = pending_since(network, roots, chosen)
    oldest = max(0.0, now - min(pending)) if pending else None
    alarms = set(link.alarms)
    if link.down_s() > 0:
        alarms.add("down")
    if oldest is not None and oldest > alarm_s:
        alarms.add("pending")
    contract = signing.contract if signing.method == "event" else None
    return NetworkView.model_validate(
        {
            "name": network.name,
            "chain_id": options.chain_id,
            "healthy": link.up and "wrong_chain" not in alarms,
            "breaker": _BREAKER[link.breaker.state],
            "head": None if link.head is None else link.head.number,
            "finalized": None if link.head is None else link.head.finalized,
            "contract": None if contract is None else f"0x{contract.hex()}",
            "method": signing.method,
            "account": f"0x{signing.wallet.address.hex()}",
            "balance_wei": None if link.balance is None else min(link.balance, MOST),
            "spent_today_wei": min(signing.spent_today(), MOST),
            "budget_wei": min(options.budget_wei, MOST),
            "pending": len(pending),
            "oldest_pending_s": oldest,
            "alarms": sorted(alarms),
            "statistics": network.statistics(),
        }
    )
