"""The command ``maily``. One file a verb; each imports what it needs when it runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli import (
    budget,
    console,
    doctor,
    down,
    job,
    key,
    logs,
    mcp,
    memory,
    models,
    replay,
    status,
    trace,
    trust,
    up,
    verify,
    write,
)

__all__ = ["app", "main"]

EPILOG = """Exit codes: 0 done · 1 not healthy, or refused · 2 wrong usage or setting · 3 already
running · 4 a port is taken · 5 disk full · 6 no network · 7 a service did not start · 8 nothing
runs here · 9 no certificate · 10 revoked · 130 interrupted."""

app = typer.Typer(
    name="maily",
    help="Maily Mesh: an AI runtime for email marketing, on your machine.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def _global(
    home: Annotated[
        Path | None,
        typer.Option(help="Data directory (default: $MAILY_HOME or ~/.local/share/maily)."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Settings file (default: maily.toml in home or here).")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any setting, e.g. gateway.port=8080."),
    ] = None,
) -> None:
    console.current.home = home
    console.current.config = config
    console.current.overrides = overrides or []


app.command("up")(up.up)
app.command("down")(down.down)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.command("write")(write.write)
app.command("trace")(trace.trace)
app.command("replay")(replay.replay)
app.command("mcp")(mcp.mcp)
app.command("logs")(logs.logs)
app.command("verify", epilog=verify.EPILOG)(verify.verify)
app.add_typer(models.app, name="models")
app.add_typer(key.app, name="key")
app.add_typer(budget.app, name="budget")
app.add_typer(job.app, name="job")
app.add_typer(memory.app, name="memory")
app.add_typer(trust.app, name="trust")


def main() -> None:
    """Entry point: every failure that we know ends as a message and an exit code."""
    console.current.json = "--json" in sys.argv[1:]
    try:
        app()
    except KeyboardInterrupt:
        console.stop("interrupted", exit_code=130)
    except BrokenPipeError:  # `maily logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        _explain(error)


def _explain(error: Exception) -> None:
    from cluster.failures import USAGE, Failure
    from mesh.core.errors import InvalidInput, MailyError, NotFound
    from mesh.core.settings import SettingsError

    if isinstance(error, Failure):
        console.stop(error.message, error.fix, error.exit_code)
    if isinstance(error, SettingsError):
        console.stop(str(error), "correct it, or remove it to use the default", USAGE)
    if isinstance(error, InvalidInput | NotFound):
        known = error.details.get("known")
        fix = f"one of {', '.join(known)}" if known else "correct it; --help says what it takes"
        console.stop(error.message, fix, USAGE)
    if isinstance(error, MailyError):
        details = f" {error.details}" if error.details else ""
        console.stop(f"{error.message}{details}", "`maily status` says which part is unwell", 1)
    raise error


if __name__ == "__main__":
    main()
