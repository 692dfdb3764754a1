"""``maily logs``: what the parts wrote, the supervisor's by default."""

from __future__ import annotations

import json as json_module
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.console import JsonFlag, load

if TYPE_CHECKING:
    from cluster.layout import Layout

OWN = ("supervisor", "deploy", "postgres", "valkey", "evm", "evm-standby", "ray")
SERVE = {
    "gateway": re.compile(r"replica_gateway_.*\.log$"),
    "llm": re.compile(r"replica_llm_LLM.*\.log$"),
    "embedder": re.compile(r"replica_llm_Embedder.*\.log$"),
    "serve": re.compile(r"(controller|proxy)_.*\.log$"),
    "workers": re.compile(r"worker-.*\.(out|err)$"),
}
_POLL_S = 0.3


def logs(
    service: Annotated[
        list[str] | None,
        typer.Option("--service", "-s", help=f"{', '.join((*OWN, *SERVE))}, all; repeatable."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they grow.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="Of each, to begin.")] = 50,
    json: JsonFlag = False,
) -> None:
    """The last lines of each log; with -f, what comes."""
    from cluster.failures import USAGE, Failure
    from cluster.layout import Layout

    known = (*OWN, *SERVE)
    wanted = service or ["supervisor"]
    if "all" in wanted:
        wanted = list(known)
    for name in wanted:
        if name not in known:
            raise Failure(f"there is no service {name}", f"one of {', '.join(known)}, all", USAGE)
    layout = Layout(load().home)
    positions: dict[Path, int] = {}
    labels: dict[Path, str] = {}
    while True:
        for name in wanted:
            for path in files(layout, name):
                labels[path] = name
                if path not in positions:
                    # A file that appears while we follow is new: all of it.
                    begun = bool(positions) and follow
                    text, positions[path] = (b"", 0) if begun else _tail(path, lines)
                    _print(text, name, json=json)
        for path, position in list(positions.items()):
            text, positions[path] = _after(path, position)
            _print(text, labels[path], json=json)
        if not follow:
            return
        time.sleep(_POLL_S)


def files(layout: Layout, service: str) -> Iterator[Path]:
    if service in OWN:
        path = layout.logs / f"{service}.log"
        if path.exists():
            yield path
        return
    pattern = SERVE[service]
    if layout.ray_logs.exists():
        folder = layout.ray_logs.resolve()
        yield from sorted(p for p in folder.rglob("*") if p.is_file() and pattern.search(p.name))


def _tail(path: Path, lines: int) -> tuple[bytes, int]:
    data = path.read_bytes()
    end = data.rfind(b"\n") + 1  # a line that is being written comes when it is whole
    whole = data[:end].splitlines(keepends=True)
    return b"".join(whole[-lines:] if lines else []), end


def _after(path: Path, position: int) -> tuple[bytes, int]:
    try:
        if path.stat().st_size < position:
            position = 0  # rotated
        with path.open("rb") as file:
            file.seek(position)
            data = file.read()
    except OSError:
        return b"", position
    end = data.rfind(b"\n") + 1
    return data[:end], position + end


def _print(data: bytes, service: str, *, json: bool) -> None:
    for line in data.decode(errors="replace").splitlines():
        if json:
            sys.stdout.write(json_module.dumps({"log": service, "line": _parsed(line)}) + "\n")
        else:
            sys.stdout.write(f"{service:<10} {line}\n")
    if data:
        sys.stdout.flush()


def _parsed(line: str) -> Any:
    try:
        return json_module.loads(line)
    except ValueError:
        return line
