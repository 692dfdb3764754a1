"""Our processes: start them in groups, find them again, end them, see what they listen on.

Every process of ours carries ``MAILY_INSTANCE`` in its environment. That alone is not enough to
find them: PostgreSQL and Ray's workers write their titles over the memory that
``/proc/PID/environ`` shows. So the supervisor is a subreaper (orphans become its children, and
its descendants are complete), it records what it saw in state.json for the case that it is
killed, and PostgreSQL's processes are known by their working directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

INSTANCE_VARIABLE = "MAILY_INSTANCE"
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A pid with its start time (seconds since the epoch): pids are used again."""

    pid: int
    created: float

    def get(self) -> psutil.Process | None:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            if abs(process.create_time() - self.created) < 1.0 and is_alive(process):
                return process
        return None

    @classmethod
    def of(cls, process: psutil.Process) -> ProcessId:
        return cls(process.pid, process.create_time())


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that accepts connections."""

    pid: int
    name: str
    address: str
    port: int

    @property
    def loopback(self) -> bool:
        return self.address.startswith("127.") or self.address in ("::1", "::ffff:127.0.0.1")


def become_subreaper() -> None:
    """Adopt the orphans among our descendants (Linux; elsewhere nothing happens)."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap(kept: Collection[int | None]) -> None:
    """Collect our ended children, save those in ``kept``, whom someone else waits for."""
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error, ChildProcessError):
            if child.pid not in kept and child.status() == psutil.STATUS_ZOMBIE:
                os.waitpid(child.pid, os.WNOHANG)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def descendants(pid: int | None = None) -> list[psutil.Process]:
    """Of a process (ours by default), without zombies."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
    return [child for child in children if is_alive(child)]


def find_instance(
    instance: str, recorded: Iterable[ProcessId] = (), directories: Sequence[Path] = ()
) -> list[psutil.Process]:
    """Living processes of an instance, ourselves and our forebears left out."""
    found: dict[int, psutil.Process] = {}
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    for known in recorded:
        if process := known.get():
            found[process.pid] = process
    for process in psutil.process_iter():
        if process.pid in own or process.pid in found or not is_alive(process):
            continue
        with contextlib.suppress(psutil.Error, OSError, ValueError):
            if process.environ().get(INSTANCE_VARIABLE) == instance or (
                directories and Path(process.cwd()) in directories
            ):
                found[process.pid] = process
    for process in list(found.values()):
        for child in descendants(process.pid):
            found.setdefault(child.pid, child)
    return [process for pid, process in found.items() if pid not in own]


def end(processes: Sequence[psutil.Process], grace_s: float = 3.0) -> None:
    """SIGTERM, then SIGKILL for those that remain after ``grace_s``. Blocks until all are gone
    (at most ``grace_s`` + 5 seconds)."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGTERM)
    kill(_wait(processes, grace_s))


def kill(processes: Sequence[psutil.Process]) -> None:
    """SIGKILL, and wait until they are gone (at most 5 s)."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _wait(processes, 5.0)


def _wait(processes: Sequence[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    deadline = time.monotonic() + timeout_s
    alive = [process for process in processes if is_alive(process)]
    while alive and time.monotonic() < deadline:
        time.sleep(0.05)
        alive = [process for process in alive if is_alive(process)]
    return alive


def listeners(processes: Iterable[psutil.Process]) -> list[Listener]:
    """TCP sockets on which these processes listen."""
    found: list[Listener] = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            name = process.name()
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr:
                    address = connection.laddr
                    found.append(Listener(process.pid, name, address.ip, address.port))
    return sorted(set(found), key=lambda item: (item.port, item.pid))


def port_holder(port: int) -> str | None:
    """Who listens on a TCP port, in words; None when nobody can be seen there."""
    with contextlib.suppress(psutil.Error):
        for connection in psutil.net_connections(kind="tcp"):
            if (
                connection.status == psutil.CONN_LISTEN
                and connection.laddr
                and connection.laddr.port == port
            ):
                if connection.pid is None:
                    return "a process of another user"
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(connection.pid)
                    return f"{process.name()} (pid {process.pid}, user {process.username()})"
                return f"pid {connection.pid}"
    return None
