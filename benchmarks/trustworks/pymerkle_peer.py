"""Runs in pymerkle's own environment: the same entries, one after the other, and proofs of some.
Prints figures as JSON."""

from __future__ import annotations

import json
import random
import sys
import time

import pymerkle


def main(seed, count, proofs):
    rng = random.Random(seed)
    entries = [rng.randbytes(150) for _ in range(count)]
    numbers = rng.sample(range(count), proofs)
    began = time.process_time()
    tree = pymerkle.InmemoryTree(algorithm="sha256")
    for entry in entries:
        tree.append_entry(entry)
    root = tree.get_state()
    built = time.process_time()
    found = [tree.prove_inclusion(number + 1, count) for number in numbers]
    proven = time.process_time()
    for number, proof in zip(numbers, found):  # noqa: B905 - its Python may be older
        pymerkle.verify_inclusion(tree.get_leaf(number + 1), root, proof)
    done = time.process_time()
    print(
        json.dumps(
            {
                "built": count / (built - began),
                "prove_us": (proven - built) / proofs * 1e6,
                "verify_us": (done - proven) / proofs * 1e6,
                "root": root.hex(),
            }
        )
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
