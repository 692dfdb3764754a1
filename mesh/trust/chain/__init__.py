"""What anchoring needs of an EVM chain: a protocol, the real thing, a fake, proofs, a wallet."""
