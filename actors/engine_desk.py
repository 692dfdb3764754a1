"""The engines as operators see them, and the fakes' faults: for the gateway."""

from __future__ import annotations

import asyncio
from typing import Any

from actors.llm_backend import ServeEngine
from actors.llm_client import serve_engine
from mesh.contracts.engines import BreakerView, EngineView
from mesh.core.errors import MailyError, NotFound
from mesh.core.settings import LLMSettings
from mesh.llm.routing import RoutedClient

TIMEOUT_S = 2.0


class EngineDesk:
    """Reads what this process's router knows, and asks every replica."""

    def __init__(self, llm: LLMSettings, router: RoutedClient) -> None:
        self._settings = llm
        self._router = router
        self._engines: dict[str, ServeEngine] = {
            name: serve_engine(name, engine) for name, engine in llm.engine_table().items()
        }

    async def views(self) -> list[EngineView]:
        """Within two seconds or so, also where an engine does not answer."""
        known: dict[str, Any] = self._router.statistics()["engines"]
        names = list(self._engines)
        figures = await asyncio.gather(*(self._figures(name) for name in names))
        return [self._view(name, known[name], figures[index]) for index, name in enumerate(names)]

    async def set_faults(self, name: str, faults: dict[str, Any]) -> int:
        """At every replica of a fake engine; gives how many. Raises NotFound, InvalidInput."""
        engine = self._engines.get(name)
        if engine is None:
            raise NotFound("There is no such engine")
        return await engine.set_faults(faults)

    async def _figures(self, name: str) -> list[dict[str, int | float]]:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await self._engines[name].all_statistics()
        except (MailyError, TimeoutError):
            return []

    def _view(
        self, name: str, known: dict[str, Any], figures: list[dict[str, int | float]]
    ) -> EngineView:
        engine = self._settings.engine_table()[name]
        breaker = known["breaker"]
        return EngineView(
            name=name,
            kind=engine.kind,
            model=engine.model,
            routes=[r for r, chain in self._settings.route_table().items() if name in chain],
            context_tokens=engine.context_tokens,
            replicas=engine.replicas,
            breaker=BreakerView(**{key: breaker[key] for key in BreakerView.model_fields}),
            calls={outcome: known[f"tries_{outcome}"] for outcome in ("ok", "failed", "cancelled")},
            hedges=known["hedging"]["hedges"],
            retries=known["retries"]["retries"],
            figures=figures,
        )
