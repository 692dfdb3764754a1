"""``maily down``: stop everything that `maily up` started, and prove it."""

from __future__ import annotations

import contextlib
import os
import signal
import time

from cluster.cli.console import JsonFlag, answer, load, out, stop

LIMIT_S = 45.0


def down(json: JsonFlag = False) -> None:
    """Stop everything; data stays."""
    from cluster.embedded.ray_head import forget_sockets
    from cluster.layout import Layout
    from cluster.processes import end, find_instance
    from cluster.state import is_locked, read_state

    layout = Layout(load().home)
    began = time.monotonic()
    state = read_state(layout)
    running = is_locked(layout.lock)
    if running and state is not None and state.alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(state.pid, signal.SIGTERM)
        with out.status("Stopping …") if not json else contextlib.nullcontext():
            while is_locked(layout.lock) and time.monotonic() - began < LIMIT_S:
                time.sleep(0.1)
    if is_locked(layout.lock):
        pid = state.pid if state else "unknown"
        stop(
            f"the supervisor (pid {pid}) did not stop within {LIMIT_S:.0f} s",
            f"kill -9 {pid}, then `maily down` again: it ends what is left",
        )
    # A supervisor that was killed leaves its services running: they are ended here.
    recorded = state.recorded() if state else []
    left = find_instance(layout.instance, recorded, (layout.postgres_data,))
    if left:
        end(left, 5.0)
    if layout.runtime.exists():
        forget_sockets(layout)
    remaining = find_instance(layout.instance, (), (layout.postgres_data,))
    seconds = round(time.monotonic() - began, 2)
    if json:
        answer(
            {
                "stopped": not remaining,
                "wasRunning": running,
                "leftoversEnded": len(left),
                "remaining": [process.pid for process in remaining],
                "seconds": seconds,
            }
        )
    elif running:
        out.print(f"Stopped in {seconds:.1f} s. Your data lies under {layout.home}.")
    elif left:
        out.print(f"Ended {len(left)} processes that an earlier run had left.")
    else:
        out.print("Nothing was running here.")
    if remaining:
        stop(
            f"{len(remaining)} processes could not be ended: "
            + ", ".join(str(process.pid) for process in remaining),
            "they may belong to another user: end them with more rights",
        )
