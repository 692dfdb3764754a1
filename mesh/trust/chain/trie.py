"""A Merkle Patricia trie over ``RLP(index)``, as blocks have of transactions and receipts."""

from __future__ import annotations

from collections.abc import Sequence

from eth_hash.auto import keccak

from mesh.trust.evm import Rlp, as_bytes, as_list, decode, encode, number_bytes

Item = tuple[tuple[int, ...], bytes]

EMPTY_ROOT = keccak(b"\x80")


class ListTrie:
    """Built once. ``root``, and ``proof(index)`` for a value of the list."""

    def __init__(self, values: Sequence[bytes]) -> None:
        self._nodes: dict[bytes, bytes] = {}
        items = [
            (_nibbles(encode(number_bytes(index))), value) for index, value in enumerate(values)
        ]
        if not items:
            self.root = EMPTY_ROOT
            return
        top = encode(self._node(sorted(items), 0))
        self.root = keccak(top)
        self._nodes[self.root] = top

    def _node(self, items: Sequence[Item], depth: int) -> Rlp:
        """Of items that share their first ``depth`` nibbles, sorted."""
        if len(items) == 1:
            path, value = items[0]
            return [_packed(path[depth:], leaf=True), value]
        first, last = items[0][0], items[-1][0]
        same = depth
        while same < min(len(first), len(last)) and first[same] == last[same]:
            same += 1
        if same > depth:
            branch = self._reference(self._node(items, same))
            return [_packed(first[depth:same], leaf=False), branch]
        slots: list[Rlp] = [b""] * 17
        for nibble in range(16):
            below = [item for item in items if len(item[0]) > depth and item[0][depth] == nibble]
            if below:
                slots[nibble] = self._reference(self._node(below, depth + 1))
        if len(first) == depth:  # no key of such a list is the beginning of another's; be exact
            slots[16] = items[0][1]
        return slots

    def _reference(self, node: Rlp) -> Rlp:
        """A node in its parent: itself when it is short, else its hash."""
        body = encode(node)
        if len(body) < 32:
            return node
        name = keccak(body)
        self._nodes[name] = body
        return name

    def proof(self, index: int) -> tuple[bytes, ...]:
        """Encoded nodes from the root down; those inside of their parent are not listed."""
        key = _nibbles(encode(number_bytes(index)))
        path = [self._nodes[self.root]]
        node: Rlp = decode(path[0])
        while True:
            fields = as_list(node, 2, "a node")
            if len(fields) == 17:
                if not key:
                    return tuple(path)
                step, key = fields[key[0]], key[1:]
            else:
                packed = _nibbles(as_bytes(fields[0], None, "a path"))
                if packed[0] & 2:
                    return tuple(path)
                tail = packed[1:] if packed[0] & 1 else packed[2:]
                step, key = fields[1], key[len(tail) :]
            if isinstance(step, bytes):
                path.append(self._nodes[step])
                step = decode(path[-1])
            node = step


def _nibbles(data: bytes) -> tuple[int, ...]:
    return tuple(half for byte in data for half in (byte >> 4, byte & 15))


def _packed(path: tuple[int, ...], *, leaf: bool) -> bytes:
    """Hex-prefix encoding."""
    flag = 2 if leaf else 0
    nibbles = (flag + 1, *path) if len(path) % 2 else (flag, 0, *path)
    return bytes(high << 4 | low for high, low in zip(nibbles[::2], nibbles[1::2], strict=True))
