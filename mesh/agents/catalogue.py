"""The agents that exist: what callers see under ``/v1/mesh/agents``."""

from __future__ import annotations

from mesh.contracts.mesh import AgentInfo
from mesh.contracts.tasks import TaskKind

_WRITE_EMAIL = (
    (
        "strategist",
        "strategy",
        "Decides what the email has to achieve, from which angle, and its call to action",
        True,
        "the brief's own goal, first key point and first link",
    ),
    (
        "subject-line-writer",
        "subject_lines",
        "Writes three subject lines and ranks them by an explainable score",
        True,
        "lines made of the brief's own words",
    ),
    (
        "preheader-writer",
        "preheader",
        "Writes the line that mail programs show beside the subject",
        True,
        "a line made of the brief's own words",
    ),
    (
        "body-writer",
        "body",
        "Writes the body: greeting, opening, points, closing and button",
        True,
        "blocks made of the brief's own words",
    ),
    (
        "reviewer",
        "review",
        "Checks the whole email (claims, links, tags, spam signs, language) and mends it",
        False,
        "none needed: its checks are rules",
    ),
)

AGENTS: tuple[AgentInfo, ...] = tuple(
    AgentInfo(
        name=name,
        kind=TaskKind.WRITE_EMAIL,
        step=step,
        position=position,
        does=does,
        uses_model=uses_model,
        fallback=fallback,
    )
    for position, (name, step, does, uses_model, fallback) in enumerate(_WRITE_EMAIL)
)
"""Every agent, in the order of their steps."""


def agent_info(kind: TaskKind, step: str) -> AgentInfo:
    """Raises KeyError when no agent does this step."""
    for agent in AGENTS:
        if agent.kind == kind and agent.step == step:
            return agent
    raise KeyError(f"{kind}/{step}")
