"""Download one URL to one file: resumed, checked, counted, and never half there.

The bytes go to ``NAME.part``; a broken download goes on from its length (HTTP Range, guarded by
the server's ETag when it gave one, so that a file that changed meanwhile starts over). The whole
file is renamed into place only after its checksum held.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import httpx

from mesh.llm.store_errors import (
    ChecksumMismatch,
    DiskFull,
    NoNetwork,
    SourceNotFound,
    StoreError,
)

Progress = Callable[[int, int | None], None]
"""Called with bytes done and bytes in total (None: unknown)."""

_SPARE = 32 * 1024 * 1024
"""Bytes that must stay free on the disk."""
_TIMEOUT = httpx.Timeout(60.0, connect=15.0)
_TRIES = 4


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...
    def hexdigest(self) -> str: ...


def open_client() -> httpx.Client:
    """Redirects are followed; proxies and certificates come from the usual variables."""
    return httpx.Client(timeout=_TIMEOUT, follow_redirects=True, http2=False)


def download(
    client: httpx.Client,
    url: str,
    target: Path,
    *,
    algorithm: str = "sha256",
    digest: str | None = None,
    headers: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Fetch ``url`` to ``target``. ``digest``: hex of ``algorithm``; None: not checked.

    Raises NoNetwork, SourceNotFound, ChecksumMismatch, DiskFull or StoreError. What was loaded
    stays beside ``target`` for the next try, unless its checksum was wrong.
    """
    part = target.with_name(target.name + ".part")
    tag = target.with_name(target.name + ".etag")
    target.parent.mkdir(parents=True, exist_ok=True)
    for number in range(1, _TRIES + 1):
        before = part.stat().st_size if part.exists() else 0
        try:
            with disk_errors(target):
                _load(client, url, part, tag, headers or {}, progress)
            break
        except httpx.TransportError as exc:
            gained = (part.stat().st_size if part.exists() else 0) > before
            if number == _TRIES or not gained:
                raise NoNetwork(
                    f"{host(url)} could not be reached ({type(exc).__name__}) while fetching "
                    f"{target.name}: check the network or the proxy, then run it again; it goes "
                    "on where it stopped",
                    {"host": host(url)},
                ) from exc
    if digest is not None and file_digest(part, algorithm) != digest.lower():
        part.unlink()
        tag.unlink(missing_ok=True)
        raise ChecksumMismatch(
            f"{target.name} does not have the expected {algorithm}: it was thrown away; run it "
            "again, and if it stays so, the registry holds another file than the one we know",
            {"expected": digest},
        )
    with disk_errors(target):
        _sync(part)
        os.replace(part, target)
    tag.unlink(missing_ok=True)


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """Hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def host(url: str) -> str:
    """The host alone: a URL may hold a password."""
    return httpx.URL(url).host


class disk_errors:
    """Turn "no space left" into DiskFull and other file trouble into StoreError."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if not isinstance(exc, OSError) or isinstance(exc, httpx.HTTPError):
            return
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"the disk of {self._target.parent} is full: free some space, or set MAILY_STORE "
                "to a directory on another disk"
            ) from exc
        raise StoreError(
            f"{self._target.parent} can't be written ({exc.strerror}): check its owner and "
            "permissions, or set MAILY_STORE to another directory"
        ) from exc


def need_space(directory: Path, size: int) -> None:
    """Raises DiskFull before a download that can't fit. ``size``: bytes."""
    free = shutil.disk_usage(directory).free
    if free < size + _SPARE:
        raise DiskFull(
            f"{directory} has {free >> 20} MB free, and {(size + _SPARE) >> 20} MB are needed: "
            "free some space, or set MAILY_STORE to a directory on another disk",
            {"free_bytes": free, "needed_bytes": size + _SPARE},
        )


def _load(
    client: httpx.Client,
    url: str,
    part: Path,
    tag: Path,
    headers: dict[str, str],
    progress: Progress | None,
) -> None:
    done = part.stat().st_size if part.exists() else 0
    # Without a transparent content encoding, byte positions mean the file's own bytes.
    asked = headers | {"Accept-Encoding": "identity"}
    if done:
        asked["Range"] = f"bytes={done}-"
        if tag.exists():
            asked["If-Range"] = tag.read_text()
    with client.stream("GET", url, headers=asked) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            if _total(response) == done:
                return None  # it had been loaded whole; only the check was missing
            part.unlink()
            return _load(client, url, part, tag, headers, progress)
        check_status(response, url)
        resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        if not resumed:
            done = 0
        etag = response.headers.get("etag", "")
        if etag and not etag.startswith("W/"):
            tag.write_text(etag)
        total = _total(response) if resumed else _length(response)
        if total is not None:
            need_space(part.parent, total - done)
        with part.open("ab" if resumed else "wb") as file:
            for block in response.iter_bytes():  # as it comes: nothing is lost when it breaks
                file.write(block)
                done += len(block)
                if progress is not None:
                    progress(done, total)
        if total is not None and done < total:
            raise httpx.RemoteProtocolError("the connection ended before the file was whole")
    return None


def check_status(response: httpx.Response, url: str) -> None:
    """Raises SourceNotFound for 404 and 410, StoreError for other refusals."""
    code = response.status_code
    if code in (404, 410):
        raise SourceNotFound(f"{host(url)} does not have this file: check name and version")
    if code in (401, 403):
        raise StoreError(
            f"{host(url)} refuses this file ({code}): it may need a token or the acceptance of "
            "its licence"
        )
    if code >= 400:
        raise StoreError(f"{host(url)} answered {code}: try again later", retry_after_s=30.0)


def _length(response: httpx.Response) -> int | None:
    text = response.headers.get("content-length", "")
    return int(text) if text.isdigit() else None


def _total(response: httpx.Response) -> int | None:
    """Of ``Content-Range: bytes 5-9/10``."""
    text = response.headers.get("content-range", "").rpartition("/")[2]
    return int(text) if text.isdigit() else None


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
