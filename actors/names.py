"""Names in the cluster: one place, so that nobody spells them twice."""

NAMESPACE = "maily"
COORDINATOR_PREFIX = "coordinator-"
WORKER_PREFIX = "agent-worker-"
MEMORY_HOST_PREFIX = "memory-host-"
TRUST_HOST_PREFIX = "trust-host-"
GATEWAY_APP = "gateway"
LLM_APP = "llm"
LLM_DEPLOYMENT = "LLM"
EMBEDDER_DEPLOYMENT = "Embedder"

SNAPSHOT_PREFIX = "maily:workers:"
"""Valkey, one key per coordinator shard: its newest snapshot (JSON), with an expiry of some
heartbeats."""
PLACES_KEY = "maily:places"
"""Valkey hash: what lies on which node (see ``actors.places``)."""

TASKS_CHANNEL = "maily:tasks"
"""Valkey pub/sub: there is work; every worker with a free slot looks (message: task id)."""
CANCEL_CHANNEL = "maily:cancel"
"""Valkey pub/sub: a task's cancel was requested (message: task id); its worker looks at once."""
OFFER_PREFIX = "maily:offer:"
"""Valkey pub/sub, one channel per worker: a task was chosen for it (message: the task's id, a
space, and the decision as JSON)."""


def coordinator(shard: int) -> str:
    """Name of a coordinator shard's actor (from 0), and of its lease."""
    return f"{COORDINATOR_PREFIX}{shard}"


def snapshot_key(shard: int) -> str:
    """Where this shard publishes."""
    return f"{SNAPSHOT_PREFIX}{shard}"


def worker(index: int) -> str:
    """Name of the agent worker with this index (from 0)."""
    return f"{WORKER_PREFIX}{index}"


def memory_host(index: int) -> str:
    """Name of the memory host with this index (from 0)."""
    return f"{MEMORY_HOST_PREFIX}{index}"


def trust_host(index: int) -> str:
    """Name of the trust host with this index (from 0)."""
    return f"{TRUST_HOST_PREFIX}{index}"


def offers(worker_name: str) -> str:
    """The channel on which a worker hears of tasks that were chosen for it."""
    return f"{OFFER_PREFIX}{worker_name}"


def engine_deployment(engine: str) -> str:
    """The Serve deployment of an engine of the settings."""
    return LLM_DEPLOYMENT if engine == "default" else f"{LLM_DEPLOYMENT}-{engine}"


def engine_app(engine: str, kind: str) -> str:
    """The Serve application that it is in: all of ours share one, vLLM's are each their own."""
    return f"{LLM_APP}-{engine}" if kind == "vllm" else LLM_APP
