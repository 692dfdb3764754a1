"""What the demonstrations ask the EVM node itself, past the runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import aiohttp

from mesh.trust import evm

ANCHORED = f"0x{evm.ANCHORED.hex()}"


@dataclass(frozen=True, slots=True)
class Node:
    """Asks one node. Every method raises RuntimeError for an error of the node."""

    session: aiohttp.ClientSession
    url: str

    async def call(self, method: str, *parameters: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(parameters)}
        timeout = aiohttp.ClientTimeout(total=10)
        async with self.session.post(self.url, json=body, timeout=timeout) as response:
            answer = await response.json(content_type=None)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    async def head(self) -> int:
        return int(await self.call("eth_blockNumber"), 16)

    async def finalized(self) -> int:
        """Number of the newest block that the node counts as final; -1: there is none."""
        block = await self.call("eth_getBlockByNumber", "finalized", False)
        return int(block["number"], 16) if block else -1

    async def chain_id(self) -> int:
        return int(await self.call("eth_chainId"), 16)

    async def block_hash(self, number: int) -> str | None:
        block = await self.call("eth_getBlockByNumber", hex(number), False)
        return str(block["hash"]) if block else None

    async def logs(self, root: str) -> list[dict[str, Any]]:
        """Events of a root on the canonical chain, of any contract."""
        query = {"fromBlock": "0x0", "toBlock": "latest", "topics": [ANCHORED, f"0x{root}"]}
        return list(await self.call("eth_getLogs", query))

    async def all_logs(self) -> list[dict[str, Any]]:
        """Events of all roots on the canonical chain."""
        query = {"fromBlock": "0x0", "toBlock": "latest", "topics": [ANCHORED]}
        return list(await self.call("eth_getLogs", query))

    async def nonce(self, account: str) -> int:
        """How many transactions of the account the canonical chain has."""
        return int(await self.call("eth_getTransactionCount", account, "latest"), 16)

    async def drop(self, block: int) -> int:
        """A reorganisation: this block and all after it are replaced by empty ones, one more than
        were. Returns how many were dropped."""
        depth = await self.head() - block + 1
        await self.call("anvil_reorg", depth, [])
        await self.call("anvil_mine", "0x1")
        return depth
