"""``maily replay ID``: does a task's graph take the recorded path again?"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.markup import escape

from cluster.cli.console import JsonFlag, answer, err, load, out


def replay(
    task_id: Annotated[str, typer.Argument(help="The task's id.", metavar="ID")],
    url: Annotated[str | None, typer.Option(help="Of another gateway.")] = None,
    json: JsonFlag = False,
) -> None:
    """Walk a task's graph again over its record, asking no model; exit 1 if it differs."""
    found = _fetch(task_id, url, quiet=json)
    if json:
        answer(found)
    else:
        _show(found)
    if not found["same"]:
        raise typer.Exit(1)


def _fetch(task_id: str, url: str | None, *, quiet: bool) -> dict[str, Any]:
    from uuid import UUID

    from cluster.cli.write import api_key
    from cluster.client import TaskClient
    from cluster.failures import USAGE, Failure

    try:
        UUID(task_id)
    except ValueError:
        raise Failure(f"{task_id!r} is no task id", "`maily write` shows it", USAGE) from None

    def waiting(reason: str) -> None:
        if not quiet:
            err.print(f"[dim]waiting: {reason[:200]}[/]", highlight=False)

    settings = load()
    key = api_key(settings.home / "secrets" / "api-key")
    with TaskClient(url or settings.gateway_url, key, waiting) as client:
        return client.replay(task_id)


def _show(found: dict[str, Any]) -> None:
    out.print(f"[bold]{escape(found['graph'])}[/]  {len(found['path'])} steps reached")
    for step in found["path"]:
        out.print(f"  [green]✓[/] {escape(step)}")
    out.print(f"ended: {escape(found['ended'])}")
    for difference in found["differences"]:
        where = difference["step"] or "result"
        out.print(f"  [red]✗[/] {escape(where)}: {escape(difference['what'])}")
    out.print("[green]the same path[/]" if found["same"] else "[red]it differs[/]")
