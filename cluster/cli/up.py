"""``maily up``: fetch what is missing, start the supervisor, show how it goes, stay or leave."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer
from rich.live import Live
from rich.table import Table

from cluster.cli.console import JsonFlag, answer, err, load, out, stop
from cluster.cli.progress import fetch_missing
from cluster.cli.write import read_brief, run_write

if TYPE_CHECKING:
    from cluster.layout import Layout
    from cluster.state import State
    from mesh.core.settings import Settings

START_LIMIT_S = 480.0

_SIGNS = {
    "waiting": "[dim]waiting[/]",
    "starting": "[yellow]starting[/]",
    "restarting": "[yellow]restarting[/]",
    "ready": "[green]ready[/]",
    "failed": "[red]failed[/]",
    "stopping": "[yellow]stopping[/]",
    "stopped": "[dim]stopped[/]",
}


def up(
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Leave it running and return.")
    ] = False,
    port: Annotated[int | None, typer.Option(help="Of the gateway (gateway.port).")] = None,
    write: Annotated[
        str | None, typer.Option(metavar="BRIEF", help="Write an email as soon as it is ready.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Start the runtime. In the foreground it stays until Ctrl-C, then stops everything."""
    from cluster.failures import ALREADY_RUNNING, START_FAILED, Failure
    from cluster.layout import Layout
    from cluster.preflight import check_disk
    from cluster.state import read_state, take_lock

    settings = load({"gateway.port": port})
    if write is not None:
        read_brief(write)  # a wrong brief is told before anything is started
    layout = Layout(settings.home)
    layout.make()
    descriptor = take_lock(layout.lock)
    if descriptor is None:
        state = read_state(layout)
        who = ""
        if state is not None:
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(state.created))
            who = f", pid {state.pid}, since {since}"
        raise Failure(
            f"it runs already under {settings.home}{who}",
            "`maily status` shows how it is, `maily down` stops it; "
            "another MAILY_HOME and other ports start a second one",
            ALREADY_RUNNING,
        )
    check_disk(settings)
    fetch_missing(settings, quiet=json)
    process = _start_supervisor(settings, layout, descriptor)
    os.close(descriptor)  # the supervisor holds it now
    try:
        state = _follow(layout, process, quiet=json)
    except KeyboardInterrupt:
        _end(process)
        stop("interrupted: everything that was started is stopped", exit_code=130)
    if state is None or state.phase != "ready":
        code = process.wait()
        failure = state.failure if state else None
        if failure is None:
            raise Failure(
                f"the supervisor ended (exit {code})",
                f"see {layout.logs / 'supervisor.log'}",
                START_FAILED,
            )
        raise Failure(failure.message, failure.fix, failure.exit_code)
    if write is not None:
        try:
            run_write(write, settings=settings, json=json)
        except BaseException:
            if not detach:
                _end(process)
            raise
    _report(state, layout, json=json)
    if not detach:
        _stay(process, layout)


def _start_supervisor(settings: Settings, layout: Layout, lock: int) -> subprocess.Popen[bytes]:
    from mesh.core.settings import SETTINGS_VARIABLE, settings_to_json

    environ = {**os.environ, SETTINGS_VARIABLE: settings_to_json(settings)}
    with (layout.logs / "supervisor.log").open("ab") as log:
        return subprocess.Popen(  # noqa: S603  (our own interpreter and module)
            [sys.executable, "-m", "cluster.supervisor", "--lock-fd", str(lock)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environ,
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C is for us: we tell it to stop
        )


def _follow(layout: Layout, process: subprocess.Popen[bytes], *, quiet: bool) -> State | None:
    """Show the state until it is ready or the supervisor ended; the newest state."""
    from cluster.state import read_state

    began = time.monotonic()
    state: State | None = None
    with Live(console=err, refresh_per_second=8, transient=True) as live:
        while time.monotonic() - began < START_LIMIT_S:
            ended = process.poll() is not None
            found = read_state(layout)
            if found is not None and found.pid == process.pid:
                state = found
                if not quiet:
                    live.update(_table(state, time.monotonic() - began))
                if state.phase == "ready":
                    return state
            if ended:
                return state
            time.sleep(0.1)
    return state


def _table(state: State, seconds: float) -> Table:
    table = Table(title=f"starting, {seconds:.0f} s", box=None, title_justify="left")
    for column in ("part", "", ""):
        table.add_column(column, no_wrap=True)
    for name, part in state.parts.items():
        table.add_row(name, _SIGNS.get(part.phase, part.phase), f"[dim]{part.detail[:80]}[/]")
    return table


def _report(state: State, layout: Layout, *, json: bool) -> None:
    if json:
        answer(
            {
                "ready": True,
                "pid": state.pid,
                "readyAfterSeconds": state.ready_after_s,
                "urls": state.urls,
                "apiKeyFile": str(layout.api_key),
                "notes": state.notes,
            }
        )
        return
    for note in state.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
    out.print(f"[bold green]Ready[/] after {state.ready_after_s:.1f} s.")
    for name, url in state.urls.items():
        out.print(f"  {name:<10} {url}", highlight=False)
    out.print(f"  {'API key':<10} {layout.api_key}", highlight=False, soft_wrap=True)


def _stay(process: subprocess.Popen[bytes], layout: Layout) -> None:
    """Until Ctrl-C (or SIGTERM), then stop everything; or until the supervisor ends by itself."""
    out.print("Ctrl-C stops it.")

    def told(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, told)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        out.print("\nStopping …")
        _end(process)
        out.print("Stopped.")
        return
    if code not in (0, 130):
        stop(
            f"the supervisor ended (exit {code})",
            f"see {layout.logs / 'supervisor.log'}; `maily up` starts it again",
            7,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    while True:
        with suppress(KeyboardInterrupt):  # it is stopping already: impatience changes nothing
            process.wait()
            return
