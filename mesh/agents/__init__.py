"""What an agent is, the agents, their pipelines, guardrails and the balancing policy."""

from mesh.agents.agent import (
    Agent,
    AgentOptions,
    Journal,
    MemoryJournal,
    StepContext,
    StepOutput,
    StepResult,
    TaskInput,
    TimeLeft,
)
from mesh.agents.catalogue import AGENTS
from mesh.agents.pipeline import Pipeline
from mesh.agents.run import run_task

__all__ = [
    "AGENTS",
    "Agent",
    "AgentOptions",
    "Journal",
    "MemoryJournal",
    "Pipeline",
    "StepContext",
    "StepOutput",
    "StepResult",
    "TaskInput",
    "TimeLeft",
    "run_task",
]
