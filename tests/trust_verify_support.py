"""What the tests of ``maily verify`` share: papers as files, the command, sites that answer."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from eth_hash.auto import keccak

from cluster import cli
from cluster.cli import console
from mesh.trust.certificate import Proof, Revocation
from mesh.trust.leaf import revocation_hash
from mesh.trust.receipt import Anchor, Receipt
from tests.trust_support import CHAIN, KEY, Batch, batch, event_anchor, mail

ID = "a2b3c4d5" * 4
MIXED = {"Content-Type": 'multipart/mixed; boundary="b"'}
BODY = (
    "--b\r\nContent-Type: text/html\r\n\r\n<p>Hello Anna, our spring sale has begun: everything "
    "for the garden is a third off until Sunday.</p>\r\n--b--"
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in list(os.environ):
        if name.startswith(("MAILY_", "RAY_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MAILY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """(exit code, standard output) of ``maily verify …``, as the shell would run it."""

    def go(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["maily", "verify", *map(str, arguments)])
        monkeypatch.setattr(console, "current", console.Invocation())
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out + told.err

    return go


class Papers:
    """A mail, its batch, receipt and revocation."""

    def __init__(self) -> None:
        self.raw = mail(BODY, **MIXED)
        self.batch: Batch = batch([self.raw], filler=7)
        self.certificate = self.batch.certificates[0]
        self.anchor: Anchor = event_anchor(self.batch.tree.root, count=8)
        self.receipt = Receipt(self.batch.note, (self.anchor,))
        leaf = self.certificate.leaf.hash
        later = batch([], extra=(revocation_hash(leaf, 1_780_000_000, 1),), filler=3, seed=5)
        self.revocation = Revocation(leaf, 1_780_000_000, 1, Proof.of(later.tree, 0), later.note)
        self.block = f"{CHAIN}:0x{keccak(self.anchor.header).hex()}"
        self.key = str(KEY.verifier)


@pytest.fixture(scope="module")
def papers() -> Papers:
    return Papers()


def write(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def row(text: str, name: str) -> str:
    """What stands beside a name in the answer for people."""
    return next(line for line in text.splitlines() if line.startswith(f"  {name} "))


class Site(ThreadingHTTPServer):
    """Answers ``answers[path]``, or JSON-RPC from ``rpc[method]``; counts what was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.answers: dict[str, bytes] = {}
        self.rpc: dict[str, Any] = {}
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class _Answer(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self._send(self.server.answers.get(self.path))

    def do_POST(self) -> None:
        call = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(call["method"])
        found = self.server.rpc[call["method"]]
        result = found(*call["params"]) if callable(found) else found
        self._send(json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": result}).encode())

    def _send(self, body: bytes | None) -> None:
        self.send_response(404 if body is None else 200)
        self.send_header("content-length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def sites() -> Iterator[list[Site]]:
    made = [Site() for _ in range(3)]
    threads = [threading.Thread(target=site.serve_forever, args=(0.02,)) for site in made]
    for thread in threads:
        thread.start()
    yield made
    for site in made:
        site.shutdown()
        site.server_close()
    for thread in threads:
        thread.join()


def node(site: Site, papers: Papers, *, final: bool = True, block: bytes | None = None) -> str:
    known = block or keccak(papers.anchor.header)

    def by_number(number: str, _: bool) -> dict[str, str] | None:
        if number == "finalized":
            return {"number": hex(4711 if final else 4710), "hash": "0x00"}
        return {"number": number, "hash": f"0x{known.hex()}"} if number == hex(4711) else None

    site.rpc = {"eth_chainId": hex(CHAIN), "eth_getBlockByNumber": by_number}
    return site.url


def instance(site: Site, papers: Papers, *, revoked: bool = False) -> str:
    leaf, root = papers.certificate.leaf.hash.hex(), papers.batch.tree.root.hex()
    entries = [json.loads(papers.revocation.to_json())] if revoked else []
    first = {"revocations": [], "next": "a b", "as_of": "2026-03-20T09:00:00Z"}
    site.answers = {
        f"/v1/trust/certificates/{ID}.json": papers.certificate.to_json(),
        f"/v1/trust/receipts/{root}": papers.receipt.to_json(),
        "/v1/trust/keys": json.dumps({"keys": [papers.key], "live": [papers.key]}).encode(),
        f"/v1/trust/revocations?leaf={leaf}": json.dumps(first).encode(),
        f"/v1/trust/revocations?leaf={leaf}&after=a+b": json.dumps(
            first | {"revocations": entries, "next": None}
        ).encode(),
    }
    return site.url
