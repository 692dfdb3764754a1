"""A trained classifier as files: ``weights.npz`` (numbers alone, never a pickle) and
``metadata.json`` (what it was trained on, how well it does, the weights' sum).

A folder per version; ``latest`` names the newest. Writing is atomic, reading checks the sum, so
a half-written or changed artefact is refused instead of used.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from mesh.agents.classifier.head import Array, Head, head_of
from mesh.core.errors import InvalidInput, NotFound

FORMAT = 1
FOLDER = "classifier"
"""Below the model store's directory."""
LATEST = "latest"
"""Stands for the newest version."""
_WEIGHTS, _METADATA = "weights.npz", "metadata.json"


@dataclass(frozen=True, slots=True)
class Artefact:
    """Heads by name, and everything that is known of them."""

    version: str
    heads: Mapping[str, Head]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """``data_sha256``, ``embedding_model``, ``metrics`` per head, ``options``, sizes."""


def to_files(artefact: Artefact) -> dict[str, bytes]:
    """File names and contents. The same artefact gives the same bytes."""
    arrays: dict[str, Array] = {}
    for head in artefact.heads.values():
        arrays |= head.arrays()
    weights = _packed(arrays)
    metadata = {
        **artefact.metadata,
        "format": FORMAT,
        "version": artefact.version,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "heads": {
            head.name: {"labels": list(head.labels), "temperature": head.temperature}
            for head in artefact.heads.values()
        },
    }
    text = json.dumps(metadata, indent=1, sort_keys=True) + "\n"
    return {_WEIGHTS: weights, _METADATA: text.encode()}


def from_files(weights: bytes, metadata: bytes) -> Artefact:
    """Raises InvalidInput when the two don't belong together or can't be read."""
    try:
        facts = json.loads(metadata)
        if facts["format"] != FORMAT:
            raise InvalidInput(f"a classifier of format {facts['format']}: this reads {FORMAT}")
        found = hashlib.sha256(weights).hexdigest()
        if found != facts["weights_sha256"]:
            raise InvalidInput(
                "the classifier's weights are not those of its metadata",
                {"expected": facts["weights_sha256"], "found": found},
            )
        with np.load(io.BytesIO(weights), allow_pickle=False) as archive:
            arrays = {name: np.asarray(archive[name], dtype=np.float32) for name in archive.files}
        heads = {
            name: head_of(name, tuple(kept["labels"]), float(kept["temperature"]), arrays)
            for name, kept in facts["heads"].items()
        }
        return Artefact(str(facts["version"]), heads, facts)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InvalidInput(f"the classifier's files can't be read: {error}") from error


def save(artefact: Artefact, store: Path) -> Path:
    """Write it below the model store and make it the latest; returns its folder."""
    root = store / FOLDER
    folder = root / artefact.version
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in to_files(artefact).items():
        _write(folder / name, data)
    _write(root / LATEST, artefact.version.encode())
    return folder


def resolve(store: Path, version: str = LATEST) -> str:
    """The name of the version that ``latest`` means now. Raises NotFound."""
    if version != LATEST:
        return version
    try:
        return (store / FOLDER / LATEST).read_text().strip()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _missing(version) from error


def load(store: Path, version: str = LATEST) -> Artefact:
    """Raises NotFound, InvalidInput."""
    folder = store / FOLDER / resolve(store, version)
    if folder.parent != store / FOLDER or folder.name in ("", "..", "."):
        raise InvalidInput("a version is a plain name", {"version": version[:80]})
    try:
        return from_files((folder / _WEIGHTS).read_bytes(), (folder / _METADATA).read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _missing(version) from error


def _missing(version: str) -> NotFound:
    return NotFound(
        f"there is no trained classifier {version!r}: run `maily job train-classifier`",
        {"version": version},
    )


def builtin() -> Artefact:
    """The one that comes with the package."""
    here = resources.files(__package__).joinpath("builtin")
    return from_files(here.joinpath(_WEIGHTS).read_bytes(), here.joinpath(_METADATA).read_bytes())


def _packed(arrays: Mapping[str, Array]) -> bytes:
    """An npz without the time of day in it, which ``np.savez`` writes: same numbers, same sum."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            part = io.BytesIO()
            np.lib.format.write_array(part, arrays[name], allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, part.getvalue())
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}.new")
    fresh.write_bytes(data)
    os.replace(fresh, path)
