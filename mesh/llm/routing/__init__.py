"""Routes over engines: circuit breakers, retries, fallback, hedging, answers that survive."""

from mesh.llm.routing.client import RoutedClient
from mesh.llm.routing.options import RoutingOptions
from mesh.llm.routing.target import Backend, EngineBackend, Target

__all__ = ["Backend", "EngineBackend", "RoutedClient", "RoutingOptions", "Target"]
