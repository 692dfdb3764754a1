"""Where each node's rows lie: positions that follow from the graph alone, so that every attempt
and a replay give a step the same one."""

from __future__ import annotations

from mesh.agents.graph.nodes import Approval, Map, Node, Step, children

MAX_POSITION = 32_000
"""Rows' positions are two-byte integers."""


class Layout:
    """Positions of one graph's nodes. Raises ValueError when they do not fit."""

    def __init__(self, root: Node) -> None:
        self._positions: dict[int, int] = {}
        self._item_room: dict[int, int] = {}
        self.size = self._place(root, 0)
        if self.size > MAX_POSITION:
            raise ValueError(
                f"the graph may have up to {self.size} steps, more than {MAX_POSITION}: "
                "lower max_items"
            )

    def position(self, node: Node) -> int:
        return self._positions[id(node)]

    def item_room(self, node: Map) -> int:
        """Positions that each item takes."""
        return self._item_room[id(node)]

    def room(self, node: Step) -> int:
        """Positions after the step's own that are for steps within it and for handoffs."""
        inner: int = getattr(node.agent, "room", 0)
        return inner + (node.max_hops if node.handoffs else 0)

    def _place(self, node: Node, at: int) -> int:
        self._positions[id(node)] = at
        if isinstance(node, Step):
            return at + 1 + self.room(node)
        if isinstance(node, Approval):
            return at + 1
        if isinstance(node, Map):
            each = self._place(node.body, at) - at
            self._item_room[id(node)] = each
            return at + each * node.max_items
        for child in children(node):
            at = self._place(child, at)
        return at
