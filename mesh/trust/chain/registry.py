"""The contract that logs roots: its code, its address on every chain, how it is called.

Source and compiler settings are beside this file (``contract/AnchorRegistry.vy``); a test compiles
it again and compares. It is deployed by the factory that is on nearly every chain (CREATE2), so
its address depends on nothing but its code, and to deploy it twice is not possible.
"""

from __future__ import annotations

from eth_hash.auto import keccak

from mesh.trust.evm import ANCHORED

FACTORY = bytes.fromhex("4e59b44847b379578588920ca78fbf26c0b4956c")
"""Deterministic deployment proxy: calldata is salt and creation code."""
SALT = bytes(32)
INIT_CODE = bytes.fromhex(
    "61005061000f6000396100506000f360003560e01c63eecdf9278118610045576024361034176"
    "1004b576004357fc8f7565859107929ba4b285bfb17dfba069f69ab64447f49d6fecb70f6bd55"
    "2b60006040a2005b60006000fd5b600080fd"
)
"""Vyper 0.4.3, EVM of Paris, without metadata."""
RUNTIME_CODE = INIT_CODE[15:]
ADDRESS = keccak(b"\xff" + FACTORY + SALT + keccak(INIT_CODE))[12:]
"""Of the registry on every chain that has the factory."""
SELECTOR = keccak(b"anchor(bytes32)")[:4]
TOPIC = ANCHORED


def deploy_data() -> bytes:
    """Input of the transaction to ``FACTORY``."""
    return SALT + INIT_CODE


def anchor_data(root: bytes) -> bytes:
    """Input of a transaction to the registry."""
    return SELECTOR + root


def is_registry(code: bytes) -> bool:
    """Whether the code at an address is the registry's, byte for byte."""
    return code == RUNTIME_CODE
