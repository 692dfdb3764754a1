"""``maily doctor``: what could be wrong with this machine or instance, and how to mend it."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from cluster.cli.console import JsonFlag, answer, load, out

_SIGNS = {"ok": "[green]✓[/]", "warning": "[yellow]![/]", "problem": "[red]✗[/]"}


def doctor(
    show_settings: Annotated[
        bool, typer.Option("--settings", help="List every setting, its meaning and its value.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Look for what is wrong; each problem comes with its fix."""
    from cluster.doctor import as_json, examine

    settings = load()
    findings = examine(settings, os.environ)
    report = as_json(findings)
    if show_settings:
        report["settings"] = _settings(settings)
    if json:
        answer(report)
    else:
        for finding in findings:
            out.print(f"{_SIGNS[finding.level]} {finding.check:<10} ", end="")
            out.print(finding.detail, markup=False, highlight=False, soft_wrap=True)
            if finding.fix:
                out.print(f"             → {finding.fix}", markup=False, soft_wrap=True)
        for row in report.get("settings", []):
            out.print(
                f"{row['name']} = {row['value']!r}  ({row['allowed']})",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    if not report["healthy"]:
        raise typer.Exit(1)


def _settings(settings: object) -> list[dict[str, str]]:
    from mesh.core.settings import describe_setting, setting_paths

    rows = []
    for name, field in setting_paths().items():
        value = settings
        for part in name.split("."):
            value = getattr(value, part)
        rows.append(
            {
                "name": name,
                "value": str(value),  # a secret's text is stars
                "allowed": describe_setting(field),
                "meaning": field.description or "",
            }
        )
    return rows
