"""The metrics are the documented ones, their labels bounded, and processes add up."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from mesh.core import metrics
from serve_apps.gateway.policy import RULES

GENAI = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")
EXPECTED = {
    "maily_requests": ("route", "method", "status"),
    "maily_request_seconds": ("route",),
    "maily_rate_limited": (),
    "maily_rate_limiter_errors": (),
    "maily_overloaded": ("queue",),
    "maily_queue_depth": ("queue",),
    "maily_llm_requests": ("model", "outcome"),
    "maily_ttft_seconds": ("model",),
    "maily_tokens": ("model", "direction"),
    "maily_tokens_per_second": ("model",),
    "maily_llm_slots": ("model", "state"),
    "maily_llm_tries": ("engine", "kind", "outcome"),
    "maily_llm_resumed": ("engine", "how"),
    "maily_llm_cancel_seconds": ("model",),
    "maily_llm_tokens_after_cancel": ("model",),
    "maily_budgets_exceeded": (),
    "maily_spent": ("model",),
    "maily_llm_cache": ("route", "outcome"),
    "maily_embedded_texts": ("model",),
    "maily_tasks": ("kind", "outcome"),
    "maily_task_seconds": ("kind", "outcome"),
    "maily_tasks_running": (),
    "maily_step_seconds": ("step", "outcome"),
    "maily_step_retries": ("step",),
    "maily_degraded": ("step",),
    "maily_tool_calls": ("tool", "outcome"),
    "maily_workers": ("state",),
    "maily_fenced": ("what",),
    "maily_leases_taken_over": (),
    "maily_memory_writes": ("outcome",),
    "maily_memory_recall_seconds": ("mode", "outcome"),
    "maily_memory_forgotten": ("why",),
    "maily_memory_consolidated": ("how",),
    "maily_memory_items": (),
    "maily_trust_lines": ("outcome",),
    "maily_trust_verified": ("level", "outcome"),
    "maily_trust_apart_seconds": ("kind",),
    "maily_trust_leaves": ("outcome",),
    "maily_trust_batches": ("kind",),
    "maily_trust_seal_seconds": (),
    "maily_trust_states": ("state",),
    "maily_trust_revoked": ("reason",),
    "maily_trust_forgotten": (),
    "maily_trust_pending": (),
    "maily_trust_oldest_pending_seconds": (),
    "maily_trust_anchors": ("network", "what"),
    "maily_trust_fees_gwei": ("network",),
    "maily_trust_chain_call_seconds": ("network", "outcome"),
    "maily_trust_chain_block": ("network", "block"),
    "maily_trust_chain_pending": ("network",),
    "maily_trust_chain_alarm": ("network", "alarm"),
    "maily_trust_wallet_gwei": ("network",),
    "maily_stream_events": ("type",),
    "maily_stream_commits": (),
    "maily_stream_readers": (),
    "maily_stream_overflows": (),
    "maily_stream_gaps": (),
    "maily_stream_sockets": (),
    "maily_stream_subscriptions": (),
    "maily_stream_socket_closes": ("code",),
    "maily_stream_delivered": ("by",),
    "maily_stream_reconnects": ("side",),
    "gen_ai_client_operation_duration_seconds": (*GENAI, "error_type"),
    "gen_ai_client_operation_time_to_first_chunk_seconds": GENAI,
    "gen_ai_client_token_usage": (*GENAI, "gen_ai_token_type"),
    "gen_ai_server_request_duration_seconds": (*GENAI, "error_type"),
    "gen_ai_server_time_to_first_token_seconds": GENAI,
    "gen_ai_invoke_agent_duration_seconds": ("gen_ai_agent_name", "error_type"),
    "gen_ai_execute_tool_duration_seconds": ("gen_ai_tool_name", "error_type"),
    "maily_service_tokens": ("service", "outcome"),
    "maily_jwks_fetches": ("outcome",),
    "maily_signing_key_rotations": ("why",),
    "maily_failed_logins": ("kind",),
    "maily_logins_held_off": (),
    "maily_breaker_state": ("name", "state"),
    "maily_breaker_transitions": ("name", "to"),
    "maily_retries": ("what",),
}


def test_the_list_of_metrics_and_their_labels() -> None:
    found = {
        metric._name: tuple(metric._labelnames)
        for metric in vars(metrics).values()
        if hasattr(metric, "_labelnames")
    }
    assert found == EXPECTED


def test_labels_are_bounded() -> None:
    names = {metrics.bounded("test-label", f"value {n}", limit=10) for n in range(1_000)}
    assert len(names) == 11
    assert "other" in names
    assert metrics.bounded("test-label", "value 3", limit=10) == "value 3"


def test_every_route_has_a_label_of_its_own() -> None:
    assert len(RULES) < metrics.MAX_ROUTES  # and "unmatched"


def test_a_request_is_counted_under_its_template() -> None:
    for number in range(200):
        metrics.observe_request("/v1/mesh/tasks/{id}", "BREW" if number % 2 else "GET", 200, 0.01)
    families = {f.name: f for f in text_string_to_metric_families(metrics.render().decode())}
    samples = {
        tuple(sorted(s.labels.items())): s.value
        for s in families["maily_requests"].samples
        if s.name == "maily_requests_total" and s.labels["route"] == "/v1/mesh/tasks/{id}"
    }
    assert samples == {
        (("method", verb), ("route", "/v1/mesh/tasks/{id}"), ("status", "200")): 100.0
        for verb in ("GET", "other")
    }


WORK = """
from mesh.core import metrics
metrics.TASKS.labels("write_email", "succeeded").inc(2)
metrics.TASKS_RUNNING.set(3)
assert metrics.multiprocess()
if {render}:
    print(metrics.render().decode())
"""


def test_processes_add_up_and_the_dead_take_their_gauges_along(tmp_path: Path) -> None:
    def run(render: bool) -> str:
        return subprocess.run(
            [sys.executable, "-c", WORK.format(render=render)],
            env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "PYTHONPATH": str(Path.cwd())},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout

    run(render=False)
    text = run(render=True)
    assert 'maily_tasks_total{kind="write_email",outcome="succeeded"} 4.0' in text
    assert "maily_tasks_running 3.0" in text, "the dead process's three are gone"
    assert b'outcome="succeeded"} 4.0' in metrics.render(tmp_path)
