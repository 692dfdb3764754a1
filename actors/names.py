"""Names in the cluster: one place, so that nobody spells them twice."""

NAMESPACE = "maily"
COORDINATOR = "coordinator"
WORKER_PREFIX = "agent-worker-"
GATEWAY_APP = "gateway"
LLM_APP = "llm"
LLM_DEPLOYMENT = "LLM"
EMBEDDER_DEPLOYMENT = "Embedder"

SNAPSHOT_KEY = "maily:workers"
"""Valkey: the coordinator's newest snapshot (JSON), with an expiry of three heartbeats."""


def worker(index: int) -> str:
    return f"{WORKER_PREFIX}{index}"
