"""``maily trace`` against a gateway that answers as ours does."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster import cli
from cluster.failures import USAGE

TASK = str(uuid.UUID(int=5))
VIEW: dict[str, Any] = {
    "id": TASK, "kind": "generate", "state": "running", "trace_id": "a" * 32, "seconds": 2.0,
    "queued_s": 0.01, "degraded": False, "error": None, "incomplete": [],
    "totals": {
        "calls": 1, "prompt_tokens": 9, "completion_tokens": 3, "model_seconds": 0.5,
        "cost_micros": 4.0, "reads": 0, "repairs": 0, "extra_tries": 0, "degraded_steps": 0,
    },
    "attempts": [],
}  # fmt: skip


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == f"/v1/mesh/tasks/{TASK}/trace"
            allowed = self.headers["authorization"] == "Bearer mk_x"
            status = 401 if not allowed else 200 if known else 404
            problem = {"code": "c", "message": "There is no such task.", "details": {}}
            body = json.dumps(VIEW if status == 200 else problem).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    monkeypatch.setenv("MAILY_HOME", str(tmp_path))
    monkeypatch.setenv("MAILY_API_KEY", "mk_x")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join(5)


def test_it_draws_what_the_gateway_says(gateway: str) -> None:
    done = CliRunner().invoke(cli.app, ["trace", TASK, "--url", gateway])
    assert done.exit_code == 0, done.output
    assert "generate running in 2.00 s" in done.output
    assert "9→3 tokens" in done.output
    assert "cost 0.000004" in done.output


def test_json_is_the_answer_itself(gateway: str) -> None:
    done = CliRunner().invoke(cli.app, ["trace", TASK, "--url", gateway, "--json"])
    assert json.loads(done.stdout) == VIEW


def test_a_task_that_is_none(gateway: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong, status in (("nonsense", USAGE), (str(uuid.UUID(int=6)), 1)):
        monkeypatch.setattr("sys.argv", ["maily", "trace", wrong, "--url", gateway])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == status, wrong
