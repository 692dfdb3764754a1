"""A tool call that must happen, for models whose chat template knows no tools.

llama.cpp offers tools through the model's own template and ignores them when it has none, even
where the caller demanded a call. What a demanded call needs is only a shape, and shapes we can
force: the answer is constrained to ``{"name": …, "arguments": …}`` by a JSON schema made of the
tools, and handed back as OpenAI's ``tool_calls``. With ``tool_choice: "auto"`` the model decides,
so that stays with the template.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson

from mesh.llm.engine import Wire


def force_tools(body: Wire) -> Wire | None:
    """The body that makes the model call one of the tools, or None when none is demanded."""
    tools = _demanded(body)
    if not tools:
        return None
    definitions: dict[str, Any] = {}
    shapes = []
    for number, tool in enumerate(tools):
        parameters = dict(tool.get("parameters") or {"type": "object"})
        for name, part in (parameters.pop("$defs", None) or {}).items():
            definitions[f"{number}_{name}"] = _moved(part, number)
        shapes.append(
            {
                "type": "object",
                "properties": {
                    "name": {"const": tool["name"]},
                    "arguments": _moved(parameters, number),
                },
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
        )
    schema: dict[str, Any] = shapes[0] if len(shapes) == 1 else {"anyOf": shapes}
    if definitions:
        schema = {**schema, "$defs": definitions}
    wire = {k: v for k, v in body.items() if k not in ("tools", "tool_choice")}
    wire.pop("parallel_tool_calls", None)
    wire["messages"] = [{"role": "system", "content": _instructions(tools)}, *body["messages"]]
    wire["response_format"] = {
        "type": "json_schema",
        "json_schema": {"name": "call", "schema": schema},
    }
    return wire


async def as_tool_calls(
    bursts: AsyncGenerator[list[bytes], None],
) -> AsyncGenerator[list[bytes], None]:
    """The JSON text of a constrained answer as one ``tool_calls`` delta, before the finish.

    An answer that ran into its token limit stays text: half a call can't be made.
    """
    text: list[str] = []
    async with aclosing(bursts):
        async for burst in bursts:
            out: list[bytes] = []
            for raw in burst:
                chunk: Wire = orjson.loads(raw)
                choice: Wire = (chunk.get("choices") or [{}])[0]
                content = (choice.get("delta") or {}).get("content")
                if content:
                    text.append(content)
                    continue
                if choice.get("finish_reason") is not None:
                    out.append(orjson.dumps({**chunk, "choices": [_said("".join(text), choice)]}))
                    if choice["finish_reason"] == "stop":
                        choice["finish_reason"] = "tool_calls"
                    raw = orjson.dumps(chunk)
                out.append(raw)
            if out or not burst:
                yield out


def _demanded(body: Wire) -> list[Wire]:
    """Functions of which one must be called."""
    choice = body.get("tool_choice")
    functions = [tool["function"] for tool in body.get("tools") or ()]
    if choice == "required":
        return functions
    if isinstance(choice, dict):
        wanted = choice["function"]["name"]
        return [function for function in functions if function["name"] == wanted]
    return []


def _said(text: str, choice: Wire) -> Wire:
    delta: Wire = {"content": text}
    if choice["finish_reason"] == "stop":
        call = orjson.loads(text)
        delta = {
            "tool_calls": [
                {
                    "index": 0,
                    "id": f"call_{secrets.token_hex(12)}",
                    "type": "function",
                    "function": {
                        "name": call["name"],
                        "arguments": orjson.dumps(call["arguments"]).decode(),
                    },
                }
            ]
        }
    return {"index": 0, "delta": delta, "finish_reason": None}


def _instructions(tools: list[Wire]) -> str:
    lines = [
        f"- {tool['name']}: {tool.get('description') or 'no description'}; arguments: "
        f"{orjson.dumps(tool.get('parameters') or {}).decode()}"
        for tool in tools
    ]
    return "Answer by calling one of these functions, as JSON:\n" + "\n".join(lines)


def _moved(schema: Any, number: int) -> Any:
    """References into a tool's own ``$defs`` follow them to where they are now."""
    if isinstance(schema, dict):
        return {
            key: f"#/$defs/{number}_{value.removeprefix('#/$defs/')}"
            if key == "$ref" and isinstance(value, str) and value.startswith("#/$defs/")
            else _moved(value, number)
            for key, value in schema.items()
        }
    if isinstance(schema, list):
        return [_moved(value, number) for value in schema]
    return schema
