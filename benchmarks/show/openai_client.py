"""The official ``openai`` Python client, unmodified, against the gateway."""

from __future__ import annotations

import json
from collections.abc import Callable

import openai
from openai import AsyncOpenAI

from benchmarks.instance import Instance
from benchmarks.show.table import Claim

SCHEMA = {
    "type": "object",
    "properties": {
        "subject": {"type": "string", "maxLength": 60},
        "urgent": {"type": "boolean"},
    },
    "required": ["subject", "urgent"],
    "additionalProperties": False,
}


async def models(client: AsyncOpenAI, model: str) -> str:
    names = [entry.id for entry in (await client.models.list()).data]
    assert model in names, names
    assert (await client.models.retrieve(model)).id == model
    return f"{len(names)} models"


async def chat(client: AsyncOpenAI, model: str) -> str:
    answer = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Say hello to our newsletter readers."}],
        max_tokens=24,
        temperature=0,
        seed=7,
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert 0 < answer.usage.completion_tokens <= 24
    return f"{answer.usage.completion_tokens} tokens, {answer.choices[0].finish_reason}"


async def streamed_chat(client: AsyncOpenAI, model: str) -> str:
    stream = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Write one line about spring."}],
        max_tokens=24,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    pieces, finish, usage = [], None, None
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            pieces.append(choice.delta.content or "")
            finish = choice.finish_reason or finish
    assert "".join(pieces)
    assert finish in ("stop", "length")
    assert usage is not None
    assert usage.completion_tokens > 0
    return f"{sum(map(bool, pieces))} pieces, {usage.completion_tokens} tokens"


async def completion(client: AsyncOpenAI, model: str) -> str:
    answer = await client.completions.create(model=model, prompt="Once upon a", max_tokens=8)
    assert answer.choices[0].text
    return f"{len(answer.choices[0].text)} characters"


async def embeddings(client: AsyncOpenAI, model: str) -> str:
    assert "embed" in {entry.id for entry in (await client.models.list()).data}
    answer = await client.embeddings.create(
        model="embed", input=["spring sale", "a sale in spring", "tax law"]
    )
    first, second, third = (entry.embedding for entry in answer.data)
    near = sum(a * b for a, b in zip(first, second, strict=True))
    far = sum(a * b for a, b in zip(first, third, strict=True))
    assert near > far
    return f"{len(first)} dimensions; related {near:.2f}, unrelated {far:.2f}"


async def json_schema(client: AsyncOpenAI, model: str) -> str:
    answer = await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "A subject line for a shoe sale, as JSON."}],
        max_tokens=80,
        temperature=0,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "subject", "strict": True, "schema": SCHEMA},
        },
    )
    value = json.loads(answer.choices[0].message.content or "")
    assert set(value) == {"subject", "urgent"}
    assert isinstance(value["urgent"], bool)
    return json.dumps(value)[:60]


async def error(client: AsyncOpenAI, model: str) -> str:
    try:
        await client.chat.completions.create(
            model="no-such-model", messages=[{"role": "user", "content": "hi"}]
        )
    except openai.NotFoundError as caught:
        if not (isinstance(caught.body, dict) and caught.body.get("message")):
            raise
        return f"NotFoundError: {caught.body['message']}"[:60]
    raise AssertionError("an unknown model was accepted")


STEPS: dict[str, Callable] = {  # type: ignore[type-arg]
    "models": models,
    "chat": chat,
    "streamed chat": streamed_chat,
    "completion": completion,
    "embeddings": embeddings,
    "response_format JSON schema": json_schema,
    "an error": error,
}


async def run(instance: Instance) -> list[Claim]:
    claims = []
    async with AsyncOpenAI(
        base_url=instance.url + "/v1", api_key=instance.key, max_retries=0, timeout=120
    ) as client:
        for name, step in STEPS.items():
            try:
                figure, holds = await step(client, instance.model), True
            except Exception as caught:
                figure, holds = f"{type(caught).__name__}: {caught}"[:200], False
            claims.append(
                Claim(f"openai client {openai.__version__}: {name}", figure, "works", holds)
            )
    return claims
