"""Which replica of an engine: the one that has read this prompt's beginning, unless it is busy.

Load comes before affinity: a replica that has more requests than the least busy one plus an
allowance is not chosen for its cache (else a common prompt makes one hot and the others idle).
Where nobody knows the prompt: power of two choices. Pure; the load comes from whoever asks.
"""

from __future__ import annotations

import hashlib
import random
from collections import OrderedDict
from collections.abc import Mapping, Sequence

from mesh.llm.engine import Wire

PIECE = 256
"""Characters by which beginnings are told apart …"""
PIECES = 16
"""… and how many of them at most: longer common beginnings are as good as these."""


class PrefixAffinity:
    """Bounded: the beginnings that were seen last, each with the replica that read it."""

    def __init__(
        self, imbalance: int = 4, kept: int = 8_192, rng: random.Random | None = None
    ) -> None:
        """``imbalance``: requests that a replica may have more than the least busy and still be
        chosen for its cache. ``kept``: beginnings that are remembered."""
        self._imbalance = imbalance
        self._kept = kept
        self._rng = rng or random.Random()  # noqa: S311 - a choice, not a secret
        self._where: OrderedDict[bytes, str] = OrderedDict()
        self._by_cache = 0
        self._by_load = 0

    def choose(
        self, keys: Sequence[bytes], loads: Mapping[str, int], avoid: str | None = None
    ) -> str:
        """One of ``loads`` (replica → requests there). ``avoid`` is chosen only when alone.
        ValueError when there is none."""
        names = [name for name in loads if name != avoid] or list(loads)
        if not names:
            raise ValueError("there is no replica")
        least = min(loads[name] for name in names)
        for key in reversed(keys):  # the longest known beginning first
            name = self._where.get(key)
            if name in names and loads[name] <= least + self._imbalance:
                self._by_cache += 1
                return name
        self._by_load += 1
        # Two at random, as loads are a little old; but never one that is far ahead already.
        fair = [name for name in names if loads[name] <= least + self._imbalance]
        if len(fair) == 1:
            return fair[0]
        one, other = self._rng.sample(fair, 2)
        return one if loads[one] <= loads[other] else other

    def routed(self, keys: Sequence[bytes], name: str) -> None:
        """The request with these beginnings went to that replica."""
        for key in keys:
            self._where[key] = name
            self._where.move_to_end(key)
        while len(self._where) > self._kept:
            self._where.popitem(last=False)

    def statistics(self) -> dict[str, int]:
        return {"by_cache": self._by_cache, "by_load": self._by_load, "known": len(self._where)}


def beginnings(body: Wire) -> list[bytes]:
    """Digests of the prompt's first 256, 512 … characters; empty for a shorter prompt."""
    text = prompt_text(body, PIECE * PIECES)
    digest = hashlib.blake2b(str(body.get("model") or "").encode(), digest_size=12)
    keys = []
    for end in range(PIECE, len(text) + 1, PIECE):
        digest.update(text[end - PIECE : end].encode("utf-8", "surrogatepass"))
        keys.append(digest.digest())
    return keys


def prompt_text(body: Wire, limit: int) -> str:
    """The first characters of what the model will read, roles included."""
    if not body.get("messages"):
        return str(body.get("prompt") or "")[:limit]
    parts: list[str] = []
    size = 0
    for message in body["messages"]:
        content = message.get("content") or ""
        if isinstance(content, list):
            content = "".join(part.get("text", "") for part in content)
        part = f"{message.get('role')}\n{content}\n"
        parts.append(part)
        size += len(part)
        if size >= limit:
            break
    return "".join(parts)[:limit]
