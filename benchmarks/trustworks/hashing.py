"""Salt, leaf and tree of a campaign: on one core, over several workers, and the memory it takes."""

from __future__ import annotations

import resource
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from benchmarks.trustworks.campaign import columns
from mesh.trust.leaf import Columns, hash_columns
from mesh.trust.merkle import HASH_BYTES, Range, Tree, check_leaves, levels, split

_ready: dict[tuple[int, int], Columns] = {}


@dataclass(frozen=True, slots=True)
class Memory:
    """Of a process of its own, in MiB."""

    before: float
    """With Python and our modules, before any message."""
    columns: float
    """With the campaign's columns."""
    peak: float
    """With salts, hashes and the whole tree too."""


def one_core(size: int, rounds: int = 3) -> float:
    """Leaves a second of CPU: salt, leaf, tree, and the check that none occurs twice."""
    given, times = columns(0, size), []
    for _ in range(rounds):
        began = time.process_time()
        _, hashes = hash_columns(given)
        Tree(hashes)
        times.append(time.process_time() - began)
    return size / median(times)


def by_workers(size: int, workers: int, rounds: int = 3) -> float:
    """Leaves a second of wall time over processes that hash aligned ranges each. Salts and leaves
    stay where they were made, as they do in a cluster; what comes here are the nodes of the
    ranges, joined to the root."""
    ranges = split(size, workers)
    times = []
    with ExitStack() as stack:
        pools = [stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"))) for _ in ranges]
        pairs = list(zip(pools, ranges, strict=True))
        for future in [pool.submit(prepare, *part) for pool, part in pairs]:
            future.result()
        for _ in range(rounds):
            began = time.perf_counter()
            runs = [pool.submit(hashed, *part) for pool, part in pairs]
            first, *others = [run.result() for run in runs]
            for other in others:
                first = first.join(other)
            times.append(time.perf_counter() - began)
            assert first.end == size
            assert len(first.root) == HASH_BYTES
    return size / median(times)


def prepare(low: int, high: int) -> None:
    """The columns of a range, where its worker will look for them."""
    _ready[low, high] = columns(low, high)


def hashed(low: int, high: int) -> Range:
    """Salts, leaves and inner nodes of an aligned range; gives the few nodes that tell it all."""
    _salts, hashes = hash_columns(_ready[low, high])
    check_leaves(hashes)
    return Range.of(low, hashes)


def same_root(size: int, parts: tuple[int, ...]) -> bool:
    """Whether any number of workers gives the root that one gives."""
    _, hashes = hash_columns(columns(0, size))
    root = Tree(hashes).root
    return all(
        Tree.from_parts(
            [levels(hashes[32 * low : 32 * high]) for low, high in split(size, count)]
        ).root
        == root
        for count in parts
    )


def memory(size: int) -> Memory:
    """Measured in a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_memory, size).result()


def _memory(size: int) -> Memory:
    before = _peak()
    given = columns(0, size)
    with_columns = _peak()
    _, hashes = hash_columns(given)
    tree = Tree(hashes)
    assert tree.size == size
    return Memory(before, with_columns, _peak())


def _peak() -> float:
    """Of this program: what getrusage says of a process that was forked is its parent's, too."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1_024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
