"""What else there is: pymerkle's tree, OpenTimestamps' files, DKIM as a reader has it today."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import dkim
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from benchmarks.peers import FOLDER
from benchmarks.trustworks.campaign import DOMAIN, letter
from mesh.trust.merkle import Tree, data_hash, root_from_inclusion

OTS = "opentimestamps==0.4.5"
PYMERKLE = "pymerkle==7.0.0"
INSTALL_S = 600.0
RUN_S = 600.0


@dataclass(frozen=True, slots=True)
class TreeFigures:
    """Of CPU time."""

    built: float
    """Entries a second."""
    prove_us: float
    verify_us: float
    root: str


def our_tree(seed: int, count: int, proofs: int) -> TreeFigures:
    """From the entries' bytes on; ``pymerkle_peer.py`` does the same with the same entries."""
    rng = random.Random(seed)
    entries = [rng.randbytes(150) for _ in range(count)]
    numbers = rng.sample(range(count), proofs)
    began = time.process_time()
    tree = Tree(b"".join(map(data_hash, entries)))
    built = time.process_time()
    found = [tree.inclusion(number) for number in numbers]
    proven = time.process_time()
    for number, path in zip(numbers, found, strict=True):
        assert root_from_inclusion(tree.leaf(number), number, tree.size, path) == tree.root
    done = time.process_time()
    return TreeFigures(
        count / (built - began),
        (proven - built) / proofs * 1e6,
        (done - proven) / proofs * 1e6,
        tree.root.hex(),
    )


async def pymerkle_tree(seed: int, count: int, proofs: int) -> TreeFigures:
    """Raises RuntimeError with what went wrong."""
    found = await _peer("pymerkle", PYMERKLE, "pymerkle_peer.py", seed, count, proofs)
    return TreeFigures(**found)


async def opentimestamps(count: int) -> dict[str, float]:
    """So many files through one calendar tree: seconds of CPU and bytes a file. Raises
    RuntimeError with what went wrong."""
    found: dict[str, float] = await _peer("opentimestamps", OTS, "ots_peer.py", count)
    return found


async def _peer(name: str, package: str, script: str, *arguments: int) -> Any:
    """What a script here prints in the peer's environment; that is made when first needed."""
    folder = FOLDER / name
    python = folder / "bin" / "python"
    if not (folder / ".installed").exists():
        shutil.rmtree(folder, ignore_errors=True)
        await _run(INSTALL_S, sys.executable, "-m", "venv", str(folder))
        await _run(INSTALL_S, str(python), "-m", "pip", "install", "--quiet", package)
        (folder / ".installed").touch()
    path = Path(__file__).with_name(script)
    return json.loads(await _run(RUN_S, str(python), str(path), *map(str, arguments)))


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
    """CPU of one campaign letter, RSA of 2,048 bits, its key given as if DNS took no time."""
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
    relaxed = (b"relaxed", b"relaxed")
    signed = dkim.sign(raw, b"s1", DOMAIN.encode(), private, canonicalize=relaxed) + raw
    record = b"v=DKIM1; k=rsa; p=" + public
    times = []
    for _ in range(rounds):
        began = time.thread_time()
        assert dkim.verify(signed, dnsfunc=lambda *_, **__: record)
        times.append(time.thread_time() - began)
    return median(times) * 1_000
