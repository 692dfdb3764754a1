"""The three verifiers over many certificates at once: ours, the stand-alone file, the page's.

Each gets the same papers as bytes: certificate, message, the issuer's keys, the batch's receipt and
the hash of the block that the node has. None sees what another found.
"""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, async_playwright

from mesh.trust.canonical import canonicalise
from mesh.trust.checkpoint import VerifierKey
from mesh.trust.receipt import HeaderPolicy, Receipt, read_receipt
from mesh.trust.verdict import TrustPolicy
from mesh.trust.verify import verify

Answer = tuple[bool, str, str]
"""Holds, level, state."""

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
]
PAGE_LOT = 50
"""Certificates that are handed to the page at once."""


@dataclass(frozen=True, slots=True)
class Papers:
    """One certificate with what it is checked against."""

    certificate: bytes
    message: bytes
    recipient: str


@dataclass(frozen=True, slots=True)
class Known:
    """What the reader knows of before."""

    keys: tuple[str, ...]
    """C2SP verifier keys."""
    receipt: bytes
    blocks: tuple[tuple[int, str], ...]
    """Chain id and hash (hex) of the blocks that the node has as final."""

    def policy(self) -> TrustPolicy:
        pinned: dict[int, set[bytes]] = {}
        for chain, block in self.blocks:
            pinned.setdefault(chain, set()).add(bytes.fromhex(block))
        return TrustPolicy(
            tuple(map(VerifierKey.parse, self.keys)),
            HeaderPolicy("pinned", {chain: frozenset(known) for chain, known in pinned.items()}),
        )


def ours(
    papers: Sequence[Papers], known: Known, *, with_receipt: bool = True
) -> tuple[list[Answer], list[float]]:
    """Also seconds that each took, the message being parsed. In the calling thread."""
    policy = known.policy()
    receipt: Receipt | None = read_receipt(known.receipt) if with_receipt else None
    answers: list[Answer] = []
    took: list[float] = []
    for one in papers:
        parsed = canonicalise(one.message)
        began = time.perf_counter()
        verdict = verify(one.certificate, parsed, policy, recipient=one.recipient, receipt=receipt)
        took.append(time.perf_counter() - began)
        answers.append((verdict.holds, str(verdict.level), verdict.state))
    return answers, took


_BULK = """
import base64, importlib.util, json, sys
spec = importlib.util.spec_from_file_location("maily_verify", sys.argv[1])
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)
known = json.loads(sys.stdin.readline())
keys = [tool.Key(text) for text in known["keys"]]
blocks = {(chain, block) for chain, block in known["blocks"]}
receipt = base64.b64decode(known["receipt"])
for line in sys.stdin:
    certificate, message, recipient = json.loads(line)
    got = tool.verify(base64.b64decode(certificate), base64.b64decode(message), keys, recipient,
                      receipt=receipt, blocks=blocks)
    print(json.dumps([got["holds"], got["level"], got["state"]]))
"""


async def standalone(source: bytes, papers: Sequence[Papers], known: Known) -> list[Answer]:
    """``source``: the file as the instance gives it out. It runs in a process of its own, in a
    folder where nothing else is. Raises RuntimeError."""
    with tempfile.TemporaryDirectory(prefix="maily-verifier-") as name:
        tool, bulk = Path(name) / "maily_verify.py", Path(name) / "bulk.py"
        tool.write_bytes(source)
        bulk.write_text(_BULK)
        lines = [
            json.dumps(
                {"keys": known.keys, "blocks": known.blocks, "receipt": _text(known.receipt)}
            )
        ]
        lines += [
            json.dumps([_text(one.certificate), _text(one.message), one.recipient])
            for one in papers
        ]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", str(bulk), str(tool)),
            cwd=name,
            env={"PATH": "/usr/bin:/bin"},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate("\n".join(lines).encode() + b"\n")
    if process.returncode != 0:
        raise RuntimeError(f"the stand-alone verifier: {err.decode(errors='replace')[-400:]}")
    return [(bool(a), str(b), str(c)) for a, b, c in map(json.loads, out.splitlines())]


_LOT = """
async ([known, lot]) => {
  const load = (name) => import(new URL("/verify/assets/" + name, location.href).href);
  const [{ verify }, { parseKey }, { pinned }] = await Promise.all(
    ["verify.js", "checkpoint.js", "receipt.js"].map(load));
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const policy = {
    keys: known.keys.map(parseKey),
    headers: pinned(known.blocks.map(([chain, hash]) => chain + ":" + hash)),
  };
  const receipt = bytes(known.receipt);
  const found = [];
  for (const [certificate, message, recipient] of lot) {
    const got = await verify(bytes(certificate), bytes(message), policy, { recipient, receipt });
    found.push([got.holds, got.level, got.state]);
  }
  return found;
}
"""


async def in_page(page: Page, papers: Sequence[Papers], known: Known) -> list[Answer]:
    """``page``: one of the instance's verify pages, open. Its own modules do the work, as they
    were served."""
    facts = {"keys": known.keys, "blocks": known.blocks, "receipt": _text(known.receipt)}
    answers: list[Answer] = []
    for at in range(0, len(papers), PAGE_LOT):
        lot = [
            [_text(one.certificate), _text(one.message), one.recipient]
            for one in papers[at : at + PAGE_LOT]
        ]
        found: list[Any] = await page.evaluate(_LOT, [facts, lot])
        answers += [(bool(a), str(b), str(c)) for a, b, c in found]
    return answers


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The browser of this machine. Raises RuntimeError where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise RuntimeError("no chromium on this machine")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
