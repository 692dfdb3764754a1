"""The real chain: an EVM node by JSON-RPC."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from eth_hash.auto import keccak

from mesh.core.errors import InvalidInput, NotFound
from mesh.trust import evm
from mesh.trust.chain.development import DISK_MARK
from mesh.trust.chain.encode import data, header_rlp, number, receipt_bytes, transaction_bytes
from mesh.trust.chain.protocol import Call, Head, Inclusion, Market, SendResult, Sent
from mesh.trust.chain.prove import by_event, by_input
from mesh.trust.chain.refusals import outcome_of
from mesh.trust.chain.rpc import Rpc, RpcError
from mesh.trust.receipt import Anchor

HISTORY_BLOCKS = 10
LOG_BLOCKS = 5_000
"""Of one look for logs: providers refuse more."""
LOG_LOOKS = 20


class EvmChain:
    """``development``: it is asked for blocks and money (anvil); never set for a real network."""

    def __init__(
        self, name: str, url: str, *, timeout_s: float = 5.0, development: bool = False
    ) -> None:
        self._rpc = Rpc(name, url, timeout_s)
        self._development = development
        self._chain_id: int | None = None
        self._by_block = True
        """The node knows eth_getBlockReceipts."""

    async def chain_id(self) -> int:
        self._chain_id = number(await self._ask("eth_chainId"))
        return self._chain_id

    async def genesis(self) -> bytes:
        block = await self._block("0x0")
        if block is None:
            raise self._rpc.nonsense("eth_getBlockByNumber", "no block 0")
        return data(block.get("hash"))

    async def head(self) -> Head:
        if self._development:
            # Asked first: what is on the disk by now, and not what will be.
            kept = number(await self._ask("eth_getBalance", hexed(DISK_MARK), "latest")) - 1
        else:
            kept = -1
        latest, safe, finalized = await asyncio.gather(
            self._block("latest"), self._tagged("safe"), self._tagged("finalized")
        )
        if kept >= 0 and finalized is not None:
            finalized = min(finalized, kept)
        if latest is None:
            raise self._rpc.nonsense("eth_getBlockByNumber", "no newest block")
        return Head(
            number=number(latest.get("number")),
            hash=data(latest.get("hash")),
            time_s=number(latest.get("timestamp")),
            base_fee=number(latest.get("baseFeePerGas", "0x0")),
            safe=safe,
            finalized=finalized,
        )

    async def nonce(self, address: bytes) -> int:
        return number(await self._ask("eth_getTransactionCount", hexed(address), "latest"))

    async def balance(self, address: bytes) -> int:
        return number(await self._ask("eth_getBalance", hexed(address), "latest"))

    async def code(self, address: bytes) -> bytes:
        return data(await self._ask("eth_getCode", hexed(address), "latest"))

    async def market(self) -> Market:
        try:
            history = await self._rpc.call("eth_feeHistory", hex(HISTORY_BLOCKS), "latest", [50])
            base = number(history["baseFeePerGas"][-1])
            rewards = [number(row[0]) for row in history.get("reward") or () if row]
            return Market(base, int(statistics.median(rewards)) if rewards else 0)
        except (RpcError, KeyError, IndexError, TypeError):
            # A node without a history: what it advises itself.
            head = await self.head()
            try:
                tip = number(await self._rpc.call("eth_maxPriorityFeePerGas"))
            except RpcError:
                tip = 0
            return Market(head.base_fee, tip)

    async def estimate(self, call: Call) -> int:
        given = {"from": hexed(call.sender), "to": hexed(call.to), "data": hexed(call.data)}
        try:
            return number(await self._rpc.call("eth_estimateGas", given))
        except RpcError as error:
            raise InvalidInput(f"the transaction would fail: {error.message}") from error

    async def send(self, raw: bytes) -> SendResult:
        try:
            answer = await self._rpc.call("eth_sendRawTransaction", hexed(raw))
        except RpcError as error:
            result = outcome_of(error.message)
            if result is None:
                raise self._rpc.refusal("eth_sendRawTransaction", error) from error
            return result
        if data(answer) != keccak(raw):
            raise self._rpc.nonsense("eth_sendRawTransaction", "another transaction's hash")
        return SendResult(Sent.ACCEPTED)

    async def find(self, txs: Sequence[bytes]) -> Inclusion | None:
        for tx in txs:
            receipt = await self._ask("eth_getTransactionReceipt", hexed(tx))
            if receipt is not None and receipt.get("blockHash") is not None:
                with self._sense("eth_getTransactionReceipt"):
                    return _inclusion(receipt)
        return None

    async def block_hash(self, number: int) -> bytes | None:
        block = await self._block(hex(number))
        return None if block is None else data(block.get("hash"))

    async def announced(self, contract: bytes, root: bytes, first: int) -> Inclusion | None:
        last = (await self.head()).number
        first = max(first, last + 1 - LOG_BLOCKS * LOG_LOOKS, 0)
        while first <= last:
            until = min(first + LOG_BLOCKS - 1, last)
            wanted = {
                "address": hexed(contract),
                "topics": [hexed(evm.ANCHORED), hexed(root)],
                "fromBlock": hex(first),
                "toBlock": hex(until),
            }
            logs = await self._ask("eth_getLogs", wanted)
            if logs:
                with self._sense("eth_getLogs"):
                    tx = data(logs[0]["transactionHash"])
                return await self.find([tx])
            first = until + 1
        return None

    async def prove(self, inclusion: Inclusion, root: bytes, contract: bytes | None) -> Anchor:
        name = hexed(inclusion.block_hash)
        block = await self._ask("eth_getBlockByHash", name, contract is None)
        if block is None or data(block.get("hash")) != inclusion.block_hash:
            raise NotFound("The block is gone.", {"block": name})
        chain_id = self._chain_id or await self.chain_id()
        with self._sense("eth_getBlockByHash"):
            header = header_rlp(block)
            transactions: list[Any] = block["transactions"]
            names = [data(item["hash"] if contract is None else item) for item in transactions]
            encoded = [] if contract else [transaction_bytes(item) for item in transactions]
        if inclusion.tx not in names:
            raise NotFound("The block does not have the transaction.", {"block": name})
        index = names.index(inclusion.tx)
        if contract is None:
            return await asyncio.to_thread(by_input, chain_id, header, encoded, index, root)
        found = await self._receipts(name, names)
        with self._sense("eth_getBlockReceipts"):
            receipts = [receipt_bytes(item) for item in found]
        return await asyncio.to_thread(by_event, chain_id, header, receipts, index, root, contract)

    async def make_block(self) -> None:
        if self._development:
            await self._ask("evm_mine")

    async def fund(self, address: bytes, wei: int) -> None:
        if self._development:
            await self._ask("anvil_setBalance", hexed(address), hex(wei))

    async def aclose(self) -> None:
        await self._rpc.aclose()

    @contextmanager
    def _sense(self, method: str) -> Iterator[None]:
        """What a node gives may lack anything."""
        try:
            yield
        except (InvalidInput, LookupError, TypeError, AttributeError) as error:
            raise self._rpc.nonsense(method, str(error)[:100]) from error

    async def _receipts(self, block: str, names: Sequence[bytes]) -> list[Any]:
        if self._by_block:
            try:
                found = await self._rpc.call("eth_getBlockReceipts", block)
                if isinstance(found, list) and len(found) == len(names):
                    return found
            except RpcError as error:
                self._by_block = not error.unsupported
        receipts = await self._many("eth_getTransactionReceipt", names)
        if any(not item or item.get("blockHash") != block for item in receipts):
            raise NotFound("The block is gone.", {"block": block})
        return receipts

    async def _many(self, method: str, names: Sequence[bytes]) -> list[Any]:
        try:
            return await self._rpc.call_all([(method, (hexed(name),)) for name in names])
        except RpcError as error:
            raise self._rpc.refusal(method, error) from error

    async def _block(self, which: str) -> dict[str, Any] | None:
        block = await self._ask("eth_getBlockByNumber", which, False)
        if block is not None and not isinstance(block, dict):
            raise self._rpc.nonsense("eth_getBlockByNumber", "no block")
        return block

    async def _tagged(self, tag: str) -> int | None:
        """None: the chain has no such block yet, or its node does not know the word."""
        try:
            block = await self._rpc.call("eth_getBlockByNumber", tag, False)
        except RpcError:
            return None
        return None if block is None else number(block.get("number"))

    async def _ask(self, method: str, *params: Any) -> Any:
        """A call that a node has no reason to refuse."""
        try:
            return await self._rpc.call(method, *params)
        except RpcError as error:
            raise self._rpc.refusal(method, error) from error


def hexed(value: bytes) -> str:
    return f"0x{value.hex()}"


def _inclusion(receipt: dict[str, Any]) -> Inclusion:
    used = number(receipt["gasUsed"])
    price = number(receipt.get("effectiveGasPrice", "0x0"))
    return Inclusion(
        tx=data(receipt["transactionHash"]),
        block_number=number(receipt["blockNumber"]),
        block_hash=data(receipt["blockHash"]),
        succeeded=number(receipt.get("status", "0x1")) == 1,
        gas_used=used,
        fee_wei=used * price + number(receipt.get("l1Fee") or "0x0"),
    )
