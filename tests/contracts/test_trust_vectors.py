"""Published vectors: RFC 8785, RFC 6962/9162, RFC 6376 and 8463, keccak; and golden certificates.

The JSON files are cyberphone/json-canonicalization's (Apache-2.0). The tree's roots and the kinds
of broken proofs are those of Certificate Transparency's reference tests, which transparency-dev
and RFC 9162 implementations share.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from eth_hash.auto import keccak

from mesh.core.errors import InvalidInput
from mesh.trust import jcs, merkle
from mesh.trust.canonical import headers
from mesh.trust.checkpoint import VerifierKey
from mesh.trust.receipt import HeaderPolicy, read_receipt
from mesh.trust.standalone import maily_verify
from mesh.trust.verdict import TrustPolicy
from mesh.trust.verify import verify

HERE = Path(__file__).parent / "trust_vectors"

# --- RFC 8785 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.name for path in (HERE / "jcs" / "input").iterdir()))
def test_rfc8785_files(name: str) -> None:
    value = json.loads((HERE / "jcs" / "input" / name).read_bytes())
    wanted = (HERE / "jcs" / "output" / name).read_bytes().rstrip(b"\n")
    assert jcs.canonical(value) == wanted


@pytest.mark.parametrize(
    ("bits", "text"),
    [  # RFC 8785, appendix B
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
    ],
)
def test_rfc8785_numbers(bits: str, text: str) -> None:
    value = struct.unpack(">d", bytes.fromhex(bits))[0]
    assert jcs.canonical(value) == text.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", {1: 2}, 2**53])
def test_rfc8785_refuses(value: Any) -> None:
    with pytest.raises(InvalidInput):
        jcs.canonical(value)


# --- RFC 6962 and 9162 ---------------------------------------------------------------------------

LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
HASHES = b"".join(map(merkle.data_hash, LEAVES))


@pytest.mark.parametrize("size", range(9))
def test_rfc9162_roots(size: int) -> None:
    assert merkle.Tree(HASHES[: 32 * size]).root.hex() == ROOTS[size]


@pytest.mark.parametrize(
    ("index", "size", "path"),
    [  # leaf and size count from 0 and 1
        (0, 1, []),
        (
            0,
            8,
            [
                "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
            ],
        ),
        (
            5,
            8,
            [
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
                "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
                "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            ],
        ),
        (2, 3, ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"]),
        (
            1,
            5,
            [
                "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
                "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
                "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            ],
        ),
    ],
)
def test_rfc9162_inclusion(index: int, size: int, path: list[str]) -> None:
    nodes = [bytes.fromhex(node) for node in path]
    leaf, root = merkle.data_hash(LEAVES[index]), bytes.fromhex(ROOTS[size])
    assert merkle.Tree(HASHES[: 32 * size]).inclusion(index) == nodes
    assert merkle.root_from_inclusion(leaf, index, size, nodes) == root
    assert maily_verify.tree_root(leaf, index, size, nodes) == root
    for what, wrong in _broken_inclusion(leaf, index, size, nodes, root).items():
        for walk in (merkle.root_from_inclusion, maily_verify.tree_root):
            try:
                assert walk(*wrong) != root, what
            except (InvalidInput, maily_verify.Refused):
                continue


def _broken_inclusion(
    leaf: bytes, index: int, size: int, nodes: list[bytes], root: bytes
) -> dict[str, tuple[bytes, int, int, list[bytes]]]:
    """The kinds of transparency-dev/merkle's testdata/inclusion."""
    flipped = [
        [*nodes[:at], bytes([node[0] ^ 8]) + node[1:], *nodes[at + 1 :]]
        for at, node in enumerate(nodes)
    ]
    other = merkle.data_hash(b"WrongLeaf")
    broken = {
        "wrong leaf": (other, index, size, nodes),
        "leaf index + 1": (leaf, index + 1, size, nodes),
        "leaf index - 1": (leaf, index - 1, size, nodes),
        "leaf index ^ 2": (leaf, index ^ 2, size, nodes),
        "tree size * 2": (leaf, index, size * 2, nodes),
        "tree size / 2": (leaf, index, size // 2, nodes),
        "trailing garbage": (leaf, index, size, [*nodes, bytes(32)]),
        "trailing root": (leaf, index, size, [*nodes, root]),
        "preceding garbage": (leaf, index, size, [bytes(32), *nodes]),
        "preceding root": (leaf, index, size, [root, *nodes]),
        **{f"modified proof {at}": (leaf, index, size, path) for at, path in enumerate(flipped)},
    }
    if nodes:
        broken |= {
            "removed component": (leaf, index, size, nodes[:-1]),
            "inserted component": (leaf, index, size, [nodes[0], other, *nodes[1:]]),
            "empty": (leaf, index, size, []),
        }
    if size < 3:
        del broken["tree size * 2"]  # of one leaf: its path is empty in a tree of two no more
    return broken


@pytest.mark.parametrize("old", range(1, 9))
@pytest.mark.parametrize("new", range(1, 9))
def test_rfc9162_consistency(old: int, new: int) -> None:
    roots = bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new])
    if old > new:
        assert not merkle.check_consistency(old, new, *roots, [])
        return
    proof = merkle.Tree(HASHES[: 32 * new]).consistency(old)
    assert merkle.check_consistency(old, new, *roots, proof)
    garbage = bytes(32)
    assert not merkle.check_consistency(old, new, garbage, roots[1], proof)
    assert not merkle.check_consistency(old, new, roots[0], garbage, proof)
    assert not merkle.check_consistency(old, new, *roots, [*proof, garbage])
    assert not merkle.check_consistency(old, new, *roots, [garbage, *proof])
    if proof:
        assert not merkle.check_consistency(old, new, *roots, proof[:-1])
        assert not merkle.check_consistency(old, new, roots[1], roots[0], proof)


def test_rfc9162_published_consistency() -> None:
    """From 1 to 8 leaves, as transparency-dev/merkle has it."""
    assert [node.hex() for node in merkle.Tree(HASHES).consistency(1)] == [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ]


# --- RFC 6376 and 8463 ---------------------------------------------------------------------------

SIGNED = b"""\
DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=brisbane; t=1528637909; h=from : to :
 subject : date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus
 Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==
DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;
 d=football.example.com; i=@football.example.com;
 q=dns/txt; s=test; t=1528637909; h=from : to : subject :
 date : message-id : from : subject : date;
 bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
 b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3
 DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz
 dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

Hi.

We lost the game.  Are you hungry yet?

Joe.
"""


RSA = (
    "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/"
    "J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBf"
    "O2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB"
)


def test_rfc6376_relaxed_example() -> None:
    """§3.4.5."""
    message = headers.split_message(b"A: X\r\nB : Y\t\r\n\tZ  \r\n\r\n C \r\nD \t E\r\n\r\n\r\n")
    relaxed = b"".join(map(headers.relaxed_field, message.fields))
    assert relaxed == b"a:X\r\nb:Y Z\r\n"
    assert headers.relaxed_body(message.body) == b" C\r\nD E\r\n"


def test_rfc6376_empty_body() -> None:
    """§3.4.4: of an empty body relaxed, the hash of nothing."""
    wanted = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    assert base64.b64encode(headers.body_hash(b"")).decode() == wanted
    assert headers.body_hash(b"\n\n") == headers.body_hash(b"")


def _signed_data(message: headers.Message, at: int) -> tuple[bytes, bytes]:
    """What signature ``at`` signs (RFC 6376 §3.7), and its value."""
    signature = message.all("dkim-signature")[at]
    unsigned, _, value = signature.relaxed.rpartition(b"b=")
    names = ["from", "to", "subject", "date", "message-id"]
    signed = b"".join(headers.relaxed_field(message.all(name)[0]) for name in names)
    own = headers.relaxed_field(signature._replace(raw=unsigned + b"b="))
    return signed + own.removesuffix(b"\r\n"), base64.b64decode(value)


def test_rfc8463_sample_verifies() -> None:
    """Appendix A: our canonical form is what its two signatures signed."""
    message = headers.split_message(SIGNED)
    wanted = "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8="
    assert base64.b64encode(headers.body_hash(message.body)).decode() == wanted
    signed, value = _signed_data(message, 0)
    key = base64.b64decode("11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
    Ed25519PublicKey.from_public_bytes(key).verify(value, hashlib.sha256(signed).digest())
    signed, value = _signed_data(message, 1)
    public = serialization.load_der_public_key(base64.b64decode(RSA))
    assert isinstance(public, rsa.RSAPublicKey)
    public.verify(value, signed, padding.PKCS1v15(), hashes.SHA256())
    assert headers.selectors_of(message) == ["brisbane", "test"]


# --- keccak and golden certificates --------------------------------------------------------------


@pytest.mark.parametrize("length", [0, 1, 55, 135, 136, 137, 271, 272, 1000])
def test_keccak_is_ethereums(length: int) -> None:
    data = bytes(at % 251 for at in range(length))
    assert maily_verify.keccak256(data) == keccak(data)
    empty = "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert maily_verify.keccak256(b"").hex() == empty


@pytest.mark.parametrize("folder", sorted(HERE.glob("golden-*")), ids=lambda path: path.name)
@pytest.mark.parametrize("form", ["certificate.json", "certificate.cbor"])
def test_golden_certificates_verify_for_ever(folder: Path, form: str) -> None:
    """A certificate of any version that was ever given out goes on to verify."""
    key, block = (folder / "key.txt").read_text().split()
    chain, _, block_hash = block.partition(":")
    certificate, message = (folder / form).read_bytes(), (folder / "message.eml").read_bytes()
    receipt = (folder / "receipt.json").read_bytes()
    pinned = {int(chain): frozenset({bytes.fromhex(block_hash)})}
    policy = TrustPolicy((VerifierKey.parse(key),), HeaderPolicy("pinned", pinned=pinned))
    ours = verify(certificate, message, policy, receipt=read_receipt(receipt))
    assert (ours.level, ours.state, ours.failed_step) == ("exact", "final", None)
    theirs = maily_verify.verify(
        certificate,
        message,
        [maily_verify.Key(key)],
        receipt=receipt,
        blocks={(int(chain), block_hash)},
    )
    assert (theirs["level"], theirs["state"], theirs["holds"]) == ("exact", "final", True)


def test_there_is_a_golden_certificate() -> None:
    assert (HERE / "golden-v1" / "certificate.json").exists()
