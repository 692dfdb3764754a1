"""The EVM node (anvil), on loopback; its chain survives in a state file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

from cluster.downloads import evm_binary
from cluster.embedded.service import Service
from cluster.failures import START_FAILED, Failure

SAVE_EVERY_S = 10
CHAIN_ID = 31_337


class EvmNode(Service):
    name = "evm"
    title = "EVM node"
    _binary: Path | None = None

    def ports(self) -> Mapping[str, int]:
        return {"evm.port": self.settings.evm.port}

    async def prepare(self) -> None:
        self.layout.evm_state.parent.mkdir(parents=True, exist_ok=True)
        state = self.layout.evm_state
        if state.exists() and state.stat().st_size == 0:
            # Cut short while saving: anvil would refuse to start.
            state.rename(state.with_suffix(".json.broken"))
            self.notes.append(f"set aside an empty {state}")
        if self._binary is None:
            self._binary = await asyncio.to_thread(evm_binary, self.settings, os.environ)

    def command(self) -> Sequence[str]:
        if self._binary is None:
            raise Failure("the EVM node was not fetched", "run `maily models pull`", START_FAILED)
        return [
            str(self._binary),
            *("--host", "127.0.0.1", "--port", str(self.settings.evm.port)),
            *("--chain-id", str(CHAIN_ID), "--silent"),
            *("--state", str(self.layout.evm_state), "--state-interval", str(SAVE_EVERY_S)),
        ]

    async def probe(self) -> None:
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
            response = await client.post(
                f"http://127.0.0.1:{self.settings.evm.port}",
                json={"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []},
            )
            if int(response.json()["result"], 16) != CHAIN_ID:
                raise RuntimeError(f"another chain answers: {response.text[:200]}")
