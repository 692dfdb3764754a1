"""Published vectors as checks that anybody can run and count: RFC 8785, 6962/9162, 6376, 8463.

The JSON files are cyberphone/json-canonicalization's (Apache-2.0). The tree's roots, paths and the
kinds of broken proofs are those of Certificate Transparency's reference tests, which
transparency-dev and RFC 9162 implementations share.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from eth_hash.auto import keccak

from benchmarks.trustworks import vectors_dkim, vectors_tree
from mesh.core.errors import InvalidInput
from mesh.trust import jcs
from mesh.trust.checkpoint import VerifierKey
from mesh.trust.receipt import HeaderPolicy, read_receipt
from mesh.trust.standalone import maily_verify
from mesh.trust.verdict import TrustPolicy
from mesh.trust.verify import verify

FILES = Path(__file__).resolve().parents[2] / "tests" / "contracts" / "trust_vectors"

NUMBERS = (  # RFC 8785, appendix B
    ("0000000000000000", "0"),
    ("8000000000000000", "0"),
    ("0000000000000001", "5e-324"),
    ("8000000000000001", "-5e-324"),
    ("7fefffffffffffff", "1.7976931348623157e+308"),
    ("ffefffffffffffff", "-1.7976931348623157e+308"),
    ("4340000000000000", "9007199254740992"),
    ("c340000000000000", "-9007199254740992"),
    ("4430000000000000", "295147905179352830000"),
    ("44b52d02c7e14af5", "9.999999999999997e+22"),
    ("44b52d02c7e14af6", "1e+23"),
    ("44b52d02c7e14af7", "1.0000000000000001e+23"),
    ("444b1ae4d6e2ef4e", "999999999999999700000"),
    ("444b1ae4d6e2ef4f", "999999999999999900000"),
    ("444b1ae4d6e2ef50", "1e+21"),
    ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
    ("3eb0c6f7a0b5ed8d", "0.000001"),
    ("41b3de4355555553", "333333333.3333332"),
    ("41b3de4355555554", "333333333.33333325"),
    ("41b3de4355555555", "333333333.3333333"),
    ("41b3de4355555556", "333333333.3333334"),
    ("41b3de4355555557", "333333333.33333343"),
    ("becbf647612f3696", "-0.0000033333333333333333"),
    ("43143ff3c1cb0959", "1424953923781206.2"),
)
REFUSED: tuple[Any, ...] = (float("nan"), float("inf"), "\ud800", {1: 2}, 2**53)
KECCAK_SIZES = (0, 1, 55, 135, 136, 137, 271, 272, 1000)
KECCAK_EMPTY = "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"


@dataclass(frozen=True, slots=True)
class Vector:
    """One published answer."""

    source: str
    name: str
    holds: Callable[[], bool]
    """Whether all our implementations that the vector speaks of give that answer."""


def published() -> list[Vector]:
    """All of them, in the order of their sources."""
    return [*_rfc8785(), *_tree(), *_dkim(), *_keccak(), *_golden()]


def _rfc8785() -> Iterator[Vector]:
    for path in sorted((FILES / "jcs" / "input").iterdir()):
        yield Vector("RFC 8785 files", path.name, partial(_same_file, path))
    for bits, text in NUMBERS:
        yield Vector("RFC 8785 numbers", bits, partial(_same_number, bits, text))
    for value in REFUSED:
        yield Vector("RFC 8785 refusals", ascii(value), partial(_refused, value))


def _same_file(path: Path) -> bool:
    wanted = (FILES / "jcs" / "output" / path.name).read_bytes().rstrip(b"\n")
    return jcs.canonical(json.loads(path.read_bytes())) == wanted


def _same_number(bits: str, text: str) -> bool:
    return jcs.canonical(struct.unpack(">d", bytes.fromhex(bits))[0]) == text.encode()


def _refused(value: Any) -> bool:
    try:
        jcs.canonical(value)
    except InvalidInput:
        return True
    return False


def _tree() -> Iterator[Vector]:
    for source, name, holds in vectors_tree.checks():
        yield Vector(source, name, holds)


def _dkim() -> Iterator[Vector]:
    for source, name, holds in vectors_dkim.checks():
        yield Vector(source, name, holds)


def _keccak() -> Iterator[Vector]:
    for size in KECCAK_SIZES:
        data = bytes(at % 251 for at in range(size))
        yield Vector(
            "Keccak-256", f"{size} bytes", lambda d=data: maily_verify.keccak256(d) == keccak(d)
        )
    yield Vector(
        "Keccak-256", "published empty", lambda: maily_verify.keccak256(b"").hex() == KECCAK_EMPTY
    )


def _golden() -> Iterator[Vector]:
    """A certificate of any version that was ever given out goes on to verify."""
    for folder in sorted(FILES.glob("golden-*")):
        for form in ("certificate.json", "certificate.cbor"):
            yield Vector(
                "golden certificates", f"{folder.name} {form}", partial(_lasts, folder, form)
            )


def _lasts(folder: Path, form: str) -> bool:
    key, block = (folder / "key.txt").read_text().split()
    chain, _, block_hash = block.partition(":")
    certificate, message = (folder / form).read_bytes(), (folder / "message.eml").read_bytes()
    receipt = (folder / "receipt.json").read_bytes()
    pinned = {int(chain): frozenset({bytes.fromhex(block_hash)})}
    policy = TrustPolicy((VerifierKey.parse(key),), HeaderPolicy("pinned", pinned=pinned))
    ours = verify(certificate, message, policy, receipt=read_receipt(receipt))
    theirs = maily_verify.verify(
        certificate,
        message,
        [maily_verify.Key(key)],
        receipt=receipt,
        blocks={(int(chain), block_hash)},
    )
    found = {(ours.level, ours.state, ours.holds)}
    found.add((theirs["level"], theirs["state"], theirs["holds"]))
    return found == {("exact", "final", True)}
