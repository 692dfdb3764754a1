"""Gas on a real EVM node: of a root by event and by calldata."""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import free_port
from cluster.downloads import evm_binary
from mesh.core.settings import load_settings
from mesh.trust.chain import registry
from mesh.trust.chain.evm_chain import EvmChain
from mesh.trust.chain.wallet import KeyWallet, Unsigned

CHAIN_ID = 31_337
MONEY_WEI = 10**20
START_S = 30.0


@dataclass(frozen=True, slots=True)
class Gas:
    event: int
    """A root that the registry logs."""
    calldata: int
    """A root as the input of a transaction to the own account."""
    deployment: int
    """Of the registry, once for a chain."""


@asynccontextmanager
async def node(environ: Mapping[str, str] = os.environ) -> AsyncIterator[EvmChain]:
    """An anvil of one's own, on a free port, gone afterwards."""
    binary = await asyncio.to_thread(evm_binary, load_settings({}, environ), environ)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="maily-gas-") as folder:
        process = await asyncio.create_subprocess_exec(
            *(str(binary), "--host", "127.0.0.1", "--port", str(port), "--silent"),
            *("--chain-id", str(CHAIN_ID)),
            cwd=Path(folder),
        )
        chain = EvmChain("anvil", f"http://127.0.0.1:{port}", development=True)
        try:
            async with asyncio.timeout(START_S):
                while True:
                    try:
                        await chain.chain_id()
                        break
                    except Exception:  # not up yet; the deadline ends it
                        await asyncio.sleep(0.05)
            yield chain
        finally:
            await chain.aclose()
            process.kill()
            await process.wait()


async def measure(chain: EvmChain) -> Gas:
    """Raises RuntimeError when the node refuses a transaction or it fails."""
    wallet = KeyWallet(secrets.token_bytes(32))
    await chain.fund(wallet.address, MONEY_WEI)
    deployment = await _paid(chain, wallet, registry.FACTORY, registry.deploy_data())
    event = await _paid(
        chain, wallet, registry.ADDRESS, registry.anchor_data(secrets.token_bytes(32))
    )
    calldata = await _paid(chain, wallet, wallet.address, secrets.token_bytes(32))
    return Gas(event, calldata, deployment)


async def _paid(chain: EvmChain, wallet: KeyWallet, to: bytes, data: bytes) -> int:
    market = await chain.market()
    unsigned = Unsigned(
        chain_id=CHAIN_ID,
        nonce=await chain.nonce(wallet.address),
        to=to,
        data=data,
        gas=1_000_000,
        max_fee=2 * market.base_fee + market.tip,
        tip=market.tip,
    )
    signed = await wallet.sign(unsigned)
    sent = await chain.send(signed.raw)
    async with asyncio.timeout(START_S):
        while (found := await chain.find([signed.tx])) is None:  # noqa: ASYNC110 (no event)
            await asyncio.sleep(0.02)
    if not found.succeeded:
        raise RuntimeError(f"the transaction failed: {sent}")
    return found.gas_used
