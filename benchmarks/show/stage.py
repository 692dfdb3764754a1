"""What every ``make show-…`` runs its demonstrations on."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import uvloop
from rich.console import Console

from benchmarks.instance import Instance
from benchmarks.report import RESULTS
from benchmarks.show.lifecycle import Clone
from benchmarks.show.table import Claim, show

console = Console()

Demo = Callable[[Instance, bool], Awaitable[list[Claim]]]


@dataclass(frozen=True, slots=True)
class Act:
    """Demonstrations on one instance."""

    name: str
    demos: tuple[tuple[str, Demo], ...]
    settings: Mapping[str, str] = field(default_factory=dict)


async def play(clone: Clone, act: Act, home: Path, full: bool) -> list[Claim]:
    claims: list[Claim] = []
    async with started(clone, home, act.settings) as instance:
        await instance.wait_healthy(60)
        for title, demo in act.demos:
            claims += await guarded(title, partial(demo, instance, full))
    return claims


def present(
    title: str,
    result: str,
    demonstrate: Callable[[bool, str | None], Awaitable[list[Claim]]],
    description: str | None,
) -> int:
    """Run it by the command line's sizes; the exit status. ``result``: a file's name."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--full", action="store_true", default=os.environ.get("FULL") == "1")
    parser.add_argument("--only", help="acts whose name holds this")
    options = parser.parse_args()

    async def all_of_it() -> list[Claim]:
        return await demonstrate(options.full, options.only)

    return show(title, uvloop.run(all_of_it()), RESULTS / result)


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
