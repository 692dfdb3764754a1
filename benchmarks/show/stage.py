"""What every ``make show-…`` runs its demonstrations on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from rich.console import Console

from benchmarks.instance import Instance
from benchmarks.show.lifecycle import Clone
from benchmarks.show.table import Claim

console = Console()


async def guarded(name: str, demo: Callable[[], Awaitable[list[Claim]]]) -> list[Claim]:
    """A demonstration that breaks falls short; the others still run."""
    console.print(f"[bold]{name}[/] …")
    started = time.monotonic()
    try:
        claims = await demo()
    except Exception as caught:
        claims = [Claim(name, f"{type(caught).__name__}: {caught}"[:400], "runs", False)]
    console.print(f"  {time.monotonic() - started:.0f} s")
    return claims


@asynccontextmanager
async def started(clone: Clone, home: Path, settings: Mapping[str, str]) -> AsyncIterator[Instance]:
    """An instance of the clone in a home of its own with further settings; down at the end."""
    mine = Clone(clone.folder, {**clone.environ, **settings, "MAILY_HOME": str(home)})
    code, output = await mine.run(mine.maily, "up", "--detach", timeout_s=300)
    if code != 0:
        raise RuntimeError(f"maily up: exit {code}: {output[-400:]}")
    try:
        yield Instance.from_status(await mine.status(), mine.environ)
    finally:
        await mine.run(mine.maily, "down", timeout_s=120)
