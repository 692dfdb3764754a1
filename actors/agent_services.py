"""What the agents of a worker may use besides the model, made from what its process holds."""

from __future__ import annotations

from collections.abc import Sequence

from actors.context import ProcessContext
from actors.memory_open import open_memory
from actors.streamed import streamed
from actors.tools import open_tools
from mesh.agents.services import AgentServices
from mesh.llm.client import ModelClient

EMBED_TIMEOUT_S = 20.0


async def open_services(context: ProcessContext, models: ModelClient | None) -> AgentServices:
    """``models``: None where agents run without the LLM service, in tests.

    What is opened here closes with ``context``."""
    settings = context.settings

    async def embed(texts: Sequence[str]) -> list[list[float]]:
        assert models is not None
        return await models.embed(texts, timeout_s=EMBED_TIMEOUT_S)

    tools = open_tools(settings.tools, context.clock)
    tools.start()
    version = settings.agents.classifier
    memory = None if settings.security.secret is None else open_memory(context, models)
    return AgentServices(
        memory=memory,
        embed=None if models is None else embed,
        tools=tools.box,
        streamed=streamed(context.streams),
        trained=None if version == "builtin" else (settings.store_directory, version),
    )
