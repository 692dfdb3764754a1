"""Download with a progress bar a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cluster.cli.console import err

if TYPE_CHECKING:
    from cluster.downloads import Artefact
    from mesh.core.settings import Settings

ROOM_PER_FILE = 150_000_000
"""Bytes that a missing file and its archive may take; the store checks the real size again."""


def fetch_missing(settings: Settings, *, quiet: bool) -> list[tuple[Artefact, Path]]:
    """Fetch what these settings need and is not here. Failure says why it can't be."""
    from cluster.downloads import missing
    from cluster.preflight import MINIMUM_TO_START, check_disk

    wanted = missing(settings, os.environ)
    if not wanted:
        return []
    check_disk(settings, MINIMUM_TO_START + ROOM_PER_FILE * len(wanted))
    return fetch_all(settings, wanted, quiet=quiet)


def fetch_all(
    settings: Settings, wanted: list[Artefact], *, quiet: bool
) -> list[tuple[Artefact, Path]]:
    from cluster.downloads import fetch

    fetched: list[tuple[Artefact, Path]] = []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=err,
        disable=quiet,
    ) as progress:
        for artefact in wanted:
            task = progress.add_task(artefact.name, total=None)

            def advance(done: int, total: int | None, task: object = task) -> None:
                progress.update(task, completed=done, total=total)  # type: ignore[arg-type]

            path = fetch(settings, os.environ, artefact, advance)
            progress.update(task, description=f"[green]✓[/] {artefact.name}")
            fetched.append((artefact, path))
    return fetched
