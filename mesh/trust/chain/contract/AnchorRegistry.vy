# pragma version 0.4.3
# pragma evm-version paris
# pragma optimize gas
"""
@title AnchorRegistry
@license Apache-2.0
@notice Says in a log that a root was here by the time of its block. Stores nothing, owns nothing,
        can't be changed: anybody may anchor any root, and a root that is there twice says no more.
"""

event Anchored:
    root: indexed(bytes32)


@external
def anchor(root: bytes32):
    """
    @notice Log a root.
    @param root Root of a Merkle tree.
    """
    log Anchored(root=root)
