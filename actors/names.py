"""Names in the cluster: one place, so that nobody spells them twice."""

NAMESPACE = "maily"
COORDINATOR = "coordinator"
WORKER_PREFIX = "agent-worker-"
GATEWAY_APP = "gateway"
LLM_APP = "llm"
LLM_DEPLOYMENT = "LLM"
EMBEDDER_DEPLOYMENT = "Embedder"

SNAPSHOT_KEY = "maily:workers"
"""Valkey: the coordinator's newest snapshot (JSON), with an expiry of some heartbeats."""

TASKS_CHANNEL = "maily:tasks"
"""Valkey pub/sub: there is work; every worker with a free slot looks (message: task id)."""
CANCEL_CHANNEL = "maily:cancel"
"""Valkey pub/sub: a task's cancel was requested (message: task id); its worker looks at once."""
OFFER_PREFIX = "maily:offer:"
"""Valkey pub/sub, one channel per worker: a task was chosen for it (message: task id)."""


def worker(index: int) -> str:
    """Name of the agent worker with this index (from 0)."""
    return f"{WORKER_PREFIX}{index}"


def offers(worker_name: str) -> str:
    """The channel on which a worker hears of tasks that were chosen for it."""
    return f"{OFFER_PREFIX}{worker_name}"
