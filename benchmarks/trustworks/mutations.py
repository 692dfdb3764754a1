"""Ways to change a paper: blindly, byte by byte, and as an attacker would, who knows its form."""

from __future__ import annotations

import json
import random
from typing import Any

import cbor2

from mesh.trust import jcs


def flip(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def cut(rng: random.Random, data: bytes) -> bytes:
    at, size = rng.randrange(len(data)), rng.randint(1, 40)
    return data[:at] + data[at + size :]


def double(rng: random.Random, data: bytes) -> bytes:
    at, size = rng.randrange(len(data)), rng.randint(1, 40)
    return data[: at + size] + data[at : at + size] + data[at + size :]


def digit(rng: random.Random, data: bytes) -> bytes:
    """Another letter of the same kind: stays well-formed where a flipped bit would not."""
    places = [at for at, byte in enumerate(data) if chr(byte) in "0123456789abcdef"]
    if not places:
        return flip(rng, data)
    at = rng.choice(places)
    return data[:at] + rng.choice(b"0123456789abcdef").to_bytes() + data[at + 1 :]


def member(rng: random.Random, data: bytes) -> bytes:
    """One member of the document is changed as an attacker would, and written canonically."""
    document = json.loads(data)
    path = rng.choice(_paths(document))
    holder = document
    for key in path[:-1]:
        holder = holder[key]
    key, value = path[-1], holder[path[-1]]
    action = rng.randrange(5)
    if action == 0 and isinstance(holder, dict):
        holder[rng.choice(["extra", "Version", "alg", "leaf2"])] = value
    elif action == 1:
        del holder[key]
    elif isinstance(value, bool) or value is None:
        holder[key] = 0
    elif isinstance(value, int):
        holder[key] = rng.choice([value + 1, value - 1, value ^ 2, value * 2, value // 2, -1, 0])
    elif isinstance(value, str):
        holder[key] = rng.choice([value[:-2], value + "00", value.upper() + " ", value[::-1], ""])
    elif isinstance(value, list):
        changed = list(value)
        rng.choice([changed.reverse, changed.clear, lambda: changed.extend(value[:1] or ["00"])])()
        holder[key] = changed
    else:
        holder[key] = [value]
    return jcs.write(document)


def _paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for key, item in pairs:
        found.append((*prefix, key))
        if isinstance(item, dict | list):
            found += _paths(item, (*prefix, key))
    return found


def cbor_member(rng: random.Random, data: bytes) -> bytes:
    """One member of the compact form."""
    items = cbor2.loads(data)
    at = rng.randrange(len(items))
    value = items[at]
    if isinstance(value, int):
        items[at] = rng.choice([value + 1, value - 1, value ^ 2, value * 2, value // 2, 2**33])
    elif value is None:
        items[at] = rng.choice([bytes(16), rng.randbytes(16)])
    else:
        nodes = [value[i : i + 32] for i in range(0, len(value), 32)]
        rng.shuffle(nodes)
        swapped = b"".join(nodes)
        items[at] = rng.choice([flip(rng, value), value[:-32], value + bytes(32), None, swapped])
    return cbor2.dumps(items, canonical=True)


def crossed(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """A part of another genuine certificate."""
    document, other = json.loads(data), json.loads(rng.choice(others))
    key = rng.choice(["leaf", "proof", "checkpoint"])
    document[key] = other[key]
    if rng.random() < 0.5:
        inner = rng.choice(["salt", "exact", "text", "recipient", "messageId", "dkim", "links"])
        document["leaf"][inner] = other["leaf"][inner]
    return jcs.write(document)
