"""What nodes say when they don't take a transaction. Each client has words of its own."""

from __future__ import annotations

from mesh.trust.chain.protocol import SendResult, Sent

# First match counts. Words of geth, reth, erigon, nethermind, besu and anvil, in lower case.
_WORDS: tuple[tuple[Sent, tuple[str, ...]], ...] = (
    (
        Sent.KNOWN,
        (
            "already known",
            "alreadyknown",
            "known transaction",
            "already imported",
            "already exists",
            "already in the pool",
            "already in mempool",
        ),
    ),
    (
        Sent.NONCE_TOO_LOW,
        ("nonce too low", "oldnonce", "nonce is too low", "nonce below sender", "invalid nonce"),
    ),
    (
        Sent.UNDERPRICED,
        (
            "underpriced",
            "feetoolow",
            "fee too low",
            "less than block base fee",
            "could not replace",
            "replacementnotallowed",
            "below configured minimum",
            "gas price too low",
            "max fee per gas less",
            "tip too low",
        ),
    ),
    (
        Sent.UNFUNDED,
        ("insufficient funds", "insufficientfunds", "upfront cost exceeds", "insufficient balance"),
    ),
)
_BUSY = ("txpool is full", "pool is full", "rate limit", "too many requests", "try again")


def outcome_of(message: str) -> SendResult | None:
    """None: the node is busy, which says nothing about the transaction."""
    lower = message.lower()
    for outcome, words in _WORDS:
        if any(word in lower for word in words):
            return SendResult(outcome, message)
    if any(word in lower for word in _BUSY):
        return None
    return SendResult(Sent.REJECTED, message)
