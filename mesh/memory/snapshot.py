"""Snapshots of a partition: one file, encrypted, checked, read without trusting it.

A snapshot saves reading and opening every row when a host takes a namespace over; the rows that
changed since are read on top. It is never the truth: what is missing, torn, of another version or
without its key is thrown away, and the rows are read instead. Its key hangs on a salt in the
table of keys, so a copy that was left on some disk dies with that row.

The file: a magic, then frames (length, sealed bytes). Frame 0 is a JSON header, the others are
raw arrays in its order, cut to ``FRAME_BYTES``. A frame's number, and whether it is the last, are
authenticated: frames can't be swapped, dropped or cut off.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import orjson

from mesh.core.errors import Conflict, MailyError
from mesh.memory.columns import DTYPES, Columns
from mesh.memory.options import MemoryOptions
from mesh.memory.partition import Partition
from mesh.memory.shapes import Frozen, Head, Links
from mesh.memory.vault import Vault

MAGIC = b"MAILYMEM1\n"
VERSION = 2
FRAME_BYTES = 8 * 1024 * 1024


class Torn(Conflict):
    """It is not a whole snapshot of this namespace."""

    code = "torn_snapshot"


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """What the database knows of a snapshot."""

    id: UUID
    namespace: UUID
    salt: bytes


def path_of(folder: Path, namespace: UUID, identity: UUID) -> Path:
    return folder / namespace.hex / f"{identity.hex}.snapshot"


def write_snapshot(path: Path, partition: Partition, info: SnapshotInfo, vault: Vault) -> int:
    """Atomic: the file is whole and on disk, or not there. Gives the newest change that it holds.
    Blocks."""
    frozen = partition.freeze()
    columns, codes = frozen.columns, frozen.codes
    blobs = [getattr(columns, name).tobytes() for name in DTYPES]
    blobs += [codes.tobytes(), b"".join(columns.sealed)]
    header = {
        "version": VERSION,
        "namespace": str(info.namespace),
        "dimensions": partition.head.dimensions,
        "count": len(codes),
        "position": frozen.position,
        "columns": list(DTYPES),
        "blobs": [len(blob) for blob in blobs],
        "sealed": [len(sealed) for sealed in columns.sealed],
        "labels": [[label, positions] for label, positions in frozen.labels.items()],
        "links": [
            [
                at,
                *map(_text, (link.merged_into, link.superseded_by)),
                [*map(str, link.derived_from)],
            ]
            for at, link in frozen.links.items()
        ],
    }
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    frames = [orjson.dumps(header), *(part for blob in blobs for part in _cut(blob))]
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(MAGIC)
        for number, frame in enumerate(frames):
            sealed = vault.seal(info.salt, _context(info, number, len(frames)), frame)
            file.write(struct.pack(">I", len(sealed)))
            file.write(sealed)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
    return frozen.position


def read_snapshot(
    path: Path, info: SnapshotInfo, head: Head, vault: Vault, options: MemoryOptions | None = None
) -> Partition:
    """A partition as it was. Raises Torn; blocks."""
    try:
        return _read(path, info, head, vault, options)
    except FileNotFoundError as error:
        raise Torn("The snapshot is not here.") from error
    except (OSError, ValueError, KeyError, TypeError, struct.error, MailyError) as error:
        raise Torn(f"The snapshot can't be read ({type(error).__name__}).") from error


def shred(path: Path) -> bool:
    """Overwrite and remove; whether it was there. What is left has lost its key in any case."""
    try:
        size = path.stat().st_size
        with path.open("r+b") as file:
            for start in range(0, size, FRAME_BYTES):
                file.write(bytes(min(FRAME_BYTES, size - start)))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _read(
    path: Path, info: SnapshotInfo, head: Head, vault: Vault, options: MemoryOptions | None
) -> Partition:
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise Torn("The file is no snapshot.")
        sealed = list(_frames(file.read()))
    frames = (
        vault.open(info.salt, _context(info, number, len(sealed)), frame)
        for number, frame in enumerate(sealed)
    )
    header = orjson.loads(next(frames))
    expected = (VERSION, str(head.id), head.dimensions, list(DTYPES))
    if tuple(header[k] for k in ("version", "namespace", "dimensions", "columns")) != expected:
        raise Torn("The snapshot is of another version or namespace.")
    body = b"".join(frames)
    if sum(header["blobs"]) != len(body):
        raise Torn("The snapshot is not whole.")
    blobs = _parted(body, header["blobs"])
    columns = Columns()
    for name, dtype in DTYPES.items():
        setattr(columns, name, np.frombuffer(next(blobs), dtype=dtype).copy())
    count = header["count"]
    columns.there = np.ones(count, dtype=np.bool_)
    codes = np.frombuffer(next(blobs), dtype=np.float16).reshape(count, head.dimensions)
    columns.sealed = [bytes(part) for part in _parted(next(blobs), header["sealed"])]
    if len(columns.sealed) != count:
        raise Torn("The snapshot is not whole.")
    partition = Partition(head, vault, options)
    partition.restore(
        Frozen(
            columns=columns,
            codes=codes,
            labels={tuple(label): positions for label, positions in header["labels"]},
            links={at: _links(*link) for at, *link in header["links"]},
            position=header["position"],
        )
    )
    return partition


def _cut(blob: bytes) -> Iterator[bytes]:
    for start in range(0, len(blob), FRAME_BYTES):
        yield blob[start : start + FRAME_BYTES]


def _frames(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        frame = data[at + 4 : at + 4 + length]
        if len(frame) != length:
            raise Torn("The snapshot is cut off.")
        yield frame
        at += 4 + length


def _parted(data: bytes, lengths: list[int]) -> Iterator[bytes]:
    at = 0
    for length in lengths:
        yield data[at : at + length]
        at += length


def _context(info: SnapshotInfo, number: int, frames: int) -> bytes:
    place = struct.pack(">IB", number, number == frames - 1)
    return b"snapshot/" + info.namespace.bytes + info.id.bytes + place


def _text(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def _links(merged: str | None, superseded: str | None, derived: list[Any]) -> Links:
    return Links(
        None if merged is None else UUID(merged),
        None if superseded is None else UUID(superseded),
        tuple(UUID(value) for value in derived),
    )
