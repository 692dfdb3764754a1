"""The agents that exist: what callers see under ``/v1/mesh/agents``."""

from __future__ import annotations

from mesh.contracts.mesh import AgentInfo
from mesh.contracts.tasks import TaskKind

_Row = tuple[str, str, str, bool, str]
"""Name, step, what it does, whether it asks the model, what answers when the model can't."""

_WRITE_EMAIL: tuple[_Row, ...] = (
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

_ALONE: dict[TaskKind, _Row] = {
    TaskKind.CLASSIFY: (
        "classifier",
        "classify",
        "Says topic, tone and audience of an email or text, its spam and compliance risk",
        False,
        "cue words alone, when there are no embeddings",
    ),
    TaskKind.PERSONALISE: (
        "personaliser",
        "personalise",
        "Makes an email one contact's, by what the memory knows of them; cites each memory",
        True,
        "the remembered fact as a plain sentence",
    ),
    TaskKind.OPTIMISE: (
        "optimiser",
        "optimise",
        "Ranks variants by expected opens or clicks, with uncertainty and reasons",
        False,
        "the heuristic scorer, when another one fails",
    ),
    TaskKind.TRANSLATE: (
        "translator",
        "translate",
        "Translates an email block by block; links, merge tags and figures stay",
        True,
        "the text in its own language, marked as not translated",
    ),
}
"""Agents that are a kind's only step."""


def _infos(kind: TaskKind, rows: tuple[_Row, ...]) -> tuple[AgentInfo, ...]:
    return tuple(
        AgentInfo(
            name=name,
            kind=kind,
            step=step,
            position=position,
            does=does,
            uses_model=uses_model,
            fallback=fallback,
        )
        for position, (name, step, does, uses_model, fallback) in enumerate(rows)
    )


AGENTS: tuple[AgentInfo, ...] = (
    *_infos(TaskKind.WRITE_EMAIL, _WRITE_EMAIL),
    *(info for kind, row in _ALONE.items() for info in _infos(kind, (row,))),
)
"""Every agent: those of write_email in the order of their steps, then the others."""


def agent_info(kind: TaskKind, step: str) -> AgentInfo:
    """Raises KeyError when no agent does this step."""
    for agent in AGENTS:
        if agent.kind == kind and agent.step == step:
            return agent
    raise KeyError(f"{kind}/{step}")
