"""Tests of ``cluster`` make homes in deep temporary folders, whose sockets lie elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _no_runtime_directory_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    if not request.path.name.startswith("test_cluster"):
        yield
        return
    from cluster.layout import Layout

    folder: Path = request.getfixturevalue("tmp_path")
    yield
    for home in (folder, folder / "home"):
        layout = Layout(home)
        if layout.runtime != layout.run:
            shutil.rmtree(layout.runtime, ignore_errors=True)
            shutil.rmtree(layout.postgres_sockets, ignore_errors=True)
