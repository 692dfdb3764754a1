"""Kind ``generate``: a chat with the model, streamed, with tools if the caller allows some.

The words are durable as they are streamed: a new attempt reads what the log has of them and lets
the model go on from there, so a reader sees each once. The model may ask for tools; each turn that
does, and each call, is a durable step (``generate/turn1``, ``generate/tool1``…), so no call is
made twice because a worker died. What tools say goes into the chat as data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from pydantic import ConfigDict, Field, StringConstraints

from mesh.agents.agent import StepContext, StepOutput, StepResult, TaskInput
from mesh.agents.graph.graph import Graph
from mesh.agents.graph.nodes import Step
from mesh.agents.guard.injection import quoted
from mesh.agents.kinds.call_tool import CallTool
from mesh.agents.kinds.chat import Said, ask
from mesh.agents.registry import KindSpec
from mesh.contracts.base import Contract
from mesh.contracts.events import EventType
from mesh.contracts.llm import Message
from mesh.contracts.tasks import Decision, TaskKind
from mesh.core.errors import DeadlineExceeded, Unavailable

MAX_ROUNDS = 8
"""Times that the model may ask for tools; then it has to answer."""
MAX_CALLS = 4
"""Tools that one turn may ask for; further ones are refused, and the model is told."""
ROOM = MAX_ROUNDS * (MAX_CALLS + 1)

ToolName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-zA-Z0-9_.-]{0,63}$")]


class GenerateInput(Contract):
    """``input`` of ``generate``."""

    model_config = ConfigDict(allow_inf_nan=False)

    messages: list[Message] = Field(min_length=1, max_length=256)
    max_tokens: int = Field(default=512, ge=1, le=8_192)
    temperature: float = Field(default=0.7, ge=0, le=2)
    tools: list[ToolName] = Field(
        default_factory=list, max_length=32, description="That the model may call"
    )


class GenerateResult(Contract):
    """What ``generate`` gives."""

    text: str
    finish_reason: str
    tool_calls: int = 0
    continued: bool = Field(default=False, description="A new attempt went on with the text")
    degraded: bool = False


class _Turn:
    """The model's wish to call tools, as a durable step: what it said is not asked again."""

    name = "generate"
    step = "turn"
    continues = True  # its words belong to the step that it is within

    def __init__(self, said: Said) -> None:
        self._said = said

    async def run(self, context: StepContext) -> StepResult:
        return StepResult({"content": self._said.text, "tool_calls": list(self._said.calls)})


@dataclass(frozen=True, slots=True)
class Generate:
    """The one step of the kind."""

    name: str = "generate"
    step: str = "generate"
    continues: bool = True
    """It says itself whether what an earlier attempt streamed stands."""
    room: int = ROOM
    input_model: type[Contract] = GenerateInput
    output_model: type[Contract] = GenerateResult

    async def run(self, context: StepContext) -> StepResult:
        given = GenerateInput.model_validate(dict(context.input))
        messages: list[dict[str, Any]] = [
            message.model_dump(exclude_none=True) for message in given.messages
        ]
        tools = self._tools(context, given)
        before = await self._streamed(context)
        kept_text, rounds, calls = await self._replay(context, messages, tools)
        partial = ""
        if before is not None and before.startswith(kept_text):
            partial = before[len(kept_text) :]
            await context.writer.append(
                EventType.STEP_CONTINUED,
                {"step": context.step, "agent": self.name, "chars": len(before)},
            )
        else:
            await context.writer.append(
                EventType.STEP_STARTED, {"step": context.step, "agent": self.name}
            )
            if kept_text:
                await context.writer.token(context.step, kept_text)
        continued = bool(partial)
        while True:
            if context.deadline.remaining() <= 0:
                raise DeadlineExceeded(details={"step": context.step})
            offered = tools if rounds < MAX_ROUNDS else {}
            said = await ask(context, messages, given, offered, partial, piece=f"turn{rounds}")
            partial = ""
            if not said.calls or not offered:
                break
            rounds += 1
            kept_text += said.text
            turn = await self._keep_turn(context, rounds, said)
            calls += await self._call_all(context, rounds, turn.output, messages, tools)
        return StepResult(
            GenerateResult(
                text=said.text,
                finish_reason=said.finish_reason,
                tool_calls=calls,
                continued=continued,
            ).model_dump(),
            (
                Decision(
                    agent=self.name,
                    what="answer",
                    reason=f"{said.finish_reason} after {rounds} rounds of tools",
                ),
            ),
        )

    def _tools(self, context: StepContext, given: GenerateInput) -> dict[str, str]:
        """Names that the model knows → tools. Raises Unavailable, Forbidden."""
        if not given.tools:
            return {}
        box = context.services.tools
        if box is None:
            raise Unavailable("There are no tools here.")
        for name in given.tools:
            box.find(name, context.task.workspace_id)
        return {function_name(name): name for name in given.tools}

    async def _streamed(self, context: StepContext) -> str | None:
        """What the stream has of this step's words; None: nothing that could be gone on with."""
        read = context.services.streamed
        return None if read is None else await read(context.task.task_id, context.step)

    async def _replay(
        self, context: StepContext, messages: list[dict[str, Any]], tools: Mapping[str, str]
    ) -> tuple[str, int, int]:
        """Turns of earlier attempts into the chat: their text, how many, how many calls."""
        text, rounds, calls = "", 0, 0
        while context.steps is not None:
            turn = context.steps.kept(f"turn{rounds + 1}")
            if turn is None:
                break
            rounds += 1
            text += str(turn.output["content"])
            calls += await self._call_all(context, rounds, turn.output, messages, tools)
        return text, rounds, calls

    async def _keep_turn(self, context: StepContext, n: int, said: Said) -> StepOutput:
        if context.steps is None:
            raise Unavailable("Steps within steps can't be kept here.")
        return await context.steps.run(f"turn{n}", _Turn(said), {"n": n})

    async def _call_all(
        self,
        context: StepContext,
        n: int,
        turn: Mapping[str, Any],
        messages: list[dict[str, Any]],
        tools: Mapping[str, str],
    ) -> int:
        """Call what the turn asks for, each once; the answers join the chat."""
        if context.steps is None:
            raise Unavailable("Steps within steps can't be kept here.")
        wanted: list[dict[str, Any]] = list(turn["tool_calls"])
        messages.append(
            {"role": "assistant", "content": turn["content"] or None, "tool_calls": wanted}
        )
        made = 0
        for index, call in enumerate(wanted):
            function = call["function"]
            name = tools.get(function["name"])
            arguments = _arguments(function["arguments"])
            if index >= MAX_CALLS:
                answer: Any = {"error": f"no more than {MAX_CALLS} calls at once"}
            elif name is None:
                answer = {"error": "there is no such tool"}
            elif arguments is None:
                answer = {"error": "the arguments are no JSON object"}
            else:
                step = await context.steps.run(
                    f"tool{n}_{index + 1}",
                    CallTool(name, must=False, allowed=frozenset(tools.values())),
                    arguments,
                )
                made += 1
                result = step.output
                answer = result["content"] if result["ok"] else {"error": result["error"]}
            text = answer if isinstance(answer, str) else orjson.dumps(answer).decode()
            messages.append(
                {
                    "role": "tool",
                    "tool_call_id": call["id"],
                    "content": quoted(text, "tool result"),
                }
            )
        return made


def function_name(tool: str) -> str:
    """A tool's name as models may write it: they know no dots."""
    return tool.replace(".", "__")[:64]


def _arguments(text: str) -> dict[str, Any] | None:
    try:
        value = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _result(_task: TaskInput, outputs: Mapping[str, StepOutput]) -> GenerateResult:
    return GenerateResult.model_validate(outputs["generate"].output)


def _tools_of(given: Contract) -> list[tuple[str, str]]:
    names = given.tools if isinstance(given, GenerateInput) else []
    return [(f"input.tools.{index}", name) for index, name in enumerate(names)]


SPEC = KindSpec(
    kind=TaskKind.GENERATE,
    version=1,
    input_model=GenerateInput,
    build=lambda _task: Graph(Step("generate", Generate())),
    assemble=_result,
    does="A chat with the model, streamed; it may call tools that the caller allows",
    result_model=GenerateResult,
    tools_of=_tools_of,
)
