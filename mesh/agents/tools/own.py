"""Our own tools: memory, and what our guardrails and renderer know of emails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, ValidationError

from mesh.agents.guard.check import content_problems
from mesh.agents.guard.facts import Facts
from mesh.agents.guard.injection import signs
from mesh.agents.guard.personal import personal_data
from mesh.agents.guard.spam import spam_score
from mesh.agents.render import render_html, render_text
from mesh.agents.tools.tool import ToolCaller
from mesh.contracts.base import Contract
from mesh.contracts.email import Brief, Email
from mesh.contracts.memory import MemoryQuery, Namespace, NamespaceKind
from mesh.contracts.problems import from_validation
from mesh.contracts.tools import SideEffects
from mesh.core.errors import InvalidInput, Unavailable


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A tool made of a pydantic model and a function."""

    name: str
    description: str
    input_model: type[Contract]
    work: Callable[[Any, ToolCaller], Awaitable[Any]]
    side_effects: SideEffects = "none"
    scopes: frozenset[str] = frozenset()
    timeout_s: float = 10.0
    source: str = "maily"
    _schema: dict[str, Any] = field(default_factory=dict)

    @property
    def input_schema(self) -> Mapping[str, Any]:
        if not self._schema:
            self._schema.update(self.input_model.model_json_schema())
        return self._schema

    async def call(self, arguments: Mapping[str, Any], caller: ToolCaller) -> Any:
        try:
            given = self.input_model.model_validate(dict(arguments))
        except ValidationError as error:
            raise from_validation(error, dict(arguments)) from None
        return await self.work(given, caller)


class MemorySearch(Contract):
    """Arguments of ``memory.search``."""

    query: str = Field(min_length=1, max_length=1_000, description="What to look for, in words")
    namespace: NamespaceKind = Field(
        default=NamespaceKind.WORKSPACE, description="What it is about"
    )
    id: str = Field(
        default="", max_length=200, description="Of the contact, conversation or campaign"
    )
    limit: int = Field(default=5, ge=1, le=20)


async def _memory_search(given: MemorySearch, caller: ToolCaller) -> Any:
    memory = caller.services.memory
    if memory is None or caller.workspace_id is None:
        raise Unavailable("There is no memory here.")
    answer = await memory.recall(
        caller.workspace_id,
        MemoryQuery(
            text=given.query,
            namespaces=[Namespace(kind=given.namespace, id=given.id)],
            k=given.limit,
            token_budget=1_500,
        ),
        timeout_s=max(0.05, min(5.0, caller.deadline.remaining())),
    )
    return {
        "hits": [
            {"id": str(hit.item.id), "kind": hit.item.kind.value, "text": hit.item.text}
            for hit in answer.hits
        ]
    }


class EmailCheck(Contract):
    """Arguments of ``email.check``."""

    text: str = Field(min_length=1, max_length=20_000, description="The email's words")
    brief: Brief = Field(description="What it may claim, link to and insert")


async def _email_check(given: EmailCheck, _caller: ToolCaller) -> Any:
    facts = Facts(given.brief)
    found = [
        {"kind": problem.kind, "what": problem.what}
        for problem in content_problems(given.text, facts)
    ]
    score = spam_score(given.text)
    return {
        "ok": not found,
        "problems": found,
        "spam_score": score.value,
        "personal_data": sorted({item.kind for item in personal_data(given.text)}),
        "injection_signs": signs(given.text),
    }


class EmailRender(Contract):
    """Arguments of ``email.render``."""

    email: Email


async def _email_render(given: EmailRender, _caller: ToolCaller) -> Any:
    for block in given.email.blocks:
        if block.url is not None and not block.url.startswith(("https://", "http://")):
            raise InvalidInput("A button links to an http address.", {"field": "email.blocks"})
    return {"html": render_html(given.email), "text": render_text(given.email)}


OWN: tuple[FunctionTool, ...] = (
    FunctionTool(
        "memory.search",
        "Search what is remembered of this workspace, a contact, a conversation or a campaign.",
        MemorySearch,
        _memory_search,
        scopes=frozenset({"memory:read"}),
        timeout_s=5.0,
    ),
    FunctionTool(
        "email.check",
        "Check an email's words against its brief: claims, links, merge tags, spam signs.",
        EmailCheck,
        _email_check,
    ),
    FunctionTool(
        "email.render",
        "Render a structured email to HTML and plain text.",
        EmailRender,
        _email_render,
    ),
)
"""Every tool of ours that needs no setting."""
