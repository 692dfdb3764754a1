"""A checked graph: what a kind of task builds, and what runs it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from mesh.agents.agent import AgentOptions, Journal, StepOutput, TaskInput, TimeLeft
from mesh.agents.graph.check import check
from mesh.agents.graph.durable import FlowRun
from mesh.agents.graph.execute import Scope, Walk
from mesh.agents.graph.layout import Layout
from mesh.agents.graph.nodes import (
    Approval,
    Map,
    Node,
    Sequence,
    Step,
    children,
    describe,
)
from mesh.agents.graph.outcome import FAILED
from mesh.agents.graph.refs import INPUT
from mesh.agents.graph.types import ANY, Schema
from mesh.agents.services import NO_SERVICES, AgentServices
from mesh.core.clock import Clock
from mesh.llm.engine import LLMClient
from mesh.streams.log import StreamWriter


class Graph:
    """Steps and how they follow from each other. Immutable; raises GraphError unless sound."""

    def __init__(
        self,
        root: Node,
        *,
        given: Mapping[str, Any] | None = None,
        given_schema: Schema = ANY,
    ) -> None:
        """``given``: what ``input`` refers to; None: the task's own ``input``."""
        check(root, given_schema)
        self.root = root
        self.layout: Layout = Layout(root)
        self._given = given

    def hash(self) -> str:
        """Of its structure: two versions of a kind that differ have different ones."""
        packed = orjson.dumps(describe(self.root), option=orjson.OPT_SORT_KEYS)
        return hashlib.blake2b(packed, digest_size=8).hexdigest()

    def steps(self) -> Iterator[Step]:
        """Every step, in order."""
        yield from _steps(self.root)

    @property
    def takes_back(self) -> bool:
        """Whether any step has an ``undo``."""
        return any(step.undo is not None for step in self.steps())

    async def run(
        self,
        task: TaskInput,
        llm: LLMClient,
        writer: StreamWriter,
        journal: Journal,
        options: AgentOptions,
        clock: Clock,
        deadline: TimeLeft,
        services: AgentServices = NO_SERVICES,
    ) -> dict[str, StepOutput]:
        """Every step's output by name. Raises Parking when people have to decide first, and what
        agents, the journal and the stream raise."""
        run = FlowRun(task, llm, writer, journal, options, clock, deadline, services)
        try:
            await run.open()
            await run.begin(frontier(self.root, run.held))
            outputs = await self.walk(run)
            await run.settle()
            return outputs
        finally:
            await run.close()

    def given_of(self, task: TaskInput) -> Mapping[str, Any]:
        """What ``input`` refers to."""
        return self._given if self._given is not None else task.request.input or {}

    async def walk(self, run: FlowRun, prefix: str = "", base: int = 0) -> dict[str, StepOutput]:
        """The graph itself, in an execution that is open."""
        given = self.given_of(run.task)
        done = await Walk(run, self.layout).node(
            self.root, Scope({INPUT: given}, prefix=prefix, base=base)
        )
        return done.steps

    async def inside(
        self, run: FlowRun, task: TaskInput, prefix: str, base: int
    ) -> dict[str, StepOutput]:
        """Run within a step of another graph: its rows are ``prefix`` and their names."""
        return await self.walk(run.derive(task), prefix, base)


def _steps(node: Node) -> Iterator[Step]:
    if isinstance(node, Step):
        yield node
    for child in children(node):
        yield from _steps(child)


def frontier(root: Node, held: Mapping[str, StepOutput]) -> list[str]:
    """Rows whose ``step.finished`` may be missing in the stream: those without a successor."""
    names = _last(root, held, "") if held else []
    return sorted((n for n in names if n != FAILED), key=lambda n: (held[n].position, n))


def _last(node: Node, held: Mapping[str, StepOutput], suffix: str) -> list[str]:
    if isinstance(node, Step):
        return _last_of_step(f"{node.name}{suffix}", held)
    if isinstance(node, Approval):
        name = f"{node.name}{suffix}"
        return [name] if name in held else []
    if isinstance(node, Sequence):
        for child in reversed(node.nodes):
            found = _last(child, held, suffix)
            if found:
                return found
        return []
    if isinstance(node, Map):
        found = []
        for index in range(node.max_items):
            of_item = _last(node.body, held, f"{suffix}[{index}]")
            found += of_item
        return found
    found = []
    for child in children(node):
        found += _last(child, held, suffix)
    return found


def _last_of_step(name: str, held: Mapping[str, StepOutput]) -> list[str]:
    hop = 1
    while f"{name}:{hop + 1}" in held:
        hop += 1
    latest = name if hop == 1 else f"{name}:{hop}"
    if latest in held:
        return [latest]
    within = [row for row in held if row.startswith(f"{name}/")]
    return (
        [max(within, key=lambda row: (held[row].position, held[row].started_at))] if within else []
    )
