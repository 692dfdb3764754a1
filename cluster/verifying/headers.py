"""The header policy of a user (specification §7.9): whom to believe that a block is on its chain.

``pinned:FILE`` asks nobody; ``node:URL`` asks one's own node; ``quorum:URL,URL,…/N`` asks several
and wants N to agree. A node is asked for the block at the header's *number*: a node may still know
a dropped block by its hash.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from cluster.failures import USAGE, Failure
from cluster.verifying.fetch import fetch, read_json
from mesh.core.errors import InvalidInput
from mesh.trust.evm import Header
from mesh.trust.receipt import HeaderPolicy, Receipt, Sighting, Trust

MAX_SOURCES = 16
_HELP = "pinned:FILE, node:URL or quorum:URL,URL/NEEDED"
_BLOCK = re.compile(r"([0-9]{1,16}):(?:0x)?([0-9a-fA-F]{64})", re.ASCII)


@dataclass(frozen=True)
class HeaderSpec:
    """A policy as it was asked for, before anyone was asked."""

    trust: Trust
    pinned: dict[int, frozenset[bytes]] = field(default_factory=dict)
    urls: tuple[str, ...] = ()
    need: int = 1

    def __str__(self) -> str:
        if self.trust == "pinned":
            return f"{sum(map(len, self.pinned.values()))} pinned blocks"
        return self.urls[0] if self.trust == "node" else f"{self.need} of {len(self.urls)} nodes"


def read_spec(text: str, *, offline: bool = False) -> HeaderSpec:
    """Raises Failure that says how it is written."""
    kind, _, rest = text.partition(":")
    if kind == "pinned" and rest:
        return HeaderSpec("pinned", pinned=read_blocks(Path(rest)))
    if kind not in ("node", "quorum") or not rest:
        raise Failure(f"{text!r} is no policy for block headers", _HELP, USAGE)
    if offline:
        raise Failure(f"--offline, and {kind} asks the network", "pinned:FILE needs none", USAGE)
    if kind == "node":
        return HeaderSpec("node", urls=(rest,))
    joined, slash, need = rest.rpartition("/")
    urls = tuple(dict.fromkeys(url.strip() for url in joined.split(",") if url.strip()))
    if not slash or not need.isdecimal() or not 1 <= int(need) <= len(urls) <= MAX_SOURCES:
        raise Failure(
            f"a quorum ends with how many must agree, of at most {MAX_SOURCES}: {text!r}",
            _HELP,
            USAGE,
        )
    return HeaderSpec("quorum", urls=urls, need=int(need))


def read_blocks(path: Path) -> dict[int, frozenset[bytes]]:
    """Lines ``CHAIN:HASH``; empty ones and those that begin with ``#`` are passed over."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise Failure(f"{path} can't be read: {error}", "", USAGE) from None
    found: dict[int, set[bytes]] = {}
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _BLOCK.fullmatch(text)
        if not match:
            raise Failure(f"{path}, line {number} is not CHAIN:HASH", "e.g. 1:0x12…ef", USAGE)
        found.setdefault(int(match[1]), set()).add(bytes.fromhex(match[2]))
    return {chain: frozenset(hashes) for chain, hashes in found.items()}


def policy(
    spec: HeaderSpec, receipt: Receipt, http: httpx.Client
) -> tuple[HeaderPolicy, list[str]]:
    """The policy with what its sources say of the receipt's blocks, and who could not be asked."""
    if spec.trust == "pinned":
        return HeaderPolicy("pinned", pinned=spec.pinned), []
    seen: list[Sighting] = []
    silent: list[str] = []
    with ThreadPoolExecutor(len(spec.urls)) as pool:  # a silent one keeps nobody waiting
        asking = [pool.submit(_asked, url, receipt, http) for url in spec.urls]
        for answer in asking:
            try:
                seen += answer.result()
            except Failure as failure:
                silent.append(failure.message)
    made = HeaderPolicy(
        spec.trust, sources=frozenset(spec.urls), need=spec.need, sightings=tuple(seen)
    )
    return made, silent


def _asked(url: str, receipt: Receipt, http: httpx.Client) -> list[Sighting]:
    chain = _number(_call(http, url, "eth_chainId", []), url)
    headers = []
    for anchor in receipt.anchors:
        if anchor.chain_id == chain:
            try:
                headers.append(Header.read(anchor.header))
            except InvalidInput:
                continue  # verification says what is wrong with it
    if not headers:
        return []
    horizon = _finalized(http, url)
    found = []
    for header in headers:
        block = _block(http, url, hex(header.number))
        if block and str(block.get("hash")).lower() == f"0x{header.hash.hex()}":
            found.append(Sighting(url, chain, header.hash, header.number <= horizon))
    return found


def _finalized(http: httpx.Client, url: str) -> int:
    """Height up to which blocks are final; -1 where the node knows no such tag."""
    try:
        block = _block(http, url, "finalized")
    except Failure:
        return -1
    return _number(block.get("number"), url) if block else -1


def _block(http: httpx.Client, url: str, number: str) -> dict[str, Any] | None:
    value = _call(http, url, "eth_getBlockByNumber", [number, False])
    if value is not None and not isinstance(value, dict):
        raise Failure(f"{url} did not answer with a block")
    return value


def _call(http: httpx.Client, url: str, method: str, params: Sequence[Any]) -> Any:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
    status, data = fetch(http, "POST", url, body=body)
    answer = read_json(data, url)
    if status != 200 or not isinstance(answer, dict) or "result" not in answer:
        raise Failure(f"{url} refused {method} (status {status})")
    return answer["result"]


def _number(value: Any, url: str) -> int:
    try:
        return int(value, 16)
    except (TypeError, ValueError):
        raise Failure(f"{url} did not answer with a number") from None
