"""RFC 6962/9162: roots, inclusion and consistency, with each kind of broken proof."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from mesh.core.errors import InvalidInput
from mesh.trust import merkle
from mesh.trust.standalone import maily_verify

Check = tuple[str, str, Callable[[], bool]]
Walk = tuple[bytes, int, int, list[bytes]]

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
INCLUSION: tuple[tuple[int, int, tuple[str, ...]], ...] = (  # leaves count from 0
    (0, 1, ()),
    (
        0,
        8,
        (
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ),
    ),
    (
        5,
        8,
        (
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ),
    ),
    (2, 3, ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",)),
    (
        1,
        5,
        (
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ),
    ),
)
CONSISTENCY = (  # from 1 to 8 leaves
    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
)


def checks() -> Iterator[Check]:
    for size, root in enumerate(ROOTS):
        yield "RFC 9162 roots", f"{size} leaves", partial(_root_is, size, root)
    for index, size, path in INCLUSION:
        nodes = [bytes.fromhex(node) for node in path]
        name = f"leaf {index} of {size}"
        yield "RFC 9162 inclusion", name, partial(_proves, index, size, nodes)
    for size in range(1, 9):
        for index in range(size):
            yield from _inclusion(index, size)
    published = [bytes.fromhex(node) for node in CONSISTENCY]
    yield "RFC 9162 consistency", "1 to 8", lambda: merkle.Tree(HASHES).consistency(1) == published
    for old in range(1, 9):
        for new in range(old, 9):
            yield from _consistency(old, new)


def _root_is(size: int, root: str) -> bool:
    return merkle.Tree(HASHES[: 32 * size]).root.hex() == root


def _proves(index: int, size: int, nodes: list[bytes]) -> bool:
    leaf, root = merkle.data_hash(LEAVES[index]), bytes.fromhex(ROOTS[size])
    return (
        merkle.Tree(HASHES[: 32 * size]).inclusion(index) == nodes
        and merkle.root_from_inclusion(leaf, index, size, nodes) == root
        and maily_verify.tree_root(leaf, index, size, nodes) == root
    )


def _inclusion(index: int, size: int) -> Iterator[Check]:
    """A right proof, and each kind of wrong one of transparency-dev/merkle's tests."""
    leaf, root = merkle.data_hash(LEAVES[index]), bytes.fromhex(ROOTS[size])
    nodes = merkle.Tree(HASHES[: 32 * size]).inclusion(index)
    yield (
        "RFC 9162 inclusion",
        f"every leaf: {index} of {size}",
        partial(_proves, index, size, nodes),
    )
    for what, wrong in broken_inclusion(leaf, index, size, nodes, root).items():
        name = f"{index} of {size}: {what}"
        yield "RFC 9162 inclusion, broken", name, partial(_refuses, wrong, root)


def _refuses(wrong: Walk, root: bytes) -> bool:
    for walk in (merkle.root_from_inclusion, maily_verify.tree_root):
        try:
            if walk(*wrong) == root:
                return False
        except (InvalidInput, maily_verify.Refused):
            continue
    return True


def broken_inclusion(
    leaf: bytes, index: int, size: int, nodes: list[bytes], root: bytes
) -> dict[str, Walk]:
    other, garbage = merkle.data_hash(b"WrongLeaf"), bytes(32)
    broken = {
        "wrong leaf": (other, index, size, nodes),
        "leaf index + 1": (leaf, index + 1, size, nodes),
        "leaf index - 1": (leaf, index - 1, size, nodes),
        "leaf index ^ 2": (leaf, index ^ 2, size, nodes),
        "tree size * 2": (leaf, index, size * 2, nodes),
        "tree size / 2": (leaf, index, size // 2, nodes),
        "trailing garbage": (leaf, index, size, [*nodes, garbage]),
        "trailing root": (leaf, index, size, [*nodes, root]),
        "preceding garbage": (leaf, index, size, [garbage, *nodes]),
        "preceding root": (leaf, index, size, [root, *nodes]),
        **{
            f"modified proof {at}": (leaf, index, size, path)
            for at, path in enumerate(_flipped(nodes))
        },
    }
    if nodes:
        broken |= {
            "removed component": (leaf, index, size, nodes[:-1]),
            "inserted component": (leaf, index, size, [nodes[0], other, *nodes[1:]]),
            "empty": (leaf, index, size, []),
        }
    return broken


def _flipped(nodes: Sequence[bytes]) -> list[list[bytes]]:
    return [
        [*nodes[:at], bytes([node[0] ^ 16]) + node[1:], *nodes[at + 1 :]]
        for at, node in enumerate(nodes)
    ]


def _consistency(old: int, new: int) -> Iterator[Check]:
    roots = bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new])
    proof = merkle.Tree(HASHES[: 32 * new]).consistency(old)

    def accepted(
        proof: list[bytes], old: int = old, new: int = new, roots: tuple[bytes, bytes] = roots
    ) -> bool:
        return merkle.check_consistency(old, new, *roots, proof)

    yield "RFC 9162 consistency", f"{old} to {new}", partial(accepted, proof)
    one, two, garbage = *roots, bytes(32)
    broken: dict[str, Callable[[], bool]] = {
        "wrong root 1": partial(accepted, proof, roots=(garbage, two)),
        "wrong root 2": partial(accepted, proof, roots=(one, garbage)),
        "size 1 + 1": partial(accepted, proof, old=old + 1),
        "size 1 - 1": partial(accepted, proof, old=old - 1),
        "size 1 ^ 2": partial(accepted, proof, old=old ^ 2),
        "size 2 * 2": partial(accepted, proof, new=new * 2),
        "size 2 / 2": partial(accepted, proof, new=new // 2),
        "trailing garbage": partial(accepted, [*proof, garbage]),
        "trailing root 1": partial(accepted, [*proof, one]),
        "trailing root 2": partial(accepted, [*proof, two]),
        "preceding garbage": partial(accepted, [garbage, *proof]),
        "preceding root 1": partial(accepted, [one, *proof]),
        "preceding root 2": partial(accepted, [two, *proof]),
    }
    if proof:
        broken |= {
            "swapped roots": partial(accepted, proof, roots=(two, one)),
            "empty proof": partial(accepted, []),
            "truncated proof": partial(accepted, proof[:-1]),
            "preceding proof": partial(accepted, [proof[0], *proof]),
            **{
                f"modified proof {at}": partial(accepted, path)
                for at, path in enumerate(_flipped(proof))
            },
        }
    for what, check in broken.items():
        yield "RFC 9162 consistency, broken", f"{old} to {new}: {what}", partial(_not, check)


def _not(check: Callable[[], bool]) -> bool:
    return not check()
