"""Papers to try verifiers with: messages, batches with all their certificates, a chain's block.

Tests, demonstrations and benchmarks share them, so that each tries the same.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from eth_hash.auto import keccak
from trie import HexaryTrie

from mesh.trust import checkpoint, evm
from mesh.trust.canonical import canonicalise
from mesh.trust.certificate import Certificate, certify
from mesh.trust.leaf import DkimKey, make_leaf
from mesh.trust.merkle import Tree
from mesh.trust.receipt import Anchor, HeaderPolicy
from mesh.trust.standalone import maily_verify
from mesh.trust.verdict import TrustPolicy

KEY = checkpoint.SigningKey("example.com/trust", bytes(range(32)))
NEXT_KEY = checkpoint.SigningKey("example.com/trust", bytes(range(1, 33)))
DKIM = DkimKey.pin("s1", b"a public key")
CHAIN = 31337
CONTRACT = bytes(range(20))


def mail(
    body: str = "<p>Hello <b>Anna</b>, our spring sale has begun: everything for the garden "
    'is a third off until Sunday. <a href="https://shop.example.com/spring?c=7">Look</a></p>',
    number: int = 1,
    **headers: str,
) -> bytes:
    """A signed campaign message, CRLF. ``headers``: more fields, or other values."""
    fields = {
        "From": "Garden Shop <news@example.com>",
        "To": f"Anna <anna{number}@example.org>",
        "Subject": "Spring has begun",
        "Date": "Fri, 20 Mar 2026 09:00:00 +0100",
        "Message-ID": f"<{number}.spring@example.com>",
        "MIME-Version": "1.0",
        "DKIM-Signature": "v=1; a=ed25519-sha256; d=example.com; s=s1; bh=; b=",
        "Content-Type": "text/html; charset=utf-8",
        "Content-Transfer-Encoding": "8bit",
    } | headers
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{head}\r\n{body}\r\n".encode()


def plain(name: str = "Anna") -> str:
    return f"<p>Hello {name}, this mail is long enough that it can be found within another one.</p>"


@dataclass
class Batch:
    """A closed, signed batch."""

    mails: list[bytes]
    certificates: list[Certificate]
    tree: Tree
    note: str


def batch(
    mails: list[bytes],
    keys: tuple[checkpoint.SigningKey, ...] = (KEY,),
    extra: tuple[bytes, ...] = (),
    seed: int = 0,
    filler: int = 0,
) -> Batch:
    """``extra``: more leaf hashes (revocations); ``filler``: so many leaves of nobody."""
    rng = random.Random(seed)
    canonical = [canonicalise(raw) for raw in mails]
    leaves = [
        make_leaf(
            message,
            message.recipients[0] if message.recipients else "",
            DKIM if message.selectors else None,
            rng.randbytes(16),
        )
        for message in canonical
    ]
    hashes = b"".join(leaf.hash for leaf in leaves) + b"".join(extra) + rng.randbytes(32 * filler)
    tree = Tree(hashes)
    point = checkpoint.Checkpoint.of(keys[0].name, tree.size, tree.root)
    note = checkpoint.sign(point, keys)
    certificates = [
        certify(leaf, message.origins, tree, index, note)
        for index, (leaf, message) in enumerate(zip(leaves, canonical, strict=True))
    ]
    return Batch(mails, certificates, tree, note)


def encoded(*items: Any) -> bytes:
    """RLP of a list of bytes, numbers and lists."""
    return evm.encode(_rlp(list(items)))


def _rlp(item: Any) -> evm.Rlp:
    if isinstance(item, int):
        return evm.number_bytes(item)
    return [_rlp(one) for one in item] if isinstance(item, list) else item


def trie_of(values: list[bytes]) -> tuple[bytes, HexaryTrie]:
    """The root of a trie over ``RLP(index)``, built by py-trie: not by us."""
    tree = HexaryTrie({})
    for index, value in enumerate(values):
        tree[evm.encode(evm.number_bytes(index))] = value
    return tree.root_hash, tree


def proof_of(tree: HexaryTrie, index: int) -> tuple[bytes, ...]:
    """Nodes from the root down; those embedded in their parent are left out."""
    nodes = tree.get_proof(evm.encode(evm.number_bytes(index)))
    encodings = [evm.encode(_rlp([*node])) for node in nodes if node]
    return tuple(item for at, item in enumerate(encodings) if at == 0 or len(item) >= 32)


def event_anchor(root: bytes, index: int = 3, count: int = 200, status: int = 1) -> Anchor:
    """An event in transaction ``index`` of a block of ``count``."""
    log = [CONTRACT, [evm.ANCHORED, root], b""]
    other = [bytes(20), [keccak(b"Other()")], b"data"]
    receipts = [
        b"\x02" + encoded(status if at == index else 1, 21000 * at, bytes(256), logs)
        for at in range(count)
        for logs in [[other, log] if at == index else [other]]
    ]
    top, tree = trie_of(receipts)
    return Anchor(
        CHAIN, "event", header(receipts_root=top), index, proof_of(tree, index), CONTRACT, 1
    )


def calldata_anchor(root: bytes, index: int = 0, kind: int = 2) -> Anchor:
    """A transaction whose input is the root, of the type ``kind``."""
    inputs = {
        0: [1, 10**9, 21000, CONTRACT, 0, root, 27, b"r" * 32, b"s" * 32],
        1: [CHAIN, 1, 10**9, 21000, CONTRACT, 0, root, [], 0, b"r" * 32, b"s" * 32],
        2: [CHAIN, 1, 1, 10**9, 21000, CONTRACT, 0, root, [], 0, b"r" * 32, b"s" * 32],
    }[kind]
    ours = (bytes([kind]) if kind else b"") + encoded(*inputs)
    other = b"\x02" + encoded(CHAIN, 2, 1, 1, 1, CONTRACT, 0, b"other", [], 0, b"r", b"s")
    top, tree = trie_of([ours if at == index else other for at in range(index + 3)])
    return Anchor(CHAIN, "calldata", header(transactions_root=top), index, proof_of(tree, index))


def header(transactions_root: bytes = bytes(32), receipts_root: bytes = bytes(32)) -> bytes:
    roots = [bytes(32), transactions_root, receipts_root]
    return encoded(
        *(bytes(32), bytes(32), bytes(20), *roots, bytes(256), 0, 4711, 30_000_000, 21_000),
        *(1_774_000_000, b"", bytes(32), bytes(8), 10**9),
    )


def policy(
    anchors: tuple[Anchor, ...] = (), keys: tuple[checkpoint.SigningKey, ...] = (KEY,)
) -> TrustPolicy:
    """Trusts the keys, and just the blocks of these anchors."""
    known = frozenset(keccak(anchor.header) for anchor in anchors)
    return TrustPolicy(
        tuple(key.verifier for key in keys),
        HeaderPolicy("pinned", pinned={CHAIN: known}),
        frozenset({(CHAIN, CONTRACT)}),
    )


STANDALONE_KEYS = [maily_verify.Key(str(KEY.verifier))]
