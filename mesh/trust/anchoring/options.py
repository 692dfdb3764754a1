"""How the anchoring behaves, per network and as a whole."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.trust.chain.protocol import Method

GWEI = 10**9


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    name: str
    chain_id: int
    method: Method = "event"
    contract: bytes | None = None
    """Of a registry of one's own; None: the one at its usual address, deployed if missing."""
    confirmations: int = 2
    final_depth: int | None = None
    """Blocks on top of a block that make it final; None: what the node calls ``finalized``."""
    poll_s: float = 1.0
    """Between two looks at the chain while something is not final."""
    idle_s: float = 15.0
    """… while all is."""
    resend_s: float = 15.0
    """A transaction that no block has is given to the node again so often: nodes forget."""
    replace_after_s: float = 60.0
    """A transaction that no block took for so long gets a successor with a higher fee."""
    max_fee: int = 200 * GWEI
    """Wei per gas, never more."""
    max_tip: int = 2 * GWEI
    """Wei per gas of a first attempt; its successors may have to offer more, up to ``max_fee``."""
    min_tip: int = 1_000_000
    """Wei per gas."""
    budget_wei: int = 10**17
    """Of one day (UTC): fees paid, and at worst to be paid by what is on its way."""
    low_balance_wei: int = 10**16
    max_in_flight: int = 16
    """Nonces without a block at once: nodes keep few of one account."""
    orphan_grace_s: float = 30.0
    """A node whose chain is for a moment shorter than it was may just be another one behind the
    same address: wait so long before a block counts as gone."""
    development: bool = False
    """The node makes blocks and money when it is asked to, and may lose what was final."""

    def final(self, number: int, head: int, finalized: int | None) -> bool:
        """Whether a block stays for good."""
        if self.final_depth is not None:
            return head - number >= self.final_depth
        return finalized is not None and number <= finalized


@dataclass(frozen=True, slots=True)
class AnchoringOptions:
    needed: int = 1
    """Networks that must have a root as final."""
    fallback_after_s: float = 20.0
    """A network with a root on its way that does not answer for so long is replaced by the next
    one. A root without any transaction goes to the next at once."""
    patience: float = 15.0
    """… so many times longer when a block has the root already: it is paid for, and will be
    final when the node is back."""
    stuck_after_s: float = 900.0
    """A transaction that no block takes for so long: the next network gets the root as well."""
    alarm_s: float = 600.0
    """A root that is not confirmed after so long raises an alarm."""
    waiting_roots: int = 256
    """Roots without a transaction that are looked at at once."""
