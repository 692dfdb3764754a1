"""What the embedded development node (anvil) and its users agree on."""

from __future__ import annotations

from eth_hash.auto import keccak

CHAIN_ID = 31_337
STANDBY_CHAIN_ID = 31_338
EPOCH_SLOTS = 2
"""``safe`` is so many blocks behind the newest block, ``finalized`` twice as many."""
DISK_MARK = keccak(b"maily: newest block on the disk, plus one")[12:]
"""An account of nobody. Its balance says how far the chain is on the disk, so that what a crash
of the node would take back is not called final. 0: nobody keeps it there."""
