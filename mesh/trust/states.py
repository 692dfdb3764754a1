"""How far a batch is, told from how far its root is on each network."""

from __future__ import annotations

from collections.abc import Iterable

from mesh.contracts.trust import AnchorState, BatchState

_ON_CHAIN = (AnchorState.CONFIRMED, AnchorState.FINAL)
_SENT = (AnchorState.SUBMITTED, *_ON_CHAIN)


def state_of(anchors: Iterable[AnchorState], needed: int) -> BatchState:
    """Of a closed batch. ``needed``: networks of the policy.

    A block that is gone outweighs what is on its way: nobody shall take for confirmed what may be
    sent again. Only networks that the policy can do without may lose one unnoticed.
    """
    states = list(anchors)
    if states.count(AnchorState.FINAL) >= needed:
        return BatchState.FINAL
    if sum(state in _ON_CHAIN for state in states) >= needed:
        return BatchState.CONFIRMED
    if AnchorState.ORPHANED in states:
        return BatchState.ORPHANED
    return BatchState.SUBMITTED if any(s in _SENT for s in states) else BatchState.INCLUDED
