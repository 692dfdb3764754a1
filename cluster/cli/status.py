"""``maily status``: every part, healthy or why not. Exit code 1 unless all are."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import typer
from rich.table import Table

from cluster.cli.console import JsonFlag, answer, load, out


def status(json: JsonFlag = False) -> None:
    """Every part: healthy, or why not."""
    from cluster.failures import NOT_RUNNING
    from cluster.health import check_all
    from cluster.layout import Layout, resolve
    from cluster.state import is_locked, read_state

    settings = load()
    layout = Layout(settings.home)
    running = is_locked(layout.lock)
    state = read_state(layout)
    report: dict[str, Any] = {
        "running": running,
        "healthy": False,
        "profile": settings.profile,
        "home": str(settings.home),
    }
    if state is not None:
        report["phase"] = state.phase if running else "stopped"
        report["version"] = state.version
        if running:
            report |= {
                "pid": state.pid,
                "since": state.created,
                "readyAfterSeconds": state.ready_after_s,
                "urls": state.urls,
                "apiKeyFile": str(layout.api_key),
                "notes": state.notes,
            }
        elif state.failure is not None:
            report["lastFailure"] = state.failure.model_dump()
    if not running:
        if json:
            answer(report | {"parts": []})
        else:
            out.print("Nothing runs here. Start it with [bold]maily up[/].")
            if state is not None and state.failure is not None:
                out.print(f"The last start failed: {state.failure.message}", markup=False)
        raise typer.Exit(NOT_RUNNING)
    parts = asyncio.run(check_all(resolve(settings)))
    report["healthy"] = all(part.healthy for part in parts)
    restarts = {name: part.restarts for name, part in state.parts.items()} if state else {}
    report["parts"] = [part.as_json() | {"restarts": restarts.get(part.part, 0)} for part in parts]
    if json:
        answer(report)
    else:
        table = Table(box=None, pad_edge=False)
        for column in ("part", "", "what it says", "ms", "restarts"):
            table.add_column(column, justify="right" if column in ("ms", "restarts") else "left")
        for part in parts:
            table.add_row(
                part.part,
                "[green]healthy[/]" if part.healthy else "[red]unwell[/]",
                part.detail,
                f"{part.seconds * 1000:.0f}",
                str(restarts.get(part.part, 0)),
            )
        out.print(table)
        if state is not None:
            up_for = time.time() - state.created
            out.print(f"\nup for {up_for:,.0f} s (pid {state.pid}), gateway {settings.gateway_url}")
            for note in state.notes:
                out.print(f"note: {note}", markup=False)
        if not report["healthy"]:
            out.print("[bold]→[/] `maily doctor` looks for the cause, `maily logs` shows the logs")
    if not report["healthy"]:
        raise typer.Exit(1)
