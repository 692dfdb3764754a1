"""Every metric of the runtime, in one place, with bounded labels.

Several processes share one scrape: where prometheus_client runs in its multiprocess mode (its
directory is set before the process starts) ``render`` adds them all up, and a dead process's
gauges go with it. Elsewhere it renders this process alone.

Labels never take a caller's text as it is: routes are templates, models are those configured,
and ``bounded`` turns whatever exceeds its limit into ``other``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, values
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

CONTENT_TYPE = CONTENT_TYPE_LATEST
REGISTRY = CollectorRegistry()

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SLOW = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)
_RATE = (1, 2, 5, 10, 20, 40, 60, 80, 100, 150, 200, 300, 500, 1_000, 2_000)


def _counter(name: str, text: str, *labels: str) -> Counter:
    return Counter(f"maily_{name}", text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    return Gauge(f"maily_{name}", text, labels, registry=REGISTRY, multiprocess_mode="livesum")


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    return Histogram(f"maily_{name}", text, labels, registry=REGISTRY, buckets=buckets)


# Edge
REQUESTS = _counter("requests_total", "HTTP requests answered", "route", "method", "status")
REQUEST_SECONDS = _histogram("request_seconds", "From head to last byte", _FAST, "route")
RATE_LIMITED = _counter("rate_limited_total", "Requests refused by a rate limit")
RATE_LIMITER_ERRORS = _counter("rate_limiter_errors_total", "Windows that could not be read")
OVERLOADED = _counter("overloaded_total", "Work refused because a queue was full", "queue")
QUEUE_DEPTH = _gauge("queue_depth", "Work waiting", "queue")

# Model engines
LLM_REQUESTS = _counter("llm_requests_total", "Generations ended", "model", "outcome")
TTFT_SECONDS = _histogram("ttft_seconds", "Request to first token", _FAST, "model")
TOKENS = _counter("tokens_total", "Tokens read (prompt) and written", "model", "direction")
TOKENS_PER_SECOND = _histogram("tokens_per_second", "Of one generation", _RATE, "model")
LLM_SLOTS = _gauge("llm_slots", "Slots of the engines: total, busy", "model", "state")
LLM_TRIES = _counter("llm_tries_total", "Calls of an engine", "engine", "kind", "outcome")
LLM_RESUMED = _counter("llm_resumed_total", "Answers that broke off", "engine", "how")
LLM_CANCEL_SECONDS = _histogram("llm_cancel_seconds", "Cancel to free slot", _FAST, "model")
LLM_AFTER_CANCEL = _counter("llm_tokens_after_cancel_total", "Made for nobody", "model")
BUDGETS_EXCEEDED = _counter("budgets_exceeded_total", "Calls refused: a budget left no room")
SPENT = _counter("spent_total", "Cost of calls, in units of the currency", "model")
LLM_CACHE = _counter("llm_cache_total", "Answers of routes that cache", "route", "outcome")
EMBEDDED_TEXTS = _counter("embedded_texts_total", "Texts embedded", "model")

# Tasks and agents
TASKS = _counter("tasks_total", "Tasks ended", "kind", "outcome")
TASK_SECONDS = _histogram("task_seconds", "Accepted to ended", _SLOW, "kind", "outcome")
TASKS_RUNNING = _gauge("tasks_running", "Tasks that workers hold a lease of")
STEP_SECONDS = _histogram("step_seconds", "One step of a pipeline", _SLOW, "step", "outcome")
STEP_RETRIES = _counter("step_retries_total", "Model answers thrown away", "step")
DEGRADED = _counter("degraded_total", "Steps that fell back to their template", "step")
TOOL_CALLS = _counter("tool_calls_total", "Calls of tools", "tool", "outcome")
WORKERS = _gauge("workers", "Agent workers as the coordinator sees them", "state")
FENCED = _counter("fenced_total", "Writes refused: a newer owner holds the lease", "what")
LEASES_TAKEN_OVER = _counter("leases_taken_over_total", "Leases taken from a lost owner")

# Memory
MEMORY_WRITES = _counter("memory_writes_total", "Memories written, or there already", "outcome")
MEMORY_RECALL_SECONDS = _histogram(
    "memory_recall_seconds", "One recall, embedding excluded", _FAST, "mode", "outcome"
)
MEMORY_FORGOTTEN = _counter("memory_forgotten_total", "Memories erased", "why")
MEMORY_CONSOLIDATED = _counter("memory_consolidated_total", "Memories merged, superseded", "how")
MEMORY_ITEMS = _gauge("memory_items", "Memories that hosts hold in their indexes")

# Trust, at the edge
TRUST_LINES = _counter("trust_lines_total", "Lines of streaming bodies: new, repeated", "outcome")
TRUST_VERIFIED = _counter("trust_verified_total", "Public verifications", "level", "outcome")
TRUST_APART_SECONDS = _histogram("trust_apart_seconds", "Work in a process apart", _FAST, "kind")
TRUST_LEAVES = _counter("trust_leaves_total", "Messages certified, or there already", "outcome")
TRUST_BATCHES = _counter("trust_batches_total", "Batches closed and signed", "kind")
TRUST_SEAL_SECONDS = _histogram("trust_seal_seconds", "From leaves to a signed root", _SLOW)
TRUST_STATES = _counter("trust_states_total", "New states of batches", "state")
TRUST_REVOKED = _counter("trust_revoked_total", "Certificates taken back", "reason")
TRUST_FORGOTTEN = _counter("trust_forgotten_total", "Certificates whose facts were erased")
TRUST_PENDING = _gauge("trust_pending", "Closed batches that no network has confirmed")
TRUST_OLDEST = _gauge("trust_oldest_pending_seconds", "Age of the oldest of these")

# Trust's networks, of the process that speaks to them
TRUST_ANCHORS = _counter(
    "trust_anchors_total", "What happened to transactions with roots", "network", "what"
)
TRUST_FEES = _counter("trust_fees_gwei_total", "Paid for final transactions", "network")
TRUST_CHAIN_SECONDS = _histogram(
    "trust_chain_call_seconds", "Calls of nodes", _FAST, "network", "outcome"
)
TRUST_CHAIN_BLOCKS = _gauge("trust_chain_block", "Newest and final block", "network", "block")
TRUST_CHAIN_PENDING = _gauge(
    "trust_chain_pending", "Roots that are to be on a network and not confirmed there", "network"
)
TRUST_CHAIN_ALARMS = _gauge("trust_chain_alarm", "1: the alarm is on", "network", "alarm")
TRUST_WALLET = _gauge("trust_wallet_gwei", "Balance of the account that pays", "network")

# Streams
STREAM_EVENTS = _counter("stream_events_total", "Events acknowledged by the log", "type")
STREAM_COMMITS = _counter("stream_commits_total", "Round trips that wrote events")
STREAM_READERS = _gauge("stream_readers", "Readers attached")
STREAM_OVERFLOWS = _counter(
    "stream_overflows_total", "Slow readers sent back from live feed to the log"
)
STREAM_GAPS = _counter("stream_gaps_total", "Readers that came after events had been trimmed")
STREAM_SOCKETS = _gauge("stream_sockets", "WebSockets open")
STREAM_SUBSCRIPTIONS = _gauge("stream_subscriptions", "Topics that WebSockets subscribe to")
STREAM_CLOSES = _counter("stream_socket_closes_total", "WebSockets that we closed", "code")
STREAM_DELIVERED = _counter("stream_delivered_total", "Events handed to readers", "by")
STREAM_RECONNECTS = _counter("stream_reconnects_total", "Lost connections to the log", "side")

# By the names that OpenTelemetry's GenAI conventions give them (dots as underscores, units as
# Prometheus wants them), beside our own: dashboards made for other GenAI applications find them.
_GENAI = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
_DOUBLING = tuple(0.01 * 2**n for n in range(14))
_FOURFOLD = tuple(float(4**n) for n in range(14))


def _standard(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    return Histogram(f"gen_ai_{name}", text, labels, registry=REGISTRY, buckets=buckets)


GENAI_CLIENT_SECONDS = _standard(
    "client_operation_duration_seconds", "Calls of models", _DOUBLING, *_GENAI, "error_type"
)
GENAI_CLIENT_FIRST_CHUNK = _standard(
    "client_operation_time_to_first_chunk_seconds", "Of streamed calls", _DOUBLING, *_GENAI
)
GENAI_CLIENT_TOKENS = _standard(
    "client_token_usage", "Tokens of one call", _FOURFOLD, *_GENAI, "gen_ai_token_type"
)
GENAI_SERVER_SECONDS = _standard(
    "server_request_duration_seconds", "An engine's work", _DOUBLING, *_GENAI, "error_type"
)
GENAI_SERVER_FIRST_TOKEN = _standard(
    "server_time_to_first_token_seconds", "Of an engine's streams", _DOUBLING, *_GENAI
)
GENAI_AGENT_SECONDS = _standard(
    "invoke_agent_duration_seconds", "Steps", _DOUBLING, "gen_ai_agent_name", "error_type"
)
GENAI_TOOL_SECONDS = _standard(
    "execute_tool_duration_seconds", "Tools used", _DOUBLING, "gen_ai_tool_name", "error_type"
)

# Credentials
SERVICE_TOKENS = _counter(
    "service_tokens_total", "Services' tokens: issued, renewed, failed", "service", "outcome"
)
JWKS_FETCHES = _counter(
    "jwks_fetches_total", "Key sets asked for: read, unchanged, failed", "outcome"
)
SIGNING_KEYS = _counter("signing_key_rotations_total", "New signing keys", "why")
FAILED_LOGINS = _counter("failed_logins_total", "Credentials that were refused", "kind")
LOGINS_HELD_OFF = _counter("logins_held_off_total", "Refused unread after too many failures")

# Resilience
BREAKER_STATE = _gauge(
    "breaker_state", "Processes that see a breaker in this state", "name", "state"
)
BREAKER_TRANSITIONS = _counter("breaker_transitions_total", "Changes of state", "name", "to")
RETRIES = _counter("retries_total", "Calls made again", "what")

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_seen: dict[str, set[str]] = {}


MAX_ROUTES = 256
"""More than the gateway has: each of them is told apart."""


def bounded(label: str, value: str, limit: int = 64) -> str:
    """``value`` while at most ``limit`` different ones were seen for ``label``, else ``other``."""
    known = _seen.setdefault(label, set())
    if value in known:
        return value
    if len(known) >= limit:
        return "other"
    known.add(value)
    return value


def observe_request(route: str, method: str, status: int, seconds: float) -> None:
    """Count one HTTP answer. ``route``: the template (``/v1/mesh/tasks/{id}``), never the path;
    give ``unmatched`` where there is none."""
    name = bounded("route", route, MAX_ROUTES)
    verb = method if method in METHODS else "other"
    REQUESTS.labels(name, verb, str(status)).inc()
    REQUEST_SECONDS.labels(name).observe(seconds)


def multiprocess() -> bool:
    """Whether prometheus_client shares this process's figures through files."""
    return bool(getattr(values.ValueClass, "_multiprocess", False))


_LIVE_FILE = re.compile(r"^gauge_live[a-z]*_(\d+)\.db$")


def _bury(directory: Path) -> None:
    """Drop the live gauges of processes that are gone (a ``kill -9`` tells nobody)."""
    for file in directory.glob("gauge_live*_*.db"):
        match = _LIVE_FILE.match(file.name)
        if match is None or Path("/proc", match[1]).exists():
            continue
        try:
            os.kill(int(match[1]), 0)
        except ProcessLookupError:
            mark_process_dead(int(match[1]), str(directory))  # type: ignore[no-untyped-call]
        except PermissionError:
            continue  # alive, another user's


def render(directory: Path | None = None) -> bytes:
    """The text that Prometheus scrapes. Reads files: call it in a thread.

    ``directory``: of the multiprocess files; None: the one that prometheus_client uses.
    """
    if not multiprocess() and directory is None:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    collector = MultiProcessCollector(registry, None if directory is None else str(directory))  # type: ignore[no-untyped-call]
    _bury(Path(collector._path))
    return generate_latest(registry)
