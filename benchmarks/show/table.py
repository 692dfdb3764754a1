"""The table that `make show-…` prints."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim and what was measured. ``holds`` None: not measured in this run, and why."""

    claim: str
    figure: str
    goal: str
    holds: bool | None


def show(title: str, claims: list[Claim], out: Path | None = None) -> int:
    """Print the table; returns the exit status: 1 where a claim falls short."""
    table = Table(title=title, title_justify="left")
    for heading in ("claim", "figure", "goal", ""):
        table.add_column(heading, overflow="fold")
    words = {
        True: "[green]holds[/]",
        False: "[bold red]falls short[/]",
        None: "[yellow]not measured[/]",
    }
    for claim in claims:
        table.add_row(claim.claim, claim.figure, claim.goal, words[claim.holds])
    Console(width=140).print(table)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps([asdict(claim) for claim in claims], indent=2) + "\n")
    return 1 if any(claim.holds is False for claim in claims) else 0
