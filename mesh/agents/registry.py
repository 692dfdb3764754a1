"""The kinds of task: what each needs, how it runs, in which versions.

A kind's graph may change; tasks that began under an older version end under it. So a spec is
registered per kind *and* version, old ones stay until no task needs them, and a worker claims
only what it knows (``known_graphs``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol
from uuid import UUID

import orjson
from pydantic import ValidationError

from mesh.agents.agent import AgentOptions, Journal, StepOutput, TaskInput, TimeLeft
from mesh.agents.graph.layout import Layout
from mesh.agents.services import NO_SERVICES, AgentServices
from mesh.contracts.base import Contract
from mesh.contracts.problems import from_validation, invalid_field
from mesh.contracts.tasks import TaskKind, TaskRequest
from mesh.core.clock import Clock
from mesh.llm.engine import LLMClient
from mesh.streams.log import StreamWriter


class Flow(Protocol):
    """What a kind builds: a ``Pipeline`` or a ``Graph``."""

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
    ) -> dict[str, StepOutput]: ...

    @property
    def layout(self) -> Layout: ...

    def hash(self) -> str:
        """Of its structure."""
        ...


Build = Callable[[TaskInput], Flow]
Assemble = Callable[[TaskInput, Mapping[str, StepOutput]], Contract | dict[str, Any]]


@dataclass(frozen=True, slots=True)
class KindSpec:
    """One version of one kind of task."""

    kind: TaskKind
    version: int
    """Raise it with every change of the graph that a half-done task would notice."""
    input_model: type[Contract]
    """Of ``input``; of ``brief`` for a kind that reads one (``reads``)."""
    build: Build
    """The graph for this task. Pure: the same task gives the same graph."""
    assemble: Assemble
    """The result from the steps' outputs. Pure. A result's ``degraded`` marks the task."""
    does: str = ""
    """What it is for, in a sentence."""
    reads: str = "input"
    """The field of the request that holds what it needs: ``input`` or ``brief``."""
    check: Callable[[Contract], None] | None = None
    """Further rules for the input, checked at the door. Raises InvalidInput naming a field."""
    tools_of: Callable[[Contract], Iterable[tuple[str, str]]] | None = None
    """Tools that the input names, each with its field: the caller must be allowed to use them."""
    dynamic: bool = False
    """The graph depends on the task: its hash is of the input's schema instead."""
    result_model: type[Contract] | None = None
    """Of what ``assemble`` gives; None: a JSON object."""

    @property
    def graph(self) -> str:
        """``kind:version:hash``: what a task's row names, and a worker has to know."""
        return _graph_id(self)

    @property
    def size(self) -> int:
        """Positions that the steps of a graph which depends on no task take."""
        return _probe(self).layout.size


@cache
def _probe(spec: KindSpec) -> Flow:
    request = TaskRequest.model_construct(kind=spec.kind, brief=None, input={})
    return spec.build(TaskInput(UUID(int=0), request))


@cache
def _graph_id(spec: KindSpec) -> str:
    if spec.dynamic:
        packed = orjson.dumps(spec.input_model.model_json_schema(), option=orjson.OPT_SORT_KEYS)
        digest = hashlib.blake2b(packed, digest_size=8).hexdigest()
    else:
        digest = _probe(spec).hash()
    return f"{spec.kind.value}:{spec.version}:{digest}"


class Registry:
    """Kinds by name and version. The newest version of a kind takes new tasks."""

    def __init__(self, specs: tuple[KindSpec, ...] = ()) -> None:
        self._specs: dict[TaskKind, dict[int, KindSpec]] = {}
        for spec in specs:
            self.register(spec)

    def register(self, spec: KindSpec) -> None:
        """Raises ValueError for a version that is there already."""
        versions = self._specs.setdefault(spec.kind, {})
        if spec.version in versions:
            raise ValueError(f"{spec.kind} has a version {spec.version} already")
        versions[spec.version] = spec

    def kinds(self) -> tuple[TaskKind, ...]:
        return tuple(self._specs)

    def graphs(self) -> frozenset[str]:
        """Every graph that can be run here: a worker claims no others' tasks."""
        return frozenset(spec.graph for spec in self.specs())

    def specs(self) -> tuple[KindSpec, ...]:
        """Every version of every kind."""
        return tuple(spec for versions in self._specs.values() for spec in versions.values())

    def spec_for(self, kind: TaskKind, version: int | None = None) -> KindSpec:
        """The newest, or this version. Raises InvalidInput naming ``kind`` when there is none."""
        versions = self._specs.get(kind)
        if not versions:
            raise invalid_field("kind", f"{kind.value} is not offered here")
        spec = versions[max(versions)] if version is None else versions.get(version)
        if spec is None:
            raise invalid_field("kind", f"{kind.value} is not known in version {version}")
        return spec

    def spec_of(self, kind: TaskKind, graph: str | None) -> KindSpec:
        """The spec of a task's graph (``kind:version:hash``; None: the newest). Raises
        InvalidInput."""
        return self.spec_for(kind, None if graph is None else int(graph.split(":")[1]))

    def check(self, request: TaskRequest) -> KindSpec:
        """The spec that takes this request. Raises InvalidInput naming the field."""
        spec = self.spec_for(request.kind)
        other = "brief" if spec.reads == "input" else "input"
        if getattr(request, spec.reads) is None:
            raise invalid_field(spec.reads, f"Field required by {request.kind.value}")
        if other == "input" and request.input is not None:
            raise invalid_field("input", f"{request.kind.value} reads brief, not input")
        given = read_input(spec, request)
        if spec.check is not None:
            spec.check(given)
        return spec


def read_input(spec: KindSpec, request: TaskRequest) -> Contract:
    """The request's input as the kind's model. Raises InvalidInput naming the field."""
    value = getattr(request, spec.reads)
    if isinstance(value, spec.input_model):
        return value
    try:
        return spec.input_model.model_validate(value)
    except ValidationError as error:
        raise from_validation(error, {spec.reads: value}, (spec.reads,)) from None


_registry: list[Registry] = []


def registry() -> Registry:
    """The kinds that this release offers."""
    if not _registry:
        # Imported late: the kinds' modules import this one.
        from mesh.agents.kinds import ALL

        _registry.append(Registry(ALL))
    return _registry[0]


def spec_for(kind: TaskKind, version: int | None = None) -> KindSpec:
    """``registry().spec_for``."""
    return registry().spec_for(kind, version)
