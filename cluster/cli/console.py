"""What all verbs share: global flags, settings, answers for people or as JSON, failures.

Nothing heavy is imported here at module level: ``maily --help`` must be quick.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

if TYPE_CHECKING:
    from cluster.layout import Layout
    from mesh.core.settings import Settings

JsonFlag = Annotated[bool, typer.Option("--json", help="Answer as JSON on standard output.")]

_STEERING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")

out = Console()
err = Console(stderr=True)


@dataclass(slots=True)
class Invocation:
    """The global flags of this run of ``maily``."""

    home: Path | None = None
    config: Path | None = None
    overrides: list[str] = field(default_factory=list)
    json: bool = False
    verb: str = ""


current = Invocation()


def load(flags: dict[str, Any] | None = None) -> Settings:
    """The settings of this run: global flags, then the verb's own. SettingsError, Failure."""
    from cluster.failures import USAGE, Failure
    from mesh.core.settings import load_settings

    merged: dict[str, Any] = {}
    for pair in current.overrides:
        name, separator, value = pair.partition("=")
        if not separator:
            raise Failure(f"--set {pair} is not NAME=VALUE", "e.g. --set gateway.port=8080", USAGE)
        merged[name.strip()] = value
    if current.home is not None:
        merged["home"] = current.home
    return load_settings(merged | (flags or {}), os.environ, current.config)


def load_resolved(flags: dict[str, Any] | None = None) -> tuple[Settings, Layout]:
    """Settings with the addresses of the embedded services filled in. Failure when nothing was
    ever started under this home: looking makes no directories."""
    from cluster.failures import NOT_RUNNING, Failure
    from cluster.layout import Layout, resolve

    settings = load(flags)
    layout = Layout(settings.home)
    if not layout.secrets.is_dir():
        raise Failure(
            f"nothing was ever started under {settings.home}",
            "`maily up` starts it; MAILY_HOME names another place",
            NOT_RUNNING,
        )
    return resolve(settings), layout


def answer(value: Any) -> None:
    """One JSON document on standard output. Letters stand as they are; what would steer a terminal
    or turn the direction of reading is escaped."""
    text = json.dumps(value, indent=2, default=str, ensure_ascii=False)
    sys.stdout.write(_STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")
    sys.stdout.flush()


def stop(message: str, fix: str = "", exit_code: int = 1) -> NoReturn:
    """Say what failed and what to do next, then end."""
    if current.json:
        answer({"error": {"message": message, "fix": fix, "exitCode": exit_code}})
    else:
        err.print("[bold red]✗[/] ", end="")
        err.print(message, markup=False, highlight=False, soft_wrap=True)
        if fix:
            err.print("[bold]→[/] ", end="")
            err.print(fix, markup=False, highlight=False, soft_wrap=True)
    sys.exit(exit_code)
