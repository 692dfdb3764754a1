"""The EVM node (anvil), on loopback, and a second one to fall back to.

Its chain lives in memory. What was tried with anvil 1.7.1, and what follows from it:

- ``--state`` with ``--state-interval`` writes the whole file again every second, also while nothing
  happens, and in place: cut off in the middle it is lost. So we ask the node for its state
  (``anvil_dumpState``, some 1.6 kB a block) when its head has changed, and put the file in place
  whole. At an orderly end the node writes its own copy beside it.
- Blocks, transactions, receipts, logs, accounts and the genesis come back from it, hash for hash;
  so proofs can be made of old blocks. States of old blocks do not (``eth_call`` and nonces "at
  block 5", and ``anvil_reorg`` beyond the restart, are refused).
- Transactions that wait in its pool are lost at any end, and after ``kill -9`` the blocks since
  the last copy: at most ``PROBE_EVERY_S``. The newest block that is on the disk is therefore
  marked in the chain itself, and nobody calls a block final before (``mesh/trust/chain``).

It makes a block for each transaction, and others only when it is asked to (by the anchoring,
while something waits to be final): an idle node does not grow.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import httpx

from cluster.downloads import evm_binary
from cluster.embedded.service import Service
from cluster.failures import START_FAILED, Failure
from cluster.layout import write_private
from mesh.trust.chain.development import CHAIN_ID, DISK_MARK, EPOCH_SLOTS, STANDBY_CHAIN_ID


class EvmNode(Service):
    name = "evm"
    title = "EVM node"
    setting: ClassVar[str] = "evm.port"
    chain_id: ClassVar[int] = CHAIN_ID
    _binary: Path | None = None
    _kept: str | None = None
    """Hash of the newest block that is on the disk."""

    @property
    def port(self) -> int:
        return self.settings.evm.port

    @property
    def state(self) -> Path:
        return self.layout.evm_state

    @property
    def leaving(self) -> Path:
        """What the node itself writes when it is stopped in order."""
        return self.state.with_name("leaving.json")

    def ports(self) -> Mapping[str, int]:
        return {self.setting: self.port}

    async def prepare(self) -> None:
        self.state.parent.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(self._newest)
        self._kept = None
        if self._binary is None:
            self._binary = await asyncio.to_thread(evm_binary, self.settings, os.environ)

    def _newest(self) -> None:
        """``state`` becomes the newer of both files that can be read."""
        kept, left = _height(self.state), _height(self.leaving)
        if self.state.exists() and kept is None:
            self.state.replace(self.state.with_suffix(".json.broken"))
            self.notes.append(f"set aside {self.state}: it can't be read")
        if left is not None and left >= (-1 if kept is None else kept):
            self.leaving.replace(self.state)
        self.leaving.unlink(missing_ok=True)

    def command(self) -> Sequence[str]:
        if self._binary is None:
            raise Failure("the EVM node was not fetched", "run `maily models pull`", START_FAILED)
        load = ("--load-state", str(self.state)) if self.state.exists() else ()
        return [
            str(self._binary),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--chain-id", str(self.chain_id), "--silent"),
            # `safe` is so many blocks behind the newest, `finalized` twice as many.
            *("--slots-in-an-epoch", str(EPOCH_SLOTS)),
            *load,
            *("--dump-state", str(self.leaving)),
        ]

    async def probe(self) -> None:
        async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
            chain_id = await self._ask(client, "eth_chainId")
            if int(chain_id, 16) != self.chain_id:
                raise RuntimeError(f"another chain answers: {chain_id[:20]}")
            head = await self._ask(client, "eth_getBlockByNumber", "latest", False)
            if head["hash"] != self._kept:
                await self._keep(client, head)

    async def _keep(self, client: httpx.AsyncClient, head: dict[str, Any]) -> None:
        """Copy the chain to the disk, then say in it how far it is there."""
        dumped = await self._ask(client, "anvil_dumpState")
        await asyncio.to_thread(_write, self.state, dumped)
        mark = int(head["number"], 16) + 1
        await self._ask(client, "anvil_setBalance", f"0x{DISK_MARK.hex()}", hex(mark))
        self._kept = head["hash"]

    async def _ask(self, client: httpx.AsyncClient, method: str, *params: object) -> Any:
        response = await client.post(
            f"http://127.0.0.1:{self.port}",
            json={"jsonrpc": "2.0", "id": 1, "method": method, "params": params},
        )
        answer = response.json()
        if "result" not in answer:
            raise RuntimeError(f"{method}: {answer.get('error')}"[:200])
        return answer["result"]


class EvmStandby(EvmNode):
    """A second network for development and demonstrations."""

    name = "evm-standby"
    title = "standby EVM node"
    setting = "evm.standby_port"
    chain_id = STANDBY_CHAIN_ID

    @property
    def port(self) -> int:
        return self.settings.evm.standby_port

    @property
    def state(self) -> Path:
        return self.layout.evm_standby_state


def _height(path: Path) -> int | None:
    """Of the newest block in a state file; None: there is none that can be read."""
    try:
        height = json.loads(path.read_bytes())["best_block_number"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if isinstance(height, str):
        return int(height, 16)
    return int(height) if isinstance(height, int) else None


def _write(path: Path, dumped: str) -> None:
    write_private(path, gzip.decompress(bytes.fromhex(dumped[2:])).decode())
