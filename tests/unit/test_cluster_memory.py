"""``maily memory``: what it asks the gateway, and what it shows of the answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from cluster import cli
from cluster.failures import Failure

ITEM = {
    "id": "0198a0c4-0000-7000-8000-000000000001",
    "text": "Anna [likes] tulips",
    "kind": "fact",
    "state": "active",
}
RECEIPT = {
    "id": "0198a0c4-0000-7000-8000-000000000002",
    "erased": {"items": 2, "keys": 2, "streams": 0},
    "remaining": 0,
    "finished_at": "2026-01-01T00:00:00Z",
    "scrub": {"keys": True, "log": False, "note": "the server writes over old log segments"},
    "hash": "ab" * 32,
}
PARTS = {"dense": 0.5, "text": None, "recency": 1.0}


@dataclass
class Gateway:
    url: str = ""
    asked: list[tuple[str, str, str, bytes]] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(cli.app, ["memory", *arguments, "--url", self.url])

    def body(self) -> Any:
        return json.loads(self.asked[-1][3])


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Gateway]:
    monkeypatch.setenv("MAILY_API_KEY", "mk_test")
    monkeypatch.setenv("MAILY_HOME", str(tmp_path))
    monkeypatch.setattr(cli.console.current, "json", False)
    found = Gateway()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers.get("content-length", 0))
            kind = self.headers.get("content-type", "")
            found.asked.append((self.command, self.path, kind, self.rfile.read(size)))
            answer = found.answers[self.path.partition("?")[0]]
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_port}"
    yield found
    server.shutdown()
    server.server_close()


def test_search_names_namespaces_and_shows_hits_as_they_are(gateway: Gateway) -> None:
    gateway.answers["/v1/memory/search"] = {
        "hits": [{"item": ITEM, "score": 0.9, "parts": PARTS}],
        "degraded": True,
        "reason": "the owner is away",
    }
    result = gateway.run(
        "search", "which flowers", "-n", "contact:anna", "-n", "workspace", "-k", "3"
    )
    assert result.exit_code == 0, result.output
    assert "Anna [likes] tulips" in result.output
    body = gateway.body()
    assert body["namespaces"] == [
        {"kind": "contact", "id": "anna"},
        {"kind": "workspace", "id": ""},
    ]
    assert (body["text"], body["k"]) == ("which flowers", 3)


def test_remember_sends_one_item(gateway: Gateway) -> None:
    gateway.answers["/v1/memory/items"] = {"items": [ITEM]}
    result = gateway.run(
        "remember", "Anna likes tulips", "-n", "contact:anna", "--tag", "a", "--about", "ben",
        "--importance", "0.8", "--pinned", "--json",
    )  # fmt: skip
    assert json.loads(result.stdout)["id"] == ITEM["id"]
    (item,) = gateway.body()["items"]
    assert item == {
        "namespace": {"kind": "contact", "id": "anna"},
        "kind": "fact",
        "text": "Anna likes tulips",
        "tags": ["a"],
        "contacts": ["ben"],
        "pinned": True,
        "importance": 0.8,
    }


def test_forget_asks_first_and_says_what_is_left(gateway: Gateway) -> None:
    gateway.answers["/v1/memory/forget"] = RECEIPT
    assert gateway.run("forget", "--contact", "anna").exit_code == 1, "nobody said yes"
    assert gateway.asked == []
    result = gateway.run("forget", "--contact", "anna", "--yes")
    assert result.exit_code == 0
    assert "2 items, 2 keys" in result.output
    assert "streams" not in result.output
    assert "the server writes over" in result.output
    assert gateway.body() == {"contact": "anna"}


@pytest.mark.parametrize(
    "arguments",
    [("forget", "--yes"), ("forget", "--yes", "--contact", "a", "--item", "b"),
     ("remember", "x", "-n", "contact"), ("search", "x", "-n", "planet:mars")],
)  # fmt: skip
def test_wrong_usage_is_told_and_sends_nothing(
    gateway: Gateway, arguments: tuple[str, ...]
) -> None:
    assert isinstance(gateway.run(*arguments).exception, Failure)
    assert gateway.asked == []


def test_export_and_import_move_lines(gateway: Gateway, tmp_path: Path) -> None:
    line = b'{"text":"' + b"x" * 1_000 + b'"}\n'
    gateway.answers["/v1/memory/export"] = line * 1_000
    gateway.answers["/v1/memory/import"] = {"stored": 3, "repeated": 1}
    file = tmp_path / "memories"
    assert gateway.run("export", str(file), "-n", "campaign:spring", "--vectors").exit_code == 0
    assert file.read_bytes() == line * 1_000
    path = gateway.asked[-1][1]
    assert "kind=campaign" in path
    assert "vectors=true" in path
    gateway.asked.clear()
    result = gateway.run("import", str(file), "--json")
    assert json.loads(result.stdout) == {"stored": 6, "repeated": 2}
    assert len(gateway.asked) == 2, "cut to what a gateway takes"
    assert b"".join(body for *_, body in gateway.asked) == line * 1_000
    assert {kind for _, _, kind, _ in gateway.asked} == {"application/x-ndjson"}


def test_stats_and_receipts(gateway: Gateway) -> None:
    gateway.answers["/v1/memory/stats"] = {
        "items": 1_234,
        "namespaces": 2,
        "pinned": 1,
        "bytes": 2_000_000,
        "by_kind": {"fact": 1_234},
        "by_state": {"active": 1_234},
        "shards": {"memory-host-0": 64},
    }
    assert "1,234 memories in 2 namespaces" in gateway.run("stats").output
    gateway.answers[f"/v1/memory/receipts/{RECEIPT['id']}"] = RECEIPT
    assert "2 memories erased, 0 found now" in gateway.run("receipt", str(RECEIPT["id"])).output
