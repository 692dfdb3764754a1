"""A durable sequence of steps: what is committed is never done again.

After a crash a new attempt skips every committed step and starts the next one afresh. Its
``step.started`` voids whatever an earlier attempt streamed of that step. The only event that may
be missing is the ``step.finished`` of the last committed step (the worker died between commit
and append), so a resumed run says it once more, marked ``replayed``.
"""

from __future__ import annotations

from collections.abc import Sequence

from mesh.agents.agent import Agent
from mesh.agents.graph import nodes
from mesh.agents.graph.graph import Graph


class Pipeline(Graph):
    """Runs agents one after the other. Their steps' names must differ."""

    def __init__(self, agents: Sequence[Agent]) -> None:
        names = [agent.step for agent in agents]
        if len(set(names)) != len(names) or not names:
            raise ValueError(f"a pipeline needs steps with names of their own: {names}")
        self.agents = tuple(agents)
        super().__init__(nodes.Sequence(tuple(nodes.Step(a.step, a) for a in self.agents)))
