"""A durable sequence of steps: what is committed is never done again.

After a crash a new attempt skips every committed step and starts the next one afresh. Its
``step.started`` voids whatever an earlier attempt streamed of that step. The only event that may
be missing is the ``step.finished`` of the last committed step (the worker died between commit
and append), so a resumed run says it once more, marked ``replayed``.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from mesh.agents.agent import (
    Agent,
    AgentOptions,
    Journal,
    StepContext,
    StepOutput,
    TaskInput,
    TimeLeft,
)
from mesh.agents.ledger import ledger
from mesh.agents.services import NO_SERVICES, AgentServices
from mesh.contracts.events import EventType
from mesh.core import metrics
from mesh.core.clock import Clock
from mesh.core.errors import DeadlineExceeded
from mesh.core.tracing import span
from mesh.llm.engine import LLMClient
from mesh.streams.log import StreamWriter


class Pipeline:
    """Runs agents one after the other. Their steps' names must differ."""

    def __init__(self, agents: Sequence[Agent]) -> None:
        names = [agent.step for agent in agents]
        if len(set(names)) != len(names) or not names:
            raise ValueError(f"a pipeline needs steps with names of their own: {names}")
        self.agents = tuple(agents)

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
        """Every step's output by name. Raises what agents and the journal raise."""
        kept = await journal.finished()
        done = [agent.step for agent in self.agents if agent.step in kept]
        resumed_from = done[-1] if done else None
        await writer.append(
            EventType.TASK_STARTED, {"worker": task.worker, "resumed_from": resumed_from}
        )
        if resumed_from is not None:
            await writer.append(EventType.STEP_FINISHED, _event(kept[resumed_from], replayed=True))
        outputs: dict[str, StepOutput] = {}
        for position, agent in enumerate(self.agents):
            finished = kept.get(agent.step)
            if finished is None:
                if deadline.remaining() <= 0:
                    raise DeadlineExceeded(details={"step": agent.step})
                started = datetime.fromtimestamp(clock.now(), UTC)
                await writer.append(
                    EventType.STEP_STARTED, {"step": agent.step, "agent": agent.name}
                )
                context = StepContext(
                    task=task,
                    step=agent.step,
                    previous={name: step.output for name, step in outputs.items()},
                    llm=llm,
                    writer=writer,
                    options=options,
                    clock=clock,
                    deadline=deadline,
                    services=services,
                    input=task.request.input or {},
                )
                with span(f"agent.{agent.step}", agent=agent.name), ledger() as notes:
                    result = await agent.run(context)
                finished = await journal.commit(
                    StepOutput(
                        name=agent.step,
                        position=position,
                        output=result.output,
                        decisions=result.decisions,
                        reads=notes.reads,
                        calls=notes.calls,
                        degraded=result.degraded,
                        started_at=started,
                    )
                )
                if finished.degraded:
                    metrics.DEGRADED.labels(step=agent.step).inc()
                await writer.append(EventType.STEP_FINISHED, _event(finished))
            outputs[agent.step] = finished
        return outputs


def _event(step: StepOutput, *, replayed: bool = False) -> dict[str, Any]:
    data: dict[str, Any] = {
        "step": step.name,
        "output": step.output,
        "decisions": [decision.model_dump(mode="json") for decision in step.decisions],
        "degraded": step.degraded,
    }
    if replayed:
        data["replayed"] = True
    return data
