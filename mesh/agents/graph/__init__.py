"""Durable graphs of typed steps: sequence, parallel, map, condition, retry, timeout,
compensation, approval, handoff."""

from mesh.agents.graph.check import GraphError
from mesh.agents.graph.graph import Graph
from mesh.agents.graph.nodes import (
    Approval,
    Condition,
    Map,
    Node,
    Parallel,
    Retry,
    Sequence,
    Step,
    Undo,
)
from mesh.agents.graph.outcome import Parking, Wait
from mesh.agents.graph.refs import Ref

__all__ = [
    "Approval",
    "Condition",
    "Graph",
    "GraphError",
    "Map",
    "Node",
    "Parallel",
    "Parking",
    "Ref",
    "Retry",
    "Sequence",
    "Step",
    "Undo",
    "Wait",
]
