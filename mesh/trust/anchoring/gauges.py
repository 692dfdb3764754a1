"""A network's figures: counted as they happen, shown to Prometheus after each look."""

from __future__ import annotations

from collections import Counter

from mesh.contracts.networks import NetworkView
from mesh.core import metrics

ALARMS = (
    "balance_low",
    "budget_spent",
    "down",
    "failed",
    "fee_cap",
    "foreign_nonce",
    "no_contract",
    "no_factory",
    "pending",
    "rejected",
    "unfunded",
    "wrong_chain",
)
"""All that there are; docs/trust-networks.md says what each means and what to do."""
WHAT = (
    "adopted",
    "confirmed",
    "final",
    "foreign",
    "included",
    "orphaned",
    "refused",
    "reopened",
    "replaced",
    "sent",
    "signed",
)
_GWEI = 10**9


class Counts:
    """What happened to transactions with roots on one network, since this process has it."""

    def __init__(self, network: str) -> None:
        self._network = metrics.bounded("network", network)
        self._counts: Counter[str] = Counter()

    def add(self, what: str, times: int = 1) -> None:
        assert what in WHAT
        self._counts[what] += times
        metrics.TRUST_ANCHORS.labels(self._network, what).inc(times)

    def paid(self, wei: int) -> None:
        metrics.TRUST_FEES.labels(self._network).inc(wei / _GWEI)

    def __getitem__(self, what: str) -> int:
        return self._counts[what]

    def as_dict(self) -> dict[str, int]:
        return {what: self._counts[what] for what in WHAT}


def show(view: NetworkView) -> None:
    """Set the gauges to what the view says."""
    name = metrics.bounded("network", view.name)
    for block, number in (("latest", view.head), ("finalized", view.finalized)):
        if number is not None:
            metrics.TRUST_CHAIN_BLOCKS.labels(name, block).set(number)
    metrics.TRUST_CHAIN_PENDING.labels(name).set(view.pending)
    if view.balance_wei is not None:
        metrics.TRUST_WALLET.labels(name).set(view.balance_wei / _GWEI)
    for alarm in ALARMS:
        metrics.TRUST_CHAIN_ALARMS.labels(name, alarm).set(alarm in view.alarms)
