"""Ask registries where a package's archive lies, and for its checksum.

No registry's address is written here: pip, npm and huggingface_hub know theirs, by the
operator's configuration or their own default.
"""

from __future__ import annotations

import base64
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urldefrag, urljoin

import httpx
from packaging.tags import sys_tags
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from mesh.llm.download import check_status, host
from mesh.llm.sources import Source
from mesh.llm.store_errors import NoNetwork, SourceNotFound, StoreError

NPM_VARIABLES = frozenset({"npm_config_registry", "NPM_CONFIG_REGISTRY"})
_SIMPLE = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
_COMMAND_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Archive:
    """What to load. ``digest``: hex of ``algorithm``; None: the registry gave none."""

    url: str
    filename: str
    algorithm: str = "sha256"
    digest: str | None = None


def find_pypi(client: httpx.Client, source: Source, environ: Mapping[str, str]) -> Archive:
    """The wheel that fits this machine, else the sdist."""
    index = pip_index(environ)
    url = f"{index.rstrip('/')}/{canonicalize_name(source.name)}/"
    response = _get(client, url, {"Accept": _SIMPLE})
    if "json" in response.headers.get("content-type", ""):
        files = [
            Archive(
                urljoin(str(response.url), item["url"]),
                item["filename"],
                digest=(item.get("hashes") or {}).get("sha256"),
            )
            for item in response.json()["files"]
        ]
    else:
        files = _Anchors.parse(response.text, str(response.url))
    try:
        wanted = Version(source.version)
    except InvalidVersion as exc:
        raise SourceNotFound(f"{source.version!r} is no version of {source.name}") from exc
    best = _best(files, canonicalize_name(source.name), wanted)
    if best is None:
        raise SourceNotFound(
            f"{host(url)} has no {source.name} {source.version} for this machine: check name and "
            "version"
        )
    return best


def find_npm(
    client: httpx.Client, source: Source, environ: Mapping[str, str], npm: Path | None
) -> Archive:
    """The tarball. ``npm``: the command to ask for the registry; None: not at hand."""
    registry = npm_registry(environ, npm)
    url = f"{registry.rstrip('/')}/{quote(source.name, safe='@')}/{quote(source.version)}"
    dist: dict[str, Any] = _get(client, url, {"Accept": "application/json"}).json()["dist"]
    algorithm, digest = _integrity(dist)
    filename = f"{source.name.rpartition('/')[2]}-{source.version}.tgz"
    return Archive(dist["tarball"], filename, algorithm, digest)


def find_hf(source: Source, environ: Mapping[str, str]) -> Archive:
    """A file of a model repository. The hub gives no plain checksum: our table does."""
    endpoint = environ.get("HF_ENDPOINT")
    if not endpoint:
        endpoint = str(importlib.import_module("huggingface_hub.constants").ENDPOINT)
    path = f"{source.name}/resolve/{quote(source.version, safe='')}/{quote(source.member)}"
    return Archive(f"{endpoint.rstrip('/')}/{path}", source.member.rpartition("/")[2])


def hf_files(client: httpx.Client, source: Source, environ: Mapping[str, str]) -> list[Archive]:
    """Every file below a folder of a model repository; ``filename`` is relative to it."""
    endpoint = find_hf(source, environ).url.partition(f"/{source.name}/resolve/")[0]
    url = f"{endpoint}/api/models/{source.name}/tree/{quote(source.version, safe='')}"
    folder = quote(source.member.rstrip("/"))
    tree = _get(client, f"{url}/{folder}?recursive=true", hf_headers(environ)).json()
    base = f"{endpoint}/{source.name}/resolve/{quote(source.version, safe='')}"
    return [
        Archive(
            f"{base}/{quote(item['path'])}",
            item["path"].removeprefix(source.member),
            digest=(item.get("lfs") or {}).get("oid"),
        )
        for item in tree
        if item.get("type") == "file"
    ]


def hf_headers(environ: Mapping[str, str]) -> dict[str, str]:
    token = environ.get("HF_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


def pip_index(environ: Mapping[str, str]) -> str:
    """pip's index: its variable, its configuration, its built-in default."""
    if url := environ.get("PIP_INDEX_URL"):
        return url
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    if url := _ask(command, environ):
        return url
    try:
        return str(importlib.import_module("pip._internal.models.index").PyPI.simple_url)
    except (ImportError, AttributeError) as exc:
        raise StoreError("pip is not installed here: set PIP_INDEX_URL to a package index") from exc


def npm_registry(environ: Mapping[str, str], npm: Path | None) -> str:
    """npm's registry: its variable, else what the npm command says."""
    for name in sorted(NPM_VARIABLES):
        if url := environ.get(name):
            return url
    url = _ask([str(npm), "config", "get", "registry"], environ) if npm else None
    if not url:
        raise StoreError(
            "npm's registry is not known: install npm, or set npm_config_registry to its address"
        )
    return url


def npm_command(environ: Mapping[str, str]) -> Path | None:
    found = shutil.which("npm", path=environ.get("PATH", os.defpath))
    return Path(found) if found else None


def _ask(command: list[str], environ: Mapping[str, str]) -> str | None:
    """The command's one line when it is a URL; None when it fails or says something else."""
    try:
        done = subprocess.run(  # noqa: S603 - our own commands, no shell
            command,
            env=dict(environ) or None,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[-1] if done.returncode == 0 and lines and "://" in lines[-1] else None


def _get(client: httpx.Client, url: str, headers: dict[str, str]) -> httpx.Response:
    try:
        response = client.get(url, headers=headers)
    except httpx.TransportError as exc:
        raise NoNetwork(
            f"{host(url)} could not be reached ({type(exc).__name__}): check the network or the "
            "proxy, then run it again",
            {"host": host(url)},
        ) from exc
    check_status(response, url)
    return response


def _best(files: list[Archive], name: str, wanted: Version) -> Archive | None:
    rank = {tag: place for place, tag in enumerate(sys_tags())}
    best: tuple[int, Archive] | None = None
    for file in files:
        place: int | None = None
        try:
            if file.filename.endswith(".whl"):
                found, version, _, tags = parse_wheel_filename(file.filename)
                places = [rank[tag] for tag in tags if tag in rank]
                place = min(places) if places else None
            else:
                found, version = parse_sdist_filename(file.filename)
                place = len(rank)
        except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
            continue
        if found != name or version != wanted or place is None:
            continue
        if best is None or place < best[0]:
            best = (place, file)
    return best[1] if best else None


def _integrity(dist: dict[str, Any]) -> tuple[str, str | None]:
    """npm's ``sha512-BASE64``, else its older sha1."""
    match = re.match(r"(sha256|sha384|sha512)-([A-Za-z0-9+/=]+)", dist.get("integrity") or "")
    if match:
        return match[1], base64.b64decode(match[2]).hex()
    return "sha1", dist.get("shasum")


class _Anchors(HTMLParser):
    """The simple index as HTML, for mirrors that have no JSON."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base
        self.files: list[Archive] = []

    @classmethod
    def parse(cls, html: str, base: str) -> list[Archive]:
        parser = cls(base)
        parser.feed(html)
        return parser.files

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        href = dict(attrs).get("href") if tag == "a" else None
        if href:
            url, fragment = urldefrag(urljoin(self.base, href))
            digest = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None
            self.files.append(Archive(url, unquote(url.rpartition("/")[2]), digest=digest))
