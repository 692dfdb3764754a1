"""Real sentences and their real embeddings, on a machine without the internet.

Synthetic vectors flatter an index: clustered ones are easy, random ones are like nothing that
anybody stores. So the corpus is what people have written: the documentation strings and texts of
the packages installed beside us, a sentence each, embedded by the model that the runtime serves.
It is made once and kept under ``.cache/benchmarks``; making 100,000 takes some minutes.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mesh.core.settings import LLMSettings
from mesh.llm.store import ModelStore

Floats = npt.NDArray[np.float32]

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache" / "benchmarks"
STORE = ROOT / ".cache" / "store"

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_WORDS = re.compile(r"[A-Za-z]{2,}")
MAX_CHARS = 200
CHUNK = 2_000
ENOUGH = 8
"""A small corpus is drawn from so many times its number, not from all that is installed."""


def sentences(limit: int) -> list[str]:
    """Different English sentences of 6 to 40 words, in an order that is always the same."""
    found: dict[str, None] = {}
    for text in _documentation():
        if len(found) >= ENOUGH * limit:
            break
        for part in _SENTENCE.split(" ".join(text.split())):
            words = len(_WORDS.findall(part))
            plain = sum(c.isalpha() or c.isspace() for c in part) >= 0.85 * len(part)
            if 6 <= words <= 40 and plain and len(part) <= MAX_CHARS and part not in found:
                found[part] = None
    if len(found) < limit:
        raise RuntimeError(f"only {len(found)} sentences were found, {limit} are wanted")
    # Neighbours in a file are alike: spread them, so that any first part is like the whole.
    return sorted(found, key=_digest)[:limit]


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _documentation() -> Iterator[str]:
    root = Path(sysconfig.get_paths()["purelib"])
    # In an order by chance that is always the same: a small corpus is no package's alone.
    for path in sorted(root.rglob("*.py"), key=lambda p: _digest(str(p.relative_to(root)))):
        if path.stat().st_size > 400_000:
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text:
                    yield from text.split("\n\n")


def corpus(limit: int, store: Path = STORE) -> tuple[list[str], Floats]:
    """So many sentences and their unit vectors (384 dimensions); made in parts that are kept, so
    that an interrupted run goes on where it was."""
    folder = CACHE / "corpus"
    folder.mkdir(parents=True, exist_ok=True)
    texts = _kept_sentences(folder, limit)
    model = None
    parts = []
    for start in range(0, limit, CHUNK):
        part = texts[start : start + CHUNK]
        name = hashlib.sha256("\n".join(part).encode()).hexdigest()[:16]
        path = folder / f"{start:07d}-{name}.npy"
        if not path.exists():
            model = model or _model(store)
            vectors = model.encode(
                part, batch_size=64, normalize_embeddings=True, show_progress_bar=False
            )
            unfinished = path.with_suffix(".part.npy")
            np.save(unfinished, np.asarray(vectors, dtype=np.float32))
            unfinished.rename(path)
        parts.append(np.load(path))
    return texts, np.concatenate(parts)


def spread(base: Floats, count: int, seed: int = 3) -> Floats:
    """So many unit vectors, the first of them ``base`` itself, the others blends of two of it:
    as hard to tell apart as texts that speak of two things, and made in no time."""
    rng = np.random.default_rng(seed)
    more = count - len(base)
    if more <= 0:
        return base[:count]
    parts = [base]
    for start in range(0, more, 50_000):
        size = min(50_000, more - start)
        one, other = rng.integers(0, len(base), (2, size))
        weight = rng.uniform(0.3, 0.7, (size, 1)).astype(np.float32)
        blend = weight * base[one] + (1 - weight) * base[other]
        parts.append(blend / np.linalg.norm(blend, axis=1, keepdims=True))
    return np.concatenate(parts).astype(np.float32)


def have(limit: int) -> bool:
    """Whether ``corpus(limit)`` was made before."""
    folder = CACHE / "corpus"
    made = len(list(folder.glob("*.npy"))) if folder.is_dir() else 0
    return made >= -(-limit // CHUNK) and (folder / f"sentences-{limit}.txt").exists()


def _kept_sentences(folder: Path, limit: int) -> list[str]:
    path = folder / f"sentences-{limit}.txt"
    if not path.exists():
        path.write_text("\n".join(sentences(limit)), encoding="utf-8")
    return path.read_text(encoding="utf-8").split("\n")


def _model(store: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    path = ModelStore(store).require(LLMSettings().embedding_source)
    return SentenceTransformer(str(path), device="cpu", local_files_only=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("limit", type=int, nargs="?", default=101_000)
    options = parser.parse_args()
    texts, vectors = corpus(options.limit)
    print(f"{len(texts)} sentences, {vectors.shape[1]} dimensions")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
