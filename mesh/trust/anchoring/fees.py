"""What to offer for a transaction (EIP-1559): at first, and when no block takes it."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.trust.anchoring.options import NetworkOptions
from mesh.trust.chain.protocol import Market


@dataclass(frozen=True, slots=True)
class Fees:
    """Wei per gas."""

    max_fee: int
    tip: int


def first(market: Market, options: NetworkOptions) -> Fees | None:
    """Room for the base fee to double. None: the market is above our limit."""
    tip = min(max(market.tip, options.min_tip), max(options.max_tip, options.min_tip))
    if market.base_fee + tip > options.max_fee:
        return None
    return Fees(min(2 * market.base_fee + tip, options.max_fee), tip)


def replacement(last: Fees, market: Market, options: NetworkOptions) -> Fees | None:
    """Nodes take a successor that offers at least an eighth (one of geth's a tenth) more in both
    parts. None: that, or the market, is above our limit."""
    wanted = first(market, options) or Fees(0, 0)
    tip = max(_eighth_more(last.tip), wanted.tip)
    max_fee = max(_eighth_more(last.max_fee), wanted.max_fee, market.base_fee + tip)
    return Fees(max_fee, tip) if max_fee <= options.max_fee else None


def _eighth_more(value: int) -> int:
    return value + -(-value // 8) + 1
