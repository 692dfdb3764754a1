"""What else there is: pymerkle's tree, OpenTimestamps' files, DKIM as a reader has it today."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import dkim
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from benchmarks.peers import FOLDER
from benchmarks.trustworks.campaign import DOMAIN, letter
from mesh.trust.merkle import Tree, data_hash, root_from_inclusion

OTS = "opentimestamps==0.4.5"
INSTALL_S = 600.0
RUN_S = 600.0


@dataclass(frozen=True, slots=True)
class TreeFigures:
    """Entries a second, and microseconds a proof."""

    built: float
    prove_us: float
    verify_us: float


def pymerkle_tree(entries: list[bytes], proofs: list[int]) -> TreeFigures:
    """Raises ImportError when it is not installed."""
    import pymerkle

    began = time.perf_counter()
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for entry in entries:
        tree.append_entry(entry)
    root = tree.get_state()
    built = time.perf_counter()
    found = [tree.prove_inclusion(number + 1, len(entries)) for number in proofs]
    proven = time.perf_counter()
    for number, proof in zip(proofs, found, strict=True):
        pymerkle.verify_inclusion(tree.get_leaf(number + 1), root, proof)
    done = time.perf_counter()
    assert root == our_root(entries), "two trees of RFC 9162 differ"
    return _figures(len(entries), len(proofs), began, built, proven, done)


def our_tree(entries: list[bytes], proofs: list[int]) -> TreeFigures:
    """The same with ours: from the entries' bytes on."""
    began = time.perf_counter()
    tree = Tree(b"".join(map(data_hash, entries)))
    root = tree.root
    built = time.perf_counter()
    found = [tree.inclusion(number) for number in proofs]
    proven = time.perf_counter()
    for number, path in zip(proofs, found, strict=True):
        assert root_from_inclusion(tree.leaf(number), number, tree.size, path) == root
    done = time.perf_counter()
    return _figures(len(entries), len(proofs), began, built, proven, done)


def our_root(entries: list[bytes]) -> bytes:
    return Tree(b"".join(map(data_hash, entries))).root


def _figures(
    entries: int, proofs: int, began: float, built: float, proven: float, done: float
) -> TreeFigures:
    return TreeFigures(
        entries / (built - began),
        (proven - built) / proofs * 1e6,
        (done - proven) / proofs * 1e6,
    )


async def opentimestamps(count: int) -> dict[str, float]:
    """So many files through one calendar tree: seconds and bytes a file. Its environment is made
    when it is first needed. Raises RuntimeError with what went wrong."""
    folder = FOLDER / "opentimestamps"
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        shutil.rmtree(folder, ignore_errors=True)
        await _run(INSTALL_S, sys.executable, "-m", "venv", str(folder))
        await _run(INSTALL_S, str(python), "-m", "pip", "install", "--quiet", OTS)
        (folder / ".installed").touch()
    script = Path(__file__).with_name("ots_peer.py")
    figures: dict[str, float] = json.loads(await _run(RUN_S, str(python), str(script), str(count)))
    return figures


async def _run(timeout_s: float, *command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), timeout_s)
    except TimeoutError:
        process.kill()
        raise
    if process.returncode:
        raise RuntimeError(f"{command[0]}: {err.decode()[-300:]}")
    return out.decode()


def dkim_verify_ms(rounds: int = 100) -> float:
    """One campaign letter, RSA of 2,048 bits, its key given at once as if DNS took no time."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = base64.b64encode(
        key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    raw = letter(1)
    signed = dkim.sign(raw, b"s1", DOMAIN.encode(), private) + raw
    record = b"v=DKIM1; k=rsa; p=" + public
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        assert dkim.verify(signed, dnsfunc=lambda *_, **__: record)
        times.append(time.perf_counter() - began)
    return median(times) * 1_000
