"""The pipeline and how its steps' outputs become one email."""

from __future__ import annotations

from collections.abc import Mapping

from mesh.agents.agent import StepOutput, TaskInput
from mesh.agents.guard.clean import safe_fallback
from mesh.agents.pipeline import Pipeline
from mesh.agents.registry import KindSpec
from mesh.agents.render import render_html, render_text
from mesh.agents.scoring import SubjectScorer
from mesh.agents.write_email.body import BodyWriter
from mesh.agents.write_email.preheader import PreheaderWriter
from mesh.agents.write_email.reviewer import Reviewer
from mesh.agents.write_email.strategist import Strategist
from mesh.agents.write_email.subject_lines import SubjectLineWriter
from mesh.contracts.email import Brief, Email, Strategy
from mesh.contracts.tasks import TaskKind, TaskResult
from mesh.core.errors import InvalidInput


def build_pipeline(scorer: SubjectScorer | None = None) -> Pipeline:
    """``scorer`` ranks the subject lines; None: the heuristic."""
    return Pipeline(
        (Strategist(), SubjectLineWriter(scorer), PreheaderWriter(), BodyWriter(), Reviewer())
    )


def assemble(brief: Brief, outputs: Mapping[str, StepOutput]) -> TaskResult:
    """The result from the five steps. Pure: the same outputs give the same bytes."""
    review = outputs["review"].output
    candidates = list(outputs["subject_lines"].output["candidates"])
    email = Email.model_validate(
        {
            "subject": review["subject"],
            "subject_candidates": candidates,
            "preheader": review["preheader"],
            "blocks": review["blocks"],
            "strategy": {name: outputs["strategy"].output[name] for name in Strategy.model_fields},
            "review": review["review"],
            "language": brief.language,
            "merge_tags": [
                {"name": tag.name, "fallback": safe_fallback(tag.fallback)}
                for tag in brief.merge_tags
            ],
        }
    )
    return TaskResult(
        email=email,
        html=render_html(email),
        text=render_text(email),
        degraded=any(step.degraded for step in outputs.values()),
    )


def _result(task: TaskInput, outputs: Mapping[str, StepOutput]) -> TaskResult:
    brief = task.request.brief
    if brief is None:
        raise InvalidInput("write_email needs a brief.", {"field": "brief"})
    return assemble(brief, outputs)


SPEC = KindSpec(
    kind=TaskKind.WRITE_EMAIL,
    version=1,
    input_model=Brief,
    build=lambda _task: build_pipeline(),
    assemble=_result,
    does="Writes an email from a brief: strategy, subject lines, preheader, body, review",
    reads="brief",
    result_model=TaskResult,
)
