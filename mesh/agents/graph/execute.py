"""Walk a graph: run what is not committed, take what is, in the same order every time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any

from mesh.agents.agent import StepOutput, Verdict
from mesh.agents.graph.durable import FlowRun, StepPlan
from mesh.agents.graph.expr import holds
from mesh.agents.graph.layout import Layout
from mesh.agents.graph.nodes import Approval, Condition, Map, Node, Parallel, Sequence, Step
from mesh.agents.graph.outcome import Parking, Wait
from mesh.agents.graph.refs import INDEX, INPUT, ITEM, RESERVED, Binding, fill, refs_of
from mesh.contracts.events import EventType
from mesh.core.errors import InvalidInput, MailyError, StepFailed


@dataclass(frozen=True, slots=True)
class Scope:
    """What a node may read, and where its rows lie."""

    values: Mapping[str, Any]
    """Outputs of what surely came before, by name; ``input``, ``item``, ``index``."""
    prefix: str = ""
    """Of the steps' names: the step that this graph runs within."""
    suffix: str = ""
    """Of the steps' names: which items of maps."""
    base: int = 0
    """Added to positions."""
    collect: bool = False
    """A failure is somebody's result."""

    def row(self, name: str) -> str:
        return f"{self.prefix}{name}{self.suffix}"

    def outputs(self) -> dict[str, Any]:
        return {n: v for n, v in self.values.items() if n not in (INPUT, ITEM, INDEX)}


@dataclass(slots=True)
class Done:
    """What a node gave: its value, and the outputs that later nodes may refer to."""

    value: Any
    outputs: dict[str, Any] = field(default_factory=dict)
    steps: dict[str, StepOutput] = field(default_factory=dict)
    """Rows by the name that they have within this graph."""


class Walk:
    """One walk through one graph."""

    def __init__(self, run: FlowRun, layout: Layout) -> None:
        self.run = run
        self.layout = layout

    async def node(self, node: Node, scope: Scope) -> Done:
        if isinstance(node, Step):
            return await self._step(node, scope)
        if isinstance(node, Sequence):
            return await self._sequence(node, scope)
        if isinstance(node, Parallel):
            return await self._parallel(node, scope)
        if isinstance(node, Map):
            return await self._map(node, scope)
        if isinstance(node, Condition):
            return await self._condition(node, scope)
        return await self._approval(node, scope)

    async def _step(self, node: Step, scope: Scope) -> Done:
        position = scope.base + self.layout.position(node)
        given = scope.values[INPUT] if node.input is None else fill(node.input, scope.values)
        outputs = scope.outputs()
        reads = tuple(outputs) if node.input is None else _roots(node.input)
        plan = StepPlan(
            name=scope.row(node.name),
            position=position,
            agent=node.agent,
            previous=outputs,
            reads=reads,
            input=given if isinstance(given, Mapping) else {"value": given},
            retry=node.retry,
            timeout_s=node.timeout_s,
            keep_failure=scope.collect,
            bound=node.input is not None,
            room=self.layout.room(node),
        )
        step = await self.run.step(plan)
        steps = {f"{node.name}{scope.suffix}": step}
        hop = 1
        while step.hand_to is not None:
            agent = node.handoffs.get(step.hand_to)
            if agent is None:
                raise StepFailed(
                    f"The step {node.name} may not hand over to {step.hand_to[:100]!r}.",
                    {"step": plan.name, "code": "handoff_refused", "hand_to": step.hand_to[:100]},
                )
            hop += 1
            if hop > node.max_hops + 1:
                raise StepFailed(
                    f"The step {node.name} changed hands more than {node.max_hops} times.",
                    {"step": plan.name, "code": "too_many_handoffs"},
                )
            plan = StepPlan(
                name=f"{scope.row(node.name)}:{hop}",
                position=min(position + hop - 1, position + plan.room),
                agent=agent,
                previous={**plan.previous, node.name: step.output},
                reads=(*plan.reads, node.name),
                input=plan.input,
                retry=node.retry,
                timeout_s=node.timeout_s,
                keep_failure=scope.collect,
            )
            step = await self.run.step(plan)
            steps[f"{node.name}{scope.suffix}:{hop}"] = step
        return Done(step.output, {node.name: step.output}, steps)

    async def _sequence(self, node: Sequence, scope: Scope) -> Done:
        done = Done(None)
        for child in node.nodes:
            part = await self.node(child, _with(scope, done.outputs))
            done.value = part.value
            done.outputs |= part.outputs
            done.steps |= part.steps
        return done

    async def _parallel(self, node: Parallel, scope: Scope) -> Done:
        collect = node.gather == "collect"
        inner = _within(scope, collect=collect)
        parts = await together(
            [partial(self.node, child, inner) for child in node.nodes],
            len(node.nodes),
            collect=collect,
        )
        done = Done({"branches": [], "failed": []})
        for index, part in enumerate(parts):
            _gather(done, "branches", index, part)
        if node.name is not None:
            done.outputs[node.name] = done.value
        return done

    async def _map(self, node: Map, scope: Scope) -> Done:
        items = node.over.read(scope.values)
        if items is None and node.over.optional:
            items = []
        if not isinstance(items, list | tuple):
            raise _wrong(node.name, f"{node.over} is no list")
        if len(items) > node.max_items:
            raise _wrong(node.name, f"{node.over} has more than {node.max_items} items")
        collect = node.gather == "collect"
        room = self.layout.item_room(node)

        def one(index: int, item: Any) -> Callable[[], Awaitable[Done]]:
            inner = Scope(
                values={**scope.values, ITEM: item, INDEX: index},
                prefix=scope.prefix,
                suffix=f"{scope.suffix}[{index}]",
                base=scope.base + room * index,
                collect=scope.collect or collect,
            )
            return partial(self.node, node.body, inner)

        works = [one(index, item) for index, item in enumerate(items)]
        parts = await together(works, node.concurrency, collect=collect)
        done = Done({"items": [], "failed": []})
        for index, part in enumerate(parts):
            if isinstance(part, Done):
                part.outputs = {}  # a name within the body has a value per item: none outside
            _gather(done, "items", index, part)
        done.outputs[node.name] = done.value
        return done

    async def _condition(self, node: Condition, scope: Scope) -> Done:
        taken = node.then if holds(node.when, scope.values) else node.otherwise
        done = Done(None) if taken is None else await self.node(taken, scope)
        if node.name is not None:
            done.outputs[node.name] = done.value
        return done

    async def _approval(self, node: Approval, scope: Scope) -> Done:
        name = scope.row(node.name)
        kept = self.run.held.get(name)
        if kept is None:
            kept = await self._ask(node, name, scope)
        if not kept.output["approved"] and node.on_reject == "fail":
            timed_out = kept.output["timed_out"]
            raise StepFailed(
                "Nobody approved in time." if timed_out else "It was not approved.",
                {
                    "step": name,
                    "code": "approval_timeout" if timed_out else "rejected",
                    "comment": kept.output["comment"],
                },
            )
        if kept.output["timed_out"] and node.on_timeout == "fail":
            raise StepFailed("Nobody approved in time.", {"step": name, "code": "approval_timeout"})
        return Done(kept.output, {node.name: kept.output}, {f"{node.name}{scope.suffix}": kept})

    async def _ask(self, node: Approval, name: str, scope: Scope) -> StepOutput:
        run = self.run
        started = datetime.fromtimestamp(run.clock.now(), UTC)
        question = fill(node.question, scope.values)
        asked = await run.journal.ask(name, question, node.timeout_s)
        verdict = asked.verdict
        if verdict is None:
            if not asked.expired:
                await run.say(
                    EventType.STEP_WAITING,
                    {"step": name, "question": question, "expires_at": asked.expires_at}
                    | ({} if asked.new else {"replayed": True}),
                )
                raise Parking([Wait(name, asked.expires_at)])
            verdict = Verdict(approved=node.on_timeout == "approve")
        output = verdict.model_dump(mode="json") | {"timed_out": asked.verdict is None}
        kept = await run.commit(
            StepOutput(
                name=name,
                position=scope.base + self.layout.position(node),
                output=output,
                started_at=started,
            )
        )
        await run.say_soon(EventType.STEP_APPROVED, {"step": name, **kept.output})
        return kept


async def together(
    works: list[Callable[[], Awaitable[Done]]], concurrency: int, *, collect: bool
) -> list[Done | MailyError]:
    """Every work's answer, in their order. Raises the first failure (not with ``collect``) after
    the others have let go; Parking when all that is left waits for people."""
    limit = asyncio.Semaphore(concurrency)

    async def one(work: Callable[[], Awaitable[Done]]) -> Done:
        async with limit:
            return await work()

    tasks = [asyncio.ensure_future(one(work)) for work in works]
    waits: list[Wait] = []
    try:
        pending = set(tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=tasks.index):
                error = task.exception()
                if isinstance(error, Parking):
                    waits += error.waits
                elif error is not None and not (collect and is_result(error)):
                    raise error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if waits:
        raise Parking(waits)
    answers: list[Done | MailyError] = []
    for task in tasks:
        error = task.exception()
        answers.append(error if isinstance(error, MailyError) else task.result())
    return answers


def is_result(error: BaseException) -> bool:
    """Whether a branch's failure is final, so that it may be collected: the same in every
    attempt. What is away now, or the end of the whole task's time, is not."""
    return isinstance(error, StepFailed | InvalidInput)


def _gather(done: Done, key: str, index: int, part: Done | MailyError) -> None:
    if isinstance(part, Done):
        done.value[key].append(part.value)
        done.outputs |= part.outputs
        done.steps |= part.steps
    else:
        done.value[key].append(None)
        body = {"code": part.code, "message": part.message, "details": part.details}
        done.value["failed"].append({"index": index, "error": body})


def _with(scope: Scope, outputs: Mapping[str, Any]) -> Scope:
    return _within(scope, values={**scope.values, **outputs}) if outputs else scope


def _within(
    scope: Scope, *, values: Mapping[str, Any] | None = None, collect: bool = False
) -> Scope:
    return Scope(
        values=scope.values if values is None else values,
        prefix=scope.prefix,
        suffix=scope.suffix,
        base=scope.base,
        collect=scope.collect or collect,
    )


def _roots(binding: Binding) -> tuple[str, ...]:
    """Names of the steps that a binding refers to, each once."""
    return tuple(dict.fromkeys(r.root for r in refs_of(binding) if r.root not in RESERVED))


def _wrong(node: str, what: str) -> InvalidInput:
    return InvalidInput(f"{node}: {what}.", {"step": node})
