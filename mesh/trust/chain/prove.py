"""A root's anchor out of a whole block: its header, and the path to our receipt or transaction."""

from __future__ import annotations

from collections.abc import Sequence

from mesh.core.errors import InvalidInput, Unavailable
from mesh.trust import evm
from mesh.trust.chain.trie import ListTrie
from mesh.trust.receipt import Anchor


def by_event(
    chain_id: int,
    header: bytes,
    receipts: Sequence[bytes],
    index: int,
    root: bytes,
    contract: bytes,
) -> Anchor:
    """``receipts``: all of the block, as the trie has them; ``index``: ours. Raises Unavailable
    when they are not the block's, and InvalidInput when ours has no log of the root."""
    trie = ListTrie(receipts)
    if trie.root != evm.Header.read(header).receipts_root:
        raise Unavailable("the receipts that the node gave are not the block's")
    log = _log_with(receipts[index], root, contract)
    anchor = Anchor(chain_id, "event", header, index, trie.proof(index), contract, log)
    anchor.check(root)
    return anchor


def by_input(
    chain_id: int, header: bytes, transactions: Sequence[bytes], index: int, root: bytes
) -> Anchor:
    """As ``by_event``, of a transaction whose whole input is the root."""
    trie = ListTrie(transactions)
    if trie.root != evm.Header.read(header).transactions_root:
        raise Unavailable("the transactions that the node gave are not the block's")
    anchor = Anchor(chain_id, "calldata", header, index, trie.proof(index))
    anchor.check(root)
    return anchor


def _log_with(receipt: bytes, root: bytes, contract: bytes) -> int:
    """Which log of the receipt has the root."""
    body = receipt[1:] if receipt[:1] < b"\x80" else receipt
    logs = evm.as_list(evm.as_list(evm.decode(body), 4, "a receipt")[3], 0, "the logs")
    for at in range(len(logs)):
        try:
            if evm.event_root(receipt, at, contract) == root:
                return at
        except InvalidInput:
            continue
    raise InvalidInput("the transaction has logged nothing of this root")
