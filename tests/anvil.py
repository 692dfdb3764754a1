"""A real EVM node for tests: the embedded binary, in a folder of its own."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

from benchmarks.peers import free_port
from cluster.downloads import evm_binary
from mesh.core.settings import load_settings
from tests.services import Server

STORE = Path(__file__).resolve().parents[1] / ".cache" / "store"
"""Binaries are kept between runs, as for the runtime (tests/runtime_instance.py)."""


class AnvilServer(Server):
    """Ours: with the finality of the embedded one. ``extra``: more arguments."""

    def __init__(self, chain_id: int = 31_337, *extra: str) -> None:
        super().__init__("evm")
        settings = load_settings({"store": STORE}, {})
        self._binary = evm_binary(settings, os.environ)
        self._extra = extra
        self.chain_id = chain_id
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def _command(self) -> list[str]:
        return [
            str(self._binary),
            *("--host", "127.0.0.1", "--port", str(self.port), "--silent"),
            *("--chain-id", str(self.chain_id), "--slots-in-an-epoch", "2"),
            *self._extra,
        ]

    def _ready(self) -> bool:
        try:
            return int(self.rpc("eth_chainId"), 16) == self.chain_id
        except (OSError, ValueError):
            return False

    def rpc(self, method: str, *params: Any) -> Any:
        """Blocks for a millisecond or so. Raises RuntimeError with the node's refusal."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        request = urllib.request.Request(
            self.url, body.encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=5) as response:
            answer = json.loads(response.read())
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer.get("result")
