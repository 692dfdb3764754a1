"""Which tools there are, who may call them, and what every call has in common.

A call passes, in this order: the allow-list, the credential's scopes, the arguments' schema, the
time limit. Its result is bounded in size and is data: nothing in it is ever obeyed. Every call,
also a refused one, is noted in the running step's ledger.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import orjson
from jsonschema import Draft202012Validator
from referencing import Registry

from mesh.agents.graph.limits import within
from mesh.agents.ledger import note_read
from mesh.agents.tools.tool import Tool, ToolCaller
from mesh.contracts.tools import ToolInfo, ToolResult
from mesh.contracts.trace import ReadKind, ReadRecord
from mesh.core import metrics
from mesh.core.errors import (
    Cancelled,
    DeadlineExceeded,
    Fenced,
    Forbidden,
    InvalidInput,
    MailyError,
)
from mesh.core.genai import tool_span
from mesh.core.logging import get_logger

log = get_logger("tools")

_NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-zA-Z0-9_-]+)*")
MAX_NAME = 64


@dataclass(frozen=True, slots=True)
class ToolBoxOptions:
    """Limits of every call."""

    max_result_bytes: int = 16_384
    """Of the result as JSON; a longer one is cut and says so."""
    max_argument_bytes: int = 65_536


@dataclass(slots=True)
class _Counts:
    calls: int = 0
    refused: int = 0
    failed: int = 0
    truncated: int = 0


@dataclass(frozen=True, slots=True)
class ToolBox:
    """Tools by name. ``narrow`` gives a view that allows fewer; nothing widens one again."""

    tools: Mapping[str, Tool] = field(default_factory=dict)
    allowed: frozenset[str] | None = None
    """None: every tool."""
    options: ToolBoxOptions = ToolBoxOptions()
    workspaces: Mapping[UUID, frozenset[str]] = field(default_factory=dict)
    """Narrower lists by workspace."""
    _counts: _Counts = field(default_factory=_Counts)

    @classmethod
    def of(cls, tools: Iterable[Tool], options: ToolBoxOptions | None = None) -> ToolBox:
        """Raises ValueError for a malformed name or one that two tools have."""
        found: dict[str, Tool] = {}
        for tool in tools:
            if not _NAME.fullmatch(tool.name) or len(tool.name) > MAX_NAME:
                raise ValueError(f"{tool.name!r} is no name of a tool")
            if tool.name in found:
                raise ValueError(f"two tools are named {tool.name}")
            found[tool.name] = tool
        return cls(found, None, options or ToolBoxOptions())

    def narrow(self, names: Iterable[str] | None) -> ToolBox:
        """Only these, and only as far as they were allowed before. None: all that were."""
        if names is None:
            return self
        wanted = frozenset(names)
        allowed = wanted if self.allowed is None else wanted & self.allowed
        return ToolBox(self.tools, allowed, self.options, self.workspaces, self._counts)

    def allows(self, name: str, workspace_id: UUID | None = None) -> bool:
        """Whether the tool is there and on every list that applies."""
        lists = (self.allowed, self.workspaces.get(workspace_id) if workspace_id else None)
        return name in self.tools and all(names is None or name in names for names in lists)

    def names(self, workspace_id: UUID | None = None) -> tuple[str, ...]:
        """What may be called, sorted."""
        return tuple(sorted(name for name in self.tools if self.allows(name, workspace_id)))

    def infos(self, workspace_id: UUID | None = None) -> list[ToolInfo]:
        """What may be called, with schemas."""
        return [info_of(self.tools[name]) for name in self.names(workspace_id)]

    def find(self, name: str, workspace_id: UUID | None = None) -> Tool:
        """Raises Forbidden for a tool that is not on the list (there or not: it is not said)."""
        if not self.allows(name, workspace_id):
            raise Forbidden(f"The tool {name[:MAX_NAME]!r} may not be called here.")
        return self.tools[name]

    async def call(self, name: str, arguments: Mapping[str, Any], caller: ToolCaller) -> ToolResult:
        """The tool's answer, or why there is none, as data. Raises Fenced and Cancelled only,
        and DeadlineExceeded when the caller's own time is over."""
        clock = caller.clock
        started = clock.monotonic()
        self._counts.calls += 1
        outcome: Literal["ok", "failed", "refused"] = "ok"
        try:
            tool = self._admitted(name, arguments, caller)
            with tool_span(name):
                content = await within(
                    tool.call(arguments, caller),
                    max(0.0, min(tool.timeout_s, caller.deadline.remaining())),
                    clock,
                    {"tool": name},
                )
            bounded, truncated = self._bounded(content)
            self._counts.truncated += truncated
            result = ToolResult(
                tool=name,
                ok=True,
                content=bounded,
                truncated=truncated,
                seconds=round(clock.monotonic() - started, 6),
            )
        except (Fenced, Cancelled):
            raise
        except MailyError as error:
            if isinstance(error, DeadlineExceeded) and caller.deadline.remaining() <= 0:
                raise
            refused = isinstance(error, Forbidden)
            outcome = "refused" if refused else "failed"
            self._counts.refused += refused
            self._counts.failed += not refused
            result = ToolResult(
                tool=name[:MAX_NAME],
                ok=False,
                error={"code": error.code, "message": error.message[:500]},
                seconds=round(clock.monotonic() - started, 6),
            )
        metrics.TOOL_CALLS.labels(
            tool=metrics.bounded("tool", name if name in self.tools else "unknown"),
            outcome=outcome,
        ).inc()
        note_read(
            ReadRecord(
                kind=ReadKind.TOOL,
                ref=name[:200],
                label=caller.step[:200],
                outcome=outcome,
                error="" if result.error is None else str(result.error["code"]),
                seconds=result.seconds,
                at=datetime.fromtimestamp(clock.now(), UTC),
            )
        )
        return result

    def statistics(self) -> dict[str, int | float]:
        counts = self._counts
        return {
            "tools": len(self.names()),
            "calls": counts.calls,
            "refused": counts.refused,
            "failed": counts.failed,
            "truncated": counts.truncated,
        }

    def _admitted(self, name: str, arguments: Mapping[str, Any], caller: ToolCaller) -> Tool:
        tool = self.find(name, caller.workspace_id)
        if caller.scopes is not None:
            missing = sorted(tool.scopes - caller.scopes)
            if missing:
                raise Forbidden(f"The tool {name} needs the scope {missing[0]}.")
        if len(orjson.dumps(arguments, default=str)) > self.options.max_argument_bytes:
            raise InvalidInput("The arguments are too large.", {"field": "arguments"})
        check_arguments(tool.input_schema, arguments)
        return tool

    def _bounded(self, content: Any) -> tuple[Any, bool]:
        limit = self.options.max_result_bytes
        packed = orjson.dumps(content, default=str)
        if len(packed) <= limit:
            return orjson.loads(packed), False
        text = content if isinstance(content, str) else packed.decode()
        return text.encode()[:limit].decode(errors="ignore"), True


def check_arguments(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> None:
    """Raises InvalidInput naming the argument."""
    # An empty registry: a schema's references are never fetched from other hosts.
    validator = Draft202012Validator(dict(schema), registry=Registry())
    error = next(iter(validator.iter_errors(dict(arguments))), None)
    if error is not None:
        where = ".".join(str(part) for part in error.absolute_path) or "arguments"
        raise InvalidInput(f"{where}: {error.message}"[:300], {"field": where})


def info_of(tool: Tool) -> ToolInfo:
    return ToolInfo(
        name=tool.name,
        description=tool.description,
        input_schema=dict(tool.input_schema),
        side_effects=tool.side_effects,
        scopes=sorted(tool.scopes),
        timeout_s=tool.timeout_s,
        source=tool.source,
    )
